"""What a model predicts for an image: one label, several labels, or the identity of an individual.

A target encodes labels as numbers, turns a network's outputs into probabilities and names the default metric. Whatever depends on
the kind of target is in the classes below, so that a new kind is one more class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import expit, log_expit, log_softmax, logit, softmax

from lib.errors import FlukeError
from lib.tables.regression_target import REGRESSION
from lib.tables.target_base import DecisionFit, Labels, Target

# Lower bounds of a probability, so that its logarithm is finite; for several labels also of its distance to 1. They are far below
# what changes a metric: a top-5 list orders classes of 1e-9, and a label's average precision orders rows of 1 - 1e-9.
LEAST, LEAST_OF_SEVERAL = 1e-30, 1e-15


class OneLabel(Target):
    """One label per image: a softmax over the classes. Encoded targets are (n,) int64 class indices."""

    name, wording, default_metric = "one_label", "one label per image", "accuracy"
    decision_fit: DecisionFit = "offsets"

    def accepts(self, labels: tuple[str, ...]) -> bool:
        return len(labels) == 1

    def _encode(self, labels: Labels, position: dict[str, int]) -> np.ndarray:
        return np.array([position[label] for (label,) in labels], dtype=np.int64)

    def counts(self, encoded: np.ndarray, classes: int) -> np.ndarray:
        return np.bincount(encoded, minlength=classes)

    def strata(self, encoded: np.ndarray) -> np.ndarray:
        return encoded

    def log_probabilities(self, logits: np.ndarray) -> np.ndarray:
        return log_softmax(logits, axis=1)

    def from_log_probabilities(self, logs: np.ndarray) -> np.ndarray:
        return logs.astype(np.float32)

    def normalize(self, positive: np.ndarray) -> np.ndarray:
        return positive / positive.sum(axis=1, keepdims=True)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        return softmax(np.asarray(logits, np.float64), axis=1)

    def to_logits(self, probabilities: np.ndarray) -> np.ndarray:
        return np.log(np.maximum(probabilities, LEAST)).astype(np.float32)

    def log_likelihood(self, logits: np.ndarray, encoded: np.ndarray) -> np.ndarray:
        return log_softmax(logits, axis=1)[np.arange(len(encoded)), encoded]

    def decide(self, logits: np.ndarray) -> np.ndarray:
        return np.arange(logits.shape[1]) == logits.argmax(axis=1)[:, None]

    def disagreement(self, logits: np.ndarray, others: np.ndarray) -> float:
        return float((logits.argmax(axis=1) != others.argmax(axis=1)).mean())

    def stack_features(self, members: Sequence[np.ndarray]) -> list[np.ndarray]:
        """One classifier on all M * C log-probabilities."""
        return [np.concatenate([log_softmax(m, axis=1) for m in members], axis=1)]

    def stack_outcomes(self, encoded: np.ndarray) -> list[np.ndarray]:
        return [encoded]

    def join_stack(self, predictions: Sequence[tuple[np.ndarray, np.ndarray]], classes: int) -> np.ndarray:
        ((outcomes, probabilities),) = predictions
        joined = np.zeros((len(probabilities), classes))
        joined[:, outcomes] = probabilities
        return joined

    def extend(self, logits: np.ndarray, specialist: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return p(c) = p(any of the specialist's classes) * p_specialist(c); other classes keep their probability.

        The specialist's classes keep their total, because it was not trained on images of other classes.
        """
        out = np.array(log_softmax(logits, axis=1), dtype=np.float32)
        mass = np.logaddexp.reduce(out[:, columns], axis=1, keepdims=True)
        out[:, columns] = mass + log_softmax(specialist, axis=1)
        return out


class SeveralLabels(Target):
    """Several labels per image, or none: a sigmoid per label. Encoded targets are (n, C) float32, 0 or 1."""

    name, wording, default_metric = "several_labels", "several labels per image", "macro_map"
    several, decision_fit, compared_axis = True, "thresholds", 0

    def accepts(self, labels: tuple[str, ...]) -> bool:
        return True

    def _encode(self, labels: Labels, position: dict[str, int]) -> np.ndarray:
        encoded = np.zeros((len(labels), len(position)), dtype=np.float32)
        for i, row in enumerate(labels):
            encoded[i, [position[label] for label in row]] = 1
        return encoded

    def counts(self, encoded: np.ndarray, classes: int) -> np.ndarray:
        return encoded.sum(0)

    def strata(self, encoded: np.ndarray) -> np.ndarray:
        """All rows are of one stratum."""
        return np.zeros(len(encoded), dtype=np.int64)

    def log_probabilities(self, logits: np.ndarray) -> np.ndarray:
        return log_expit(np.asarray(logits, np.float64))

    def from_log_probabilities(self, logs: np.ndarray) -> np.ndarray:
        return self.to_logits(np.exp(logs))

    def normalize(self, positive: np.ndarray) -> np.ndarray:
        return positive

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        return expit(np.asarray(logits, np.float64))

    def to_logits(self, probabilities: np.ndarray) -> np.ndarray:
        return logit(np.clip(probabilities, LEAST_OF_SEVERAL, 1 - LEAST_OF_SEVERAL)).astype(np.float32)

    def log_likelihood(self, logits: np.ndarray, encoded: np.ndarray) -> np.ndarray:
        return log_expit(np.where(encoded == 1, logits, -logits)).ravel()

    def decide(self, logits: np.ndarray) -> np.ndarray:
        return logits >= 0

    def disagreement(self, logits: np.ndarray, others: np.ndarray) -> float:
        return float((self.decide(logits) != self.decide(others)).mean())

    def stack_features(self, members: Sequence[np.ndarray]) -> list[np.ndarray]:
        """A classifier per label, on the M log-odds of that label."""
        return [np.stack(columns, axis=1) for columns in zip(*(m.T for m in members))]

    def stack_outcomes(self, encoded: np.ndarray) -> list[np.ndarray]:
        return list(encoded.T)

    def join_stack(self, predictions: Sequence[tuple[np.ndarray, np.ndarray]], classes: int) -> np.ndarray:
        given = [p[:, outcomes == 1].sum(axis=1, dtype=np.float64) for outcomes, p in predictions]
        return np.stack(given, axis=1)

    def extend(self, logits: np.ndarray, specialist: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the specialist's logits for its labels, and `logits` for the others."""
        out = np.array(logits, dtype=np.float32)
        out[:, columns] = specialist
        return out


class Ordinal(OneLabel):
    """One of ordered classes (grades), whose places in the class list are their order. Encoded targets are those places."""

    name, wording, default_metric, decision_fit = "ordinal", "ordered classes", "quadratic_kappa", "cut_points"


class Identity(OneLabel):
    """The identity of an individual: a network computes embeddings, which are compared with those of a gallery."""

    name, wording, default_metric, outputs = "identity", "retrieval", "map@5", "embeddings"


ONE_LABEL, ORDINAL, SEVERAL_LABELS, IDENTITY = OneLabel(), Ordinal(), SeveralLabels(), Identity()
TARGETS = (ONE_LABEL, ORDINAL, SEVERAL_LABELS, REGRESSION, IDENTITY)
TASKS: dict[str, Target] = {"label": ONE_LABEL, "ordinal": ORDINAL, "number": REGRESSION}
"""Targets of one label or number per image, by data.task."""


def label_target(separator: str | None, task: str = "label") -> Target:
    """Return the target of tables that separate an image's labels by `separator`; None: one label per image, of kind `task`."""
    return TASKS[task] if separator is None else SEVERAL_LABELS


def recipe_target(separator: str | None, embedding: bool, task: str = "label") -> Target:
    """Return what a recipe predicts; `separator` is its data.label_separator, `task` its data.task.

    Raises FlukeError for several identities per image, and for identities that are ordered or numbers.
    """
    if embedding and separator is not None:
        raise FlukeError("data.label_separator: an embedding has one identity per image; set it to null.")
    if embedding and task != "label":
        raise FlukeError(f"data.task {task}: an embedding has one identity per image; set it to label.")
    return IDENTITY if embedding else label_target(separator, task)


def describe_target(target: Target) -> dict[str, Any]:
    """Return what files hold of a target beside its outputs: whether it is of several labels, and its name where that isn't
    enough."""
    named = {} if target in (ONE_LABEL, SEVERAL_LABELS, IDENTITY) else {"target": target.name}
    return {"multi": target.several, **named}


def stored_target(outputs: str, several: bool, name: str | None = None) -> Target:
    """Return the target that a file stores as outputs ("logits" or "embeddings"), `several` and, where that isn't enough, its name.

    Raises KeyError.
    """
    if name is not None:
        return {target.name: target for target in TARGETS}[name]
    older: dict[tuple[str, bool], Target] = {(t.outputs, t.several): t for t in (ONE_LABEL, SEVERAL_LABELS, IDENTITY)}
    return older[outputs, several]
