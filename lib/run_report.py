"""A run told as figures and a page: what its folder holds, drawn with report.py and figures.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import nn

from lib import cli, figures, metrics, report
from lib.config import Recipe
from lib.files import read_json
from lib.pools import probabilities as probabilities_of
from lib.tasks import Classifier, Embedder, Task, centres_of


def write_report(
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
    greater = metrics.metric_direction(task.metric) == "max"
    told = [{**entry, "val_loss": entry.get("loss")} for entry in history]
    drawn: dict[str, Figure] = {"Training": figures.curves(told, task.metric, greater)} if history else {}
    if isinstance(task, Classifier):
        more, tables, examples = _classifier(task, outputs)
    else:
        assert isinstance(task, Embedder)
        more, tables, examples = _embedding(task, outputs, objective), {}, []
    drawn |= more
    for title, file in {"Training": "curves.png", "Confusion": "confusion.png"}.items():
        if title in drawn:
            figures.save(drawn[title], folder / file)
    value = result[task.metric]
    interval = result.get("interval")
    headline = report.Headline(
        task.metric, value, task.queries, tuple(interval) if interval else None, f"best epoch {result['best_epoch']}"
    )
    others = {key: number for key, number in result.items() if isinstance(number, float) and key != task.metric}
    about = read_json(folder / "environment.json")
    libraries = about.pop("libraries")
    facts = {
        "Run": {**about, "command": " ".join(about["command"]), "epochs": result["epochs"]},
        "Libraries": libraries,
        "Recipe": {"recipe.yaml": cli.dump(recipe)},
    }
    tables["Epochs"] = pd.DataFrame(history)
    report.page(folder / "report.html", folder.name, headline, others, drawn, tables, examples, facts)


def _classifier(task: Classifier, logits: np.ndarray) -> tuple[dict[str, Figure], dict[str, pd.DataFrame], list[report.Example]]:
    classes, targets = task.classes, task.val_targets
    probabilities = probabilities_of(logits, task.train.multi)
    images = task.targets.sum(0).astype(int) if task.train.multi else np.bincount(task.targets, minlength=len(classes))
    table = report.class_table(logits, targets, classes, images.tolist())
    tables = {"Labels" if task.train.multi else "Classes": table}
    if task.train.multi:
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
            tables["Most frequent mistakes"] = report.confused_pairs(targets, answers, classes)
    return drawn, tables, report.mistakes(task.shown.paths, targets, probabilities, classes)


def _embedding(task: Embedder, embeddings: np.ndarray, objective: nn.Module | None) -> dict[str, Figure]:
    found = task.validate(embeddings, centres_of(objective, task.classes))
    if found.curve is None or found.threshold is None:
        return {}
    best, share = found.answers.scores[:, 0], float(np.mean(~found.known))
    values = found.curve.map_at_k(share)
    return {
        "Threshold for new individuals": figures.threshold_curve(
            found.curve.thresholds, values, found.threshold, "map@5", "similarity"
        ),
        "Known and new": figures.score_histograms(
            best[found.known], best[~found.known], found.threshold, "similarity to the nearest"
        ),
        "Known against new": figures.roc(metrics.verification(found.known, best), "known against new"),
    }
