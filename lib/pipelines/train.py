"""One run, or one fold of it, end to end: what train_classifier, train_embedding and kfold call."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from safetensors.torch import load_file

from lib.config import command_line
from lib.config.recipe import Recipe
from lib.errors import FlukeError, Interrupted, did_you_mean
from lib.files import lock_folder, read_json, write_json, write_text
from lib.images import augmentation, checking
from lib.images.cache import open_cache
from lib.images.dataset import ImageDataset
from lib.images.samplers import ShardedBatches, check_batch_size, derive_seed
from lib.models.network import Network, NetworkSpec
from lib.models.weights import load_initial_weights, read_spec
from lib.pipelines.runs import make_log, write_run_start
from lib.reports.run_page import write_run_page
from lib.scores import score_file
from lib.scores.decisions import label_thresholds
from lib.scores.score_file import Scores
from lib.submission.formats import check_sample
from lib.submission.writing import submit
from lib.tables import filters, loading
from lib.tables import splits as folds_of
from lib.tables.sample import load_sample
from lib.tables.table import Table, describe_table
from lib.tables.target import IDENTITY
from lib.training.accelerator import keep_memory, make_accelerator
from lib.training.checkpoint import find_checkpoint, read_state
from lib.training.distributed import StopSignal, broadcast_from_main, run_on_main
from lib.training.inference import predict
from lib.training.loop import describe_numerics, fit
from lib.training.tasks import Classifier, Embedder, Task


def load_tables(recipe: Recipe, kind: str, accelerator: Accelerator, say: Callable[[str], None]) -> tuple[Table, Table | None]:
    """The training table, without rows that can't be read if the recipe says so, and the test table if there is one.

    A classifier of data.only_classes keeps the rows of other classes: the split is then that of a run on all classes, and its
    scores of the held-out rows can be combined with that run's.
    """
    d = recipe.data
    train = loading.load_train(d, recipe.folds, keep_others=kind == "classifier")
    test = loading.load_test(d, train.classes, train.target)

    def unreadable() -> list[dict[int, str]]:
        return [checking.find_unreadable(t.paths, d.workers, d.check) if t is not None else {} for t in (train, test)]

    bad = broadcast_from_main(accelerator, unreadable)
    train = filters.drop_unreadable(train, bad[0], d.on_unreadable)
    if test is not None:
        test = filters.drop_unreadable(test, bad[1], "error", what="test")
    say(describe_table(train.take(train.in_classes())))
    say(f"  {checking.describe_sizes(train.paths)}; unreadable: {len(bad[0]):,}")
    if test is not None:
        say(f"test: {len(test):,} images")
    return train, test


@dataclass(frozen=True)
class Fold:
    """What one fold of a k-fold run shares with the whole (lib/pipelines/kfold.py), which also predicts the test images."""

    train: Table
    """All n training rows, whose images were checked."""
    of_row: np.ndarray
    """(n,) fold of each."""
    number: int
    """The fold to hold out."""
    stop: StopSignal
    deadline: float | None
    """time.monotonic() by which this fold must be done."""
    to_predict: int
    """Test images whose time it must leave to the whole before that."""


def train_run(recipe: Recipe, folder: Path, kind: str = "classifier", fold: Fold | None = None) -> dict[str, Any]:
    """Train, validate, predict and report one run in `folder`, going on where a killed one left off.

    `kind` is classifier or embedding. `fold` is held out, or else the recipe's hold-out. Returns the contents of metrics.json.
    Raises FlukeError; Interrupted when a signal came and the state is saved.
    """
    deadline = time.monotonic() + 60 * recipe.train.max_minutes if recipe.train.max_minutes else None
    keep_memory()
    # Each fold has its own, too: trackers, their folder and the loss scale belong to an Accelerator; the processes, to all of them.
    accelerator = make_accelerator(recipe.train, folder)
    folder = broadcast_object_list([folder])[0]  # without --out, its name is a clock's
    with ExitStack() as stack:
        run_on_main(accelerator, lambda: stack.enter_context(lock_folder(folder)))
        say = make_log(accelerator, folder)
        stop = fold.stop if fold else stack.enter_context(StopSignal(accelerator))
        if (folder / "metrics.json").exists():
            say(f"{folder}: finished already")
            return read_json(folder / "metrics.json")
        train, test = (fold.train, None) if fold else load_tables(recipe, kind, accelerator, say)
        if kind == "embedding":
            if (new := recipe.data.new_label) is not None and new not in (counts := train.counts()):
                say(f"note: no training image has the label {new!r} (data.new_label){did_you_mean(new, counts)}")
            d, folds, number = recipe.data, fold.of_row if fold else None, fold.number if fold else 0
            train_rows, val_rows = folds_of.split_identities(
                train, recipe.folds, d.new_label, d.new_rows == "negatives", folds, number
            )
        elif fold is None:
            train_rows, val_rows = folds_of.split_holdout(train, recipe.folds)
        else:
            train_rows, val_rows = np.flatnonzero(fold.of_row != fold.number), np.flatnonzero(fold.of_row == fold.number)
        if kind == "classifier":
            train_rows = train_rows[train.in_classes()[train_rows]]
        if limit := recipe.train.limit_rows:
            train_rows = evenly_spaced(train_rows, limit)
            val_rows = val_rows if fold else evenly_spaced(val_rows, limit)  # the table of all folds was cut before
            test = test.take(evenly_spaced(np.arange(len(test)), limit)) if test is not None else None
        sides = train.take(train_rows), train.take(val_rows)
        say(folds_of.describe_split(train, train_rows, val_rows))
        task: Task = Embedder(recipe, *sides) if kind == "embedding" else Classifier(recipe, *sides)
        # What is cached: one table for all folds and splits, but no more than is used.
        whole = None if limit else train if fold else train.take(np.union1d(train_rows, val_rows))
        return _run(recipe, folder, accelerator, say, stop, task, test, deadline, fold, whole)


def evenly_spaced(rows: np.ndarray, n: int) -> np.ndarray:
    """`n` of `rows`, evenly spaced: a dry run meets every part of the table."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(n, len(rows))).astype(int))]


def _run(
    recipe: Recipe,
    folder: Path,
    accelerator: Accelerator,
    say: Callable[[str], None],
    stop: StopSignal,
    task: Task,
    test: Table | None,
    deadline: float | None,
    fold: Fold | None,
    whole: Table | None,
) -> dict[str, Any]:
    d, t, world = recipe.data, recipe.train, accelerator.num_processes
    order = task.order()
    check_batch_size(t, order.n, world)
    specialist = task.kind == "classifier" and bool(d.only_classes)
    if test is not None and test.labels is not None and task.kind == "classifier" and not specialist:
        test.targets()  # raises for labels in the test only
    batches = ShardedBatches(order, order.n, t.batch_size, accelerator.process_index, world)
    sample = load_sample(recipe) if task.kind == "classifier" and fold is None and not specialist else None
    if sample is not None and test is not None:  # its faults now, not after the training
        check_sample(sample, recipe.predict, test.names, task.classes, task.train.target)
    set_seed(derive_seed(t.seed, 2) % 2**32)
    spec = NetworkSpec(
        recipe.model, task.classes, IDENTITY if task.kind == "embedding" else task.train.target, d.eval_size or d.size, d.fit
    )
    network = Network(spec, recipe.objective)
    if d.eval_size is not None:
        network.pooled_width(d.size)  # raises for a size that the backbone can't be trained on
    network.objective = task.objective(network.width)
    say(load_initial_weights(network, recipe.model))
    if learnt := count_leaked_rows(recipe.model.weights, task):
        say(
            f"note: model.weights is a run that has learnt {learnt:,} of the images held out here: their score flatters; take the "
            "same split (folds.seed, folds.holdout, the same rows), or weights that never saw this contest"
        )
    megabytes = 4e-6 * sum(p.numel() for p in network.parameters())
    state, _ = find_checkpoint(folder / "last")
    if state is None:
        run_on_main(accelerator, lambda: write_run_start(folder, recipe, accelerator, task.classes, megabytes))
    else:
        before = read_state(state)
        if before["world"] != world:
            raise FlukeError(
                f"{folder}: begun on {before['world']} processes, now there are {world}; go on with as many as before."
            )
        for name, now in describe_numerics(accelerator).items():
            if (then := before.get(name, now)) != now:
                say(f"note: {name} {now} now, {then} before: the numbers will differ a little")
        if (epochs := before["recipe"]["train"]["epochs"]) != t.epochs:
            say(f"note: train.epochs was {epochs} and is {t.epochs}: the learning rate goes on as if it had been so from the start")
        run_on_main(accelerator, lambda: write_text(folder / "recipe.yaml", command_line.dump(recipe)))
    accelerator.init_trackers("fluke")

    train_images = make_dataset(recipe, task.train, augmentation.make_train_transform(d), task.targets, whole)
    val_images = make_dataset(recipe, task.shown, augmentation.make_eval_transform(d), whole=whole)
    n_test = fold.to_predict if fold else len(test) if test is not None else 0
    outcome = fit(
        network,
        train_images,
        batches,
        val_images,
        task,
        recipe,
        accelerator,
        folder,
        stop,
        say,
        fold.deadline if fold else deadline,
        len(task.shown) + len(task.beside) + n_test,
    )
    for tracker in accelerator.trackers:  # Accelerator.end_training would end the talk between processes as well
        tracker.finish()

    # with the objective's weights, as validation saw them
    network.load_state_dict(load_file(folder / "best" / "model.safetensors"))
    batch_size = recipe.predict.batch_size or max(64, t.batch_size // world)

    def outputs_of(side: ImageDataset, title: str) -> np.ndarray:
        try:
            return predict([network], side, accelerator, batch_size, d.workers, recipe.predict.tta, check=stop.check, title=title)[
                0
            ]
        except Interrupted:
            raise Interrupted(f"Stopped by a signal while predicting; go on with: --out {folder} --resume") from None

    source = {"run": folder.name, "model": recipe.model.name, "metric": task.metric, "best_epoch": outcome.best_epoch}
    source |= {"queries": task.queries}  # the last rows of scores_val.npz, the ones that validation asks about
    val_outputs = outputs_of(val_images, "predict validation")
    found = broadcast_from_main(accelerator, lambda: task.evaluate(val_outputs, network.objective))
    which = f"{t.keep} epoch {outcome.best_epoch}" if outcome.best_epoch else "of an unfinished first epoch"
    say(f"validation, {which}: " + "  ".join(f"{key} {value:.4f}" for key, value in found.items()))

    def scores_of(side: Table, outputs: np.ndarray) -> Scores:
        classes = () if spec.target is IDENTITY else side.classes
        return Scores(side.rows, side.names, classes, outputs, side.labels, spec.target, source, group_list(side))

    held_out, outputs = task.shown, val_outputs
    if len(task.beside):
        others = make_dataset(recipe, task.beside, augmentation.make_eval_transform(d), whole=whole)
        held_out = held_out.join(task.beside)
        outputs = np.concatenate([outputs, outputs_of(others, "predict other classes")])
    run_on_main(accelerator, lambda: score_file.save_scores(folder / "scores_val.npz", scores_of(held_out, outputs)))
    thresholds: dict[str, float] | None = None
    if isinstance(task, Classifier) and task.train.target.several:
        thresholds = label_thresholds(val_outputs, task.val_targets, task.classes, task.metric)
        run_on_main(accelerator, lambda: write_json(folder / "thresholds.json", thresholds))
    if test is not None:
        of_test = scores_of(test, outputs_of(make_dataset(recipe, test, augmentation.make_eval_transform(d)), "predict test"))
        run_on_main(accelerator, lambda: score_file.save_scores(folder / "scores_test.npz", of_test))
        if sample is not None:
            run_on_main(accelerator, lambda: submit(recipe.predict, folder / "submission.csv", sample, of_test, thresholds, say))
    result: dict[str, Any] = {
        "metric": task.metric,
        "best_epoch": outcome.best_epoch,
        "epochs": len(outcome.history),
        "rows": task.queries,
        **found,
    }
    if (interval := broadcast_from_main(accelerator, lambda: task.interval(val_outputs, network.objective))) is not None:
        result["interval"] = interval
    run_on_main(accelerator, lambda: write_run_page(recipe, folder, task, val_outputs, network.objective, outcome.history, result))
    if outcome.finished:
        run_on_main(accelerator, lambda: write_json(folder / "metrics.json", result))
        say(f"done: {folder}")
    else:
        again = folder.parent if fold else folder
        so_far = "the best so far" if outcome.history else "a network that has not finished one, which is worth little"
        say(
            f"train.max_minutes is over after {len(outcome.history)} epochs: predictions are of {so_far}; "
            f"go on with: --out {again} --resume"
        )
    return result


def group_list(side: Table) -> list[str] | None:
    """The groups of a table's rows as a scores file holds them."""
    return None if side.groups is None else [str(group) for group in side.groups]


def count_leaked_rows(weights: str | None, task: Task) -> int:
    """How many images of classes that it knows, held out here, another run has learnt if `weights` is its best/model.safetensors
    and it is a classifier of the same images; 0 where that can't be told."""
    path = Path(weights or "")
    theirs = path.parent.parent / "scores_val.npz"
    if task.kind != "classifier" or path.parent.name != "best" or not theirs.exists() or (spec := read_spec(path)) is None:
        return 0
    held_out, classes = set(score_file.load_scores(theirs).names), set(spec.classes)
    if held_out.isdisjoint([*task.train.names, *task.shown.names, *task.beside.names]):  # other images
        return 0
    known = [set(labels) <= classes for labels in task.shown.labels or []]
    return sum(each and name not in held_out for each, name in zip(known, task.shown.names))


def make_dataset(
    recipe: Recipe, side: Table, transform: augmentation.Transform, targets: np.ndarray | None = None, whole: Table | None = None
) -> ImageDataset:
    """The images of a table, through the cache if the recipe has one: that of `whole`, of which the table is a part, so that all
    splits of it share one."""
    d = recipe.data
    cache = None
    if d.cache_dir is not None:
        short_side = d.cache_size or math.ceil(1.15 * max(d.size, d.eval_size or 0))
        paths = side.paths if whole is None else whole.paths
        place = {path: i for i, path in enumerate(paths)}
        cache = open_cache(Path(d.cache_dir), paths, short_side, d.workers).take([place[path] for path in side.paths])
    mirrored = targets is not None and len(targets) > len(side)
    return ImageDataset(side.paths, transform, targets, recipe.train.seed, cache, mirrored)
