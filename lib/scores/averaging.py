"""Combining scores with given weights: pools of logits, probabilities, ranks and votes; a specialist made whole.

`members` are M arrays (n, C) of logits of the same rows and classes, `weights` (M,) sum to 1, and a pool returns (n, C) float32
logits. `multi`: several labels an image, sigmoids instead of a softmax.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit, log_expit, log_softmax, logit, softmax
from scipy.stats import rankdata

from lib.scores.score_file import Scores

Members = Sequence[np.ndarray]
# A probability is never less (or, of a label, nearer to 1), so that its logarithm stays finite. Far below what matters to a loss:
# a top-5 list orders classes of 1e-9, and a label's average precision rows of 1 - 1e-9.
LEAST, LEAST_OF_LABEL = 1e-30, 1e-15


def probabilities(logits: np.ndarray, multi: bool) -> np.ndarray:
    """(n, C) logits to (n, C) float64 probabilities: sigmoid if `multi`, else softmax."""
    logits = np.asarray(logits, np.float64)
    return expit(logits) if multi else softmax(logits, axis=1)


def to_logits(p: np.ndarray, multi: bool) -> np.ndarray:
    """The inverse of `probabilities`, float32; probabilities are kept a little away from 0 (and, if `multi`, from 1)."""
    p = np.clip(p, LEAST_OF_LABEL, 1 - LEAST_OF_LABEL) if multi else np.maximum(p, LEAST)
    return (logit(p) if multi else np.log(p)).astype(np.float32)


def extend_specialist(first: np.ndarray, specialist: np.ndarray, columns: np.ndarray, multi: bool) -> np.ndarray:
    """A specialist's logits (n, S) on the classes `columns` (S,) of `first` (n, C), made whole as logits (n, C).

    One label an image: the first model says how probable it is that the class is among the specialist's, the specialist which of
    them: p(c) = p_first(any of S) * p_specialist(c). Other classes keep the first model's probability, so that a specialist can't
    overrule it on images of classes that the specialist has never seen. Several labels: the specialist judges its own labels.
    """
    out = np.array(first if multi else log_softmax(first, axis=1), dtype=np.float32)
    if multi:
        out[:, columns] = specialist
    else:
        mass = np.logaddexp.reduce(out[:, columns], axis=1, keepdims=True)
        out[:, columns] = mass + log_softmax(specialist, axis=1)
    return out


def extend_members(members: Sequence[Scores]) -> Members:
    """Logits (n, C) of aligned scores, those of fewer classes made whole by the first."""
    first = members[0]
    place = {name: i for i, name in enumerate(first.classes)}
    columns = [np.array([place[name] for name in member.classes]) for member in members]
    return [
        m.logits if len(c) == len(place) else extend_specialist(first.logits, m.logits, c, first.multi)
        for m, c in zip(members, columns)
    ]


def _sum(arrays: Any, weights: np.ndarray) -> np.ndarray:
    return sum(float(w) * array for w, array in zip(weights, arrays) if w != 0)


def mean_logits(members: Members, weights: np.ndarray, multi: bool) -> np.ndarray:
    """Weighted mean of logits."""
    return _sum(members, weights).astype(np.float32)


def mean_probabilities(members: Members, weights: np.ndarray, multi: bool) -> np.ndarray:
    """Weighted mean of probabilities."""
    return to_logits(_sum((probabilities(m, multi) for m in members), weights), multi)


def geometric_mean(members: Members, weights: np.ndarray, multi: bool) -> np.ndarray:
    """Weighted geometric mean of probabilities (the order of their product). With a softmax it ranks as the mean of logits does."""
    logs = _sum((log_expit(m.astype(np.float64)) if multi else log_softmax(m, axis=1) for m in members), weights)
    return to_logits(np.exp(logs), True) if multi else logs.astype(np.float32)


def mean_ranks(members: Members, weights: np.ndarray, multi: bool) -> np.ndarray:
    """Weighted mean of ranks: of the classes within a row, or if `multi` of the rows within a label, whose metrics compare rows.

    For members whose scores have different scales. The result orders; it is no probability.
    """
    axis = 0 if multi else 1
    ranks = _sum((rankdata(m, axis=axis) / (m.shape[axis] + 1) for m in members), weights)
    return to_logits(ranks if multi else ranks / ranks.sum(axis=1, keepdims=True), multi)


def majority_vote(members: Members, weights: np.ndarray, multi: bool) -> np.ndarray:
    """Weighted majority vote: a member votes for its first class, or if `multi` for each label of 1/2 or more.

    A thousandth of the result is the mean probability, which decides ties and orders the classes that nobody voted for.
    """

    def votes(m: np.ndarray) -> np.ndarray:
        return m >= 0 if multi else np.arange(m.shape[1]) == m.argmax(axis=1)[:, None]

    nudge = _sum((probabilities(m, multi) for m in members), weights)
    return to_logits(0.999 * _sum((votes(m).astype(np.float64) for m in members), weights) + 0.001 * nudge, multi)


AVERAGES: dict[str, Callable[[Members, np.ndarray, bool], np.ndarray]] = {
    "mean": mean_logits,
    "mean_prob": mean_probabilities,
    "geometric": geometric_mean,
    "rank": mean_ranks,
    "vote": majority_vote,
}


@dataclass
class WeightedAverage:
    """A pool with its weights: members -> logits (n, C) float32."""

    pool: Callable[[Members, np.ndarray, bool], np.ndarray]
    weights: np.ndarray
    multi: bool
    temperatures: np.ndarray | None = None
    """(M,) what each member's logits are divided by first."""

    def __call__(self, members: Members) -> np.ndarray:
        if self.temperatures is not None:
            members = [m / t for m, t in zip(members, self.temperatures)]
        return self.pool(members, self.weights, self.multi)
