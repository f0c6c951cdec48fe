"""Combinations of models: fit a method on out-of-fold scores, evaluate it on rows that it was not fitted on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from lib.errors import FlukeError
from lib.metrics.intervals import bootstrap_interval, gain_interval
from lib.metrics.registry import METRICS
from lib.scores.averaging import AVERAGES, Members, WeightedAverage, majority_vote, mean_probabilities
from lib.scores.decisions import Adjustment, ScoreFunction, fit_adjustment, fit_temperature
from lib.scores.stacking import StackedClassifier, _gradient_boosting, _logistic_regression, greedy_weights, simplex_weights
from lib.tables.target import Target, target_of

# --- methods ----------------------------------------------------------------------------------------------------------------------

FITTED = ("weighted", "greedy", "optimal", "stack_lr", "stack_gb")
METHODS = (*AVERAGES, *FITTED)
STACK_CLASSES = 500  # a stack learns classes^2 * members weights


def fit_method(
    method: str, members: Members, targets: np.ndarray | None, target: Target, score: ScoreFunction | None
) -> WeightedAverage | StackedClassifier:
    """Fit one of POOLS or FITTED. A pool needs neither `targets` nor `score`. Raises FlukeError where a method can't be used."""
    if method in AVERAGES:
        return WeightedAverage(AVERAGES[method], np.full(len(members), 1 / len(members)), target)
    assert targets is not None, method
    assert score is not None, method
    if method in ("stack_lr", "stack_gb"):
        if not target.several and members[0].shape[1] > STACK_CLASSES:
            raise FlukeError(f"--method {method}: for at most {STACK_CLASSES} classes, not {members[0].shape[1]:,}; take greedy.")
        return StackedClassifier(_logistic_regression() if method == "stack_lr" else _gradient_boosting(), members, targets, target)
    if method == "weighted":
        weights = np.array([score(m, targets) for m in members])
        if (weights < 0).any():
            raise FlukeError("--method weighted: votes are weighted by a metric that is better when higher; set --metric to one.")
        if not weights.sum() > 0:
            raise FlukeError("--method weighted: no run scores above 0 on the out-of-fold rows, so none has a vote.")
        return WeightedAverage(majority_vote, weights / weights.sum(), target)
    # Calibrated first: an overconfident member's mistakes cost so much log-loss that noise, mixed in, would lessen it.
    temperatures = np.array([fit_temperature(m, targets) for m in members])
    members = [m / t for m, t in zip(members, temperatures)]
    weights = simplex_weights(members, targets) if method == "optimal" else greedy_weights(members, targets, score, target)
    return WeightedAverage(mean_probabilities, weights, target, temperatures)


@dataclass
class Combination:
    """A fitted method and what was fitted on its scores: members -> logits (n, C) float32."""

    method: WeightedAverage | StackedClassifier
    adjust: Adjustment | None = None

    def __call__(self, members: Members) -> np.ndarray:
        logits = self.method(members)
        return self.adjust(logits) if self.adjust else logits


def fit_combination(
    method: str, members: Members, targets: np.ndarray, score: ScoreFunction, folds: np.ndarray, **adjust: Any
) -> Combination:
    """Fit `method`, and with any of `fit_adjustment`'s arguments an Adjust, on out-of-fold members.

    An Adjust is fitted on scores that are out of fold for the method too, for a stack's own training rows look too sure: rows of
    one of `folds` (n,) are left out together.
    """
    target = target_of(targets)
    fitted = fit_method(method, members, targets, target, score)
    if not any(adjust.values()):
        return Combination(fitted)
    logits = fitted(members)
    if isinstance(fitted, StackedClassifier):

        def stack(rows: np.ndarray) -> WeightedAverage | StackedClassifier:
            return fit_method(method, [m[rows] for m in members], targets[rows], target, score)

        logits = crossfit(stack, members, folds)
    return Combination(fitted, fit_adjustment(logits, targets, **adjust))


def inner_folds(targets: np.ndarray, n: int = 5, seed: int = 0, groups: Sequence[str] | None = None) -> np.ndarray:
    """Return the fold of each row, (rows,), 0 to n - 1: random, by class for one label per image; `groups` are kept whole."""
    if groups is not None:
        unit = np.unique(groups, return_inverse=True)[1]
        return (np.random.default_rng(seed).permutation(unit.max() + 1) % n)[unit]
    noise = np.random.default_rng(seed).random(len(targets))
    order = np.lexsort((noise, targets)) if targets.ndim == 1 else np.argsort(noise)
    folds = np.empty(len(targets), dtype=np.int64)
    folds[order] = np.arange(len(targets)) % n
    return folds


def crossfit(fit_on: Callable[[np.ndarray], Callable[[Members], np.ndarray]], members: Members, folds: np.ndarray) -> np.ndarray:
    """(n, C) float32 logits of combinations that `fit_on` fits to rows, given as positions, that lack the fold of the row to be
    scored: what a fitted combination is honestly worth. Raises FlukeError for a single fold."""
    if len(np.unique(folds)) < 2:
        raise FlukeError("What is fitted is judged on other rows: two of them (two groups, or folds) are needed at least.")
    out = np.empty(members[0].shape, dtype=np.float32)
    for fold in np.unique(folds):
        held = folds == fold
        out[held] = fit_on(np.flatnonzero(~held))([m[held] for m in members])
    return out


def disagreement(members: Members, target: Target) -> np.ndarray:
    """Return the share of decisions that differ between two members, (M, M): of first classes, or of labels given."""
    decided = [m >= 0 if target.several else m.argmax(axis=1) for m in members]
    return np.array([[float((a != b).mean()) for b in decided] for a in decided])


def evaluate_combination(
    method: str,
    names: Sequence[str],
    members: Members,
    targets: np.ndarray,
    metric: str,
    folds: np.ndarray,
    groups: np.ndarray | None = None,
    **adjust: Any,
) -> tuple[Combination, np.ndarray, dict[str, Any]]:
    """Fit a combination, and find out what it is worth beside its members.

    Returns it, its honest logits (n, C) for the rows, and a report: each member's score (F1 with thresholds: at its own) with its
    95% interval and weight, how much they disagree, the ensemble's honest score and its gain over the best member (above 0: better)
    with intervals, and what was fitted. `names` (M,) name the members, `folds` (n,) say which rows are left out together, `groups`
    (n,) which are drawn together for intervals, `adjust` goes to `fit_adjustment`.
    """
    target, sign = target_of(targets), METRICS[metric].sign
    measure = METRICS[metric].function

    def score(logits: np.ndarray, true: np.ndarray) -> float:
        return sign * measure(logits, true)

    def fit_on(rows: np.ndarray, **adjust: Any) -> Combination:
        inner = folds[rows]
        if len(np.unique(inner)) < 2:  # the other one of two folds
            inner = inner_folds(targets[rows], groups=None if groups is None else groups[rows])
        return fit_combination(method, [m[rows] for m in members], targets[rows], score, inner, **adjust)

    def honestly(**adjust: Any) -> np.ndarray:
        if method not in FITTED and not any(adjust.values()):
            return fit_on(np.arange(len(targets)))(members)
        return crossfit(partial(fit_on, **adjust), members, folds)

    if adjust.get("thresholds"):
        adjust["metric"] = metric
    combination = fit_on(np.arange(len(targets)), **adjust)
    logits, honest = combination(members), honestly(**adjust)
    fitted = method in FITTED or any(adjust.values())
    # A threshold or a temperature changes no order within a label, but five of them, one a fold, would in the pooled rows.
    judged = honestly() if METRICS[metric].compares_rows and any(adjust.values()) else honest
    of_each = members
    if (
        adjust.get("thresholds") and METRICS[metric].thresholds != "none"
    ):  # or combining would be credited with what thresholds gain

        def own(m: np.ndarray, rows: np.ndarray) -> Combination:
            return fit_combination("mean", [m[rows]], targets[rows], score, folds[rows], thresholds=True, metric=metric)

        of_each = [crossfit(partial(own, m), [m], folds) for m in members]
    alone = [measure(m, targets) for m in of_each]
    best = int(np.argmax(sign * np.array(alone)))
    weights = [None] * len(members) if isinstance(combination.method, StackedClassifier) else combination.method.weights.tolist()
    report: dict[str, Any] = {
        "members": [
            {"run": name, "score": score, "interval": bootstrap_interval((metric, m, targets), groups=groups), "weight": w}
            for name, score, m, w in zip(names, alone, of_each, weights)
        ],
        "disagreement": disagreement(of_each, target).tolist(),
        "score": measure(judged, targets),
        "interval": bootstrap_interval((metric, judged, targets), groups=groups),
        "best_member": names[best],
        "gain": sign * (measure(judged, targets) - alone[best]),
        "gain_interval": gain_interval(metric, judged, of_each[best], targets, groups=groups),
    }
    if fitted and not isinstance(combination.method, StackedClassifier):
        report["fitted_score"] = measure(logits, targets)
    return combination, honest, report


def describe_combination(result: dict[str, Any]) -> str:
    """A table for the eye of `evaluate_combination`'s report, with method, metric and what the test is expected to score."""
    if "members" not in result:
        return "No out-of-fold scores: the test scores are combined, and what that is worth is not measured."
    members = result["members"]
    wide = max(len(member["run"]) for member in members) + 4
    lines = [
        f"{'':{wide}}{result['metric']:>12}  95% interval      weight  differs from "
        + "".join(f"{i + 1:>7}" for i in range(len(members)))
    ]
    for i, (member, differs) in enumerate(zip(members, result["disagreement"]), 1):
        low, high = member["interval"]
        weight = "     -" if member["weight"] is None else f"{member['weight']:6.3f}"
        shares = "".join(f"{share:7.1%}" for share in differs)
        lines.append(f"{i} {member['run']:{wide - 2}}{member['score']:12.4f}  {low:.4f} - {high:.4f}  {weight}{'':14}{shares}")
    low, high = result["interval"]
    lines.append(f"{result['method']:{wide}}{result['score']:12.4f}  {low:.4f} - {high:.4f}  on rows that nothing was fitted on")
    if "fitted_score" in result:
        lines.append(f"{'  as fitted':{wide}}{result['fitted_score']:12.4f}  on the rows that it was fitted on")
    low, high = result["gain_interval"]
    lines.append(f"{'  gain':{wide}}{result['gain']:+12.4f}  {low:+.4f} - {high:+.4f}  over {result['best_member']}")
    if "test_rows" in result:
        low, high = result["test_interval"]
        lines.append(
            f"{'  on the test':{wide}}{'':12}  {low:.4f} - {high:.4f}  if its {result['test_rows']:,} images are of the same kind"
        )
    return "\n".join(lines)
