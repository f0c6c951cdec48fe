"""Probe backbones: heads cross-validated on frozen features, a run per backbone, and a table that proposes what to train."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from accelerate.utils import set_seed

from lib.config.recipe import Recipe
from lib.errors import FlukeError, Interrupted
from lib.files import atomic_write, read_json, write_json
from lib.images.samplers import derive_seed
from lib.metrics import registry
from lib.models.backbone import resolve_model
from lib.models.network import Network
from lib.models.weights import load_initial_weights
from lib.pipelines.build import make_spec
from lib.pipelines.features import backbone_mark, compute_features
from lib.pipelines.folds_result import report_out_of_fold, summarise
from lib.pipelines.kfold import load_fold_tables, start_folds
from lib.pipelines.run_tables import FoldTables, group_list
from lib.pipelines.runs import RunArguments, open_run
from lib.process import announce
from lib.run_folder import RunFolder, default_run_folder
from lib.scores.decided import decide_out_of_fold
from lib.scores.probes import HEADS, cross_fit, heads_for
from lib.scores.score_file import Scores
from lib.tables.image_path import count_channels
from lib.tables.target import recipe_target
from lib.training.distributed import broadcast_from_main, run_on_main
from lib.training.run import Run
from lib.training.tasks import check_task


def probe(recipe: Recipe, models: Sequence[str], weights: Sequence[str], out: str | None, recipe_file: str | None) -> pd.DataFrame:
    """Probe each of `models`, timm's names, with its file of `weights` if there are any; print and return the table.

    Columns: run, model, head, the metric with its 95% interval (low, high), seconds, images per second; the best first. Writes a
    k-fold run per backbone and probe.csv into `out`; a finished run is read. Raises FlukeError; Interrupted when a signal came.
    """
    if weights and len(weights) != len(models):
        raise FlukeError(f"--weights: {len(weights)} files for {len(models)} models; give one file for each, in the same order.")
    if recipe.data.only_classes:
        raise FlukeError("data.only_classes: a probe is of all classes; set it to [].")
    target = recipe_target(recipe.data.label_separator, False, recipe.data.task)
    check_task(recipe, target)
    folder = Path(out) if out else default_run_folder("probe")
    rows = []
    for i, name in enumerate(models):
        chosen = replace(recipe.model, name=name, weights=weights[i] if weights else recipe.model.weights, hidden=[], dropout=0.0)
        run = RunFolder(folder / re.sub(r"[^A-Za-z0-9._-]+", "-", f"{name}{f'-{i}' if models.count(name) > 1 else ''}"))
        arguments = RunArguments(str(run), resume=run.recipe.exists(), recipe_file=recipe_file)
        try:
            rows.append(_probe_backbone(replace(recipe, model=chosen), arguments))
        except Interrupted:
            again = f"Stopped by a signal while probing {name}; the same command with --out {folder} goes on."
            raise Interrupted(again, ("--out", str(folder))) from None
    metric = rows[0]["metric"]
    table = pd.DataFrame(rows).drop(columns="metric").rename(columns={"score": metric})
    table = table.sort_values(metric, ascending=not registry.METRICS[metric].higher_is_better, kind="stable")
    print(table.to_string(index=False, float_format=lambda value: f"{value:.4f}"))
    print(propose(table, metric))
    with atomic_write(folder / "probe.csv") as temporary:
        table.to_csv(temporary, index=False)
    announce([folder / "probe.csv", *table["run"]], f"python scripts/ensemble.py --runs {' '.join(table['run'])}")
    return table


def propose(table: pd.DataFrame, metric: str) -> str:
    """Return the sentence that says which of the probed backbones (the best first) to train."""
    best, others = table.iloc[0], table.iloc[1:]
    sign = registry.METRICS[metric].sign
    close = others[sign * others["high" if sign > 0 else "low"] >= sign * best[metric]]
    said = f"proposal: train {best['model']} ({metric} {best[metric]:.4f} by {best['head']} on frozen features)"
    if len(close):
        fastest = close.loc[close["images_per_second"].idxmax()]
        said += f"; {', '.join(close['model'])} can't be told from it by these rows"
        if fastest["images_per_second"] > 1.2 * best["images_per_second"]:
            said += f", and {fastest['model']} is {fastest['images_per_second'] / best['images_per_second']:.1f} times as fast"
    return said + ". Fine-tuning may order them otherwise."


def _probe_backbone(recipe: Recipe, arguments: RunArguments) -> dict[str, Any]:
    """Return a row of the table, from the run's cv.json if it is finished."""
    target = recipe_target(recipe.data.label_separator, False, recipe.data.task)
    with open_run(arguments, recipe, kfold=True) as (run, recipe):
        if broadcast_from_main(run.accelerator, run.folder.cv.exists):
            result = broadcast_from_main(run.accelerator, lambda: read_json(run.folder.cv))
            run.log(f"{run.folder}: finished already")
        else:
            if recipe.data.extra_csv is not None or recipe.data.extra_dir is not None:
                run.log("probe: rows for training only (data.extra_csv) aren't used, because the heads are of the table's rows")
            tables = load_fold_tables(recipe, run, target)
            start_folds(recipe, run, target, tables)
            result = _fit_and_report(recipe, run, tables)
            run_on_main(run.accelerator, lambda: write_json(run.folder.cv, result))
    about, (low, high) = result["probe"], result["interval"]
    row = {"run": str(run.folder), "model": recipe.model.name, "head": about["head"], "metric": result["pooled_metric"]}
    return row | {"score": result["pooled"], "low": low, "high": high, **{k: about[k] for k in ("seconds", "images_per_second")}}


def _fit_and_report(recipe: Recipe, run: Run, tables: FoldTables) -> dict[str, Any]:
    """Compute features, cross-validate all heads, and report the best one as a k-fold run does; returns what cv.json holds."""
    train, test, target = tables.train, tables.test, tables.train.target
    network = _make_network(recipe, run, tables)
    began = time.monotonic()
    features = compute_features(network, recipe, train, run, "features", run.log)
    speed = len(train) / (time.monotonic() - began)
    of_test = None if test is None else compute_features(network, recipe, test, run, "features of the test", run.log)
    targets, classes = train.targets(), len(train.classes)
    name = registry.resolve_metric(recipe.train.metric, target)
    metric = registry.metric_from_logits(name, target)

    def fit_heads() -> tuple[str, np.ndarray, dict[str, float]]:
        scores, logits = {}, {}
        for head in heads_for(target):
            logits[head] = cross_fit(head, features, targets, classes, tables.of_row)
            decided = decide_out_of_fold(
                logits[head], targets, target, metric, tables.of_row, allow_empty=recipe.predict.allow_empty
            )
            scores[head] = float(registry.METRICS[metric].function(decided, targets))
        best = max(scores, key=lambda head: registry.METRICS[metric].sign * scores[head])
        return best, logits[best], scores

    head, logits, scores = broadcast_from_main(run.accelerator, fit_heads)
    run.log(f"{metric} by head: " + "  ".join(f"{each} {value:.4f}" for each, value in scores.items()))
    per_fold = [
        {"metric": metric, metric: float(registry.METRICS[metric].function(logits[own], targets[own])), "rows": int(own.sum())}
        for own in (tables.of_row == k for k in range(recipe.folds.n))
    ]
    about: dict[str, Any] = {"head": head, "heads": scores, "backbone": backbone_mark(network), "width": features.shape[1]}
    about |= {"images_per_second": round(speed, 1), "seconds": round(time.monotonic() - began, 1)}
    result = {"keep": "last", "probe": about, **summarise(per_fold)}
    source = {"run": run.folder.name, "model": recipe.model.name, "metric": metric, "folds": recipe.folds.n, "head": head}
    oof = Scores(train.rows, train.names, train.classes, logits, train.labels, target, source, group_list(train), train.ids)

    def predict_test() -> np.ndarray:
        assert of_test is not None
        return broadcast_from_main(run.accelerator, lambda: HEADS[head][0](features, targets, classes)(of_test).astype(np.float32))

    return report_out_of_fold(recipe, run, tables, oof, result, predict_test, lambda: None)


def _make_network(recipe: Recipe, run: Run, tables: FoldTables) -> Network:
    """Return the network whose backbone is probed, with its first weights."""
    d = recipe.data
    size = d.eval_size or d.size
    model = resolve_model(recipe.model, (size, size), count_channels(d))
    set_seed(derive_seed(recipe.train.seed, 2) % 2**32)  # of weights that no file holds
    network = Network(make_spec(recipe, model, tables.train.classes, tables.train.target), recipe.objective).eval()
    run.log(load_initial_weights(network, recipe.model))
    return network
