"""A finished run put to other images: where its weights and thresholds are, and what its answers to labelled images are worth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import logit

from lib.config import command_line
from lib.config.recipe import Recipe
from lib.errors import FlukeError, first_few
from lib.files import read_json
from lib.metrics import registry
from lib.metrics.intervals import bootstrap_interval
from lib.process import is_main_process
from lib.tables.table import Table


def load_recipe(run: Path) -> Recipe | None:
    """A run's recipe, None where its folder has none. Raises FlukeError."""
    if not (run / "recipe.yaml").exists():
        return None
    return command_line.parse(command_line.make_parser(""), ["--cfg", str(run / "recipe.yaml")]).recipe


def find_networks(run: Path) -> tuple[list[Path], Recipe | None]:
    """The weights files of a run (of a k-fold run, a file a fold) and its recipe, if it has one. Raises FlukeError."""
    if run.is_file():
        return [run], None
    recipe = load_recipe(run)
    parts = [run]
    if (run / "folds.csv").exists() and recipe is not None:
        parts = [run / f"fold{k}" for k in range(recipe.folds.n)]
    files = [part / "best" / "model.safetensors" for part in parts]
    lacking = [part.name for part, file in zip(parts, files) if not file.exists()]
    if lacking and len(parts) > 1:
        raise FlukeError(
            f"--run {run}: {', '.join(lacking)} of its {len(parts)} folds have no weights yet; kfold.py --resume makes them."
        )
    if lacking:
        raise FlukeError(
            f"--run {run}: {'has no best/model.safetensors' if run.is_dir() else 'no such folder or file'}; is it a run?"
        )
    begun = [part.name for part in parts if recipe is not None and not (part / "metrics.json").exists()]
    if begun and is_main_process():
        print(f"note: {', '.join(begun)} isn't finished; these are the best weights so far")
    return files, recipe


def read_thresholds(run: Path, classes: tuple[str, ...]) -> dict[str, float] | None:
    """The probability from which each label is given: thresholds.json of a run, or of a best/model.safetensors' run, None where it
    has none. Raises FlukeError."""
    path = (run.parent.parent if run.is_file() and run.parent.name == "best" else run) / "thresholds.json"
    if not path.exists():
        return None
    found = read_json(path)
    if not isinstance(found, dict) or set(found) != set(classes) or not all(isinstance(p, float | int) for p in found.values()):
        raise FlukeError(f"{path}: expected a probability for each of the {len(classes)} labels of the network.")
    return found


def evaluate_predictions(side: Table, logits: np.ndarray, thresholds: dict[str, float] | None = None) -> dict[str, Any]:
    """Print and return the metrics of logits (n, C) on a labelled table, and the interval of the usual one. Labels that the network
    does not know are counted and left out, with their image if it has no other; {} if nothing is left. `thresholds`: the
    probability from which on each label is given, for the F1 of several labels; None: 1/2."""
    unknown = {label: count for label, count in side.counts().most_common() if label not in set(side.classes)}
    if unknown:
        named = first_few(f"{label!r} ({count:,} images)" for label, count in unknown.items())
        print(f"left out of the metrics: {len(unknown):,} labels that the network doesn't know: {named}")
        labels = [tuple(label for label in row if label not in unknown) for row in side.labels or []]
        kept = [i for i, row in enumerate(labels) if side.target.several or row]
        side, logits = replace(side, labels=labels).take(kept), logits[kept]
    if len(side) == 0:
        return {}
    targets, metric = side.targets(), side.target.default_metric
    found = registry.compute_metrics(side.target, logits, targets)
    if thresholds is not None:
        shifted = logits - logit(np.clip([thresholds[label] for label in side.classes], 1e-9, 1 - 1e-9))
        found |= {
            key: value
            for key, value in registry.compute_metrics(side.target, shifted, targets).items()
            if key in registry.METRICS and registry.METRICS[key].thresholds != "none"
        }
    low, high = bootstrap_interval((metric, logits, targets))
    print(f"{len(side):,} labelled images: " + "  ".join(f"{key} {value:.4f}" for key, value in found.items()))
    print(f"{metric}: 95% from {low:.4f} to {high:.4f}")
    return {"rows": len(side), "metric": metric, **found, "interval": [low, high], "unknown_labels": unknown}
