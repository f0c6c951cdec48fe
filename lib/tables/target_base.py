"""The base of all targets: what each kind of prediction has to say of itself (lib/tables/target.py lists them)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np

from lib.errors import FlukeError, first_few

Labels = Sequence[tuple[str, ...]]
DecisionFit = Literal["offsets", "thresholds", "cut_points", "none"]


class Target(ABC):
    """One kind of prediction. Instances have no state: use ONE_LABEL, ORDINAL, SEVERAL_LABELS, REGRESSION and IDENTITY.

    `logits` are (n, C) float32 over C classes; `encoded` targets are what `encode` returns.
    """

    name: str
    """Name in the registries of losses and metrics."""
    wording: str
    """Name in messages."""
    default_metric: str
    """The metric that `train.metric: auto` stands for."""
    outputs: Literal["logits", "embeddings"] = "logits"
    """What a network computes for an image."""
    several: bool = False
    """Whether an image may have several labels, or none."""
    numeric: bool = False
    """Whether labels are numbers, and outputs too: there are no classes and no probabilities."""
    decision_fit: DecisionFit
    """What is fitted on out-of-fold scores for better decisions: an offset per class, a threshold per label, or cut points between
    ordered classes."""
    compared_axis: int = 1
    """Axis of the logits along which metrics compare scores: 1, the classes of a row; 0, the rows of a label."""

    def __reduce__(self) -> str:
        return self.name.upper()  # unpickled as the same object, because targets are compared by identity

    @abstractmethod
    def accepts(self, labels: tuple[str, ...]) -> bool:
        """Return whether an image may have these labels."""

    def encode(self, labels: Labels, classes: Sequence[str], source: str) -> np.ndarray:
        """Return the labels of n images as numbers; shape and dtype are those of the subclass.

        Raises FlukeError that begins with `source` and counts the labels that are not in `classes`.
        """
        position = {label: i for i, label in enumerate(classes)}
        counts = Counter(label for row in labels for label in row)
        if unknown := [(label, count) for label, count in counts.most_common() if label not in position]:
            found = first_few(f"{label!r} ({count:,} images)" for label, count in unknown)
            raise FlukeError(f"{source}: {len(unknown):,} labels are not among the {len(position):,} classes: {found}.")
        return self._encode(labels, position)

    @abstractmethod
    def _encode(self, labels: Labels, position: dict[str, int]) -> np.ndarray:
        """Return encoded labels, all of which are in `position`, {class: index}."""

    @abstractmethod
    def counts(self, encoded: np.ndarray, classes: int) -> np.ndarray:
        """Return the number of images of each class, (classes,)."""

    @abstractmethod
    def strata(self, encoded: np.ndarray) -> np.ndarray:
        """Return the stratum of each row, (n,), for random folds that are stratified."""

    @abstractmethod
    def log_probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Return (n, C) natural logarithms of the probabilities."""

    @abstractmethod
    def from_log_probabilities(self, logs: np.ndarray) -> np.ndarray:
        """Return (n, C) float32 logits for logarithms of probabilities, which need not be normalized."""

    @abstractmethod
    def normalize(self, positive: np.ndarray) -> np.ndarray:
        """Return (n, C) numbers between 0 and 1 as probabilities: divided by the row's sum for one label per image."""

    @abstractmethod
    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Return (n, C) float64 probabilities."""

    @abstractmethod
    def to_logits(self, probabilities: np.ndarray) -> np.ndarray:
        """Return (n, C) float32 logits for probabilities, the inverse of `probabilities`; those of 0 and 1 are finite."""

    @abstractmethod
    def log_likelihood(self, logits: np.ndarray, encoded: np.ndarray) -> np.ndarray:
        """Return the log-probability of the encoded targets: (n,), or (n * C,) for several labels."""

    @abstractmethod
    def decide(self, logits: np.ndarray) -> np.ndarray:
        """Return (n, C) bool: the predicted classes without fitted thresholds."""

    @abstractmethod
    def disagreement(self, logits: np.ndarray, others: np.ndarray) -> float:
        """Return the share of `decide`'s decisions that differ between two models' logits (n, C)."""

    @abstractmethod
    def stack_features(self, members: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return a feature matrix (n, F) for each classifier of a stack that combines M members' logits (n, C)."""

    @abstractmethod
    def stack_outcomes(self, encoded: np.ndarray) -> list[np.ndarray]:
        """Return what each classifier of a stack learns to predict, (n,) each."""

    @abstractmethod
    def join_stack(self, predictions: Sequence[tuple[np.ndarray, np.ndarray]], classes: int) -> np.ndarray:
        """Return (n, classes) float64 probabilities.

        For each classifier `predictions` has its K outcomes, (K,), and their probabilities (n, K).
        """

    @abstractmethod
    def extend(self, logits: np.ndarray, specialist: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return (n, C) float32 logits: `logits` (n, C) combined with `specialist` (n, S), of the classes `columns` (S,) alone."""
