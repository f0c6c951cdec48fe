"""A run, or its folds, told as figures and a page: what its folder holds, drawn with report.py and figures.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import nn

from lib.config import command_line
from lib.config.recipe import Recipe
from lib.files import read_json
from lib.metrics import registry
from lib.metrics.verification import verify_pairs
from lib.reports import figures, html
from lib.retrieval.open_set import fit_open_set
from lib.retrieval.ranking import replace_missing
from lib.scores.averaging import probabilities as probabilities_of
from lib.tables.table import Table
from lib.training.tasks import Classifier, Embedder, Task, class_centres


def write_run_page(
    recipe: Recipe,
    folder: Path,
    task: Task,
    outputs: np.ndarray,
    objective: nn.Module | None,
    history: list[dict[str, Any]],
    result: dict[str, Any],
) -> None:
    """Write report.html and its figures as PNG into `folder`.

    `outputs` are the best network's for task.shown, `objective` is its; `result` is what metrics.json holds.
    """
    greater = registry.metric_direction(task.metric) == "max"
    told = [{**entry, "val_loss": entry.get("loss")} for entry in history]
    drawn: dict[str, Figure] = {"Training": figures.curves(told, task.metric, greater)} if history else {}
    if isinstance(task, Classifier):
        multi = task.train.multi
        images = task.targets.sum(0).astype(int) if multi else np.bincount(task.targets, minlength=len(task.classes))
        more, tables, examples = _classifier(task.classes, task.val_targets, outputs, task.shown.paths, images.tolist())
    else:
        assert isinstance(task, Embedder)
        more, tables, examples = _embedding(task, outputs, objective), {}, []
    drawn |= more
    for title, file in {"Training": "curves.png", "Confusion": "confusion.png"}.items():
        if title in drawn:
            figures.save_figure(drawn[title], folder / file)
    value = result[task.metric]
    interval = result.get("interval")
    headline = html.Headline(
        task.metric, value, task.queries, tuple(interval) if interval else None, f"{recipe.train.keep} epoch {result['best_epoch']}"
    )
    others = {key: number for key, number in result.items() if isinstance(number, float) and key != task.metric}
    facts = _facts(recipe, folder, epochs=result["epochs"])
    tables["Epochs"] = pd.DataFrame(history)
    html.write_page(folder / "report.html", folder.name, headline, others, drawn, tables, examples, facts)


def write_folds_page(recipe: Recipe, folder: Path, side: Table, logits: np.ndarray, result: dict[str, Any]) -> None:
    """Write report.html and confusion.png of a k-fold run into `folder`: what its folds' models say of the rows that each did not
    learn, `logits` (n, C) of the table `side`. `result` is what cv.json holds."""
    drawn, tables, examples = _classifier(side.classes, side.targets(), logits, side.paths)
    if "Confusion" in drawn:
        figures.save_figure(drawn["Confusion"], folder / "confusion.png")
    metric = result["pooled_metric"]
    note = f"{result['metric']} over {len(result['folds'])} folds: mean {result['mean']:.4f}, spread {result['spread']:.4f}"
    headline = html.Headline(metric, result["pooled"], result["rows"], tuple(result["interval"]), note)
    others = {key: value for key, value in result["pooled_metrics"].items() if key != metric}
    tables = {"Folds": pd.DataFrame(result["folds"]).drop(columns="interval", errors="ignore"), **tables}
    html.write_page(folder / "report.html", folder.name, headline, others, drawn, tables, examples, _facts(recipe, folder))


def _facts(recipe: Recipe, folder: Path, **more: Any) -> dict[str, dict[str, Any]]:
    about = read_json(folder / "environment.json")
    libraries = about.pop("libraries")
    return {
        "Run": {**about, "command": " ".join(about["command"]), **more},
        "Libraries": libraries,
        "Recipe": {"recipe.yaml": command_line.dump(recipe)},
    }


def _classifier(
    classes: tuple[str, ...], targets: np.ndarray, logits: np.ndarray, paths: Sequence[Path], images: list[int] | None = None
) -> tuple[dict[str, Figure], dict[str, pd.DataFrame], list[html.Example]]:
    multi = targets.ndim == 2
    probabilities = probabilities_of(logits, multi)
    table = html.class_table(logits, targets, classes, images)
    tables = {"Labels" if multi else "Classes": table}
    if multi:
        ordered = table.sort_values("#")
        drawn = {"Labels": figures.average_precisions(classes, ordered["average precision"].to_numpy(), targets.mean(0))}
    else:
        answers = logits.argmax(1)
        confidence = probabilities.max(1)
        drawn = {
            "Confusion": figures.confusion(targets, answers, classes),
            "Calibration": figures.reliability(confidence, answers == targets),
        }
        if (answers != targets).any():
            tables["Most frequent mistakes"] = html.confused_pairs(targets, answers, classes)
    return drawn, tables, html.confident_mistakes(paths, targets, probabilities, classes)


def _embedding(task: Embedder, embeddings: np.ndarray, objective: nn.Module | None) -> dict[str, Figure]:
    found = task.validate(embeddings, class_centres(objective, task.recipe, task.classes))
    if found.curve is None:
        return {}
    if (threshold := fit_open_set([found], task.recipe).threshold) is None:
        return {}
    known = found.queries.in_gallery
    best, share = replace_missing(found.result.best_scores), float(np.mean(~known))
    values = found.curve.map_at_k(share)
    return {
        "Threshold for new individuals": figures.threshold_curve(found.curve.thresholds, values, threshold, "map@5", "similarity"),
        "Known and new": figures.score_histograms(best[known], best[~known], threshold, "similarity to the nearest"),
        "Known against new": figures.roc(verify_pairs(known, best), "known against new"),
    }
