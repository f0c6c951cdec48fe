"""Cross-validation: one run per fold, the out-of-fold scores together, and the mean of the folds' models on the test images.

A k-fold run's folder holds fold0 ... foldN, runs like any other except for the test images, and folds.csv. Once every fold is
finished, it also holds oof.npz, cv.json, report.html and, from one pass over the test images, scores_test.npz and submission.csv.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lib.config import command_line
from lib.config.command_line import load_recipe
from lib.config.recipe import Recipe
from lib.errors import FlukeError, Interrupted, first_few
from lib.files import read_json, write_text
from lib.models.weights import read_spec
from lib.pipelines.final import train_final
from lib.pipelines.folds_result import combine_folds
from lib.pipelines.run_tables import Fold, FoldTables, evenly_spaced, find_sample, load_tables
from lib.pipelines.runs import RunArguments, lock_run, open_run, write_run_start
from lib.pipelines.train import announce_run, resolve_batch_size, train_run
from lib.run_folder import RunFolder
from lib.tables import splits
from lib.tables.readers import read_columns
from lib.tables.table import Table
from lib.tables.target import Target, recipe_target
from lib.training.accelerator import make_accelerator
from lib.training.distributed import broadcast_from_main
from lib.training.run import Run
from lib.training.tasks import check_task, make_task


def cross_validate(
    recipe: Recipe,
    arguments: RunArguments,
    embedding: bool = False,
    only: Sequence[int] | None = None,
    final_seeds: Sequence[int] = (),
) -> dict[str, Any]:
    """Run the folds that aren't finished (`only` these); when none is missing, combine them.

    `train.max_minutes` is for all folds together: what is left of it is shared equally among the folds to come, after the time that
    predicting the test images will take. With `final_seeds`, models of all rows follow, one per seed. Returns what cv.json holds,
    or {} while folds are missing. Raises FlukeError; Interrupted when a signal came and the state is saved.
    """
    target = recipe_target(recipe.data.label_separator, embedding, recipe.data.task)
    check_task(recipe, target)
    with open_run(arguments, recipe, kfold=True) as (run, recipe):
        result = run_folds(recipe, run, target, only, final_seeds)
        announce_run(run, recipe, embedding, arguments.recipe_file)
        return result


def run_folds(recipe: Recipe, run: Run, target: Target, only: Sequence[int] | None, final_seeds: Sequence[int]) -> dict[str, Any]:
    """Do what `cross_validate` says in the run's folder."""
    if broadcast_from_main(run.accelerator, run.folder.cv.exists):
        run.log(f"{run.folder}: finished already")
        if final_seeds:
            train_final(recipe, run, target, load_fold_tables(recipe, run, target), final_seeds)
        return read_json(run.folder.cv)
    tables = load_fold_tables(recipe, run, target)
    recipe = resolve_batch_size(recipe, run, lambda tried: make_task(tried, target, tables.train, tables.train))
    done = start_folds(recipe, run, target, tables)
    n = recipe.folds.n
    to_do = [k for k in (range(n) if only is None else sorted(set(only))) if k not in done]
    is_last = len(done) + len(to_do) == n
    # The test images are predicted only when no fold is missing; until then they take no time from the folds.
    done |= train_folds(recipe, run, target, tables if is_last else replace(tables, test=None), to_do)
    if not is_last:
        missing = first_few(k for k in range(n) if k not in done)
        needed = f"{run.folder.oof.name} and {run.folder.cv.name} need all {n} folds"
        run.log(f"{run.folder}: {needed}, and {missing} are missing; {run.resume_command}")
        return {}
    result = combine_folds(recipe, run, target, tables, [done[k] for k in range(n)])
    finished = broadcast_from_main(run.accelerator, run.folder.cv.exists)
    if final_seeds and finished:
        train_final(recipe, run, target, tables, final_seeds)
    return result


def load_fold_tables(recipe: Recipe, run: Run, target: Target) -> FoldTables:
    """Return the training table with its folds and the test table with its sample submission, if any. Raises FlukeError."""
    loaded = load_tables(recipe, run, target)
    train, test, extra = loaded.train, loaded.test, loaded.extra
    answers = [] if test is None else test.answers
    if rows := recipe.train.limit_rows:  # a dry run: this many rows in each fold, and each of them out of fold once
        train = train.take(evenly_spaced(np.arange(len(train)), recipe.folds.n * rows))
        test = None if test is None else test.take(evenly_spaced(np.arange(len(test)), rows))
        extra = None if extra is None else extra.take(evenly_spaced(np.arange(len(extra)), rows))
    of_row = splits.assign_folds(train, recipe.folds)
    run.log(splits.describe_folds(train, of_row))
    sample = None
    if target.outputs == "embeddings":
        test = None
        run.log(f"embeddings of different folds are not comparable: only their metrics are combined, in {run.folder.cv.name}")
    elif recipe.data.only_classes:
        run.log("a model of some classes writes no submission: ensemble.py combines it with one of all classes")
    elif test is not None:
        sample = find_sample(recipe, run, train, answers)
    _check_folds(train, of_row)
    return FoldTables(train, of_row, test, sample, extra)


def start_folds(recipe: Recipe, run: Run, target: Target, tables: FoldTables) -> dict[int, dict[str, Any]]:
    """Write what describes the run, or check it against what was begun; returns the results of the finished folds.

    Only the main process looks at the files. Raises FlukeError when the begun folds are of another table, recipe or kind.
    """
    folder = run.folder

    def start() -> dict[int, dict[str, Any]]:
        done = {k: folder.fold(k).read_metrics() for k in range(recipe.folds.n) if folder.fold(k).metrics.exists()}
        for k in done:
            _compare_recipes(folder.fold(k), recipe)
        if folder.is_kfold:
            _compare_folds(folder, tables)
            _compare_models(folder, recipe.folds.n, target)
        else:
            splits.write_folds(folder.folds, tables.train, tables.of_row)
        if folder.recipe.exists():  # no finished fold has trained yet with what may change, such as epochs
            write_text(folder.recipe, command_line.dump(recipe))
        else:
            write_run_start(run, recipe, tables.train.classes, 0)
        return done

    return broadcast_from_main(run.accelerator, start)


def train_folds(recipe: Recipe, run: Run, target: Target, tables: FoldTables, to_do: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Train the folds `to_do` one after the other; returns what their metrics.json hold. Raises Interrupted."""
    results: dict[int, dict[str, Any]] = {}
    n = recipe.folds.n
    for left, k in zip(range(len(to_do), 0, -1), to_do):
        run.log(f"fold {k}:")
        images_to_predict = math.ceil(n * len(tables.test) / left) if tables.test is not None else 0
        results[k] = _train_fold(recipe, run, target, Fold(tables.train, tables.of_row, k, images_to_predict, tables.extra), left)
        gc.collect()  # modules and optimizers of a fold are in reference cycles; the next fold needs the GPU's memory
    return results


def _train_fold(recipe: Recipe, run: Run, target: Target, fold: Fold, folds_left: int) -> dict[str, Any]:
    """Train one fold within its share of the time that is left."""
    now, folder = time.monotonic(), run.folder.fold(fold.number)
    deadline = None if run.deadline is None else now + (run.deadline - now) / folds_left
    try:
        run.stop.check()
        # Each fold has an Accelerator: trackers, their folder and the loss scale belong to it. The process group is shared.
        accelerator = make_accelerator(recipe.train.precision, folder.path, recipe.train.log_with)
        with lock_run(accelerator, folder, run.stop, deadline, run.folder, folds_left - 1) as fold_run:
            return train_run(recipe, fold_run, target, fold)
    except Interrupted:
        raise Interrupted(f"Stopped by a signal in fold {fold.number}; {run.resume_command}") from None


def _check_folds(train: Table, of_row: np.ndarray) -> None:
    """Raise FlukeError when a fold holds no image of the classes to be trained (data.only_classes), or holds them all."""
    trained = train.in_classes()
    for k in np.unique(of_row).tolist():
        held = of_row == k
        if not trained[held].any() or not trained[~held].any():
            what = "no image" if trained[~held].any() else "all images"
            raise FlukeError(f"fold {k} holds {what} of the {len(train.classes)} classes to be trained; use fewer folds.")


def _compare_folds(folder: RunFolder, tables: FoldTables) -> None:
    """Raise FlukeError unless a begun run's folds.csv gives the same images the same folds."""
    columns, _ = read_columns(folder.folds, {"image": "image", "fold": "fold"})
    before = dict(zip(columns["image"], columns["fold"]))
    now = dict(zip(tables.train.names, map(str, tables.of_row.tolist())))
    if changed := [name for name in {**before, **now} if before.get(name) != now.get(name)]:
        raise FlukeError(
            f"{folder.folds}: {len(changed):,} images had another fold, or none, when this run began ({first_few(changed)}); "
            "is it the same table?"
        )


def _compare_recipes(fold: RunFolder, recipe: Recipe) -> None:
    """Raise FlukeError when a finished fold's model was trained in another way than the others would be."""
    if (theirs := load_recipe(fold.recipe)) is None:
        return
    for section, name in (("train", "epochs"), ("train", "patience")):
        before, now = (getattr(getattr(r, section), name) for r in (theirs, recipe))
        if before != now:
            raise FlukeError(f"{fold}: finished with {section}.{name} {before}, not {now}; all folds are treated alike.")


def _compare_models(folder: RunFolder, n: int, target: Target) -> None:
    """Raise FlukeError when a begun run's folds predict another target."""
    for path in (folder.fold(k).weights for k in range(n)):
        if path.exists() and (spec := read_spec(path)) is not None and spec.target.outputs != target.outputs:
            raise FlukeError(f"{path}: this k-fold run is of kind {spec.kind}; go on with --kind {spec.kind}.")
