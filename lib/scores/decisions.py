"""Adjustments of one model's logits, fitted on out-of-fold scores: temperature, offsets per class, thresholds per label."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit

from lib.errors import FlukeError
from lib.metrics.registry import METRICS
from lib.scores.cut_points import cut_at, fit_cut_points
from lib.tables.target import Target

MAX_OFFSETS = 500  # each class's offset is tried on all logits


@dataclass(frozen=True)
class AdjustmentOptions:
    """What to fit on a model's logits."""

    temperature: bool = False
    thresholds: bool = False
    """For targets whose `decision_fit` is thresholds."""
    offsets: str | None = None
    """A key of OFFSET_METRICS, for targets whose `decision_fit` is offsets."""
    cut_points: bool = False
    """For targets whose `decision_fit` is cut_points."""

    @property
    def any(self) -> bool:
        """Whether anything is to be fitted."""
        return self != AdjustmentOptions()


@dataclass
class Adjustment:
    """logits / temperature + offsets; a threshold of p on a label's probability is an offset of -logit(p)."""

    temperature: float
    offsets: np.ndarray
    """(C,), zero where nothing was fitted."""
    cut_points: np.ndarray | None = None
    """(C - 1,) of `cut_at`, applied last."""

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        adjusted = (logits / self.temperature + self.offsets).astype(np.float32)
        return adjusted if self.cut_points is None else cut_at(adjusted, self.cut_points)


def fit_adjustment(
    logits: np.ndarray, targets: np.ndarray, target: Target, options: AdjustmentOptions, metric: str | None = None
) -> Adjustment:
    """Fit an adjustment of logits (n, C); `targets` are encoded. `metric` is what `fit_thresholds` optimizes.

    The temperature comes first, because it scales what an offset does. Raises FlukeError for offsets of more than 500 classes.
    """
    t = fit_temperature(logits, targets, target) if options.temperature else 1.0
    shift = np.zeros(logits.shape[1])
    if options.cut_points:
        return Adjustment(t, shift, fit_cut_points(logits / t, targets))
    if options.thresholds:
        shift = -fit_thresholds(logits / t, targets, metric)
    elif options.offsets:
        if logits.shape[1] > MAX_OFFSETS:
            raise FlukeError(f"--offsets: offsets are for at most {MAX_OFFSETS} classes (found {logits.shape[1]:,}); leave it out.")
        shift = fit_offsets(logits / t, targets, options.offsets)
    return Adjustment(t, shift)


def fit_temperature(logits: np.ndarray, targets: np.ndarray, target: Target) -> float:
    """Return the T, 0.05 to 20, that minimizes the log-loss of logits / T (Guo et al. 2017)."""

    def loss(log_t: float) -> float:
        return float(-target.log_likelihood(logits / np.exp(log_t), targets).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded").x))


def fit_thresholds(logits: np.ndarray, targets: np.ndarray, metric: str | None = None) -> np.ndarray:
    """Return the logit, (C,), from which each label is given, for the best F-beta of each label; 0 for a label without positives.

    `logits` are (n, C), `targets` (n, C) 0 and 1; beta is the metric's. A threshold lies halfway between two neighbouring logits,
    so that other rows have a margin on both sides. A `metric` of joint thresholds (micro_f1, f2_samples) is then improved by
    coordinate ascent over 20 quantiles of each label's logits. macro_f1 is best where each label's F1 is, and other metrics depend
    on no thresholds.
    """
    out, beta = np.zeros(logits.shape[1]), 1.0 if metric is None else METRICS[metric].beta
    labels = np.flatnonzero(targets.any(axis=0))
    for c in labels:
        out[c] = _best_threshold(logits[:, c], targets[:, c], beta)
    if metric is None or METRICS[metric].thresholds != "joint":
        return out
    true, per_row = targets > 0, metric.endswith("samples") or metric.startswith("samples")
    ascend = _ascend_per_row if per_row else _ascend_totals
    return ascend(logits, true, out, labels, beta)


def _tries(column: np.ndarray, now: float) -> list[float]:
    return [now, *np.quantile(column, np.linspace(0.025, 0.975, 20))]


def _ascend_totals(logits: np.ndarray, true: np.ndarray, out: np.ndarray, labels: np.ndarray, beta: float) -> np.ndarray:
    """Return thresholds (C,), from `out` on, with a better F-beta of all labels together: only totals change with a threshold."""
    given = logits - out >= 0
    correct, size = int((given & true).sum()), float(given.sum() + beta**2 * true.sum())
    own = {c: (np.sort(logits[:, c]), np.sort(logits[true[:, c], c])) for c in labels.tolist()}
    tries = {c: _tries(logits[:, c], out[c]) for c in own}
    for _ in range(2):
        for c, (column, positives) in own.items():
            points = [out[c], *tries[c][1:]]
            found = [(len(positives) - np.searchsorted(positives, t), len(column) - np.searchsorted(column, t)) for t in points]
            hits, counts = np.array(found).T
            rest, rest_size = correct - hits[0], size - counts[0]
            best = int(np.argmax((1 + beta**2) * (rest + hits) / np.maximum(rest_size + counts, 1)))
            out[c], correct, size = points[best], rest + hits[best], rest_size + counts[best]
    return out


def _ascend_per_row(logits: np.ndarray, true: np.ndarray, out: np.ndarray, labels: np.ndarray, beta: float) -> np.ndarray:
    """Return thresholds (C,), from `out` on, with a better mean F-beta of the rows; a try costs one column, not all."""
    given = logits - out >= 0
    correct, size = (given & true).sum(axis=1), given.sum(axis=1) + beta**2 * true.sum(axis=1)
    for _ in range(2):
        for c in labels:
            tries, now = _tries(logits[:, c], out[c]), given[:, c]
            rest, rest_size = correct - (now & true[:, c]), size - now
            trial = [logits[:, c] - t >= 0 for t in tries]
            values = [_mean_f(rest + (each & true[:, c]), rest_size + each, beta) for each in trial]
            best = int(np.argmax(values))
            out[c], given[:, c] = tries[best], trial[best]
            correct, size = rest + (trial[best] & true[:, c]), rest_size + trial[best]
    return out


def _mean_f(correct: np.ndarray, size: np.ndarray, beta: float) -> float:
    """Return the mean F-beta of rows from their correct labels (n,) and sizes, given + beta^2 * right ones (n,)."""
    return float(np.where(size == 0, 1, (1 + beta**2) * correct / np.where(size > 0, size, 1)).mean())


def _best_threshold(logits: np.ndarray, targets: np.ndarray, beta: float) -> float:
    order = np.argsort(-logits, kind="stable")
    z, hits = logits[order], np.cumsum(targets[order])
    f = (1 + beta**2) * hits / (np.arange(1, len(z) + 1) + beta**2 * hits[-1])
    f[:-1][z[:-1] == z[1:]] = -1  # no threshold separates equal logits
    k = int(np.argmax(f))
    return (z[k] + z[k + 1]) / 2 if k + 1 < len(z) else z[k] - 1


def label_thresholds(logits: np.ndarray, targets: np.ndarray, classes: Sequence[str], metric: str) -> dict[str, float]:
    """Return `fit_thresholds` as {label: probability}, the content of a run's thresholds.json."""
    return dict(zip(classes, expit(fit_thresholds(logits, targets, metric).astype(np.float64)).tolist()))


def fit_offsets(logits: np.ndarray, targets: np.ndarray, metric: str) -> np.ndarray:
    """Return offsets (C,), -2 to 2, of logits (n, C) whose argmax has the best `metric`, a key of OFFSET_METRICS.

    By coordinate ascent; of equally good offsets the smallest is taken. `targets` are (n,) class indices.
    """
    function = OFFSET_METRICS[metric]
    grid = np.array(sorted(np.linspace(-2, 2, 41), key=abs))
    out = np.zeros(logits.shape[1])
    for _ in range(3):
        before = out.copy()
        for c in range(len(out)):
            others = logits + out
            others[:, c] = -np.inf
            rival, height = others.argmax(axis=1), others.max(axis=1)
            tries = [out[c], *grid]
            values = [function(np.where(logits[:, c] + o > height, c, rival), targets, len(out)) for o in tries]
            out[c] = tries[int(np.argmax(values))]
        if (out == before).all():
            break
    return out


def _accuracy(predicted: np.ndarray, targets: np.ndarray, classes: int) -> float:
    return float((predicted == targets).mean())


def _macro_f1(predicted: np.ndarray, targets: np.ndarray, classes: int) -> float:
    hits = np.bincount(targets[predicted == targets], minlength=classes)
    counts = np.bincount(predicted, minlength=classes) + np.bincount(targets, minlength=classes)
    return float((2 * hits[counts > 0] / counts[counts > 0]).mean())  # scikit-learn's f1_score is 50 times slower


OFFSET_METRICS: dict[str, Callable[[np.ndarray, np.ndarray, int], float]] = {"accuracy": _accuracy, "macro_f1": _macro_f1}
"""Metrics that offsets can be fitted for: (predicted (n,), targets (n,), number of classes) -> value, higher is better."""
