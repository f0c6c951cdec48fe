"""Bootstrap intervals of a score and of the gain of one score over another, and the interval of the score on a test set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from lib.metrics.registry import METRICS
from lib.metrics.resampling import BLOCK, Array, check_finite, weighted_mean


def bootstrap_interval(
    values: Array | tuple[str, Array, Array], n: int | None = None, level: float = 0.95, seed: int = 0, groups: Array | None = None
) -> tuple[float, float]:
    """Return the percentile bootstrap interval (Efron 1979) of a metric or of a mean.

    `values` is `(metric's name, logits, targets)`, or (n,) one number per row, of which the mean is taken. `n` resamples are drawn;
    None: 2,000, or for several labels as many as take about a minute, but at least 200. Rows, or all rows of a group of `groups`
    (n,), are drawn with replacement and not stratified, because the class shares of the next test set vary as well. Resamples that
    don't define the metric are left out. Raises FlukeError when numbers aren't finite.

    A metric is estimated in each resample as for many rows (`Metric.estimates`), and the interval is moved, its width kept, so that
    the resamples' mean becomes the estimate of the rows: few positives per label raise average precision, repeated rows raise it
    further. Counts have no spread in the resamples of a label whose few positives are all missed, so that the interval of a macro
    F-beta is at least as wide as the jackknife says. benchmarks/resplits.py measures the share of 95% intervals that hold.
    """
    if isinstance(values, tuple):
        name, logits, targets = values
        check_finite(logits, targets)
        resampled, n_rows, size = partial(METRICS[name].estimates, logits, targets), len(logits), logits.size
        if METRICS[name].biased:  # eight halves of each resample are computed as well
            n = n or max(200, _num_resamples(size) // 4)
    else:
        check_finite(np.reshape(values, (-1, 1)))
        resampled, n_rows, size = partial(weighted_mean, values), len(values), len(values)
    draws = _resample_counts(n_rows, n or _num_resamples(size), seed, groups)
    found = np.concatenate([resampled(weights) for weights in draws])
    found = found[~np.isnan(found)]
    if len(found) == 0:
        return np.nan, np.nan
    interval = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    if isinstance(values, tuple):
        steps = interval - found.mean()
        if METRICS[name].biased and METRICS[name].thresholds != "none" and found.std() > 0:
            steps *= max(1.0, _jackknife_error(resampled, n_rows, groups) / found.std())
        interval = _clip_to_range(name, METRICS[name].estimate(logits, targets) + steps)
    return float(interval[0]), float(interval[1])


def _num_resamples(numbers: int) -> int:
    """Return the number of resamples for so many logits, because the time of a metric grows with rows times classes."""
    return int(np.clip(4e9 / max(numbers, 1), 200, 2000))


def _jackknife_error(resampled: Callable[[Array], Array], n_rows: int, groups: Array | None) -> float:
    """Return the standard error by leaving out each of up to 100 blocks of rows or groups; 0 for a single one.

    In expectation it is not too small (Efron and Stein 1981).
    """
    unit, units = _units(n_rows, groups)
    blocks = min(units, 100)
    if blocks < 2:
        return 0.0
    block = np.random.default_rng(0).permutation(units)[unit] % blocks
    values = resampled((block[:, None] != np.arange(blocks)).astype(np.float64))
    return float(np.sqrt((blocks - 1) * np.nanvar(values)))


def _units(n_rows: int, groups: Array | None) -> tuple[Array, int]:
    """Return what is drawn or left out together, (n_rows,) int from 0, and how many there are."""
    unit = np.arange(n_rows) if groups is None else np.unique(groups, return_inverse=True)[1]
    return unit, int(unit.max()) + 1


def _resample_counts(n_rows: int, n: int, seed: int, groups: Array | None) -> Iterator[Array]:
    """Yield how often each row is drawn in each of `n` resamples, in blocks (n_rows, b) float64."""
    unit, units = _units(n_rows, groups)
    rng = np.random.default_rng(seed)
    for start in range(0, n, block := max(16, BLOCK // n_rows)):  # a metric ranks its rows once per block
        size = min(block, n - start)
        drawn = rng.integers(units, size=(size, units)) + np.arange(size)[:, None] * units
        counts = np.bincount(drawn.ravel(), minlength=size * units).reshape(size, units).T
        yield np.ascontiguousarray(counts[unit], dtype=np.float64)


def gain_interval(
    metric: str, logits: Array, base: Array, targets: Array, groups: Array | None = None, level: float = 0.95
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the gain of `logits` over `base` in a metric; above 0 is better.

    Both are computed on the same resampled rows or `groups`.
    """
    resampled, sign = METRICS[metric].resampled, METRICS[metric].sign
    assert resampled is not None, metric
    draws = _resample_counts(len(targets), _num_resamples(logits.size), 0, groups)
    found = [sign * (resampled(logits, targets, weights) - resampled(base, targets, weights)) for weights in draws]
    low, high = np.nanquantile(np.concatenate(found), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def corrected_for_choice(metric: str, logits: Sequence[Array], targets: Array, groups: Array | None = None) -> float:
    """Return the score on unseen rows of the best of several models that was chosen on the rows of `targets`.

    `logits` holds each model's for these rows. The best model of each bootstrap sample is scored on the rows that the sample lacks,
    and the scores are averaged (BBC, Tsamardinos, Greasidou and Borboudakis 2018). Rows of `groups` (n,) are drawn together.
    """
    resampled, sign = METRICS[metric].resampled, METRICS[metric].sign
    assert resampled is not None, metric
    found = []
    for weights in _resample_counts(len(targets), max(50, _num_resamples(sum(each.size for each in logits)) // 4), 0, groups):
        drawn = np.stack([sign * resampled(each, targets, weights) for each in logits])
        others = np.stack([resampled(each, targets, (weights == 0).astype(float)) for each in logits])
        best = np.where(np.isnan(drawn), -np.inf, drawn).argmax(axis=0)
        found.append(np.take_along_axis(others, best[None], axis=0)[0])
    return float(np.nanmean(np.concatenate(found)))


def mean_interval(values: Array, groups: Array | None) -> tuple[float, float]:
    """Return the 95% bootstrap interval of the mean of `values` (n,), NaN left out; rows of `groups` (n,) are drawn together."""
    there = ~np.isnan(values)
    return bootstrap_interval(values[there], groups=None if groups is None else groups[there])


def interval_on_test(metric: str, estimate: float, interval: tuple[float, float], rows: int, test_rows: int) -> tuple[float, float]:
    """Return an interval for the score on `test_rows` other images of the same distribution.

    `estimate` (`Metric.estimate`) and its `interval` come from `rows` images. The test images are a sample too: the
    variance of the difference of both scores is (1 + rows / test_rows) times that of `estimate`.
    """
    factor = float(np.sqrt(1 + rows / test_rows))
    low, high = _clip_to_range(metric, estimate + factor * (np.array(interval) - estimate))
    return float(low), float(high)


def _clip_to_range(metric: str, values: Array) -> Array:
    """Return values of a metric, clipped to its range."""
    return np.clip(values, *METRICS[metric].range)
