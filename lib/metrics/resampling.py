"""Checks and weighted sums that metrics share; a resample counts each row a number of times."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from lib.errors import FlukeError

Array = NDArray[Any]

BINS = 15  # of the calibration error, as in Guo et al. 2017
BLOCK = 4_000_000  # numbers in a temporary array: 32 MB


def check_finite(logits: Array, targets: Array | None = None) -> None:
    """Raise FlukeError for `logits` (n, C) without a row, with NaN, or with a row whose maximum isn't finite.

    Raises ValueError for `targets` of another shape or range.
    """
    if len(logits) == 0:
        raise FlukeError("Scores: there is no row; a metric needs at least 1.")
    # -inf for some classes of a row is allowed, for all of them it is not; the maximum of a row with NaN is NaN.
    bad = np.flatnonzero(~np.isfinite(logits.max(axis=1)))
    if len(bad):
        first = ", ".join(map(str, bad[:5]))
        raise FlukeError(f"{len(bad)} of {len(logits)} rows of scores hold NaN or infinity (counted from 0: {first}).")
    if targets is None:
        return
    if len(targets) != len(logits) or (targets.ndim == 2 and targets.shape != logits.shape):
        raise ValueError(f"targets {targets.shape} don't belong to logits {logits.shape}")
    if targets.ndim == 1 and not 0 <= targets.min() <= targets.max() < logits.shape[1]:
        raise ValueError(f"targets {targets.min()} to {targets.max()} for {logits.shape[1]} columns")


def ratio(numerator: Array, denominator: Array) -> Array:
    """Return numerator / denominator, NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)


def weighted_mean(values: Array, weights: Array) -> Array:
    """Return the weighted mean of `values` (n,) in each resample, (b,)."""
    return values @ weights / weights.sum(axis=0)


def mean_defined(values: Array) -> Array:
    """Return the mean of the columns of `values` (C, b) over what is not NaN, (b,)."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0).sum(axis=0), defined.sum(axis=0))


def group_sums(values: Array, groups: Array, n_groups: int, weights: Array) -> Array:
    """Return the weighted sum of `values` (n,) over the rows of each group, (n_groups, b); `groups` (n,) int."""
    return csr_array((values.astype(np.float64), (groups, np.arange(len(groups)))), shape=(n_groups, len(groups))) @ weights
