"""Combine the scores of finished runs: fit on out-of-fold scores, evaluate, apply to the test scores, write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from lib.config import command_line
from lib.config.command_line import load_recipe
from lib.config.recipe import Recipe
from lib.errors import FlukeError
from lib.files import write_json, write_text
from lib.metrics.intervals import interval_on_test
from lib.metrics.registry import METRICS, metric_from_logits, resolve_metric
from lib.process import announce
from lib.reports.ensemble_page import write_ensemble_page
from lib.run_folder import RunFolder, default_run_folder, submit_command
from lib.scores.alignment import encode_targets, load_aligned_scores
from lib.scores.averaging import extend_members
from lib.scores.calibration import fit_calibration
from lib.scores.combination import METHODS, NUMBER_METHODS, Combination, equal_average
from lib.scores.decided import decision_options
from lib.scores.decisions import AdjustmentOptions, label_thresholds
from lib.scores.evaluation import describe_combination, evaluate_combination
from lib.scores.out_of_fold import OutOfFold, inner_folds
from lib.scores.score_file import Scores, save_scores
from lib.submission.decisions import PLAIN, Decisions
from lib.submission.writing import submit
from lib.tables.readers import read_mapping
from lib.tables.sample import Sample, load_sample
from lib.tables.target import Target


@dataclass(frozen=True)
class EnsembleArguments:
    """The arguments of scripts/ensemble.py."""

    runs: list[str]
    method: str
    """A key of METHODS."""
    out: str | None
    metric: str | None
    options: AdjustmentOptions


@dataclass(frozen=True)
class Ensemble:
    """Combined scores and what ensemble.json holds of them."""

    result: dict[str, Any]
    oof: Scores | None
    """Out-of-fold scores of the combination."""
    test: Scores | None
    decisions: Decisions = PLAIN
    """For the submission."""
    calibrated: np.ndarray | None = None
    """Out-of-fold logits at a temperature that was fitted without the row's fold; None for numbers."""


def combine_runs(arguments: EnsembleArguments) -> dict[str, Any]:
    """Combine runs and write the ensemble's folder; returns the content of ensemble.json. Raises FlukeError."""
    folder = choose_folder(arguments.out)
    oof, test = load_aligned_scores(arguments.runs)
    target = (oof or test)[0].target
    check_options(arguments, target, evaluated=bool(oof))
    recipe, sample = load_first_recipe(arguments.runs[0], has_test=bool(test))
    metric = choose_metric(arguments, target, recipe)
    if oof and (needed := decision_options(metric, target)).any:  # the metric is of what is handed in
        fitted = replace(arguments.options, thresholds=needed.thresholds, cut_points=needed.cut_points)
        arguments = replace(arguments, options=fitted)
    ensemble = combine_scores(arguments, metric, oof, test, recipe is not None and recipe.predict.allow_empty)
    print(describe_combination(ensemble.result))
    write_ensemble(folder, ensemble, recipe, sample, arguments.metric)
    return ensemble.result


def choose_folder(out: str | None) -> RunFolder:
    """Return the folder to write. Raises FlukeError for one that holds anything."""
    folder = RunFolder(out or default_run_folder("ensemble"))
    if folder.path.exists() and (not folder.path.is_dir() or any(folder.path.iterdir())):
        raise FlukeError(f"--out {folder}: is there already, and not empty; take another name, or remove it first.")
    return folder


def check_options(arguments: EnsembleArguments, target: Target, evaluated: bool) -> None:
    """Raise FlukeError for adjustments that the target doesn't have, and for fits without out-of-fold scores."""
    options = asdict(arguments.options)
    for name in ("thresholds", "offsets"):
        if options[name] and target.decision_fit != name:
            instead = f"use --{target.decision_fit}" if target.decision_fit in options else "leave it out"
            raise FlukeError(f"--{name}: doesn't fit {target.wording}; {instead}.")
    if target.numeric and (arguments.method not in NUMBER_METHODS or options["temperature"]):
        given = "--temperature" if options["temperature"] else f"--method {arguments.method}"
        raise FlukeError(f"{given}: doesn't fit numbers; methods for them are {', '.join(NUMBER_METHODS)}.")
    fits = [f"--method {arguments.method}"] if METHODS[arguments.method].fitted else []
    fits += [f"--{name}" for name, value in options.items() if value]
    if fits and not evaluated:
        raise FlukeError(
            f"{', '.join(arguments.runs)}: {fits[0]} needs out-of-fold scores (found test scores only); use --method mean alone."
        )


def choose_metric(arguments: EnsembleArguments, target: Target, recipe: Recipe | None = None) -> str:
    """Return the name of the metric to score by: --metric, or the recipe's where it can be computed from logits.

    Raises FlukeError for a --metric that can't.
    """
    if arguments.metric is None and not arguments.options.thresholds and recipe is not None:
        return metric_from_logits(resolve_metric(recipe.train.metric, target), target)
    metric = resolve_metric(arguments.metric or ("macro_f1" if arguments.options.thresholds else "auto"), target)
    if METRICS[metric].resampled is None:
        raise FlukeError(f"--metric {metric}: is computed in training only; use {target.default_metric} or another metric.")
    return metric


def load_first_recipe(run: str, has_test: bool) -> tuple[Recipe | None, Sample | None]:
    """Return the first run's recipe and, where there are test scores, its sample submission; None where there is none."""
    folder = RunFolder(run)
    recipe = load_recipe(folder.recipe)
    if recipe is None:
        print(f"{run}: has no {folder.recipe.name} that describes the submission; none is written.")
    return recipe, load_sample(recipe) if recipe is not None and has_test else None


def combine_scores(
    arguments: EnsembleArguments, metric: str, oof: Sequence[Scores], test: Sequence[Scores], allow_empty: bool = False
) -> Ensemble:
    """Fit and evaluate the combination on `oof`, unless that is empty, and apply it to `test`, unless that is empty."""
    options = arguments.options
    result: dict[str, Any] = {"runs": arguments.runs, "method": arguments.method, "metric": metric}
    result |= {name: value for name, value in asdict(options).items() if value}
    combined, decisions, calibrated = None, PLAIN, None
    if oof:
        data, result["inner_folds"] = prepare_out_of_fold(arguments.runs, metric, oof)
        data = replace(data, allow_empty=allow_empty)
        evaluation = evaluate_combination(arguments.method, data, options)
        combination, combined = evaluation.combination, replace(oof[0], logits=evaluation.logits, groups=_shared_groups(oof))
        result |= evaluation.report
        if test:
            rows = len(test[0].names)
            interval = interval_on_test(metric, result["estimate"], result["interval"], len(data.targets), rows)
            result |= {"test_rows": rows, "test_interval": interval}
        if (adjust := combination.adjust) is not None:
            offsets = dict(zip(oof[0].classes, adjust.offsets.tolist()))
            result["fitted"] = {"temperature": adjust.temperature, "offsets": offsets}
            if adjust.cut_points is not None:
                result["fitted"]["cut_points"] = adjust.cut_points.tolist()
        if data.target.decision_fit == "thresholds" and not options.thresholds:  # with the option they are in the logits
            decisions = replace(decisions, thresholds=label_thresholds(evaluation.logits, data.targets, oof[0].classes, metric))
        if not data.target.numeric:
            calibration, calibrated = fit_calibration(evaluation.logits, data.targets, data.target, data.groups)
            decisions = replace(decisions, temperature=calibration.temperature)
            result["calibration"] = calibration.numbers()
    else:
        combination = Combination(equal_average(arguments.method, len(test), test[0].target))
    tested = replace(test[0], logits=combination(extend_members(test))) if test else None
    return Ensemble(result, combined, tested, decisions, calibrated)


def prepare_out_of_fold(runs: Sequence[str], metric: str, oof: Sequence[Scores]) -> tuple[OutOfFold, str]:
    """Return the runs' out-of-fold scores with folds for evaluation, and the folds' origin for ensemble.json.

    The folds are those of the run whose scores have groups, else of the first: its folds.csv, else 5 random ones.
    """
    targets = encode_targets(oof[0], runs[0])
    lead = next((i for i, scores in enumerate(oof) if scores.groups is not None), 0)
    groups = None if oof[lead].groups is None else np.array(oof[lead].groups)
    table = RunFolder(runs[lead]).folds
    if table.exists():
        folds, origin = (
            np.unique(read_mapping(table, oof[lead].names, "fold", "a column called fold"), return_inverse=True)[1],
            str(table),
        )
    else:
        folds = inner_folds(oof[0].target.strata(targets), groups=groups)
        origin = "5, random" if groups is None else "5, random, of whole groups"
    return OutOfFold(runs, extend_members(oof), oof[0].target, targets, metric, folds, groups), origin


def _shared_groups(oof: Sequence[Scores]) -> list[str] | None:
    return next((scores.groups for scores in oof if scores.groups is not None), None)


def write_ensemble(
    folder: RunFolder, ensemble: Ensemble, recipe: Recipe | None, sample: Sample | None, metric: str | None = None
) -> None:
    """Write what the ensemble has: submission (for `metric`, by default the recipe's), scores, recipe, and the result last."""
    result, runs = ensemble.result, ensemble.result["runs"]
    source = {"run": folder.name, "model": f"{result['method']} of {len(runs)}", "metric": result["metric"], "runs": runs}
    if ensemble.test is not None:
        test = replace(ensemble.test, source=source)
        if recipe is not None and sample is not None:
            submit(recipe.predict, folder.submission, sample, test, ensemble.decisions, metric=metric or recipe.train.metric)
        save_scores(folder.scores_test, test)
    if ensemble.oof is not None:
        save_scores(folder.oof, replace(ensemble.oof, source=source))
        write_ensemble_page(folder, result, ensemble.oof, recipe, ensemble.calibrated)
    if recipe is not None:
        write_text(folder.recipe, command_line.dump(recipe))
    write_json(folder.ensemble, result)
    announce(folder.list_paths(), submit_command(folder) if folder.submission.exists() else None)
