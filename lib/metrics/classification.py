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
from scipy.special import expit, log_expit, log_softmax, softmax

from lib.metrics.curves import area_in_band, area_under_roc
from lib.metrics.curves import average_precision as average_precision_of
from lib.metrics.resampling import BINS, Array, group_sums, mean_defined, ratio, weighted_mean


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


def matthews(logits: Array, targets: Array, weights: Array) -> Array:
    """Compute the Matthews correlation of several classes (Gorodkin 2004), 0 where all rows have, or get, one class."""
    correct, predicted, true = _counts(logits, targets, weights)
    n = weights.sum(axis=0)
    spread = (n**2 - (predicted**2).sum(axis=0)) * (n**2 - (true**2).sum(axis=0))
    return np.nan_to_num(ratio(correct.sum(axis=0) * n - (predicted * true).sum(axis=0), np.sqrt(np.maximum(spread, 0))))


def log_loss(logits: Array, targets: Array, weights: Array) -> Array:
    """Compute the mean negative log-probability of the target, 708 at most, so that a true class at -inf stays finite.

    For several labels: the mean over rows and labels.
    """
    logits, least = logits.astype(np.float64), np.log(np.finfo(np.float64).tiny)
    if targets.ndim == 2:
        return weighted_mean(-np.maximum(log_expit(np.where(targets > 0, logits, -logits)), least).mean(axis=1), weights)
    own = np.take_along_axis(log_softmax(logits, axis=1), targets[:, None], axis=1)[:, 0]
    return weighted_mean(-np.maximum(own, least), weights)


def expected_calibration_error(logits: Array, targets: Array, weights: Array) -> Array:
    """Compute the expected calibration error (Guo et al. 2017): mean |confidence - accuracy| over 15 equal bins of confidence."""
    confidence = softmax(logits.astype(np.float64), axis=1).max(axis=1)
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    gaps = group_sums(confidence - (logits.argmax(axis=1) == targets), bins, BINS, weights)
    return np.abs(gaps).sum(axis=0) / weights.sum(axis=0)


def macro_map(logits: Array, targets: Array, weights: Array) -> Array:
    """Compute the mean average precision over labels; those without a positive are left out, in each resample."""
    return mean_defined(np.stack([average_precision_of(t > 0, s, weights) for t, s in zip(targets.T, logits.T)]))


def micro_map(logits: Array, targets: Array, weights: Array) -> Array:
    """Compute the average precision over all pairs of row and label."""
    rows = np.repeat(np.arange(len(logits)), logits.shape[1])
    return average_precision_of(targets.ravel() > 0, logits.ravel(), weights, rows)


# --- probabilities, of which the contest gets one column per class, or of the second of two ---------------------------------------


def _columns(logits: Array, targets: Array) -> list[tuple[Array, Array]]:
    """Return (whether the class is right, its probability), (n,) each, for each class; of two classes only for the second.

    For several labels the logits stand for their probabilities, which have the same order.
    """
    if targets.ndim == 2:
        return [(t > 0, s) for t, s in zip(targets.T, logits.T)]
    p = softmax(logits.astype(np.float64), axis=1)
    return [(targets == c, p[:, c]) for c in ([1] if p.shape[1] == 2 else range(p.shape[1]))]


def _of_two(logits: Array, targets: Array) -> tuple[Array, Array] | None:
    """Return whether the second of two classes is right, and its probability, (n,) each; None for another number of classes."""
    return _columns(logits, targets)[0] if logits.shape[1] == 2 else None


def _undefined(weights: Array) -> Array:
    return np.full(weights.shape[1], np.nan)


def roc_auc(logits: Array, targets: Array, weights: Array) -> Array:
    """Compute the mean area under the ROC curve over the classes that have rows of both kinds; of two classes the second's."""
    return mean_defined(np.stack([area_under_roc(true, p, weights) for true, p in _columns(logits, targets)]))


def average_precision(logits: Array, targets: Array, weights: Array) -> Array:
    """Compute the mean average precision over the classes that have rows; of two classes the second's."""
    return mean_defined(np.stack([average_precision_of(true, p, weights) for true, p in _columns(logits, targets)]))


def weighted_auc(logits: Array, targets: Array, weights: Array) -> Array:
    """Compute the area under the ROC curve of the second of two classes, below a true positive rate of 0.4 twice (ALASKA2)."""
    if (column := _of_two(logits, targets)) is None:
        return _undefined(weights)
    return (2 * area_in_band(*column, weights, 0, 0.4) + area_in_band(*column, weights, 0.4, 1)) / 1.4


def partial_auc(logits: Array, targets: Array, weights: Array) -> Array:
    """Compute the area under the ROC curve of the second of two classes, above a true positive rate of 0.8 (ISIC 2024)."""
    column = _of_two(logits, targets)
    return _undefined(weights) if column is None else area_in_band(*column, weights, 0.8, 1)


def probabilistic_f1(logits: Array, targets: Array, weights: Array) -> Array:
    """Compute 2 * sum(p * y) / (sum(p) + sum(y)) of the second of two classes (RSNA 2022); NaN without a positive."""
    if (column := _of_two(logits, targets)) is None:
        return _undefined(weights)
    true, p = column
    positives = true @ weights
    return np.where(positives > 0, ratio(2 * (p * true) @ weights, p @ weights + positives), np.nan)


def f1(logits: Array, targets: Array, weights: Array) -> Array:
    """Compute the F1 of the second of two classes; NaN where it is neither true nor predicted."""
    if logits.shape[1] != 2:
        return _undefined(weights)
    correct, predicted, true = _counts(logits, targets, weights)
    return ratio(2 * correct, predicted + true)[1]


def brier(logits: Array, targets: Array, weights: Array) -> Array:
    """Compute the mean squared distance of the probabilities from 0 and 1, summed over more than two classes."""
    if targets.ndim == 2:
        return weighted_mean(((expit(logits.astype(np.float64)) - targets) ** 2).mean(axis=1), weights)
    p = softmax(logits.astype(np.float64), axis=1)
    distance = np.maximum(np.einsum("nc,nc->n", p, p) - 2 * p[np.arange(len(p)), targets] + 1, 0)
    return weighted_mean(distance / 2 if p.shape[1] == 2 else distance, weights)


def gap(logits: Array, targets: Array, weights: Array) -> Array:
    """Compute the global average precision (Google landmarks): the precision at each correct answer's confidence, summed, / n."""
    confidence = softmax(logits.astype(np.float64), axis=1).max(axis=1)
    correct = logits.argmax(axis=1) == targets
    if not correct.any():
        return np.zeros(weights.shape[1])
    precision = average_precision_of(correct, confidence, weights)
    return np.nan_to_num(precision) * weighted_mean(correct, weights)


# --- ordered classes --------------------------------------------------------------------------------------------------------------


def quadratic_kappa(logits: Array, targets: Array, weights: Array) -> Array:
    """Compute Cohen's kappa with quadratic weights (Cohen 1968): 1 - mean (i - j)^2 over rows / the same of independent i and j.

    Of the argmax i and the target j, which are places in the order of the classes. NaN where all i and j are one class.
    """
    i, j = logits.argmax(axis=1).astype(np.float64), targets.astype(np.float64)
    rows = weights.sum(axis=0)  # sums, not means: whole numbers, so that 0 is exactly 0
    observed, sum_i, sum_j, squares = (x @ weights for x in ((i - j) ** 2, i, j, i**2 + j**2))
    return 1 - ratio(rows * observed, rows * squares - 2 * sum_i * sum_j)


# --- families of metrics ----------------------------------------------------------------------------------------------------------


def top_k_accuracy(k: int, logits: Array, targets: Array, weights: Array) -> Array:
    """Compute the share of rows whose target is among the k highest logits."""
    return weighted_mean(rank_of_target(logits, targets) < k, weights)


def map_at_k(k: int, logits: Array, targets: Array, weights: Array) -> Array:
    """Compute the mean of 1 / rank of the target, ranks from 1, 0 below the k-th."""
    rank = rank_of_target(logits, targets) + 1
    return weighted_mean(np.where(rank <= k, 1 / rank, 0), weights)


def f_beta(beta: float, average: str, logits: Array, targets: Array, weights: Array) -> Array:
    """Compute the F-beta of label sets, those with a logit of 0 or more: (1 + beta^2) TP / ((1 + beta^2) TP + beta^2 FN + FP).

    `average` is "samples" (mean over rows, 1 for a row without labels that gets none), "macro" (mean over labels, without those
    neither true nor predicted) or "micro" (all labels together).
    """
    b = beta**2
    if average == "samples":
        predicted, true = logits >= 0, targets > 0
        size = predicted.sum(axis=1) + b * true.sum(axis=1)
        values = (1 + b) * (predicted & true).sum(axis=1) / np.where(size > 0, size, 1)
        return weighted_mean(np.where(size == 0, 1, values), weights)
    correct, given, real = _counts(logits, targets, weights)
    if average == "micro":
        correct, given, real = (count.sum(axis=0) for count in (correct, given, real))
        return ratio((1 + b) * correct, given + b * real)
    return mean_defined(ratio((1 + b) * correct, given + b * real))
