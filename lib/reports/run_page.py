"""The page of a run, and of a k-fold run: their results as figures and tables."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
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
from lib.reports import class_tables, drawing, figures, html, number_results
from lib.retrieval.evaluation import OpenSetEvaluation
from lib.retrieval.open_set import fit_open_set
from lib.retrieval.ranking import replace_missing
from lib.run_folder import RunFolder
from lib.scores.shift import Shift
from lib.tables.table import Table
from lib.tables.target import Target
from lib.training.tasks import Evaluation, Task


def write_run_page(
    recipe: Recipe,
    folder: RunFolder,
    task: Task,
    evaluation: Evaluation,
    history: list[dict[str, Any]],
    result: dict[str, Any],
    shift: tuple[Shift, Table] | None = None,
) -> None:
    """Write report.html and its figures as PNG; `result` is what metrics.json holds.

    `shift` says how well test images can be told from held-out ones, and has the compared rows.
    """
    curves = [{**entry, "val_loss": entry.get("loss")} for entry in history]
    greater = registry.METRICS[task.metric].higher_is_better
    drawn: dict[str, Figure] = {"Training": figures.training_curves(curves, task.metric, greater)} if history else {}
    tables: dict[str, pd.DataFrame] = {}
    mistakes: list[class_tables.Mistake] = []
    if evaluation.open_set is not None:
        drawn |= _open_set_figures(evaluation.open_set, recipe)
    else:
        train_images = task.target.counts(task.targets, len(task.classes)).astype(int).tolist()
        more, tables, mistakes = _class_results(task.target, task.val, evaluation.outputs, train_images, evaluation.decided)
        drawn |= more
    for title, path in {"Training": folder.curves, "Confusion": folder.confusion}.items():
        if title in drawn:
            drawing.save_figure(drawn[title], path)
    interval = result.get("interval")
    note = f"{recipe.train.keep} epoch {result['best_epoch']}"
    if recipe.train.keep == "best" and result["epochs"] > 1:
        note += ", chosen on these rows: slightly too high"
    if (corrected := result.get(task.metric + registry.CORRECTED)) is not None:
        note += f"; {corrected:.4f} less the bias of few positives per label, around which the interval is"
    headline = html.Headline(task.metric, result[task.metric], task.num_queries, tuple(interval) if interval else None, note)
    others = {key: number for key, number in result.items() if isinstance(number, float) and key != task.metric}
    tables["Epochs"] = pd.DataFrame(history)
    tables |= _duplicates(folder)
    facts = _facts(recipe, folder, epochs=result["epochs"])
    page = html.Page(folder.name, headline, others, drawn, tables, _shift_images(shift), facts)
    html.write_page(folder.report, page, mistakes)


def write_folds_page(
    recipe: Recipe,
    folder: RunFolder,
    table: Table,
    logits: np.ndarray,
    result: dict[str, Any],
    decided: np.ndarray | None = None,
    shift: tuple[Shift, Table] | None = None,
) -> None:
    """Write report.html and confusion.png of a k-fold run from its out-of-fold `logits` (n, C) of `table`.

    `result` is what cv.json holds; the plain decisions of `decided` (n, C) are those of a submission (None: those of `logits`);
    `shift` is as in `write_run_page`.
    """
    drawn, tables, mistakes = _class_results(table.target, table, logits, decided=decided)
    if "Confusion" in drawn:
        drawing.save_figure(drawn["Confusion"], folder.confusion)
    metric = result["pooled_metric"]
    note = f"{result['metric']} over {len(result['folds'])} folds: mean {result['mean']:.4f}, spread {result['spread']:.4f}"
    if (corrected := result["pooled_metrics"].get(metric + registry.CORRECTED)) is not None:
        note += f"; {corrected:.4f} less the bias of few positives per label, around which the interval is"
    headline = html.Headline(metric, result["pooled"], result["rows"], tuple(result["interval"]), note)
    others = {key: value for key, value in result["pooled_metrics"].items() if key != metric}
    folds = pd.DataFrame(result["folds"]).drop(columns="interval", errors="ignore")
    tables = {"Folds": folds, **tables, **_duplicates(folder)}
    page = html.Page(folder.name, headline, others, drawn, tables, _shift_images(shift), _facts(recipe, folder))
    html.write_page(folder.report, page, mistakes)


def _shift_images(shift: tuple[Shift, Table] | None) -> dict[str, list[tuple[Path, str]]]:
    """Return the images by which test and held-out images can be told apart, where they can, with their file names."""
    if shift is None or not shift[0].found:
        return {}
    found, rows = shift
    order = np.argsort(found.probabilities, kind="stable")
    shown = {"Test images unlike the held-out ones": order[::-1], "Held-out images unlike the test": order}
    return {title: [(rows.paths[i], rows.paths[i].name) for i in some[:12].tolist()] for title, some in shown.items()}


def _duplicates(folder: RunFolder) -> dict[str, pd.DataFrame]:
    """Return the table of identical training images, if there are any."""
    return {"Copies of one image": pd.read_csv(folder.duplicates, dtype=str)} if folder.duplicates.exists() else {}


def _facts(recipe: Recipe, folder: RunFolder, **more: Any) -> dict[str, dict[str, Any]]:
    environment: dict[str, Any] = {}
    with contextlib.suppress(FlukeError, TypeError):  # missing or damaged: no reason to fail a finished training
        environment = {**read_json(folder.environment)}
    libraries = environment.pop("libraries", {})
    return {
        "Run": {**environment, "command": " ".join(environment.get("command", [])), **more},
        "Libraries": libraries,
        "Recipe": {folder.recipe.name: command_line.dump(recipe)},
    }


def _class_results(
    target: Target, table: Table, logits: np.ndarray, train_images: list[int] | None = None, decided: np.ndarray | None = None
) -> tuple[dict[str, Figure], dict[str, pd.DataFrame], list[class_tables.Mistake]]:
    """Figures, tables and mistakes of the logits (n, C) of a labelled table; `train_images` are the training images per class.

    Of ordered classes, confusions are those of the answers, by `decided` (n, C).
    """
    classes, paths, targets = table.classes, table.paths, table.targets()
    if target.numeric:
        drawn = {"Predictions": number_results.prediction_chart(targets, logits, classes)}
        return drawn, {"Largest errors": number_results.largest_errors(table.names, targets, logits, classes)}, []
    probabilities = target.probabilities(logits)
    if target.several:
        per_class = class_tables.class_table(logits, targets, classes, train_images)
        drawn, tables = _label_results(per_class, targets, classes)
    else:
        per_class = class_tables.class_table(logits if decided is None else decided, targets, classes, train_images)
        drawn, tables = _confusion_results(per_class, targets, probabilities, classes, decided)
    return drawn, tables, class_tables.confident_mistakes(paths, targets, probabilities, classes)


def _label_results(
    per_class: pd.DataFrame, targets: np.ndarray, classes: Sequence[str]
) -> tuple[dict[str, Figure], dict[str, pd.DataFrame]]:
    precisions = per_class.sort_values("#")["average precision"].to_numpy()
    return {"Labels": figures.average_precision_chart(classes, precisions, targets.mean(0))}, {"Labels": per_class}


def _confusion_results(
    per_class: pd.DataFrame,
    targets: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    decided: np.ndarray | None = None,
) -> tuple[dict[str, Figure], dict[str, pd.DataFrame]]:
    answers, tables = (probabilities if decided is None else decided).argmax(1), {"Classes": per_class}
    drawn = {
        "Confusion": figures.confusion_matrix(targets, answers, classes),
        "Calibration": figures.reliability_diagram(probabilities.max(1), probabilities.argmax(1) == targets),
    }
    if (answers != targets).any():
        tables["Most frequent mistakes"] = class_tables.confused_pairs(targets, answers, classes)
    return drawn, tables


def _open_set_figures(found: OpenSetEvaluation, recipe: Recipe) -> dict[str, Figure]:
    threshold = None if found.curve is None else fit_open_set([found], recipe).threshold
    if found.curve is None or threshold is None:
        return {}
    known = found.queries.in_gallery
    best, maps = replace_missing(found.result.best_scores), found.curve.map_at_k(float(np.mean(~known)))
    return {
        "Threshold for new individuals": figures.threshold_curve(found.curve.thresholds, maps, threshold, "map@5", "similarity"),
        "Known and unknown": figures.score_histograms(best[known], best[~known], threshold, "similarity to the nearest"),
        "Known against unknown": figures.roc_curve(verify_pairs(known, best), "known against unknown"),
    }
