"""A labelled table's results as figures and tables, as the pages of runs, k-fold runs and ensembles show them.

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.reports import class_tables, figures, number_results
from lib.submission.decisions import PLAIN, Decisions
from lib.tables.table import Table

MAX_PAIRS = 2000
"""Pairs of confused classes that a page lists."""


@dataclass(frozen=True)
class HeldOutScores:
    """Scores of labelled rows that their models weren't trained on, and what a submission makes of such scores."""

    table: Table
    logits: np.ndarray
    """(n, C)"""
    decided: np.ndarray | None = None
    """(n, C) logits whose plain decisions are those of a submission; None: those of `logits`."""
    decisions: Decisions = PLAIN
    calibrated: np.ndarray | None = None
    """(n, C) logits at a temperature, for probabilities; None: `logits`."""
    train_images: list[int] | None = None
    """Images of each class that the one model was trained on."""


@dataclass(frozen=True)
class ClassResults:
    """What a page shows of predictions for labelled images."""

    figures: dict[str, Figure]
    tables: dict[str, pd.DataFrame]
    mistakes: list[class_tables.Mistake] = field(default_factory=list)


def class_results(scores: HeldOutScores) -> ClassResults:
    """Return figures, tables and mistakes of held-out scores.

    Of ordered classes, confusions are those of the answers, by `decided`. Thresholds and cut points are shown.
    """
    table, logits, decided, decisions = scores.table, scores.logits, scores.decided, scores.decisions
    classes, targets = table.classes, table.targets()
    if table.target.numeric:
        drawn = {"Predictions": number_results.prediction_chart(targets, logits, classes)}
        return ClassResults(drawn, {"Largest errors": number_results.largest_errors(table.names, targets, logits, classes)})
    probabilities = table.target.probabilities(logits if scores.calibrated is None else scores.calibrated)
    if table.target.several:
        per_class = class_tables.class_table(logits, targets, classes, scores.train_images)
        if decisions.thresholds is not None:
            per_class["threshold"] = [float(decisions.thresholds[name]) for name in per_class["class"]]
        drawn, tables = _label_results(per_class, targets, probabilities, classes)
    else:
        per_class = class_tables.class_table(logits if decided is None else decided, targets, classes, scores.train_images)
        drawn, tables = _confusion_results(per_class, targets, probabilities, classes, decided)
        if decisions.cut_points is not None:
            tables["Cut points"] = pd.DataFrame(
                {"class": classes[:-1], "next class": classes[1:], "place of the cut": decisions.cut_points}
            )
    mistakes = class_tables.confident_mistakes(table.pictures, targets, probabilities, classes)
    return ClassResults(drawn, tables, mistakes)


def _label_results(
    per_class: pd.DataFrame, targets: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]
) -> tuple[dict[str, Figure], dict[str, pd.DataFrame]]:
    precisions = per_class.sort_values("#")["average precision"].to_numpy()
    drawn = {
        "Labels": figures.average_precision_chart(classes, precisions, targets.mean(0)),
        "Calibration": figures.reliability_diagram(probabilities.ravel(), targets.ravel() == 1, of="label"),
    }
    return drawn, {"Labels": per_class}


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
        tables = {"Most frequent mistakes": class_tables.confused_pairs(targets, answers, classes, limit=MAX_PAIRS), **tables}
    return drawn, tables
