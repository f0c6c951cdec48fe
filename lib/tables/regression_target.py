"""Numbers per image, one or several: a network's outputs are the numbers themselves, in the units of the table."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

from lib.errors import FlukeError, first_few
from lib.tables.target_base import Labels, Target


class Regression(Target):
    """K numbers per image. The "classes" are the names of the K outputs. Encoded targets are (n, K) float32."""

    name, wording, default_metric, decision_fit = "regression", "numbers", "rmse", "none"
    numeric = True

    def accepts(self, labels: tuple[str, ...]) -> bool:
        return len(labels) >= 1 and all(map(is_number, labels))

    def encode(self, labels: Labels, classes: Sequence[str], source: str) -> np.ndarray:
        """Return the numbers, (n, K) float32. Raises FlukeError, beginning with `source`, that counts what is no number."""
        if wrong := [label for row in labels for label in row if not is_number(label)]:
            raise FlukeError(f"{source}: {len(wrong):,} labels are not numbers: {first_few(map(repr, wrong))}; see data.task.")
        return self._encode(labels, {})

    def _encode(self, labels: Labels, position: dict[str, int]) -> np.ndarray:
        return np.array([[float(label) for label in row] for row in labels], dtype=np.float32)

    def counts(self, encoded: np.ndarray, classes: int) -> np.ndarray:
        return np.full(classes, len(encoded))

    def strata(self, encoded: np.ndarray) -> np.ndarray:
        """Return the quantile of each row, (n,) int64: up to 10 of at least 10 rows; of several numbers, that of their mean
        rank."""
        n = len(encoded)
        bins = min(10, max(1, n // 10))
        rank = rankdata(rankdata(encoded, axis=0).mean(axis=1), method="min") - 1
        return (rank * bins / max(n, 1)).astype(np.int64)

    def log_probabilities(self, logits: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def from_log_probabilities(self, logs: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def normalize(self, positive: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Return the numbers as they are, so that averages are averages of numbers."""
        return np.asarray(logits, np.float64)

    def to_logits(self, probabilities: np.ndarray) -> np.ndarray:
        return np.asarray(probabilities, np.float32)

    def log_likelihood(self, logits: np.ndarray, encoded: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def decide(self, logits: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def disagreement(self, logits: np.ndarray, others: np.ndarray) -> float:
        """Return the mean distance of two models' numbers, as a share of their standard deviation."""
        spread = np.maximum(np.concatenate([logits, others]).std(axis=0), 1e-12)
        return float((np.abs(logits.astype(np.float64) - others) / spread).mean())

    def stack_features(self, members: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return a matrix per output, each of all M * K numbers."""
        return [np.concatenate(members, axis=1)] * members[0].shape[1]

    def stack_outcomes(self, encoded: np.ndarray) -> list[np.ndarray]:
        return list(encoded.T)

    def join_stack(self, predictions: Sequence[tuple[np.ndarray, np.ndarray]], classes: int) -> np.ndarray:
        raise NotImplementedError

    def extend(self, logits: np.ndarray, specialist: np.ndarray, columns: np.ndarray) -> np.ndarray:
        raise NotImplementedError


def is_number(text: str) -> bool:
    """Return whether a label is a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


REGRESSION = Regression()
