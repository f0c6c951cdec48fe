"""Intervals around what is measured: of one score, of one score's gain over another, and of the score to expect on other images."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from lib.metrics.registry import METRICS
from lib.metrics.resampling import BLOCK, Array, check_finite, weighted_mean


def bootstrap_interval(
    what: Array | tuple[str, Array, Array],
    n: int | None = None,
    level: float = 0.95,
    seed: int = 0,
    groups: Array | None = None,
) -> tuple[float, float]:
    """Percentile bootstrap interval (Efron 1979) of a metric `(name, logits, targets)`, or of the mean of `what`, one number a row.

    Rows, or with `groups` (n,) whole groups, are drawn with replacement, taken as independent, and not stratified: the next test
    set's class shares vary as well, and fixing them would make the interval too narrow. A metric's interval is moved by the
    resamples' bias, which changes no width: repeated rows flatter average precision (79 labels, some with two positives: 95%
    intervals of macro_map covered 78% as they came, 92% when moved). Resamples that don't define the metric are left out. Raises
    FlukeError when numbers aren't finite.

    `n` resamples; None: 2,000, or of several labels as many as take about a minute, but 200 at least.
    """
    if isinstance(what, tuple):
        name, logits, targets = what
        metric = METRICS[name].resampled
        assert metric is not None, f"{name} isn't computed from logits; pass its values, one a row"
        check_finite(logits, targets)
        resampled, n_rows, size = partial(metric, logits, targets), len(logits), targets.size
    else:
        check_finite(np.reshape(what, (-1, 1)))
        resampled, n_rows, size = partial(weighted_mean, what), len(what), len(what)
    values = np.concatenate([resampled(weights) for weights in _resample_counts(n_rows, n or _num_resamples(size), seed, groups)])
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return np.nan, np.nan
    interval = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    if isinstance(what, tuple):
        interval = _clip_to_range(name, interval + METRICS[name].function(logits, targets) - values.mean())
    return float(interval[0]), float(interval[1])


def _num_resamples(numbers: int) -> int:
    """Resamples for so many targets: of several labels, the average precision takes work for each of them in each."""
    return int(np.clip(4e9 / max(numbers, 1), 200, 2000))


def _resample_counts(n_rows: int, n: int, seed: int, groups: Array | None) -> Iterator[Array]:
    """How often each row, or group of rows, is drawn in each of `n` resamples: blocks (n_rows, b) float64."""
    unit = np.arange(n_rows) if groups is None else np.unique(groups, return_inverse=True)[1]
    rng, units = np.random.default_rng(seed), int(unit.max()) + 1
    for start in range(0, n, block := max(1, BLOCK // n_rows)):
        size = min(block, n - start)
        drawn = rng.integers(units, size=(size, units)) + np.arange(size)[:, None] * units
        counts = np.bincount(drawn.ravel(), minlength=size * units).reshape(size, units).T
        yield np.ascontiguousarray(counts[unit], dtype=np.float64)


def gain_interval(
    metric: str, logits: Array, base: Array, targets: Array, n: int | None = None, seed: int = 0, groups: Array | None = None
) -> tuple[float, float]:
    """95% percentile bootstrap interval of what `logits` gain over `base` in a metric, above 0 being better, both on the same
    resampled rows (or whole `groups`): does combining pay?"""
    resampled, sign = METRICS[metric].resampled, METRICS[metric].sign
    assert resampled is not None, metric
    draws = _resample_counts(len(targets), n or _num_resamples(targets.size), seed, groups)
    found = [sign * (resampled(logits, targets, weights) - resampled(base, targets, weights)) for weights in draws]
    low, high = np.nanquantile(np.concatenate(found), [0.025, 0.975])
    return float(low), float(high)


def mean_interval(values: Array, groups: Array | None) -> tuple[float, float]:
    """Return the 95% bootstrap interval of the mean of `values` (n,), NaN left out; `groups` (n,) are drawn whole."""
    there = ~np.isnan(values)
    return bootstrap_interval(values[there], groups=None if groups is None else groups[there])


def interval_on_test(metric: str, score: float, interval: tuple[float, float], rows: int, test_rows: int) -> tuple[float, float]:
    """An interval of a metric's score that `rows` images gave, made to hold that on another `test_rows` images of the same kind.

    Those are a sample too: the variance of the difference is (1 + rows / test_rows) times that of the score alone.
    """
    factor = float(np.sqrt(1 + rows / test_rows))
    low, high = _clip_to_range(metric, score + factor * (np.array(interval) - score))
    return float(low), float(high)


def _clip_to_range(metric: str, values: Array) -> Array:
    """Values of a metric kept within its range."""
    return np.clip(values, *METRICS[metric].range)
