"""One run from tables to report: split, build the network, train, predict, evaluate, write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from lib.config import command_line
from lib.config.recipe import Recipe
from lib.files import write_text
from lib.images.samplers import check_batch_size
from lib.models.network import Network
from lib.pipelines.build import build_network, make_trainer
from lib.pipelines.frozen import fit_head
from lib.pipelines.run_result import predict_splits, write_results
from lib.pipelines.run_tables import Fold, Splits, find_sample, load_splits
from lib.pipelines.runs import Plan, RunArguments, open_run, plan_run, write_run_start
from lib.process import announce
from lib.run_folder import submit_command
from lib.tables.sample import Sample
from lib.tables.splits import keep_split
from lib.tables.target import Target, recipe_target
from lib.training.batch_size import choose_batch_size
from lib.training.distributed import run_on_main
from lib.training.loop import Trainer, fit
from lib.training.run import Run
from lib.training.tasks import Task, check_task, make_task


def train(recipe: Recipe, arguments: RunArguments, embedding: bool = False) -> dict[str, Any]:
    """Run train_classifier or, with `embedding`, train_embedding; returns what metrics.json holds.

    Raises FlukeError; Interrupted when a signal came and the state is saved.
    """
    target = recipe_target(recipe.data.label_separator, embedding, recipe.data.task)
    check_task(recipe, target)
    with open_run(arguments, recipe) as (run, resolved):
        result = train_run(resolved, run, target)
        announce_run(run, resolved, embedding, arguments.recipe_file)
        return result


def announce_run(run: Run, recipe: Recipe, embedding: bool, recipe_file: str | None) -> None:
    """Say what is in a run's folder, and what comes next: going on with an unfinished run, answers, or handing in.

    After a dry run it is a run of `recipe_file` on all rows.
    """
    folder = run.folder
    if not folder.is_finished or recipe.train.limit_rows is not None:
        script = "kfold" if folder.is_kfold else "train_embedding" if embedding else "train_classifier"
        command = f"accelerate launch scripts/{script}.py --cfg {folder.recipe} --out {folder} --resume"
        if folder.is_finished:
            command = f"accelerate launch scripts/{script}.py --cfg {recipe_file or 'RECIPE'} --out runs/first"
        command += " --kind embedding" * (embedding and folder.is_kfold)
    elif embedding:
        command = f"python scripts/retrieve.py --run {folder.fold(0) if folder.is_kfold else folder}"
    elif folder.submission.exists():
        command = submit_command(folder)
    else:
        command = f"python scripts/predict.py --run {folder} --table FOLDER"
    announce(folder.list_paths() if run.accelerator.is_main_process else [], command)


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
    trainer, tables, sample = prepare_training(recipe, run, target, plan, fold)
    recipe, outcome = trainer.recipe, fit(trainer)
    prediction = predict_splits(recipe, run, trainer.task, trainer.network, tables, outcome)
    return write_results(recipe, run, trainer.task, prediction, sample, outcome)


def prepare_training(
    recipe: Recipe, run: Run, target: Target, plan: Plan, fold: Fold | None = None
) -> tuple[Trainer, Splits, Sample | None]:
    """Return a run's trainer, which stands where `plan` says, its tables, and the sample submission to fill. Raises FlukeError."""
    tables = load_splits(recipe, run, target, fold)
    run_on_main(run.accelerator, lambda: keep_split(run.folder.split, tables.train, tables.val, begun=plan.checkpoint is not None))
    recipe = resolve_batch_size(recipe, run, lambda tried: make_task(tried, target, tables.train, tables.val, tables.own))
    task = make_task(recipe, target, tables.train, tables.val, tables.own)
    sample = check_inputs(recipe, run, task, tables, fold)
    network = build_network(recipe, run, task, new=plan.checkpoint is None)
    if starts_fitted := plan.checkpoint is None and recipe.model.head_from is not None:
        fit_head(recipe, run, task, network, tables)
    write_start(recipe, run, task, network, plan)
    trainer = make_trainer(recipe, run, task, network, tables, plan.checkpoint)
    if plan.checkpoint is not None:
        trainer.resume(plan.checkpoint)
    if starts_fitted:
        run.log("epoch 0, the fitted head:  " + "  ".join(f"val {name} {value:.4f}" for name, value in trainer.validate().items()))
    return trainer, tables, sample


def resolve_batch_size(recipe: Recipe, run: Run, make: Callable[[Recipe], Task]) -> Recipe:
    """Return the recipe with train.batch_size and train.accumulate as numbers; `make` returns the task of a recipe.

    Raises FlukeError as `choose_batch_size` does.
    """
    quiet = replace(run, log=lambda line: None)

    def make_network(tried: Recipe) -> tuple[Network, np.ndarray]:
        task = make(tried)
        return build_network(tried, quiet, task, new=False), task.targets

    return choose_batch_size(recipe, run, make_network)


def check_inputs(recipe: Recipe, run: Run, task: Task, tables: Splits, fold: Fold | None) -> Sample | None:
    """Return the sample submission to fill, None without one; what is wrong with the inputs is found before any training.

    Raises FlukeError for a batch size that the processes can't share, for a loss over pairs without any, for labels that only the
    test table has, and for a sample submission that the predictions won't fit.
    """
    if recipe.train.epochs:
        check_batch_size(recipe.train, task.make_order().n, run.accelerator.num_processes)
        if (note := task.note_on_order()) is not None:
            run.log(note)
    if task.target.outputs == "embeddings" or recipe.data.only_classes:
        return None
    if tables.test is not None and tables.test.labels is not None:
        tables.test.targets()
    return find_sample(recipe, run, task.train, tables.answers) if fold is None else None


def write_start(recipe: Recipe, run: Run, task: Task, network: Network, plan: Plan) -> None:
    """Write what describes the run, or on resume the recipe, whose epochs may have changed; start the trackers."""
    if plan.action == "start":
        megabytes = 4e-6 * sum(p.numel() for p in network.parameters())
        run_on_main(run.accelerator, lambda: write_run_start(run, recipe, task.classes, megabytes))
    else:
        run_on_main(run.accelerator, lambda: write_text(run.folder.recipe, command_line.dump(recipe)))
    flat = {f"{section}.{name}": value for section, values in asdict(recipe).items() for name, value in values.items()}
    config = {name: value if isinstance(value, bool | int | float | str) else str(value) for name, value in flat.items()}
    names = {"wandb": {"name": run.folder.name}, "mlflow": {"run_name": run.folder.name}}
    run.accelerator.init_trackers("fluke", config, names)
