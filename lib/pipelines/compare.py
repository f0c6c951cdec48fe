"""Compare runs: what differs between their recipes, their scores, and whether the scores surely differ."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.config.command_line import load_recipe
from lib.config.recipe import Recipe
from lib.errors import FlukeError, first_few
from lib.files import atomic_write
from lib.metrics.intervals import bootstrap_interval, gain_interval
from lib.metrics.registry import METRICS, metric_from_logits, resolve_metric
from lib.process import announce
from lib.reports import html
from lib.run_folder import RunFolder
from lib.scores.alignment import align_scores, encode_targets, load_run_scores
from lib.scores.score_file import Scores

LEVEL = 0.99
"""Level of the interval of a difference: more than 95%, because the best of several runs is compared."""
SEEDS = 2**0.5
"""Factor on the interval's width, because the training seed moves a score beyond what the held-out rows show: the variance that it
adds is taken to be as large as that of the rows (Bouthillier et al. 2021, Accounting for Variance in Machine Learning Benchmarks).
benchmarks/seed_pairs.py counts how often runs that differ in the seed alone are called different."""
SAME = ("data.root", "data.workers", "data.cache_dir", "data.cache_size", "train.log_with", "train.save_minutes")
"""Fields that change no score."""


def compare_runs(folders: Sequence[str], metric: str | None, out: Path | None) -> pd.DataFrame:
    """Print and return a table of runs, the best first, and write it as CSV and page to `out`. Raises FlukeError.

    Columns: run, rows, the metric with its 95% interval, the difference to the best run on common rows with its 99% interval,
    whether it surely differs, minutes of training, and the recipes' fields that are not the same in all runs.
    """
    runs = [RunFolder(folder) for folder in folders]
    scores = [_held_out(run) for run in runs]
    recipes = [load_recipe(run.recipe) for run in runs]
    target = scores[0].target
    named = metric or (recipes[0].train.metric if recipes[0] is not None else "auto")
    name = metric_from_logits(resolve_metric(named, target), target)
    rows = [_describe(run, each, name) for run, each in zip(runs, scores)]
    order = np.argsort([-METRICS[name].sign * row[name] for row in rows], kind="stable")
    best = scores[order[0]]
    for i in order[1:]:
        rows[i] |= difference(best, scores[i], name, str(runs[order[0]]), str(runs[i]))
    differing = _differing_fields(recipes)
    for row, recipe in zip(rows, recipes):
        row |= {field: "" if recipe is None else _value(recipe, field) for field in differing}
    table = pd.DataFrame([rows[i] for i in order])
    shown = table.copy()
    if "common_rows" in table:  # the best run has none
        shown["common_rows"] = ["" if np.isnan(n) else f"{n:.0f}" for n in table["common_rows"]]
        shown["differs"] = table["differs"].fillna("")
    print(shown.to_string(index=False, float_format=lambda value: f"{value:.4f}", na_rep=""))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        with atomic_write(out / "compare.csv") as temporary:
            table.to_csv(temporary, index=False)
        html.write_page(out / "compare.html", _page(shown, name))
    files = [] if out is None else [out / "compare.csv", out / "compare.html"]
    announce(files, f"python scripts/ensemble.py --runs {' '.join(folders)}")
    return table


def _page(table: pd.DataFrame, metric: str) -> html.Page:
    """Return the page of the table: its columns in words, and what they mean."""
    words = {
        "low": "from",
        "high": "to",
        "common_rows": "rows in common",
        "gain": "difference",
        "gain_low": "from ",
        "gain_high": "to ",
    }
    shown = table.rename(columns=words).assign(minutes=[f"{value:.1f}" for value in table["minutes"]])
    explained = (
        f"{metric} with its 95% interval; difference to the first run on the rows that both hold out, with its {LEVEL:.0%} "
        "interval, which allows for the training seed. Columns called section.field are those in which the recipes differ."
    )
    return html.Page("Runs compared", tables={f"Runs by {metric}": shown}, subtitle=explained)


def _held_out(run: RunFolder) -> Scores:
    """Return the out-of-fold or held-out scores of a classifier's run. Raises FlukeError."""
    found = load_run_scores(run)[0]
    if found is None:
        raise FlukeError(f"{run}: has no held-out scores ({run.oof.name} or {run.scores_val.name}); finish it first.")
    if found.target.outputs == "embeddings":
        raise FlukeError(f"{run}: holds embeddings; runs of train_embedding are compared by their metrics.json.")
    return found


def _describe(run: RunFolder, scores: Scores, metric: str) -> dict[str, Any]:
    targets = encode_targets(scores, str(run))
    groups = None if scores.groups is None else np.array(scores.groups)
    low, high = bootstrap_interval((metric, scores.logits, targets), groups=groups)
    value = METRICS[metric].function(scores.logits, targets)
    return {"run": str(run), "rows": len(targets), metric: value, "low": low, "high": high, "minutes": minutes_of_training(run)}


def minutes_of_training(run: RunFolder) -> float:
    """Return the minutes of training that the history says, of all folds together."""
    seconds = 0.0
    for folder in [run, *run.begun_folds()]:
        if folder.history.exists():
            seconds += sum(json.loads(line).get("seconds", 0.0) for line in folder.history.read_text().splitlines() if line)
    return round(seconds / 60, 1)


def difference(best: Scores, other: Scores, metric: str, there: str, here: str) -> dict[str, Any]:
    """Return how much worse a run is than the best one on the rows that both held out, its interval, and whether that is sure.

    The interval is for other rows and for other training seeds (LEVEL, SEEDS).
    """
    common = sorted(set(best.rows.tolist()) & set(other.rows.tolist()))
    if len(common) < 2:
        return {"common_rows": len(common), "differs": "no common rows"}
    try:
        first, second = align_scores([_take(best, common), _take(other, common)], [there, here])
    except FlukeError as error:
        return {"common_rows": len(common), "differs": str(error)}
    if second.classes != first.classes:
        return {"common_rows": len(common), "differs": "other classes"}
    targets = encode_targets(first, there)
    groups = None if first.groups is None else np.array(first.groups)
    sign, function = METRICS[metric].sign, METRICS[metric].function
    gain = sign * (function(second.logits, targets) - function(first.logits, targets))
    interval = gain_interval(metric, second.logits, first.logits, targets, groups, level=LEVEL)
    low, high = (gain + SEEDS * (bound - gain) for bound in interval)
    return {
        "common_rows": len(common),
        "gain": gain,
        "gain_low": low,
        "gain_high": high,
        "differs": "yes" if high < 0 or low > 0 else "no",
    }


def _take(scores: Scores, rows: Sequence[int]) -> Scores:
    position = {row: i for i, row in enumerate(scores.rows.tolist())}
    index = [position[row] for row in rows]
    return Scores(
        scores.rows[index],
        [scores.names[i] for i in index],
        scores.classes,
        scores.logits[index],
        None if scores.labels is None else [scores.labels[i] for i in index],
        scores.target,
        scores.source,
        None if scores.groups is None else [scores.groups[i] for i in index],
    )


def _differing_fields(recipes: Sequence[Recipe | None]) -> list[str]:
    """Return the fields, as section.name, in which the recipes differ."""
    known = [asdict(recipe) for recipe in recipes if recipe is not None]
    fields = [f"{section}.{name}" for section, values in (known[0] if known else {}).items() for name in values]
    found = [field for field in fields if field not in SAME and len({_shown(tree, field) for tree in known}) > 1]
    if len(found) > 20:
        print(f"the recipes differ in {len(found)} fields; shown are {first_few(found, 20)}")
    return found[:20]


def _shown(tree: dict[str, dict[str, Any]], field: str) -> str:
    section, name = field.split(".")
    return str(tree[section][name])


def _value(recipe: Recipe, field: str) -> str:
    return _shown(asdict(recipe), field)
