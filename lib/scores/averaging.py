"""Averages of the scores of several models with given weights: of logits, probabilities, ranks and votes.

`members` are M arrays (n, C) of logits of the same rows and classes; `weights` (M,) sum to 1. An average returns (n, C) float32
logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata

from lib.scores.score_file import Scores
from lib.tables.target import Target

Members = Sequence[np.ndarray]


def extend_members(members: Sequence[Scores]) -> Members:
    """Return the logits (n, C) of aligned scores; those of a member with fewer classes are extended by the first member's."""
    first = members[0]
    position = {name: i for i, name in enumerate(first.classes)}
    extended = []
    for member in members:
        columns = np.array([position[name] for name in member.classes])
        all_classes = len(columns) == len(position)
        extended.append(member.logits if all_classes else first.target.extend(first.logits, member.logits, columns))
    return extended


def _weighted_sum(arrays: Any, weights: np.ndarray) -> np.ndarray:
    return sum(float(w) * array for w, array in zip(weights, arrays) if w != 0)


def mean_logits(members: Members, weights: np.ndarray, target: Target) -> np.ndarray:
    """Return the weighted mean of logits."""
    return _weighted_sum(members, weights).astype(np.float32)


def mean_probabilities(members: Members, weights: np.ndarray, target: Target) -> np.ndarray:
    """Return the weighted mean of probabilities."""
    return target.to_logits(_weighted_sum((target.probabilities(m) for m in members), weights))


def geometric_mean(members: Members, weights: np.ndarray, target: Target) -> np.ndarray:
    """Return the weighted geometric mean of probabilities, not normalized. For one label it ranks as the mean of logits does."""
    return target.from_log_probabilities(_weighted_sum((target.log_probabilities(m) for m in members), weights))


def mean_ranks(members: Members, weights: np.ndarray, target: Target) -> np.ndarray:
    """Return the weighted mean of ranks along `target.compared_axis`, for members whose scores have different scales.

    The result orders classes or rows; it is no probability.
    """
    axis = target.compared_axis
    ranks = _weighted_sum((rankdata(m, axis=axis) / (m.shape[axis] + 1) for m in members), weights)
    return target.to_logits(target.normalize(ranks))


def majority_vote(members: Members, weights: np.ndarray, target: Target) -> np.ndarray:
    """Return the weighted majority vote: a member votes for each class that it decides on.

    A thousandth of the result is the mean probability, which breaks ties and orders the classes without a vote.
    """
    mean = _weighted_sum((target.probabilities(m) for m in members), weights)
    votes = _weighted_sum((target.decide(m).astype(np.float64) for m in members), weights)
    return target.to_logits(0.999 * votes + 0.001 * mean)


Average = Callable[[Members, np.ndarray, Target], np.ndarray]
AVERAGES: dict[str, Average] = {
    "mean": mean_logits,
    "mean_prob": mean_probabilities,
    "geometric": geometric_mean,
    "rank": mean_ranks,
    "vote": majority_vote,
}


@dataclass
class WeightedAverage:
    """An average with its weights. Calls: members -> logits (n, C) float32."""

    average: Average
    weights: np.ndarray
    target: Target
    temperatures: np.ndarray | None = None
    """(M,) divisors of each member's logits; None: ones."""

    def __call__(self, members: Members) -> np.ndarray:
        if self.temperatures is not None:
            members = [m / t for m, t in zip(members, self.temperatures)]
        return self.average(members, self.weights, self.target)
