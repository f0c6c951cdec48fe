"""Intervals of means of values from 0 to 1 whose rows come in clusters, such as the photographs of one individual."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

_PRIOR = 1.5  # clusters that the assumption of equal rows counts for: few clusters don't show their spread, above all near 0 and 1


def clustered_interval(values: ArrayLike, clusters: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Return the interval of the mean of `values` (n,), from 0 to 1, NaN left out, of rows in `clusters` (n,).

    The interval of Korn and Graubard (1998): an exact binomial one (Clopper and Pearson) for as many rows as have the variance that
    whole clusters show, reduced by the t quantile of the clusters. Where all values are equal, each cluster counts as one row. As
    clusters differ in size, their number is the effective one, (sum n)^2 / sum n^2. NaN without values.
    """
    every = np.asarray(values, np.float64)
    there = ~np.isnan(every)
    if not there.any():
        return np.nan, np.nan
    kept, cluster = every[there], np.unique(np.asarray(clusters)[there], return_inverse=True)[1]
    sizes = np.bincount(cluster).astype(float)
    n, g, mean = len(kept), len(sizes), float(kept.mean())
    effective = n**2 / (sizes**2).sum()
    if effective <= 1:
        return 0.0, 1.0
    deviations = np.bincount(cluster, kept - mean)
    variance = g / (g - 1) * (deviations**2).sum() / n**2
    whole = mean * (1 - mean) / effective  # the variance if all rows of a cluster were equal
    variance = ((effective - 1) * variance + _PRIOR * whole) / (effective - 1 + _PRIOR)
    rows = effective
    if variance > 0:
        tail = (1 - level) / 2
        shrink = (stats.t.ppf(tail, max(n - 1, 1)) / stats.t.ppf(tail, max(effective - 1, 1))) ** 2
        rows = min(max(mean * (1 - mean) / variance, 1.0) * shrink, n)
    hits = mean * rows
    return _beta(1 - level, hits, rows, lower=True), _beta(1 - level, hits, rows, lower=False)


def _beta(alpha: float, hits: float, rows: float, lower: bool) -> float:
    """Return a limit of the Clopper-Pearson interval of a real number of hits in `rows`."""
    if lower:
        return 0.0 if hits <= 1e-12 else float(stats.beta.ppf(alpha / 2, hits, rows - hits + 1))
    return 1.0 if rows - hits <= 1e-12 else float(stats.beta.ppf(1 - alpha / 2, hits + 1, rows - hits))


def mixture_interval(
    parts: Sequence[tuple[float, NDArray[np.float64], NDArray[np.generic]]], level: float = 0.95
) -> tuple[float, float]:
    """Return the interval of the weighted sum of means of independent parts, each (weight, values, clusters).

    Their intervals are combined by the method of variance estimates recovery (Zou and Donner 2008), which keeps limits of parts
    without spread.
    """
    centre, below, above = 0.0, 0.0, 0.0
    for weight, values, clusters in parts:
        mean, (low, high) = float(np.nanmean(values)), clustered_interval(values, clusters, level)
        centre += weight * mean
        below += (weight * (mean - low)) ** 2
        above += (weight * (high - mean)) ** 2
    return max(centre - float(np.sqrt(below)), 0.0), min(centre + float(np.sqrt(above)), 1.0)
