"""The page of a run, and of a k-fold run: their results as figures and tables."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.config import command_line
from lib.config.recipe import Recipe
from lib.errors import FlukeError
from lib.files import read_json
from lib.metrics import registry
from lib.metrics.verification import verify_pairs
from lib.reports import drawing, figures, html
from lib.reports.class_results import ClassResults, HeldOutScores, class_results
from lib.retrieval.evaluation import OpenSetEvaluation
from lib.retrieval.open_set import fit_open_set
from lib.retrieval.ranking import replace_missing
from lib.run_folder import RunFolder
from lib.scores.shift import Shift
from lib.tables.table import Table


def write_run_page(
    recipe: Recipe,
    folder: RunFolder,
    validation: HeldOutScores | OpenSetEvaluation,
    history: list[dict[str, Any]],
    result: dict[str, Any],
    shift: tuple[Shift, Table] | None = None,
) -> None:
    """Write report.html and its figures as PNG; `result` is what metrics.json holds.

    `shift` says how well test images can be told from held-out ones, and has the compared rows.
    """
    curves, metric = [{**entry, "val_loss": entry.get("loss")} for entry in history], result["metric"]
    greater = registry.METRICS[metric].higher_is_better
    stopped = history[-1]["epoch"] if history and result["epochs"] < recipe.train.epochs else None
    drawn: dict[str, Figure] = {}
    if history:
        drawn["Training"] = figures.training_curves(curves, metric, greater, stopped)
    if isinstance(validation, OpenSetEvaluation):
        shown = ClassResults(_open_set_figures(validation, recipe), {})
    else:
        shown = class_results(validation)
    drawn |= shown.figures
    tables = dict(shown.tables)
    for title, path in {"Training": folder.curves, "Confusion": folder.confusion}.items():
        if title in drawn:
            drawing.save_figure(drawn[title], path)
    interval = result.get("interval")
    note = f"{recipe.train.keep} epoch {result['best_epoch']}"
    if recipe.train.keep == "best" and result["epochs"] > 1:
        note += ", chosen on these rows: slightly too high"
    if (corrected := result.get(metric + registry.CORRECTED)) is not None:
        note += f"; {corrected:.4f} less the bias of few positives per label, around which the interval is"
    headline = html.Headline(metric, result[metric], result["rows"], tuple(interval) if interval else None, note)
    others = {key: number for key, number in result.items() if isinstance(number, float) and key != metric}
    tables["Epochs"] = pd.DataFrame(history)
    tables |= _duplicates(folder)
    facts = _facts(recipe, folder, epochs=result["epochs"])
    page = html.Page(folder.name, headline, others, drawn, tables, _shift_images(shift), facts, describe_recipe(recipe))
    html.write_page(folder.report, page, shown.mistakes)


def write_folds_page(
    recipe: Recipe, folder: RunFolder, scores: HeldOutScores, result: dict[str, Any], shift: tuple[Shift, Table] | None = None
) -> None:
    """Write report.html and confusion.png of a k-fold run from its out-of-fold scores; `result` is what cv.json holds.

    `shift` is as in `write_run_page`.
    """
    shown = class_results(scores)
    if "Confusion" in shown.figures:
        drawing.save_figure(shown.figures["Confusion"], folder.confusion)
    metric = result["pooled_metric"]
    note = _describe_folds(result)
    if (corrected := result["pooled_metrics"].get(metric + registry.CORRECTED)) is not None:
        note += f"; {corrected:.4f} less the bias of few positives per label, around which the interval is"
    headline = html.Headline(metric, result["pooled"], result["rows"], tuple(result["interval"]), note)
    others = {key: value for key, value in result["pooled_metrics"].items() if key != metric}
    others |= result.get("calibration", {})
    tables = {"Folds": folds_table(result), **shown.tables, **_duplicates(folder)}
    what, images = describe_recipe(recipe, result.get("probe", {}).get("head")), _shift_images(shift)
    page = html.Page(folder.name, headline, others, shown.figures, tables, images, _facts(recipe, folder), what)
    html.write_page(folder.report, page, shown.mistakes)


def write_query_folds_page(recipe: Recipe, folder: RunFolder, result: dict[str, Any]) -> None:
    """Write report.html of a k-fold run of embeddings, whose folds share metrics only; `result` is what cv.json holds."""
    if "pooled" in result:
        metric, value, rows, interval = result["pooled_metric"], result["pooled"], result["rows"], tuple(result["interval"])
    else:
        metric, value, interval = result["metric"], result["mean"], None
        rows = sum(fold["rows"] for fold in result["folds"])
    headline = html.Headline(metric, value, rows, interval, _describe_folds(result))
    tables = {"Folds": folds_table(result), **_duplicates(folder)}
    page = html.Page(folder.name, headline, tables=tables, facts=_facts(recipe, folder), subtitle=describe_recipe(recipe))
    html.write_page(folder.report, page)


def _describe_folds(result: dict[str, Any]) -> str:
    return f"{result['metric']} over {len(result['folds'])} folds: mean {result['mean']:.4f}, spread {result['spread']:.4f}"


def folds_table(result: dict[str, Any]) -> pd.DataFrame:
    """Return a row per fold of what cv.json holds: its numbers, the run's metric and its interval first."""
    rows = []
    for fold in result["folds"]:
        low, high = fold.get("interval") or (np.nan, np.nan)
        first = {"fold": fold["fold"], result["metric"]: fold[result["metric"]], "from": float(low), "to": float(high)}
        numbers = {key: value for key, value in fold.items() if isinstance(value, int | float) and key not in first}
        rows.append(first | numbers)
    return pd.DataFrame(rows).dropna(axis=1, how="all")  # folds of a probe have no intervals


def _shift_images(shift: tuple[Shift, Table] | None) -> dict[str, list[tuple[Path, str]]]:
    """Return the images by which test and held-out images can be told apart, where they can, with their file names."""
    if shift is None or not shift[0].found:
        return {}
    found, rows = shift
    order = np.argsort(found.probabilities, kind="stable")
    shown = {"Test images unlike the held-out ones": order[::-1], "Held-out images unlike the test": order}
    return {title: [(rows.pictures[i], rows.paths[i].name) for i in some[:12].tolist()] for title, some in shown.items()}


def _duplicates(folder: RunFolder) -> dict[str, pd.DataFrame]:
    """Return the table of identical training images, if there are any."""
    return {"Copies of one image": pd.read_csv(folder.duplicates, dtype=str)} if folder.duplicates.exists() else {}


def describe_recipe(recipe: Recipe, head: str | None = None) -> str:
    """Return what was run, in a line: network, image size, loss, epochs, data; or the kind of `head` on frozen features."""
    d, t = recipe.data, recipe.train
    start = "pretrained" if recipe.model.pretrained else "not pretrained"
    start = f"weights of {recipe.model.weights}" if recipe.model.weights else start
    epochs = f"{t.epochs} epoch{'s' * (t.epochs != 1)}"
    how = f"{recipe.objective.name}, {epochs}" if head is None else f"{head} head on frozen features,"
    return f"{recipe.model.name} ({start}), {d.size} px, {how} on {d.root}"


def _facts(recipe: Recipe, folder: RunFolder, **more: Any) -> dict[str, dict[str, Any]]:
    environment: dict[str, Any] = {}
    with contextlib.suppress(FlukeError, TypeError):  # missing or damaged: no reason to fail a finished training
        environment = {**read_json(folder.environment)}
    libraries = environment.pop("libraries", {})
    if environment.get("weights", "") is None:
        environment |= {"weights": "random", "weights_license": "none needed"}
    return {
        "Run": {**environment, "command": " ".join(environment.get("command", [])), **more},
        "Libraries": libraries,
        "Recipe": {folder.recipe.name: command_line.dump(recipe)},
    }


def _open_set_figures(found: OpenSetEvaluation, recipe: Recipe) -> dict[str, Figure]:
    threshold = None if found.curve is None else fit_open_set([found], recipe).threshold
    if found.curve is None or threshold is None:
        return {}
    known = found.queries.in_gallery
    best, maps = replace_missing(found.result.best_scores), found.curve.map_at_k(found.new_share or 0.0)
    return {
        "Threshold for new individuals": figures.threshold_curve(found.curve.thresholds, maps, threshold, "map@5", "similarity"),
        "Known and unknown": figures.score_histograms(best[known], best[~known], threshold, "similarity to the nearest"),
        "Known against unknown": figures.roc_curve(verify_pairs(known, best), "known against unknown"),
    }
