"""What is fitted on one model's out-of-fold scores: temperature, offsets a class, thresholds a label.

`logits` are (n, C); `targets` (n,) int64 classes, or (n, C) 0 and 1 for several labels per image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit

from lib.errors import FlukeError
from lib.metrics.registry import METRICS
from lib.tables.target import target_of

ScoreFunction = Callable[[np.ndarray, np.ndarray], float]
"""(logits, targets) -> a number, higher is better."""
OFFSETS_CLASSES = 500  # each class's offset is tried on all logits


@dataclass
class Adjustment:
    """logits / temperature + offsets; a threshold of p on a label's probability is an offset of -logit(p)."""

    temperature: float
    offsets: np.ndarray
    """(C,), zero where nothing was fitted."""

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        return (logits / self.temperature + self.offsets).astype(np.float32)


def fit_adjustment(
    logits: np.ndarray,
    targets: np.ndarray,
    temperature: bool = False,
    thresholds: bool = False,
    offsets: str | None = None,
    metric: str | None = None,
) -> Adjustment:
    """Fit what is asked for, the temperature first: it changes how far an offset reaches. `metric` is what thresholds are for, as
    `fit_thresholds` says. Raises FlukeError for offsets of more than 500 classes."""
    t = fit_temperature(logits, targets) if temperature else 1.0
    shift = np.zeros(logits.shape[1])
    if thresholds:
        shift = -fit_thresholds(logits / t, targets, metric)
    elif offsets:
        if logits.shape[1] > OFFSETS_CLASSES:
            raise FlukeError(f"--offsets {offsets}: for at most {OFFSETS_CLASSES} classes, not {logits.shape[1]:,}.")
        shift = fit_offsets(logits / t, targets, offsets)
    return Adjustment(t, shift)


def fit_temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """The T, 0.05 to 20, that minimises the log-loss of logits / T (Guo et al. 2017)."""

    target = target_of(targets)

    def loss(log_t: float) -> float:
        return float(-target.log_likelihood(logits / np.exp(log_t), targets).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded").x))


def fit_thresholds(logits: np.ndarray, targets: np.ndarray, metric: str | None = None) -> np.ndarray:
    """(C,) logits from which on each label is given, for the best F1 of each; 0 (a probability of 1/2) for one without positives.

    Halfway between the two neighbouring logits, so that other rows find some room on both sides. With micro_f1 or samples_f1 as
    `metric`, which looks at all labels together, coordinate ascent on it from there, over 20 quantiles of each label's logits;
    macro_f1 is best where each label's F1 is, and other metrics know no thresholds.
    """
    out = np.zeros(logits.shape[1])
    for c in np.flatnonzero(targets.any(axis=0)):
        order = np.argsort(-logits[:, c], kind="stable")
        z, hits = logits[order, c], np.cumsum(targets[order, c])
        f1 = 2 * hits / (np.arange(1, len(z) + 1) + hits[-1])
        f1[:-1][z[:-1] == z[1:]] = -1  # no threshold parts equal logits
        k = int(np.argmax(f1))
        out[c] = (z[k] + z[k + 1]) / 2 if k + 1 < len(z) else z[k] - 1
    together = METRICS[metric].function if metric is not None and METRICS[metric].thresholds == "joint" else None
    for _ in range(0 if together is None else 2):
        for c in np.flatnonzero(targets.any(axis=0)):
            tries = [out[c], *np.quantile(logits[:, c], np.linspace(0.025, 0.975, 20))]
            values = [together(logits - np.where(np.arange(len(out)) == c, t, out), targets) for t in tries]  # type: ignore[misc]
            out[c] = tries[int(np.argmax(values))]
    return out


def label_thresholds(logits: np.ndarray, targets: np.ndarray, classes: Sequence[str], metric: str) -> dict[str, float]:
    """`fit_thresholds` as probabilities by label, as a run's thresholds.json holds them."""
    return dict(zip(classes, expit(fit_thresholds(logits, targets, metric).astype(np.float64)).tolist()))


def fit_offsets(logits: np.ndarray, targets: np.ndarray, metric: str) -> np.ndarray:
    """(C,) offsets, -2 to 2, added to the logits before the largest is taken, by coordinate ascent on accuracy or macro_f1.

    Of equally good offsets the smallest is taken.
    """
    grid = np.array(sorted(np.linspace(-2, 2, 41), key=abs))
    out = np.zeros(logits.shape[1])
    for _ in range(3):
        before = out.copy()
        for c in range(len(out)):
            others = logits + out
            others[:, c] = -np.inf
            rival, height = others.argmax(axis=1), others.max(axis=1)
            values = [
                _score_predictions(np.where(logits[:, c] + o > height, c, rival), targets, len(out), metric)
                for o in (out[c], *grid)
            ]
            best = int(np.argmax(values))
            out[c] = out[c] if best == 0 else grid[best - 1]
        if (out == before).all():
            break
    return out


def _score_predictions(predicted: np.ndarray, targets: np.ndarray, classes: int, metric: str) -> float:
    if metric == "accuracy":
        return float((predicted == targets).mean())
    hits = np.bincount(targets[predicted == targets], minlength=classes)
    counts = np.bincount(predicted, minlength=classes) + np.bincount(targets, minlength=classes)
    return float((2 * hits[counts > 0] / counts[counts > 0]).mean())  # scikit-learn's f1_score is 50 times slower
