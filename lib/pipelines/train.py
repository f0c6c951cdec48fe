"""One run from tables to report: split, build the network, train, predict, evaluate, write."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import set_seed
from safetensors.torch import load_file
from torch import nn

from lib.config import command_line
from lib.config.recipe import Recipe
from lib.errors import Interrupted, did_you_mean
from lib.files import write_json, write_text
from lib.images.augmentation import Transform, make_eval_transform, make_train_transform
from lib.images.cache import open_cache
from lib.images.checking import describe_sizes, find_unreadable
from lib.images.dataset import ImageDataset
from lib.images.samplers import check_batch_size, derive_seed
from lib.models.network import Network, NetworkSpec
from lib.models.weights import load_initial_weights, read_spec
from lib.pipelines.runs import Plan, RunArguments, open_run, plan_run, write_run_start
from lib.reports.run_page import write_run_page
from lib.run_folder import run_of_weights
from lib.scores.decisions import label_thresholds
from lib.scores.score_file import Scores, load_scores, save_scores
from lib.submission.formats import check_sample
from lib.submission.writing import submit
from lib.tables import filters, loading, splits
from lib.tables.sample import Sample, load_sample
from lib.tables.table import Table, describe_table
from lib.tables.target import Target, recipe_target
from lib.training.distributed import broadcast_from_main, run_on_main
from lib.training.inference import InferenceOptions, predict
from lib.training.loop import Datasets, Outcome, Trainer, fit
from lib.training.run import Run
from lib.training.tasks import Task, make_task


@dataclass(frozen=True)
class Fold:
    """One fold of a k-fold run; the k-fold run loads the tables and predicts the test images."""

    train: Table
    """All n training rows, whose images were checked."""
    of_row: np.ndarray
    """(n,) fold of each row."""
    number: int
    """The fold to hold out."""
    images_to_predict: int
    """Test images that the k-fold run has to predict after this fold, before the fold's deadline."""


@dataclass(frozen=True)
class Splits:
    """The tables of a run."""

    train: Table
    val: Table
    test: Table | None
    cached: Table | None
    """All rows whose images share one cache, so that folds and splits of a table don't make one each; None: each table its own."""


def train(recipe: Recipe, arguments: RunArguments, embedding: bool = False) -> dict[str, Any]:
    """Run train_classifier or, with `embedding`, train_embedding; returns what metrics.json holds.

    Raises FlukeError; Interrupted when a signal came and the state is saved.
    """
    target = recipe_target(recipe.data.label_separator, embedding)
    with open_run(arguments, recipe) as run:
        return train_run(recipe, run, target)


def train_run(recipe: Recipe, run: Run, target: Target, fold: Fold | None = None) -> dict[str, Any]:
    """Train, validate, predict and report in the run's folder, from where an interrupted run stopped.

    `fold` is held out, or else the recipe's hold-out. Returns what metrics.json holds. Raises FlukeError; Interrupted when a signal
    came and the state is saved.
    """
    plan = plan_run(run, recipe)
    for note in plan.notes:
        run.log(note)
    if plan.result is not None:
        return plan.result
    tables = load_splits(recipe, run, target, fold)
    task = make_task(recipe, target, tables.train, tables.val)
    sample = check_inputs(recipe, run, task, tables.test, fold)
    network = build_network(recipe, run, task)
    write_start(recipe, run, task, network, plan)
    trainer = make_trainer(recipe, run, task, network, tables, fold)
    if plan.checkpoint is not None:
        trainer.resume(plan.checkpoint)
    outcome = fit(trainer)
    prediction = predict_splits(recipe, run, task, network, tables, outcome)
    return write_results(recipe, run, task, prediction, sample, outcome)


# --- tables -----------------------------------------------------------------------------------------------------------------------


def load_tables(recipe: Recipe, run: Run, target: Target) -> tuple[Table, Table | None]:
    """Return the training table, without unreadable images if the recipe says so, and the test table if there is one.

    A classifier of data.only_classes keeps the rows of other classes. Its split is then the one of a run on all classes, and its
    scores of the held-out rows can be combined with that run's.
    """
    d = recipe.data
    train_table = loading.load_train(d, recipe.folds, keep_others=target.outputs == "logits")
    test = loading.load_test(d, train_table.classes, train_table.target)

    def unreadable() -> list[dict[int, str]]:
        return [find_unreadable(t.paths, d.workers, d.check) if t is not None else {} for t in (train_table, test)]

    bad_train, bad_test = broadcast_from_main(run.accelerator, unreadable)
    train_table = filters.drop_unreadable(train_table, bad_train, d.on_unreadable)
    if test is not None:
        test = filters.drop_unreadable(test, bad_test, "error", what="test")
    run.log(describe_table(train_table.take(train_table.in_classes())))
    run.log(f"  {describe_sizes(train_table.paths)}; unreadable: {len(bad_train):,}")
    if test is not None:
        run.log(f"test: {len(test):,} images")
    return train_table, test


def load_splits(recipe: Recipe, run: Run, target: Target, fold: Fold | None) -> Splits:
    """Return the rows to train on, to validate on and to predict. Raises FlukeError."""
    table, test = (fold.train, None) if fold else load_tables(recipe, run, target)
    train_rows, val_rows = _split_rows(recipe, run, target, table, fold)
    if target.outputs == "logits":
        train_rows = train_rows[table.in_classes()[train_rows]]
    if limit := recipe.train.limit_rows:
        train_rows = evenly_spaced(train_rows, limit)
        val_rows = val_rows if fold else evenly_spaced(val_rows, limit)  # the table of all folds was cut before
        test = test.take(evenly_spaced(np.arange(len(test)), limit)) if test is not None else None
    run.log(splits.describe_split(table, train_rows, val_rows))
    cached = None if limit else table if fold else table.take(np.union1d(train_rows, val_rows))
    return Splits(table.take(train_rows), table.take(val_rows), test, cached)


def _split_rows(recipe: Recipe, run: Run, target: Target, table: Table, fold: Fold | None) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the rows to train on and of the held-out ones."""
    d = recipe.data
    if target.outputs == "embeddings":
        if d.new_label is not None and d.new_label not in (counts := table.counts()):
            hint = did_you_mean(d.new_label, counts)
            run.log(f"note: no training image has the label {d.new_label!r} (data.new_label){hint}")
        of_fold = (fold.of_row, fold.number) if fold else None
        return splits.split_identities(table, recipe.folds, d.new_label, d.new_rows == "negatives", of_fold)
    if fold is None:
        return splits.split_holdout(table, recipe.folds)
    return np.flatnonzero(fold.of_row != fold.number), np.flatnonzero(fold.of_row == fold.number)


def evenly_spaced(rows: np.ndarray, n: int) -> np.ndarray:
    """Return `n` of `rows`, evenly spaced, so that a dry run meets every part of the table."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(n, len(rows))).astype(int))]


def group_list(table: Table) -> list[str] | None:
    """Return the groups of a table's rows as a score file holds them."""
    return None if table.groups is None else [str(group) for group in table.groups]


def check_inputs(recipe: Recipe, run: Run, task: Task, test: Table | None, fold: Fold | None) -> Sample | None:
    """Return the sample submission to fill, None without one; what is wrong with the inputs is found before any training.

    Raises FlukeError for a batch size that the processes can't share, for labels that only the test table has, and for a sample
    submission that the predictions won't fit.
    """
    check_batch_size(recipe.train, task.make_order().n, run.accelerator.num_processes)
    if task.target.outputs == "embeddings" or recipe.data.only_classes:
        return None
    if test is not None and test.labels is not None:
        test.targets()
    sample = load_sample(recipe) if fold is None else None
    if sample is not None and test is not None:
        check_sample(sample, recipe.predict, test.names, task.classes, task.target)
    return sample


# --- network and datasets ---------------------------------------------------------------------------------------------------------


def build_network(recipe: Recipe, run: Run, task: Task) -> Network:
    """Return the network with its objective and its first weights. Raises FlukeError when the backbone doesn't fit the recipe."""
    d = recipe.data
    set_seed(derive_seed(recipe.train.seed, 2) % 2**32)
    network = Network(NetworkSpec(recipe.model, task.classes, task.target, d.eval_size or d.size, d.fit), recipe.objective)
    if d.eval_size is not None:
        network.pooled_width(d.size)  # raises for a size that the backbone can't be trained on
    network.objective = task.make_loss(network.width)
    run.log(load_initial_weights(network, recipe.model))
    if trained := count_leaked_rows(recipe.model.weights, task):
        run.log(
            f"note: model.weights is a run that was trained on {trained:,} of the images held out here, so their score is too "
            "high; use the same split (folds.seed, folds.holdout, the same rows), or weights that never saw this contest"
        )
    return network


def count_leaked_rows(weights: str | None, task: Task) -> int:
    """Return how many held-out images another run was trained on, if `weights` is its best/model.safetensors.

    Counted are images of classes that it knows, of a classifier of the same images; 0 where that can't be found out.
    """
    path = Path(weights or "")
    scores_val = run_of_weights(path).scores_val
    if task.target.outputs == "embeddings" or not scores_val.exists() or (spec := read_spec(path)) is None:
        return 0
    held_out, classes = set(load_scores(scores_val).names), set(spec.classes)
    if held_out.isdisjoint([*task.train.names, *task.val.names, *task.unmeasured.names]):  # other images
        return 0
    known = [set(labels) <= classes for labels in task.val.labels or []]
    return sum(each and name not in held_out for each, name in zip(known, task.val.names))


def write_start(recipe: Recipe, run: Run, task: Task, network: Network, plan: Plan) -> None:
    """Write what describes the run, or on resume the recipe, whose epochs may have changed; start the trackers."""
    if plan.action == "start":
        megabytes = 4e-6 * sum(p.numel() for p in network.parameters())
        run_on_main(run.accelerator, lambda: write_run_start(run, recipe, task.classes, megabytes))
    else:
        run_on_main(run.accelerator, lambda: write_text(run.folder.recipe, command_line.dump(recipe)))
    run.accelerator.init_trackers("fluke")


def make_trainer(recipe: Recipe, run: Run, task: Task, network: Network, tables: Splits, fold: Fold | None) -> Trainer:
    """Return the trainer with its datasets; after training, the validation, other held-out and test images are predicted."""
    d = recipe.data
    data = Datasets(
        make_dataset(recipe, task.train, make_train_transform(d), task.targets, tables.cached),
        make_dataset(recipe, task.val, make_eval_transform(d), cached=tables.cached),
    )
    num_test = fold.images_to_predict if fold else 0 if tables.test is None else len(tables.test)
    return Trainer(run, recipe, task, network, data, len(task.val) + len(task.unmeasured) + num_test)


def make_dataset(
    recipe: Recipe, table: Table, transform: Transform, targets: np.ndarray | None = None, cached: Table | None = None
) -> ImageDataset:
    """Return the images of a table, read through the cache if the recipe has one.

    The cache is that of the images of `cached`, of which the table is a part (None: of the table). `targets` longer than the table
    say that its mirrored images follow.
    """
    d = recipe.data
    cache = None
    if d.cache_dir is not None:
        short_side = d.cache_size or math.ceil(1.15 * max(d.size, d.eval_size or 0))
        paths = table.paths if cached is None else cached.paths
        position = {path: i for i, path in enumerate(paths)}
        cache = open_cache(Path(d.cache_dir), paths, short_side, d.workers).take([position[path] for path in table.paths])
    mirrored = targets is not None and len(targets) > len(table)
    return ImageDataset(table.paths, transform, targets, recipe.train.seed, cache, mirrored)


# --- predictions and results ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prediction:
    """Outputs of the kept weights."""

    val: np.ndarray
    """Outputs of the task's validation table."""
    test: Scores | None
    objective: nn.Module | None
    """The network's, with the kept weights: an evaluation may use its class centres."""


def predict_splits(recipe: Recipe, run: Run, task: Task, network: Network, tables: Splits, outcome: Outcome) -> Prediction:
    """Predict all held-out and test images with the weights that training kept. Raises Interrupted when a signal came."""
    for tracker in run.accelerator.trackers:  # Accelerator.end_training would end the process group as well
        tracker.finish()
    network.load_state_dict(load_file(run.folder.weights))  # with the objective's weights, as validation used them
    options = InferenceOptions.of(recipe, run.accelerator.num_processes)
    transform = make_eval_transform(recipe.data)
    source = {"run": run.folder.name, "model": recipe.model.name, "metric": task.metric, "best_epoch": outcome.best_epoch}
    source |= {"queries": task.num_queries}  # the last rows of scores_val.npz, the ones that validation searches for

    def outputs_of(table: Table, title: str, cached: Table | None) -> np.ndarray:
        data = make_dataset(recipe, table, transform, cached=cached)
        try:
            return predict([network], data, run.accelerator, options, check=run.stop.check, title=title)[0]
        except Interrupted:
            raise Interrupted(f"Stopped by a signal while predicting; {run.resume_command}") from None

    def scores_of(table: Table, outputs: np.ndarray) -> Scores:
        classes = () if task.target.outputs == "embeddings" else table.classes
        return Scores(table.rows, table.names, classes, outputs, table.labels, task.target, source, group_list(table))

    val_outputs = outputs_of(task.val, "predict validation", tables.cached)
    held_out = scores_of(task.val, val_outputs)
    if len(task.unmeasured):
        others = outputs_of(task.unmeasured, "predict other classes", tables.cached)
        held_out = scores_of(task.val.join(task.unmeasured), np.concatenate([val_outputs, others]))
    run_on_main(run.accelerator, lambda: save_scores(run.folder.scores_val, held_out))
    test = None
    if tables.test is not None:
        test = scores_of(tables.test, outputs_of(tables.test, "predict test", None))
        run_on_main(run.accelerator, lambda: save_scores(run.folder.scores_test, test))
    return Prediction(val_outputs, test, network.objective)


def write_results(
    recipe: Recipe, run: Run, task: Task, prediction: Prediction, sample: Sample | None, outcome: Outcome
) -> dict[str, Any]:
    """Evaluate the predictions once; write thresholds, submission, report and metrics.json; returns what that holds."""
    folder, epochs = run.folder, len(outcome.history)

    def write() -> dict[str, Any]:
        evaluation = task.evaluate(prediction.val, prediction.objective)
        which = f"{recipe.train.keep} epoch {outcome.best_epoch}" if outcome.best_epoch else "of an unfinished first epoch"
        run.log(f"validation, {which}: " + "  ".join(f"{key} {value:.4f}" for key, value in evaluation.metrics.items()))
        thresholds = None
        if task.target.several:
            thresholds = label_thresholds(prediction.val, task.val.targets(), task.classes, task.metric)
            write_json(folder.thresholds, thresholds)
        if sample is not None and prediction.test is not None:
            submit(recipe.predict, folder.submission, sample, prediction.test, thresholds, run.log)
        result: dict[str, Any] = {
            "metric": task.metric,
            "best_epoch": outcome.best_epoch,
            "epochs": epochs,
            "rows": task.num_queries,
        }
        result |= evaluation.metrics
        if (interval := evaluation.interval()) is not None:
            result["interval"] = interval
        write_run_page(recipe, folder, task, evaluation, outcome.history, result)
        if outcome.finished:
            write_json(folder.metrics, result)
        return result

    result = broadcast_from_main(run.accelerator, write)
    if outcome.finished:
        run.log(f"done: {folder}")
    else:
        kept = "the best so far" if outcome.history else "a network that has not finished one epoch, whose predictions are poor"
        run.log(f"train.max_minutes is over after {epochs} epochs: predictions are of {kept}; {run.resume_command}")
    return result
