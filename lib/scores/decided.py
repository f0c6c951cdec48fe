"""What a submission gives for each row: labels over their thresholds, classes between cut points, fitted on other rows.

Metrics of what is handed in (`handed_in` in lib/metrics/registry.py) are computed from logits whose plain decisions are these.
"""

from __future__ import annotations

import numpy as np

from lib.metrics.registry import METRICS, metric_from_logits
from lib.scores.decisions import AdjustmentOptions, fit_adjustment
from lib.scores.out_of_fold import inner_folds
from lib.tables.target import Target

LARGE = 20_000_000
"""Logits from which on two folds are used: fitting thresholds of 3,000 labels on 25,000 rows takes 20 s, at each validation."""


def decision_options(metric: str, target: Target) -> AdjustmentOptions:
    """Return what has to be fitted before a metric of what is handed in can be computed; nothing for other metrics.

    The loss chooses the epoch alone: the target's default metric says what is handed in.
    """
    fits = target.decision_fit if METRICS[metric_from_logits(metric, target)].handed_in else "none"
    return AdjustmentOptions(thresholds=fits == "thresholds", cut_points=fits == "cut_points")


def decide_out_of_fold(
    logits: np.ndarray,
    targets: np.ndarray,
    target: Target,
    metric: str,
    folds: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    allow_empty: bool = False,
) -> np.ndarray:
    """Return logits (n, C) whose plain decisions are those that a submission would give, each row's fitted on other folds' rows.

    `targets` are encoded. `folds` (n,) default to random ones, five (two of many numbers), of whole `groups` (n,). For a metric
    that isn't of what is handed in, and where all rows are of one fold, the logits are returned as they are.
    """
    options = decision_options(metric, target)
    if not options.any:
        return logits
    few = logits.size > LARGE
    fold = inner_folds(target.strata(targets), 2 if few else 5, groups=groups) if folds is None else folds
    if len(np.unique(fold)) < 2:
        return logits
    out = np.empty(logits.shape, dtype=np.float32)
    for k in np.unique(fold):
        own = fold == k
        out[own] = fit_adjustment(logits[~own], targets[~own], target, options, metric)(logits[own])
    return out if allow_empty or not target.several else give_one_label(out, logits)


def give_one_label(decided: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Return `decided` (n, C) with the most probable label given in rows without any, as a submission does
    (predict.allow_empty)."""
    empty = np.flatnonzero(~(decided >= 0).any(axis=1))
    out = decided.copy()
    out[empty, logits[empty].argmax(axis=1)] = 0
    return out
