"""The registry of metrics: function, targets, direction and range of each.

All that depends on the choice of a metric stands in its entry of METRICS, here and in lib/config/metric_traits.py. A metric maps
(logits, targets, weights) to (b,) values; lib/metrics/classification.py says what these hold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from lib.config import metric_traits
from lib.config.metric_traits import FAMILIES, HINTS, MetricTraits, find_traits
from lib.errors import FlukeError, did_you_mean
from lib.metrics import classification as c
from lib.metrics import regression as r
from lib.metrics.resampling import Array, check_finite, mean_defined
from lib.tables.target import Target

MAX_SORTED = 50_000_000
"""Numbers up to which metrics that sort each class's scores are computed unasked: about 10 seconds."""
CORRECTED = "_corrected"
"""Added to a metric's name for its estimate on many rows (`Metric.estimate`)."""


@dataclass(frozen=True)
class Metric:
    """One metric's entry."""

    resampled: Callable[[Array, Array, Array], Array] | None
    """(logits, targets, weights) -> (b,) values; None where the training loop or a retrieval computes the value."""
    traits: MetricTraits
    thresholds: Literal["none", "per_label", "joint"] = "none"
    """Several labels: whether it depends on thresholds, and whether each label's threshold can be fitted on that label alone."""
    handed_in: bool = False
    """Whether it is computed from what a submission gives, by thresholds fitted on other rows (lib/scores/decided.py)."""
    beta: float = 1.0
    """The beta of the F-beta that thresholds are fitted for."""
    compares_rows: bool = False
    """Whether it depends on the order of rows within a label, which thresholds or temperatures of single folds would change."""
    biased: bool = False
    """Whether its expected value depends on the number of rows, as that of means over labels with few positives does."""
    sorts: bool = False
    """Whether it sorts the scores of each class, which takes long with many classes."""

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the targets that it is for."""
        return self.traits.targets

    @property
    def higher_is_better(self) -> bool:
        return self.traits.higher_is_better

    @property
    def range(self) -> tuple[float, float]:
        return self.traits.range

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
        halves = [self.resampled(logits, targets, weights * half[:, None]) for half in _random_halves(len(targets), halvings)]
        return 2 * values - mean_defined(np.stack(halves))


def _random_halves(rows: int, halvings: int) -> Array:
    """Return 0 and 1 for both halves of random halvings of the rows, (2 * halvings, rows).

    They aren't stratified: halves with equal shares of each class kept two thirds of the bias of F1.
    """
    rng, halves = np.random.default_rng(0), np.zeros((halvings, rows))
    for half in halves:
        half[rng.permutation(rows)[rng.integers(2) :: 2]] = 1
    return np.concatenate([halves, 1 - halves])


class _Registry(dict[str, Metric]):
    """Metrics by name; members of a family (map@3, top2_accuracy, f2_samples) are made when they are asked for."""

    def __missing__(self, name: str) -> Metric:
        return _make_member(name)


def _make_member(name: str) -> Metric:
    """Return the entry of a family's member. Raises KeyError for another name."""
    traits, value = find_traits(name), metric_traits.family_value(name)
    if traits is None or value is None:
        raise KeyError(name)
    if name.startswith("top"):
        return Metric(partial(c.top_k_accuracy, int(value)), traits)
    if name.startswith("map@"):
        return Metric(partial(c.map_at_k, int(value)), traits)
    average = name.partition("_")[2]
    fit: Any = "per_label" if average == "macro" else "joint"
    return Metric(partial(c.f_beta, value, average), traits, thresholds=fit, handed_in=True, beta=value, biased=average == "macro")


def _named(name: str, resampled: Callable[[Array, Array, Array], Array] | None, **more: Any) -> tuple[str, Metric]:
    return name, Metric(resampled, metric_traits.METRICS[name], **more)


METRICS = _Registry(
    [
        _named("loss", None),  # the recipe's objective
        _named("accuracy", c.accuracy),
        _named("balanced_accuracy", c.balanced_accuracy),
        ("top5_accuracy", _make_member("top5_accuracy")),
        ("map@5", Metric(partial(c.map_at_k, 5), MetricTraits((*metric_traits.CLASSES, metric_traits.RETRIEVAL), "", "ranking"))),
        _named("macro_f1", c.macro_f1, thresholds="per_label", biased=True),
        _named("micro_f1", c.micro_f1, thresholds="joint"),
        _named("samples_f1", partial(c.f_beta, 1.0, "samples"), thresholds="joint"),
        _named("quadratic_kappa", c.quadratic_kappa, handed_in=True),
        _named("matthews", c.matthews),
        _named("f1", c.f1),
        _named("roc_auc", c.roc_auc, compares_rows=True, sorts=True),
        _named("weighted_auc", c.weighted_auc, compares_rows=True),
        _named("partial_auc", c.partial_auc, compares_rows=True),
        _named("average_precision", c.average_precision, compares_rows=True, sorts=True),
        _named("macro_map", c.macro_map, compares_rows=True, biased=True),
        _named("micro_map", c.micro_map),
        _named("probabilistic_f1", c.probabilistic_f1),
        _named("log_loss", c.log_loss),
        _named("brier", c.brier),
        _named("ece", c.expected_calibration_error),
        _named("gap", c.gap, compares_rows=True),
        _named("rmse", r.rmse),
        _named("mae", r.mae),
        _named("r2", r.r2),
        _named("recall@1", None),  # this and the following: lib/retrieval/evaluation.py
        _named("recall@5", None),
        _named("map@r", None),
        _named("known_accuracy", None),
        _named("new_accuracy", None),
        _named("open_set_accuracy", None),
        _named("auroc", None),
    ]
)


def compute_metrics(
    target: Target, logits: Array, targets: Array, metric: str | None = None, decided: Array | None = None
) -> dict[str, float]:
    """Return every metric of a target that can be computed from logits; those that the rows don't define are left out.

    A `metric` of a family is added. Metrics of what is handed in are computed from `decided`, logits of the same shape whose plain
    decisions are those of a submission (None: `logits`). `NAME` + CORRECTED is a metric's estimate for many rows, where few rows
    bias it. For several labels `n_left_out` counts the labels without a positive, which macro_map leaves out. Raises FlukeError
    when logits are NaN or infinite, or when there is no row.
    """
    check_finite(logits, targets)
    values = {}
    for name in dict.fromkeys([*METRICS, *([metric] if metric else [])]):
        entry = METRICS[name]
        if target.name in entry.targets and entry.resampled is not None:
            if not entry.sorts or logits.size <= MAX_SORTED or name == metric:
                taken = logits if decided is None or not entry.handed_in else decided
                values[name] = entry.function(taken, targets)
                if entry.biased:
                    values[name + CORRECTED] = entry.estimate(taken, targets)
    if target.several:
        values["n_left_out"] = float(np.sum(~np.any(targets, axis=0)))
    return {name: value for name, value in values.items() if not np.isnan(value)}


def resolve_metric(name: str, target: Target) -> str:
    """Return the metric that `train.metric` names for a target; auto is the target's default.

    Raises FlukeError for an unknown metric and for one of another target; the sentence names those that fit.
    """
    if name == "auto":
        return target.default_metric
    fitting = [other for other, traits in metric_traits.METRICS.items() if target.name in traits.targets]
    if find_traits(name) is None:
        otherwise = f"; there are {', '.join(fitting)}."
        hint = HINTS.get(name.lower().replace("-", "_").replace(" ", "_"), "")
        nearest = f"; did you mean {hint}?" if find_traits(hint, target.name) else did_you_mean(name, fitting, otherwise=otherwise)
        raise FlukeError(f"Unknown metric {name!r}{nearest}")
    if find_traits(name, target.name) is None:
        near = HINTS.get(name, "")
        hint = (
            f"; did you mean {near}?" if near in fitting or find_traits(near, target.name) else f"; these do: {', '.join(fitting)}."
        )
        raise FlukeError(f"Metric {name} doesn't fit {target.wording}{hint}")
    return name


def uses_thresholds(name: str) -> bool:
    """Return whether a value of `compute_metrics` depends on the thresholds of several labels."""
    name = name.removesuffix(CORRECTED)
    return (name in METRICS or find_traits(name) is not None) and METRICS[name].thresholds != "none"


def metric_from_logits(name: str, target: Target) -> str:
    """Return `name`, or the target's default where `name` can't be computed from logits (loss)."""
    return name if METRICS[name].resampled is not None else target.default_metric


assert all(name in METRICS or name in FAMILIES for name in metric_traits.METRICS)
