"""Metrics of logits and targets.

Each takes `logits` (n, C) float32, `targets` and `weights` (n, b) float64, and returns (b,) values. Targets are (n,) int class
indices (one label per image) or (n, C) 0 and 1 (several). `weights` says how often each of n rows counts in each of b resamples.
A column of ones gives the plain metric. Bootstrap counts (lib/metrics/intervals.py) give all resamples in a few matrix products,
because 2,000 calls of scikit-learn take minutes. An undefined value, such as an average precision without a positive, is NaN.
Classes may lack rows. Of equal logits the lower column is ranked better.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import log_softmax, softmax

from lib.metrics.resampling import BINS, BLOCK, Array, group_sums, mean_defined, ratio, weighted_mean


def rank_of_target(logits: Array, targets: Array) -> NDArray[np.int64]:
    """Return the rank of each row's target among its logits, (n,) int64 from 0; `targets` (n,) int."""
    own = np.take_along_axis(logits, targets[:, None], axis=1)
    earlier = np.arange(logits.shape[1]) < targets[:, None]
    return ((logits > own) | ((logits == own) & earlier)).sum(axis=1)


def _counts(logits: Array, targets: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Return the correct, predicted and true rows of each class and resample, (C, b) each.

    Predicted is the argmax for one label per image, a probability of at least 0.5 for several.
    """
    if targets.ndim == 2:
        predicted, true = (logits.T >= 0).astype(np.float64), (targets.T > 0).astype(np.float64)
        return (predicted * true) @ weights, predicted @ weights, true @ weights
    n_classes, first, ones = logits.shape[1], logits.argmax(axis=1), np.ones(len(logits))
    correct = group_sums(first == targets, targets, n_classes, weights)
    return correct, group_sums(ones, first, n_classes, weights), group_sums(ones, targets, n_classes, weights)


def accuracy(logits: Array, targets: Array, weights: Array) -> Array:
    """Compute the share of rows whose argmax is the target."""
    return weighted_mean(logits.argmax(axis=1) == targets, weights)


def top5_accuracy(logits: Array, targets: Array, weights: Array) -> Array:
    """Compute the share of rows whose target is among the five highest logits."""
    return weighted_mean(rank_of_target(logits, targets) < 5, weights)


def map_at_5(logits: Array, targets: Array, weights: Array) -> Array:
    """Compute the mean of 1 / rank of the target, ranks from 1, 0 below the fifth."""
    rank = rank_of_target(logits, targets) + 1
    return weighted_mean(np.where(rank <= 5, 1 / rank, 0), weights)


def balanced_accuracy(logits: Array, targets: Array, weights: Array) -> Array:
    """Compute the mean recall over the classes that have rows."""
    correct, _, true = _counts(logits, targets, weights)
    return mean_defined(ratio(correct, true))


def macro_f1(logits: Array, targets: Array, weights: Array) -> Array:
    """Compute the mean F1 over classes; those neither true nor predicted are left out (scikit-learn: zero_division=nan)."""
    correct, predicted, true = _counts(logits, targets, weights)
    return mean_defined(ratio(2 * correct, predicted + true))


def micro_f1(logits: Array, targets: Array, weights: Array) -> Array:
    """Compute the F1 of all labels together."""
    correct, predicted, true = (count.sum(axis=0) for count in _counts(logits, targets, weights))
    return ratio(2 * correct, predicted + true)


def samples_f1(logits: Array, targets: Array, weights: Array) -> Array:
    """Compute the mean F1 over rows, 1 for a row without labels that gets none (scikit-learn: zero_division=1)."""
    predicted, true = logits >= 0, targets > 0
    size = predicted.sum(axis=1) + true.sum(axis=1)
    return weighted_mean(np.where(size == 0, 1, 2 * (predicted & true).sum(axis=1) / np.maximum(size, 1)), weights)


def log_loss(logits: Array, targets: Array, weights: Array) -> Array:
    """Compute the mean negative log-probability of the target, 708 at most, so that a true class at -inf stays finite."""
    own = np.take_along_axis(log_softmax(logits.astype(np.float64), axis=1), targets[:, None], axis=1)[:, 0]
    return weighted_mean(-np.maximum(own, np.log(np.finfo(np.float64).tiny)), weights)


def expected_calibration_error(logits: Array, targets: Array, weights: Array) -> Array:
    """Compute the expected calibration error (Guo et al. 2017): mean |confidence - accuracy| over 15 equal bins of confidence."""
    confidence = softmax(logits.astype(np.float64), axis=1).max(axis=1)
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    gaps = group_sums(confidence - (logits.argmax(axis=1) == targets), bins, BINS, weights)
    return np.abs(gaps).sum(axis=0) / weights.sum(axis=0)


def _average_precision(true: Array, scores: Array, rows: Array, weights: Array) -> Array:
    """Return scikit-learn's average_precision_score in each resample, (b,).

    `true` (m,) bool, `scores` (m,); `rows` (m,) are their rows of `weights`.
    """
    if not true.any():
        return np.full(weights.shape[1], np.nan)
    order = np.argsort(-scores, kind="stable")
    true, scores, rows = true[order], scores[order], rows[order]
    tie = np.cumsum(np.append(False, scores[1:] != scores[:-1]))  # equal scores count at once
    # Precision is needed only at ties with positives: rows are summed from one such tie to the next.
    stops = np.unique(tie[true])
    stop = np.searchsorted(stops, tie)
    before, shape = stop < len(stops), (len(stops), len(weights))
    every = csr_array((np.ones(before.sum()), (stop[before], rows[before])), shape=shape)
    positive = csr_array((np.ones(true.sum()), (stop[true], rows[true])), shape=shape)
    found = []
    for some in np.array_split(weights, -(-len(stops) * weights.shape[1] // BLOCK), axis=1):
        gained = positive @ some
        seen, correct = np.cumsum(every @ some, axis=0), np.cumsum(gained, axis=0)
        found.append(ratio((gained * correct / np.maximum(seen, 1)).sum(axis=0), correct[-1]))
    return np.concatenate(found)


def macro_map(logits: Array, targets: Array, weights: Array) -> Array:
    """Compute the mean average precision over labels; those without a positive are left out, in each resample."""
    rows = np.arange(len(logits))
    return mean_defined(np.stack([_average_precision(t > 0, s, rows, weights) for t, s in zip(targets.T, logits.T)]))


def micro_map(logits: Array, targets: Array, weights: Array) -> Array:
    """Compute the average precision over all pairs of row and label."""
    rows = np.repeat(np.arange(len(logits)), logits.shape[1])
    return _average_precision(targets.ravel() > 0, logits.ravel(), rows, weights)
