"""Metrics of orders: average precision, and areas under the ROC curve, of one column of scores.

Each takes `true` (n,) bool, `scores` (n,) and `weights` (n, b), how often each row counts in each of b resamples, and returns (b,)
values; NaN where a resample has no positive (or, for areas, no negative). Equal scores count at once.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from lib.metrics.resampling import BLOCK, Array, group_sums, ratio


def average_precision(true: Array, scores: Array, weights: Array, rows: Array | None = None) -> Array:
    """Compute scikit-learn's average_precision_score.

    `rows` (n,) are the rows of `weights` that `true` and `scores` belong to; None: row i is row i.
    """
    if not true.any():
        return np.full(weights.shape[1], np.nan)
    order = np.argsort(-scores, kind="stable")
    rows = order if rows is None else rows[order]
    true, scores = true[order], scores[order]
    tie = np.cumsum(np.append(False, scores[1:] != scores[:-1]))  # equal scores count at once
    # Precision is needed only at ties with positives: rows are summed from one such tie to the next.
    stops = np.unique(tie[true])
    stop = np.searchsorted(stops, tie)
    before, shape = stop < len(stops), (len(stops), len(weights))
    every = csr_array((np.ones(before.sum()), (stop[before], rows[before])), shape=shape)
    positive = csr_array((np.ones(true.sum()), (stop[true], rows[true])), shape=shape)
    found = []
    for some in _blocks(len(stops), weights):
        gained = positive @ some
        seen, correct = np.cumsum(every @ some, axis=0), np.cumsum(gained, axis=0)
        found.append(ratio((gained * correct / np.maximum(seen, 1)).sum(axis=0), correct[-1]))
    return np.concatenate(found)


def area_under_roc(true: Array, scores: Array, weights: Array) -> Array:
    """Compute the area under the ROC curve: the share of pairs of a positive and a negative in the right order, ties half."""
    if true.all() or not true.any():
        return np.full(weights.shape[1], np.nan)
    rows = np.argsort(scores, kind="stable")
    true, scores = true[rows], scores[rows]
    tie = np.cumsum(np.append(False, scores[1:] != scores[:-1]))
    # As above, only ties with positives matter: the negatives of each, and those between it and the one before.
    stops = np.unique(tie[true])
    stop = np.searchsorted(stops, tie)
    reached = stop < len(stops)
    equal = reached & ~true
    equal[reached] &= stops[stop[reached]] == tie[reached]
    up_to, shape = reached & ~true, (len(stops), len(weights))
    positive, negative, tied = (
        csr_array((np.ones(some.sum()), (stop[some], rows[some])), shape=shape) for some in (true, up_to, equal)
    )
    found = []
    for some in _blocks(len(stops), weights):
        gained = positive @ some
        right = (gained * (np.cumsum(negative @ some, axis=0) - (tied @ some) / 2)).sum(axis=0)
        found.append(ratio(right, gained.sum(axis=0) * some[rows[~true]].sum(axis=0)))
    return np.concatenate(found)


def area_in_band(true: Array, scores: Array, weights: Array, low: float, high: float) -> Array:
    """Compute the area to the right of the ROC curve between two true positive rates, at most `high` - `low`.

    It is the integral of 1 - false positive rate over the true positive rates from `low` to `high`; the curve is linear between
    its points.
    """
    tie = np.unique(-scores, return_inverse=True)[1]
    n_ties = int(tie.max()) + 1
    found = []
    for some in _blocks(n_ties, weights):
        positives, negatives = (np.cumsum(group_sums(side, tie, n_ties, some), axis=0) for side in (true, ~true))
        tpr, fpr = (np.pad(ratio(each, each[-1:] + 0 * each), ((1, 0), (0, 0))) for each in (positives, negatives))
        t = np.clip(tpr, low, high)
        rise = np.diff(tpr, axis=0)
        slope = np.divide(np.diff(fpr, axis=0), rise, out=np.zeros_like(rise), where=rise > 0)
        middle = (t[1:] + t[:-1]) / 2
        area = (np.diff(t, axis=0) * (1 - fpr[:-1] - (middle - tpr[:-1]) * slope)).sum(axis=0)
        undefined = (positives[-1] == 0) | (negatives[-1] == 0)
        found.append(np.where(undefined, np.nan, area))
    return np.concatenate(found)


def _blocks(n: int, weights: Array) -> list[Array]:
    """Return `weights` cut into resamples of which arrays of `n` rows fit into a block."""
    return np.array_split(weights, -(-n * weights.shape[1] // BLOCK), axis=1)
