"""The page of an ensemble: what it gains over its members, their weights and disagreement, its mistakes. Without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.config import command_line
from lib.config.recipe import Recipe
from lib.errors import FlukeError
from lib.metrics.registry import METRICS
from lib.reports import html
from lib.reports.class_results import ClassResults, HeldOutScores, class_results
from lib.run_folder import RunFolder
from lib.scores.score_file import Scores
from lib.tables.loading import load_train
from lib.tables.table import Table


def write_ensemble_page(
    folder: RunFolder, result: dict[str, Any], oof: Scores, recipe: Recipe | None, calibrated: np.ndarray | None = None
) -> None:
    """Write report.html; `result` is what ensemble.json holds, `oof` the combination's out-of-fold scores, `calibrated` (n, C)
    these at a temperature.

    Mistakes have no images where those of the recipe can't be found any more.
    """
    low, high = result["gain_interval"]
    note = (
        f"on rows that nothing was fitted on; gain over {result['best_member']} {result['gain']:+.4f} ({low:+.4f} to {high:+.4f})"
    )
    headline = html.Headline(result["metric"], result["estimate"], len(oof.names), tuple(result["interval"]), note)
    others = {f"{result['metric']} as fitted": result["fitted_score"]} if "fitted_score" in result else {}
    others |= result.get("calibration", {})
    shown = ClassResults({}, {})
    if _has_known_labels(oof):
        shown = class_results(HeldOutScores(_as_table(oof, recipe), oof.logits, calibrated=calibrated))
    tables = {"Members": members_table(result), **shown.tables}
    facts = {"Ensemble": {"method": result["method"], "folds": result.get("inner_folds", ""), "runs": ", ".join(result["runs"])}}
    if recipe is not None:
        facts["Recipe of the first run"] = {folder.recipe.name: command_line.dump(recipe)}
    what = f"{result['method']} of {len(result['runs'])} runs"
    page = html.Page(folder.path.resolve().name, headline, others, shown.figures, tables, facts=facts, subtitle=what)
    html.write_page(folder.report, page, shown.mistakes)


def members_table(result: dict[str, Any]) -> pd.DataFrame:
    """Return a row per member, the best first: score, 95% interval, weight, mean disagreement with the other members."""
    differs = np.array(result["disagreement"], dtype=float)
    others = max(len(differs) - 1, 1)
    rows = [
        {
            "run": member["run"],
            result["metric"]: member["score"],
            "from": member["interval"][0],
            "to": member["interval"][1],
            "weight": np.nan if member["weight"] is None else member["weight"],
            "differs from the others": float(row.sum() / others),
        }
        for member, row in zip(result["members"], differs)
    ]
    order = np.argsort([-METRICS[result["metric"]].sign * row[result["metric"]] for row in rows], kind="stable")
    return pd.DataFrame([rows[i] for i in order])


def _has_known_labels(oof: Scores) -> bool:
    """Return whether every label is a class: a specialist's rows may have others."""
    return oof.labels is not None and (oof.target.numeric or {label for row in oof.labels for label in row} <= set(oof.classes))


def _as_table(oof: Scores, recipe: Recipe | None) -> Table:
    """Return the rows of the scores as a table, with the images' paths where the recipe's table still has them."""
    known: dict[str, Path] = {}
    if recipe is not None:
        try:
            train = load_train(recipe.data, recipe.folds)
            known = dict(zip(train.names, train.pictures))
        except FlukeError:
            pass  # a page without thumbnails
    paths = [known.get(name, Path(name)) for name in oof.names]
    return Table(oof.rows, oof.names, paths, oof.labels, oof.classes, None, oof.target)
