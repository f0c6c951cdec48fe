"""How long a training will take, and the memory and disk that it needs, measured on some of its own batches; nothing is kept."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from lib.config.recipe import Recipe
from lib.errors import FlukeError
from lib.images.augmentation import make_eval_transform
from lib.pipelines.kfold import load_fold_tables
from lib.pipelines.run_tables import Fold, Splits, evenly_spaced, make_dataset
from lib.pipelines.runs import Plan, RunArguments, open_run
from lib.pipelines.train import prepare_training
from lib.process import announce
from lib.tables.target import recipe_target
from lib.training import checkpoint
from lib.training.distributed import broadcast_from_main, run_on_main
from lib.training.inference import predict
from lib.training.loop import Trainer
from lib.training.run import Run
from lib.training.tasks import check_task
from lib.training.time_budget import describe_duration

SECONDS = 20.0
"""How long training batches are timed, and half of it for validation batches."""
FEWEST = 5
"""Batches that are timed at least, where an epoch has as many."""
NOT_TIMED = 5
"""Batches before them: the first ones allocate memory, compile, and find images that the workers had ready."""

REPORT_SECONDS = 2.0
"""For metrics, page and files at the end of a run: what short runs of digits took (benchmarks/estimates.py)."""


@dataclass(frozen=True)
class Estimate:
    """What a job takes. Memory and disk in 10^9 bytes."""

    seconds: float
    """The whole job: preparation, training, validations and predictions of all folds."""
    training_seconds: float
    """Of it, the optimizer steps."""
    prediction_seconds: float
    """Of it, validations, and predictions after the training."""
    images_per_second: float | None
    """In training, all processes together; None without training."""
    memory_gb: float
    """Main memory of this process with its workers."""
    gpu_memory_gb: float | None
    """None without a GPU."""
    disk_gb: float
    """Weights and resumable states; a cache of images comes on top."""


def estimate(
    recipe: Recipe, arguments: RunArguments, embedding: bool = False, folds: Sequence[int] | None = None, num_final: int = 0
) -> dict[str, float | None]:
    """Say what a run takes or, with `folds`, what these folds of a k-fold run take and, after them, `num_final` models of all rows;
    returns an Estimate's fields.

    A cache of images that the recipe names is built, or completed, and stays. Raises FlukeError for what the run would raise, and
    with --out or --resume, since no run is written.
    """
    if arguments.out is not None or arguments.resume:
        raise FlukeError("--estimate: writes no run; leave out --out and --resume. A run's log says the time that is left.")
    started, began = _age_of_process(), time.monotonic()
    target = recipe_target(recipe.data.label_separator, embedding, recipe.data.task)
    check_task(recipe, target)
    with _open_temporary(arguments, recipe, folds is not None) as (run, resolved):
        fold = None
        if folds is not None:
            tables = load_fold_tables(resolved, run, target)
            num_test = 0 if tables.test is None else len(tables.test)
            fold = Fold(tables.train, tables.of_row, folds[0], num_test)
        trainer, splits, _ = prepare_training(resolved, run, target, Plan("start"), fold)
        resolved = trainer.recipe
        num_folds = 1 if folds is None else len(folds)
        found = _measure(trainer, splits, started, time.monotonic() - began, num_folds, num_final)
        run.log(describe_estimate(found, resolved, num_folds, num_final))
    announce([], None)
    return asdict(found)


def _age_of_process() -> float:
    """Return the seconds since this process began: what a script needs for its imports."""
    return time.time() - psutil.Process().create_time()


@contextmanager
def _open_temporary(arguments: RunArguments, recipe: Recipe, kfold: bool) -> Iterator[tuple[Run, Recipe]]:
    """Yield a run whose folder is deleted afterwards, and its recipe without trackers and without a limit of time."""
    named = replace(arguments, recipe_file="estimate.yaml")  # the folder's name, beside those of runs
    unlimited = replace(recipe, train=replace(recipe.train, max_minutes=None, log_with=[]))
    with open_run(named, unlimited, kfold) as (run, resolved):
        try:
            yield run, resolved
        finally:
            run_on_main(run.accelerator, lambda: shutil.rmtree(run.folder.path, ignore_errors=True))


def _measure(trainer: Trainer, tables: Splits, started: float, prepared: float, num_folds: int, num_final: int) -> Estimate:
    """Time batches of a run's trainer, which took `prepared` seconds to make, after `started` seconds of imports.

    The job is `num_folds` such runs and `num_final` of all rows, as many epochs at most.
    """
    budget, recipe = trainer.budget, trainer.recipe
    budget.seconds_per_batch, per_epoch = _time_steps(trainer)
    if budget.num_validation or budget.images_to_predict:
        budget.seconds_per_image = _time_validation(trainer, tables)
    seconds = trainer.seconds_left(0)
    assert seconds is not None
    seconds += recipe.train.epochs * per_epoch
    training = recipe.train.epochs * (budget.seconds_per_batch * trainer.batches.count + per_epoch)
    n = recipe.folds.n
    final_training = num_final * training * n / (n - 1)
    return Estimate(
        seconds=started + num_folds * (seconds + prepared + REPORT_SECONDS) + final_training,
        training_seconds=num_folds * training + final_training,
        prediction_seconds=num_folds * (seconds - training),
        images_per_second=recipe.train.images_per_batch * recipe.train.epochs * trainer.batches.count / training
        if training
        else None,
        memory_gb=_measure_memory() / 1e9,
        gpu_memory_gb=torch.cuda.max_memory_reserved() / 1e9 if trainer.device.type == "cuda" else None,
        disk_gb=(num_folds + num_final) * _measure_disk(trainer) / 1e9,
    )


def _time_steps(trainer: Trainer) -> tuple[float, float]:
    """Return the seconds per batch of training, the mean over all epochs, and the seconds of an epoch besides: until its first
    batches are read, and for saving. 0 for a recipe without epochs."""
    epochs, frozen = trainer.recipe.train.epochs, min(trainer.recipe.train.epochs, trainer.recipe.optim.freeze_epochs)
    per_batch, per_epoch = 0.0, 0.0
    for first, after in ((0, frozen), (frozen, epochs)):  # a step is shorter while the backbone is frozen
        if after > first:
            trainer.state.epoch = first
            trainer.start_epoch()
            times = _time_epoch(trainer)
            per_batch += (after - first) / epochs * times[0]
            per_epoch += (after - first) / epochs * times[1]
    trainer.state.epoch = 0
    began = time.monotonic()
    trainer.save()
    return per_batch, per_epoch + (time.monotonic() - began) * (epochs > 0)


def _time_epoch(trainer: Trainer) -> tuple[float, float]:
    """Return the seconds per batch, and how much longer the first batches of an epoch take together, rank 0's."""
    count = trainer.batches.count
    per_batch, _ = _time_batches(trainer, min(count, NOT_TIMED + FEWEST))
    enough = broadcast_from_main(trainer.accelerator, lambda: NOT_TIMED + max(FEWEST, round(SECONDS / per_batch)))
    return _time_batches(trainer, min(count, enough))  # now with workers that run already


def _time_batches(trainer: Trainer, n: int) -> tuple[float, float]:
    """Train on the epoch's first `n` batches; returns the seconds per batch, without the first NOT_TIMED where there are more, and
    by how much these took longer."""
    skipped = min(NOT_TIMED, n - 1)
    began = warm = time.monotonic()
    for batch, (images, targets, _) in enumerate(itertools.islice(trainer.loader, n)):
        trainer.train_step(batch, images, targets)
        if batch + 1 == skipped:
            _wait_for_device(trainer)
            warm = time.monotonic()
    _wait_for_device(trainer)
    per_batch = (time.monotonic() - warm) / (n - skipped)
    return per_batch, max(0.0, warm - began - skipped * per_batch)


def _wait_for_device(trainer: Trainer) -> None:
    if trainer.device.type != "cpu":
        torch.accelerator.synchronize()


def _time_validation(trainer: Trainer, tables: Splits) -> float:
    """Return the seconds per image of a validation."""
    table, accelerator = trainer.task.val, trainer.accelerator
    size = trainer.inference.batch_size * accelerator.num_processes

    def pass_over(num_images: int) -> tuple[float, int]:
        some = table.take(evenly_spaced(np.arange(len(table)), num_images))
        images = make_dataset(trainer.recipe, some, make_eval_transform(trainer.recipe.data), cached=tables.cached)
        began = time.monotonic()
        predict([trainer.evaluated], images, accelerator, trainer.inference, title="time a validation")
        return time.monotonic() - began, len(some)

    first, one = pass_over(size)
    enough = broadcast_from_main(accelerator, lambda: 1 + max(1, round(SECONDS / 2 / first)))
    several, n = pass_over(size * enough)
    # What both passes have in common, above all starting workers, happens once in a run.
    return (several - first) / (n - one) if n > one and several > first else several / n


def _measure_memory() -> int:
    """Return the bytes of main memory that this process and its workers have, shared pages counted once."""
    own = psutil.Process()
    return own.memory_info().rss + sum(child.memory_full_info().uss for child in own.children(recursive=True))


def _measure_disk(trainer: Trainer) -> int:
    """Return the bytes that a run keeps: the best weights and the resumable states, with one more while one is replaced."""
    modules = {name: _count_bytes(module.state_dict()) for name, module in trainer.modules().items()}
    state = sum(modules.values()) + _count_bytes(trainer.optimizer.state_dict())
    return modules["model"] + (checkpoint.KEEP + 1) * state


def _count_bytes(tree: Any) -> int:
    """Return the bytes of all tensors in nested dicts and lists."""
    return sum(leaf.nbytes for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def describe_estimate(found: Estimate, recipe: Recipe, num_folds: int, num_final: int) -> str:
    """Return the lines about an estimate."""
    t = recipe.train
    what = f"{num_folds} folds of {t.epochs} epochs" if num_folds > 1 else f"{t.epochs} epochs"
    what += f" and {num_final} on all rows" * (num_final > 0)
    rest = found.seconds - found.training_seconds - found.prediction_seconds
    lines = [
        f"estimate: {describe_duration(found.seconds)} for {what}: {describe_duration(found.training_seconds)} training"
        + (f" ({found.images_per_second:,.0f} images/s)" if found.images_per_second else "")
        + f", {describe_duration(found.prediction_seconds)} validations and predictions, {describe_duration(rest)} the rest"
    ]
    gpu = "" if found.gpu_memory_gb is None else f", {found.gpu_memory_gb:.1f} GB on the GPU"
    lines.append(f"  memory {found.memory_gb:.1f} GB{gpu}; disk {found.disk_gb:.2f} GB")
    if t.patience:
        lines.append(f"  train.patience {t.patience} may end it earlier")
    if t.max_minutes and 60 * t.max_minutes < found.seconds:
        lines.append(
            f"  train.max_minutes {t.max_minutes:g} ends it before: fewer epochs, a smaller data.size, or a smaller network fit in"
        )
    return "\n".join(lines)
