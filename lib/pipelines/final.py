"""The last step before a contest ends: train on all rows, without a hold-out, for the epochs that the folds found best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lib.config.recipe import Recipe
from lib.errors import FlukeError, Interrupted
from lib.files import read_json, write_json
from lib.pipelines.build import build_network, make_trainer
from lib.pipelines.folds_result import predict_test
from lib.pipelines.frozen import fit_head
from lib.pipelines.run_tables import FoldTables, Splits
from lib.pipelines.runs import lock_run, plan_run
from lib.pipelines.train import write_start
from lib.run_folder import RunFolder
from lib.submission.decisions import read_decisions
from lib.tables.extra import join_extra
from lib.tables.target import Target
from lib.training.accelerator import make_accelerator
from lib.training.distributed import broadcast_from_main, run_on_main
from lib.training.loop import fit
from lib.training.run import Run
from lib.training.tasks import make_task


def train_final(recipe: Recipe, run: Run, target: Target, tables: FoldTables, seeds: Sequence[int]) -> dict[str, Any]:
    """Train on all rows once per seed, and predict the test images by the mean of the models, in the k-fold run's folder `final`.

    The epochs are the mean of the folds' best ones. Nothing is validated: the score is that of the folds, and so are thresholds,
    cut points and temperature. Returns what final.json holds. Raises FlukeError for embeddings, and where epochs can't be told;
    Interrupted when a signal came and the state is saved.
    """
    if target.outputs == "embeddings":
        raise FlukeError("--final: is for classifiers and numbers; train_embedding's folds share no test prediction.")
    folder, cv = run.folder.final, broadcast_from_main(run.accelerator, lambda: read_json(run.folder.cv))
    best = [fold["best_epoch"] for fold in cv["folds"]]
    epochs = max(1, round(float(np.mean(best))))
    rows = len(tables.train) + (0 if tables.extra is None else len(tables.extra))
    run.log(f"final: all {rows:,} rows for {epochs} epochs, the mean of the folds' best ({', '.join(map(str, best))})")
    for seed in seeds:
        run.log(f"seed {seed}:")
        train = replace(recipe.train, epochs=epochs, keep="last", patience=None, seed=seed, max_minutes=None)
        _train_all(replace(recipe, train=train), run, target, tables, folder.seed(seed))
    result = {"epochs": epochs, "seeds": list(seeds), "rows": rows}
    result |= {"metric": cv["pooled_metric"], "score_of_folds": cv["pooled"], "interval_of_folds": cv["interval"]}
    if tables.test is not None:
        decisions = broadcast_from_main(run.accelerator, lambda: read_decisions(run.folder, tables.train.classes, target))
        files = [folder.seed(seed).weights for seed in seeds]
        predict_test(recipe, run, tables, cv["metric"], decisions, files, folder)
    run_on_main(run.accelerator, lambda: write_json(folder.final, result))
    low, high = cv["interval"]
    run.log(f"done: {folder}; not validated, cite the folds: {cv['pooled_metric']} {cv['pooled']:.4f} ({low:.4f} to {high:.4f})")
    return result


def _train_all(recipe: Recipe, run: Run, target: Target, tables: FoldTables, folder: RunFolder) -> None:
    """Train one model on all rows, from where an interrupted training stopped."""
    try:
        run.stop.check()
        accelerator = make_accelerator(recipe.train.precision, folder.path, recipe.train.log_with)
        with lock_run(accelerator, folder, run.stop, run.deadline, kfold=run.folder) as own:
            plan = plan_run(own, recipe)
            for note in plan.notes:
                own.log(note)
            if plan.result is not None:
                return
            known = tables.train.take(tables.train.in_classes())
            trained, _ = join_extra(known, tables.extra, known.take(slice(0)))
            task = make_task(recipe, target, trained, trained)
            splits = Splits(trained, trained, None, trained, known)
            network = build_network(recipe, own, task, new=plan.checkpoint is None)
            if plan.checkpoint is None and recipe.model.head_from is not None:
                fit_head(recipe, own, task, network, splits)
            write_start(recipe, own, task, network, plan)
            trainer = make_trainer(recipe, own, task, network, splits, plan.checkpoint)
            trainer.validates = False
            if plan.checkpoint is not None:
                trainer.resume(plan.checkpoint)
            outcome = fit(trainer)
            result = {"metric": task.metric, "best_epoch": None, "epochs": len(outcome.history), "rows": 0}
            if outcome.finished:
                run_on_main(accelerator, lambda: write_json(folder.metrics, result))
    except Interrupted:
        raise Interrupted(f"Stopped by a signal while training on all rows; {run.resume_command} --final") from None
