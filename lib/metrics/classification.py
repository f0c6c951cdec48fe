"""What is measured: metrics of logits and targets.

A metric takes `weights`, (n, b): how often each of n rows counts in each of b resamples, and returns its b values. A column of ones
is the plain metric; bootstrap counts (lib/metrics/intervals.py) give all resamples in a few matrix products, where 2,000 calls of
scikit-learn take minutes. Undefined (an average precision without a positive) is NaN, and no class has to occur among the rows.

What `logits` and `targets` hold:

    single      (n, C) logits, float32            (n,) int, the right column
    multi       (n, C) logits, float32            (n, C) 0 or 1

Ties are broken by column: the lower one is ranked better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import log_softmax, softmax

from lib.errors import FlukeError, did_you_mean

Array = NDArray[Any]
Task = Literal["single", "multi", "retrieval"]

BINS = 15  # of the calibration error, as in Guo et al. 2017
BLOCK = 4_000_000  # numbers in a temporary array: 32 MB


@dataclass(frozen=True)
class Metric:
    """A metric by name. `resampled` maps (logits, targets, weights) to (b,) values; None where the value comes from elsewhere."""

    resampled: Callable[[Array, Array, Array], Array] | None
    tasks: tuple[str, ...]
    higher_is_better: bool = True

    def function(self, logits: Array, targets: Array) -> float:
        """The metric's plain value, NaN where the rows don't define it. Raises FlukeError when logits aren't finite."""
        check_finite(logits, targets)
        assert self.resampled is not None, "computed by the training loop or from neighbours, not from logits"
        return float(self.resampled(logits, targets, np.ones((len(logits), 1)))[0])


def compute_metrics(task: Task, logits: Array, targets: Array) -> dict[str, float]:
    """Every metric of a task that can be computed from logits; those that the rows don't define are left out.

    For several labels `n_left_out` counts the labels without a positive, which macro_map leaves out. Raises FlukeError when logits
    are NaN or infinite, or when there is no row.
    """
    check_finite(logits, targets)
    plain = np.ones((len(logits), 1))
    used = {name: metric.resampled for name, metric in METRICS.items() if task in metric.tasks and metric.resampled}
    values = {name: float(resampled(logits, targets, plain)[0]) for name, resampled in used.items()}
    if task == "multi":
        values["n_left_out"] = float(np.sum(~np.any(targets, axis=0)))
    return {name: value for name, value in values.items() if not np.isnan(value)}


def check_metric(name: str, task: Task) -> None:
    """Raise FlukeError unless `name` is a metric of `task` (or loss); the sentence names those that are."""
    fitting = [other for other, metric in METRICS.items() if task in metric.tasks]
    if name not in METRICS:
        there_are = f"; there are {', '.join(fitting)}."
        raise FlukeError(f"Unknown metric {name!r}{did_you_mean(name, [*fitting, *METRICS], otherwise=there_are)}")
    if name not in fitting:
        kind = {"single": "one label an image", "multi": "several labels an image", "retrieval": "retrieval"}[task]
        raise FlukeError(f"Metric {name} doesn't fit {kind}; these do: {', '.join(fitting)}.")


def metric_direction(name: str) -> Literal["max", "min"]:
    """Whether more or less of a metric is better."""
    return "max" if METRICS[name].higher_is_better else "min"


def default_metric(task: Task) -> str:
    """The metric that `train.metric: auto` stands for."""
    return {"single": "accuracy", "multi": "macro_map", "retrieval": "map@5"}[task]


def check_finite(logits: Array, targets: Array | None = None) -> None:
    """Raise FlukeError for no row, or rows of `logits` (n, C) that hold NaN or a best score that isn't finite; ValueError for
    `targets` of other rows or columns."""
    if len(logits) == 0:
        raise FlukeError("There is no row to measure.")
    # A class ruled out (-inf) is fine, a row without any score is not; NaN shows through max.
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


def rank_of_target(logits: Array, targets: Array) -> NDArray[np.int64]:
    """How many columns are ranked before the right one, (n,) int64; 0: it comes first. `logits` (n, C), `targets` (n,) int."""
    own = np.take_along_axis(logits, targets[:, None], axis=1)
    earlier = np.arange(logits.shape[1]) < targets[:, None]
    return ((logits > own) | ((logits == own) & earlier)).sum(axis=1)


def reciprocal_ranks(truth: Sequence[str], ranked: Sequence[Sequence[str]], k: int = 5) -> NDArray[np.float64]:
    """Each row's average precision at k where one label is right, (n,) float64: 1 / place of its first mention, or 0. Their mean is
    MAP@k as the whale contests compute it.

    As in the whale contests a label counts once, and a wrong one that is repeated takes a place each time. Lists may be short.
    """
    tops = [list(row[:k]) for row in ranked]
    return np.array([1 / (1 + top.index(label)) if label in top else 0.0 for label, top in zip(truth, tops, strict=True)])


def map_at_r(hits: Array, relevant: Array) -> NDArray[np.float64]:
    """Average precision at R of each query (Musgrave et al. 2020), (m,) float64; their mean is mAP@R.

    `hits` (n, k) bool: is the i-th nearest gallery image, best first, one of the query's individual; `relevant` (n,) int, R: how
    many such images the gallery holds, k at most. Queries without any are left out.
    """
    hits, relevant = hits[relevant > 0], relevant[relevant > 0]
    places = np.arange(1, hits.shape[1] + 1)
    hits = hits & (places <= relevant[:, None])
    return (hits * np.cumsum(hits, axis=1) / places).sum(axis=1) / relevant


# --- the metrics ------------------------------------------------------------------------------------------------------------------


def _ratio(part: Array, whole: Array) -> Array:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def weighted_mean(values: Array, weights: Array) -> Array:
    """Weighted mean of `values` (n,) in each resample, (b,)."""
    return values @ weights / weights.sum(axis=0)


def _mean_defined(values: Array) -> Array:
    """(C, b) to (b,): the mean of what is not NaN."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0).sum(axis=0), defined.sum(axis=0))


def _sums(values: Array, groups: Array, n_groups: int, weights: Array) -> Array:
    """(n_groups, b): the weighted sum of `values` (n,) over the rows of each group; `groups` (n,) int."""
    return csr_array((values.astype(np.float64), (groups, np.arange(len(groups)))), shape=(n_groups, len(groups))) @ weights


def _counts(logits: Array, targets: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Right, predicted and true rows of each class and resample, (C, b) each; one label (argmax) or several (probability 0.5)."""
    if targets.ndim == 2:
        predicted, true = (logits.T >= 0).astype(np.float64), (targets.T > 0).astype(np.float64)
        return (predicted * true) @ weights, predicted @ weights, true @ weights
    n_classes, first, ones = logits.shape[1], logits.argmax(axis=1), np.ones(len(logits))
    right = _sums(first == targets, targets, n_classes, weights)
    return right, _sums(ones, first, n_classes, weights), _sums(ones, targets, n_classes, weights)


def _accuracy(logits: Array, targets: Array, weights: Array) -> Array:
    return weighted_mean(logits.argmax(axis=1) == targets, weights)


def _top5_accuracy(logits: Array, targets: Array, weights: Array) -> Array:
    return weighted_mean(rank_of_target(logits, targets) < 5, weights)


def _map5(logits: Array, targets: Array, weights: Array) -> Array:
    place = rank_of_target(logits, targets) + 1
    return weighted_mean(np.where(place <= 5, 1 / place, 0), weights)


def _balanced_accuracy(logits: Array, targets: Array, weights: Array) -> Array:
    right, _, true = _counts(logits, targets, weights)
    return _mean_defined(_ratio(right, true))


def _macro_f1(logits: Array, targets: Array, weights: Array) -> Array:
    """Classes neither true nor predicted in any row are left out (scikit-learn: zero_division=nan)."""
    right, predicted, true = _counts(logits, targets, weights)
    return _mean_defined(_ratio(2 * right, predicted + true))


def _micro_f1(logits: Array, targets: Array, weights: Array) -> Array:
    right, predicted, true = (count.sum(axis=0) for count in _counts(logits, targets, weights))
    return _ratio(2 * right, predicted + true)


def _samples_f1(logits: Array, targets: Array, weights: Array) -> Array:
    """A row without labels that gets none is right (scikit-learn: zero_division=1)."""
    predicted, true = logits >= 0, targets > 0
    size = predicted.sum(axis=1) + true.sum(axis=1)
    return weighted_mean(np.where(size == 0, 1, 2 * (predicted & true).sum(axis=1) / np.maximum(size, 1)), weights)


def _log_loss(logits: Array, targets: Array, weights: Array) -> Array:
    own = np.take_along_axis(log_softmax(logits.astype(np.float64), axis=1), targets[:, None], axis=1)[:, 0]
    return weighted_mean(
        -np.maximum(own, np.log(np.finfo(np.float64).tiny)), weights
    )  # a right class ruled out costs 708, not infinity


def _ece(logits: Array, targets: Array, weights: Array) -> Array:
    """Expected calibration error (Guo et al. 2017): equal bins of confidence, |confidence - accuracy| weighted by rows."""
    confidence = softmax(logits.astype(np.float64), axis=1).max(axis=1)
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    gaps = _sums(confidence - (logits.argmax(axis=1) == targets), bins, BINS, weights)
    return np.abs(gaps).sum(axis=0) / weights.sum(axis=0)


def _average_precision(true: Array, scores: Array, rows: Array, weights: Array) -> Array:
    """As scikit-learn's average_precision_score, for all resamples: `true` (m,) bool, `scores` (m,), `rows` (m,) of `weights`."""
    if not true.any():
        return np.full(weights.shape[1], np.nan)
    order = np.argsort(-scores, kind="stable")
    true, scores, rows = true[order], scores[order], rows[order]
    tie = np.cumsum(np.append(False, scores[1:] != scores[:-1]))  # equal scores are taken in together
    # Precision is wanted where positives come in: all rows are summed up from one such tie to the next.
    stops = np.unique(tie[true])
    stop = np.searchsorted(stops, tie)
    before, shape = stop < len(stops), (len(stops), len(weights))
    every = csr_array((np.ones(before.sum()), (stop[before], rows[before])), shape=shape)
    positive = csr_array((np.ones(true.sum()), (stop[true], rows[true])), shape=shape)
    found = []
    for some in np.array_split(weights, -(-len(stops) * weights.shape[1] // BLOCK), axis=1):
        gained = positive @ some
        seen, right = np.cumsum(every @ some, axis=0), np.cumsum(gained, axis=0)
        found.append(_ratio((gained * right / np.maximum(seen, 1)).sum(axis=0), right[-1]))
    return np.concatenate(found)


def _macro_map(logits: Array, targets: Array, weights: Array) -> Array:
    """Labels without a positive are left out, in each resample."""
    rows = np.arange(len(logits))
    return _mean_defined(np.stack([_average_precision(t > 0, s, rows, weights) for t, s in zip(targets.T, logits.T)]))


def _micro_map(logits: Array, targets: Array, weights: Array) -> Array:
    rows = np.repeat(np.arange(len(logits)), logits.shape[1])
    return _average_precision(targets.ravel() > 0, logits.ravel(), rows, weights)


METRICS = {
    "loss": Metric(None, ("single", "multi"), higher_is_better=False),  # the objective's own, from the training loop
    "accuracy": Metric(_accuracy, ("single",)),
    "balanced_accuracy": Metric(_balanced_accuracy, ("single",)),
    "top5_accuracy": Metric(_top5_accuracy, ("single",)),
    "macro_f1": Metric(_macro_f1, ("single", "multi")),
    "micro_f1": Metric(_micro_f1, ("multi",)),
    "samples_f1": Metric(_samples_f1, ("multi",)),
    "macro_map": Metric(_macro_map, ("multi",)),
    "micro_map": Metric(_micro_map, ("multi",)),
    "log_loss": Metric(_log_loss, ("single",), higher_is_better=False),
    "ece": Metric(_ece, ("single",), higher_is_better=False),
    "map@5": Metric(_map5, ("single", "retrieval")),
    "recall@1": Metric(None, ("retrieval",)),  # these are of neighbours: lib/retrieval/ranking.py
    "recall@5": Metric(None, ("retrieval",)),
    "map@r": Metric(None, ("retrieval",)),
    "auroc": Metric(None, ("retrieval",)),
}
