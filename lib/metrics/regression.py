"""Metrics of numbers: `logits` are predictions (n, K), `targets` (n, K) and `weights` (n, b); each returns (b,) values.

As in scikit-learn, metrics of several numbers are means over them (multioutput="uniform_average").
"""

from __future__ import annotations

import numpy as np

from lib.metrics.resampling import Array, mean_defined, ratio, weighted_mean


def rmse(logits: Array, targets: Array, weights: Array) -> Array:
    """Compute the root of the mean squared error."""
    return np.sqrt(_mean_squares(logits - targets.astype(np.float64), weights)).mean(axis=0)


def mae(logits: Array, targets: Array, weights: Array) -> Array:
    """Compute the mean absolute error."""
    return weighted_mean(np.abs(logits - targets.astype(np.float64)).mean(axis=1), weights)


def r2(logits: Array, targets: Array, weights: Array) -> Array:
    """Compute the coefficient of determination; constant targets are left out."""
    y = targets.astype(np.float64)
    y = y - y.mean(axis=0)  # numbers far from 0 would lose digits in the squares
    variance = _mean_squares(y, weights) - np.stack([weighted_mean(column, weights) for column in y.T]) ** 2
    variance = np.where(variance > 1e-12 * np.maximum(_mean_squares(y, weights), 1e-300), variance, 0)
    return mean_defined(1 - ratio(_mean_squares(logits - targets.astype(np.float64), weights), variance))


def _mean_squares(values: Array, weights: Array) -> Array:
    """Return the weighted mean of the squares of each column, (K, b)."""
    return np.stack([weighted_mean(column**2, weights) for column in values.T])
