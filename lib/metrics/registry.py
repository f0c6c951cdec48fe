"""Every metric by its name: how it is computed, for which targets, its direction and range."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lib.errors import FlukeError, did_you_mean
from lib.metrics.classification import (
    _accuracy,
    _balanced_accuracy,
    _ece,
    _log_loss,
    _macro_f1,
    _macro_map,
    _map5,
    _micro_f1,
    _micro_map,
    _samples_f1,
    _top5_accuracy,
)
from lib.metrics.resampling import Array, check_finite

Task = Literal["single", "multi", "retrieval"]


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
