"""The registry of metrics: function, targets, direction and range of each.

All that depends on the choice of a metric stands in its entry of METRICS. A metric maps (logits, targets, weights) to (b,) values;
lib/metrics/classification.py says what these hold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lib.errors import FlukeError, did_you_mean
from lib.metrics import classification as c
from lib.metrics.resampling import Array, check_finite, mean_defined
from lib.tables.target import IDENTITY, ONE_LABEL, SEVERAL_LABELS, Target


@dataclass(frozen=True)
class Metric:
    """One metric's entry."""

    resampled: Callable[[Array, Array, Array], Array] | None
    """(logits, targets, weights) -> (b,) values; None where the training loop or a retrieval computes the value."""
    targets: tuple[str, ...]
    """Names of the targets that it is for (lib/tables/target.py)."""
    higher_is_better: bool = True
    range: tuple[float, float] = (0.0, 1.0)
    thresholds: Literal["none", "per_label", "joint"] = "none"
    """Several labels: whether it depends on thresholds, and whether each label's threshold can be fitted on that label alone."""
    compares_rows: bool = False
    """Whether it depends on the order of rows within a label, which thresholds or temperatures of single folds would change."""

    biased: bool = False
    """Whether its expected value depends on the number of rows, as that of means over labels with few positives does."""

    @property
    def sign(self) -> int:
        """1 if higher is better, else -1."""
        return 1 if self.higher_is_better else -1

    def function(self, logits: Array, targets: Array) -> float:
        """Return the metric's value, NaN where the rows don't define it. Raises FlukeError for logits that aren't finite."""
        check_finite(logits, targets)
        assert self.resampled is not None, "computed by the training loop or from neighbours, not from logits"
        return float(self.resampled(logits, targets, np.ones((len(logits), 1)))[0])

    def estimate(self, logits: Array, targets: Array) -> float:
        """Return `estimates` of all rows, clipped to the metric's range. Raises FlukeError for logits that aren't finite."""
        check_finite(logits, targets)
        return float(np.clip(self.estimates(logits, targets, np.ones((len(logits), 1)), halvings=16)[0], *self.range))

    def estimates(self, logits: Array, targets: Array, weights: Array, halvings: int = 4) -> Array:
        """Estimate the metric on many rows like those of each resample, (b,): its value, less the bias of few rows if `biased`.

        A bias of b / n for n rows is twice as large on half of them: the estimate is twice the value less the mean value of random
        halves (the generalized jackknife of Schucany, Gray and Owen 1971).
        """
        assert self.resampled is not None, "computed by the training loop or from neighbours, not from logits"
        values = self.resampled(logits, targets, weights)
        if not self.biased or len(logits) < 2:
            return values
        halves = [self.resampled(logits, targets, weights * half[:, None]) for half in _random_halves(targets, halvings)]
        return 2 * values - mean_defined(np.stack(halves))


def _random_halves(targets: Array, halvings: int) -> Array:
    """Return 0 and 1 for both halves of random halvings of the rows, (2 * halvings, rows); one label: halves of each class."""
    rng, halves = np.random.default_rng(0), np.zeros((halvings, len(targets)))
    for half in halves:
        order = rng.permutation(len(targets))
        if targets.ndim == 1:
            order = order[np.argsort(targets[order], kind="stable")]
        half[order[rng.integers(2) :: 2]] = 1
    return np.concatenate([halves, 1 - halves])


CORRECTED = "_corrected"
"""Added to a metric's name for its estimate on many rows (`Metric.estimate`)."""
ONE, SEVERAL, RETRIEVAL = ONE_LABEL.name, SEVERAL_LABELS.name, IDENTITY.name
METRICS = {
    "loss": Metric(None, (ONE, SEVERAL), higher_is_better=False, range=(0.0, np.inf)),  # the recipe's objective
    "accuracy": Metric(c.accuracy, (ONE,)),
    "balanced_accuracy": Metric(c.balanced_accuracy, (ONE,)),
    "top5_accuracy": Metric(c.top5_accuracy, (ONE,)),
    "macro_f1": Metric(c.macro_f1, (ONE, SEVERAL), thresholds="per_label", biased=True),
    "micro_f1": Metric(c.micro_f1, (SEVERAL,), thresholds="joint"),
    "samples_f1": Metric(c.samples_f1, (SEVERAL,), thresholds="joint"),
    "macro_map": Metric(c.macro_map, (SEVERAL,), compares_rows=True, biased=True),
    "micro_map": Metric(c.micro_map, (SEVERAL,)),
    "log_loss": Metric(c.log_loss, (ONE,), higher_is_better=False, range=(0.0, np.inf)),
    "ece": Metric(c.expected_calibration_error, (ONE,), higher_is_better=False),
    "map@5": Metric(c.map_at_5, (ONE, RETRIEVAL)),
    "recall@1": Metric(None, (RETRIEVAL,)),  # this and the following: lib/retrieval/evaluation.py
    "recall@5": Metric(None, (RETRIEVAL,)),
    "map@r": Metric(None, (RETRIEVAL,)),
    "auroc": Metric(None, (RETRIEVAL,)),
}


def compute_metrics(target: Target, logits: Array, targets: Array) -> dict[str, float]:
    """Return every metric of a target that can be computed from logits; those that the rows don't define are left out.

    `NAME` + CORRECTED is a metric's estimate for many rows, where few rows bias it. For several labels `n_left_out` counts the
    labels without a positive, which macro_map leaves out. Raises FlukeError when logits are NaN or infinite, or when there is no
    row.
    """
    check_finite(logits, targets)
    ones = np.ones((len(logits), 1))
    computed = {name: metric.resampled for name, metric in METRICS.items() if target.name in metric.targets and metric.resampled}
    values = {name: float(resampled(logits, targets, ones)[0]) for name, resampled in computed.items()}
    for name in computed:
        if METRICS[name].biased:
            values[name + CORRECTED] = METRICS[name].estimate(logits, targets)
    if target.several:
        values["n_left_out"] = float(np.sum(~np.any(targets, axis=0)))
    return {name: value for name, value in values.items() if not np.isnan(value)}


def resolve_metric(name: str, target: Target) -> str:
    """Return the metric that `train.metric` names for a target; auto is the target's default.

    Raises FlukeError for an unknown metric and for one of another target; the sentence names those that fit.
    """
    if name == "auto":
        return target.default_metric
    fitting = [other for other, metric in METRICS.items() if target.name in metric.targets]
    if name not in METRICS:
        otherwise = f"; there are {', '.join(fitting)}."
        raise FlukeError(f"Unknown metric {name!r}{did_you_mean(name, [*fitting, *METRICS], otherwise=otherwise)}")
    if name not in fitting:
        raise FlukeError(f"Metric {name} doesn't fit {target.wording}; these do: {', '.join(fitting)}.")
    return name


def uses_thresholds(name: str) -> bool:
    """Return whether a value of `compute_metrics` depends on the thresholds of several labels."""
    name = name.removesuffix(CORRECTED)
    return name in METRICS and METRICS[name].thresholds != "none"


def metric_from_logits(name: str, target: Target) -> str:
    """Return `name`, or the target's default where `name` can't be computed from logits (loss)."""
    return name if METRICS[name].resampled is not None else target.default_metric
