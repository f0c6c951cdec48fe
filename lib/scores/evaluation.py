"""Evaluation of a combination on rows that it was not fitted on, and the table that describes the result."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lib.metrics.intervals import bootstrap_interval, gain_interval
from lib.metrics.registry import METRICS
from lib.scores.averaging import Members
from lib.scores.combination import METHODS, Combination, fit_combination
from lib.scores.decided import give_one_label
from lib.scores.decisions import AdjustmentOptions
from lib.scores.out_of_fold import OutOfFold, crossfit


@dataclass(frozen=True)
class Evaluation:
    """A fitted combination and its out-of-fold result."""

    combination: Combination
    """Fitted on all rows."""
    logits: np.ndarray
    """(n, C) float32: each row's by a combination that was fitted without the row's fold."""
    report: dict[str, Any]
    """Scores, intervals, weights and disagreement, plain JSON."""


def evaluate_combination(method: str, data: OutOfFold, options: AdjustmentOptions) -> Evaluation:
    """Fit a combination on all rows, and evaluate it out of fold beside its members.

    The report holds each member's score, 95% interval and weight, the members' disagreement, and the combination's score, its
    `estimate` on many rows (`Metric.estimate`) and gain over the best member with intervals. A gain above 0 is better. With
    thresholds, each member is scored at its own, cross-fitted ones. `fitted_score` is the score on the rows of the fit, for what is
    fitted except stacks.
    """
    metric = METRICS[data.metric]
    combination = fit_combination(method, data.take(np.arange(len(data.targets))), options)
    logits = scored = crossfit_combination(method, data, options)
    if metric.compares_rows and options.any:
        # A threshold or a temperature changes no order within a label, but one per fold would change it in the pooled rows.
        scored = crossfit_combination(method, data, AdjustmentOptions())
    elif metric.handed_in and data.target.several and not data.allow_empty:
        scored = give_one_label(scored, scored)
    members = data.members
    if options.cut_points or (options.thresholds and metric.thresholds != "none"):  # else the gain would include what these gain
        own = AdjustmentOptions(thresholds=options.thresholds, cut_points=options.cut_points)
        members = [crossfit_combination("mean", replace(data, members=[m]), own) for m in data.members]
        if metric.handed_in and data.target.several and not data.allow_empty:
            members = [give_one_label(m, m) for m in members]
    report = _compare(data, members, scored)
    weights = combination.method.weights
    for i, member in enumerate(report["members"]):
        member["weight"] = None if weights is None else float(weights[i])
    if (METHODS[method].fitted or options.any) and not METHODS[method].stack:
        report["fitted_score"] = metric.function(combination(data.members), data.targets)
    return Evaluation(combination, logits, report)


def crossfit_combination(method: str, data: OutOfFold, options: AdjustmentOptions) -> np.ndarray:
    """Return logits (n, C) float32 of combinations that were fitted without the row's fold.

    Where nothing is fitted, these are the logits of the one combination.
    """
    if not METHODS[method].fitted and not options.any:
        return fit_combination(method, data, options)(data.members)
    return crossfit(lambda rows: fit_combination(method, data.take(rows), options), data.members, data.folds)


def _compare(data: OutOfFold, members: Members, scored: np.ndarray) -> dict[str, Any]:
    """Return the report's scores and intervals of `members` and of the combination's logits `scored`, all (n, C)."""
    metric, targets, groups = METRICS[data.metric], data.targets, data.groups
    scores = [metric.function(m, targets) for m in members]
    best = int(np.argmax(metric.sign * np.array(scores)))
    score = metric.function(scored, targets)
    return {
        "members": [
            {"run": name, "score": alone, "interval": bootstrap_interval((data.metric, m, targets), groups=groups)}
            for name, alone, m in zip(data.names, scores, members)
        ],
        "disagreement": [[data.target.disagreement(a, b) for b in members] for a in members],
        "score": score,
        "estimate": metric.estimate(scored, targets),
        "interval": bootstrap_interval((data.metric, scored, targets), groups=groups),
        "best_member": data.names[best],
        "gain": metric.sign * (score - scores[best]),
        "gain_interval": gain_interval(data.metric, scored, members[best], targets, groups=groups),
    }


def describe_combination(result: dict[str, Any]) -> str:
    """Return a table of `evaluate_combination`'s report, with the method, the metric and the interval on the test."""
    if "members" not in result:
        return "No out-of-fold scores: test scores are combined, and the combination is not evaluated."
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
    if result["estimate"] != result["score"]:
        lines.append(f"{'  on many rows':{wide}}{result['estimate']:12.4f}  less the bias of few positives per label")
    if "fitted_score" in result:
        lines.append(f"{'  as fitted':{wide}}{result['fitted_score']:12.4f}  on the rows of the fit")
    low, high = result["gain_interval"]
    lines.append(f"{'  gain':{wide}}{result['gain']:+12.4f}  {low:+.4f} - {high:+.4f}  over {result['best_member']}")
    if "test_rows" in result:
        low, high = result["test_interval"]
        lines.append(f"{'  on the test':{wide}}{'':12}  {low:.4f} - {high:.4f}  for {result['test_rows']:,} images like these rows")
    return "\n".join(lines)
