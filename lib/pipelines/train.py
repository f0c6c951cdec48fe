"""One run from tables to report: split, build the network, train, predict, evaluate, write."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import set_seed
from safetensors.torch import load_file
from torch import nn

from lib.config import command_line
from lib.config.recipe import Recipe
from lib.errors import Interrupted
from lib.files import write_json, write_text
from lib.images.augmentation import make_eval_transform, make_train_transform
from lib.images.samplers import check_batch_size, derive_seed
from lib.models.backbone import resolve_model
from lib.models.heads import Binned, Numbers
from lib.models.losses import BinnedLoss, NumberLoss, head_for
from lib.models.network import Network, NetworkSpec
from lib.models.weights import load_initial_weights, read_spec
from lib.pipelines.frozen import fit_head, make_feature_data, seconds_per_image, trains_on_features
from lib.pipelines.run_tables import Fold, Splits, group_list, load_splits, make_dataset
from lib.pipelines.runs import Plan, RunArguments, open_run, plan_run, write_run_start
from lib.pipelines.shift import compare_with_test, count_compared, describe_shift
from lib.process import announce
from lib.reports.class_results import HeldOutScores
from lib.reports.run_page import write_run_page
from lib.retrieval.evaluation import OpenSetEvaluation
from lib.run_folder import run_of_weights, submit_command
from lib.scores.score_file import Scores, load_scores, save_scores
from lib.scores.shift import Shift
from lib.submission.choice import check_sample
from lib.submission.decisions import FittedDecisions, fit_decisions
from lib.submission.writing import submit
from lib.tables.image_path import count_channels
from lib.tables.sample import Sample, load_sample
from lib.tables.splits import keep_split
from lib.tables.table import Table
from lib.tables.target import Target, recipe_target
from lib.training.batch_size import choose_batch_size
from lib.training.distributed import broadcast_from_main, run_on_main
from lib.training.inference import InferenceOptions, predict
from lib.training.loop import Datasets, Outcome, Trainer, fit
from lib.training.run import Run
from lib.training.tasks import Evaluation, Task, check_task, make_task


def train(recipe: Recipe, arguments: RunArguments, embedding: bool = False) -> dict[str, Any]:
    """Run train_classifier or, with `embedding`, train_embedding; returns what metrics.json holds.

    Raises FlukeError; Interrupted when a signal came and the state is saved.
    """
    target = recipe_target(recipe.data.label_separator, embedding, recipe.data.task)
    check_task(recipe, target)
    with open_run(arguments, recipe) as (run, resolved):
        result = train_run(resolved, run, target)
        announce_run(run, embedding)
        return result


def announce_run(run: Run, embedding: bool) -> None:
    """Say what is in a run's folder, and what comes next: going on with an unfinished run, answers, or handing in."""
    folder = run.folder
    if not folder.is_finished:
        script = "kfold" if folder.is_kfold else "train_embedding" if embedding else "train_classifier"
        command = f"accelerate launch scripts/{script}.py --cfg {folder.recipe} --out {folder} --resume"
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
    recipe = resolve_batch_size(recipe, run, target, tables.train, tables.val)
    task = make_task(recipe, target, tables.train, tables.val)
    sample = check_inputs(recipe, run, task, tables.test, fold)
    network = build_network(recipe, run, task, new=plan.checkpoint is None)
    if starts_fitted := plan.checkpoint is None and recipe.model.head_from is not None:
        fit_head(recipe, run, task, network, tables)
    write_start(recipe, run, task, network, plan)
    trainer = make_trainer(recipe, run, task, network, tables, fold, plan.checkpoint)
    if plan.checkpoint is not None:
        trainer.resume(plan.checkpoint)
    if starts_fitted:
        run.log("epoch 0, the fitted head:  " + "  ".join(f"val {name} {value:.4f}" for name, value in trainer.validate().items()))
    return trainer, tables, sample


def resolve_batch_size(recipe: Recipe, run: Run, target: Target, train: Table, val: Table) -> Recipe:
    """Return the recipe with train.batch_size and train.accumulate as numbers. Raises FlukeError as `choose_batch_size` does."""
    quiet = replace(run, log=lambda line: None)

    def make(candidate: Recipe) -> tuple[Network, np.ndarray]:
        task = make_task(candidate, target, train, val)
        return build_network(candidate, quiet, task, new=False), task.targets

    return choose_batch_size(recipe, run, make)


def check_inputs(recipe: Recipe, run: Run, task: Task, test: Table | None, fold: Fold | None) -> Sample | None:
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
    if test is not None and test.labels is not None:
        test.targets()
    sample = load_sample(recipe, [] if test is None else test.answers, task.classes) if fold is None else None
    if sample is not None and test is not None:
        run.log(check_sample(sample, recipe.predict, test.answers, task.classes, task.target, recipe.train.metric))
    return sample


# --- network and datasets ---------------------------------------------------------------------------------------------------------


def build_network(recipe: Recipe, run: Run, task: Task, new: bool) -> Network:
    """Return the network with its objective and, for a `new` one, its first weights; a checkpoint replaces those of others.

    Raises FlukeError when the backbone doesn't fit the recipe.
    """
    d = recipe.data
    model = resolve_model(recipe.model, (d.size, d.eval_size or d.size), count_channels(d))
    if added := {key: value for key, value in model.kwargs.items() if key.endswith("img_size") and key not in recipe.model.kwargs}:
        run.log(f"{recipe.model.name}: built with {added} for data.size and eval_size; model.kwargs says otherwise.")
    set_seed(derive_seed(recipe.train.seed, 2) % 2**32)
    head = head_for(recipe.objective, task.target)
    bins = recipe.objective.bins if head == "binned" else 0
    spec = NetworkSpec(model, task.classes, task.target, d.eval_size or d.size, d.fit, head, bins)
    network = Network(spec, recipe.objective)
    if d.eval_size is not None:
        network.pooled_width(d.size)  # raises for a size that the backbone can't be trained on
    network.objective = task.make_loss(network.width)
    last = list(network.head.children())[-1]
    if isinstance(last, Numbers) and isinstance(network.objective, NumberLoss):
        last.set_scale(network.objective.mean, network.objective.std)
    if isinstance(last, Binned) and isinstance(network.objective, BinnedLoss):
        last.set_range(network.objective.low, network.objective.high)
    if not new:
        return network
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
    folder = run_of_weights(path)
    if task.target.outputs == "embeddings" or folder is None or not folder.scores_val.exists():
        return 0
    if (spec := read_spec(path)) is None:
        return 0
    held_out, classes = set(load_scores(folder.scores_val).names), set(spec.classes)
    if held_out.isdisjoint([*task.train.names, *task.val.names, *task.unmeasured.names]):  # other images
        return 0
    known = [task.target.numeric or set(labels) <= classes for labels in task.val.labels or []]
    return sum(each and name not in held_out for each, name in zip(known, task.val.names))


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


def make_trainer(
    recipe: Recipe, run: Run, task: Task, network: Network, tables: Splits, fold: Fold | None, begun: Path | None
) -> Trainer:
    """Return the trainer with its datasets; after training, other held-out and the test images are predicted.

    `begun` is the resumable state that it will go on from, if any.
    """
    num_test = fold.images_to_predict if fold else 0 if tables.test is None else len(tables.test)
    compared = 0 if tables.test is None or task.target.outputs != "logits" else count_compared(len(task.val), len(tables.test))
    num_predicted = len(task.unmeasured) + num_test + compared
    if trains_on_features(recipe):
        data = make_feature_data(recipe, run, task, network, tables, begun)
        trainer = Trainer(run, recipe, task, network, data, num_predicted)
        if run.deadline is not None:
            trainer.budget.measure_validation(seconds_per_image(recipe, run, network, tables), 1)
        return trainer
    d, stop = recipe.data, partial(run.check_signal, "caching images")
    data = Datasets(
        make_dataset(recipe, task.train, make_train_transform(d), task.targets, tables.cached, stop),
        make_dataset(recipe, task.val, make_eval_transform(d), cached=tables.cached, stop=stop),
    )
    return Trainer(run, recipe, task, network, data, num_predicted)


# --- predictions and results ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prediction:
    """Outputs of the kept weights."""

    val: np.ndarray
    """Outputs of the task's validation table."""
    test: Scores | None
    objective: nn.Module | None
    """The network's, with the kept weights: an evaluation may use its class centres."""
    shift: tuple[Shift, Table] | None = None
    """Of a classifier with test images: how well these can be told from held-out ones, and the compared rows."""


def predict_splits(recipe: Recipe, run: Run, task: Task, network: Network, tables: Splits, outcome: Outcome) -> Prediction:
    """Predict all held-out and test images with the weights that training kept. Raises Interrupted when a signal came."""
    for tracker in run.accelerator.trackers:  # Accelerator.end_training would end the process group as well
        tracker.finish()
    network.load_state_dict(load_file(run.folder.weights))  # with the objective's weights, as validation used them
    options = InferenceOptions.from_recipe(recipe, run.accelerator.num_processes)
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
        return Scores(table.rows, table.names, classes, outputs, table.labels, task.target, source, group_list(table), table.ids)

    val_outputs = outcome.val_outputs
    if val_outputs is None:  # validated by another process, before an interruption
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
    shift = None
    if tables.test is not None and task.target.outputs == "logits":
        shift = compare_with_test(recipe, run, network, task.val.join(task.unmeasured), tables.test, tables.cached)
    return Prediction(val_outputs, test, network.objective, shift)


def write_results(
    recipe: Recipe, run: Run, task: Task, prediction: Prediction, sample: Sample | None, outcome: Outcome
) -> dict[str, Any]:
    """Evaluate the predictions once; write thresholds, submission, report and metrics.json; returns what that holds."""
    folder, epochs = run.folder, len(outcome.history)

    def write() -> dict[str, Any]:
        evaluation = task.evaluate(prediction.val, prediction.objective)
        which = f"{recipe.train.keep} epoch {outcome.best_epoch}" if outcome.best_epoch else "of an unfinished first epoch"
        which = which if recipe.train.epochs else "without training"
        run.log(f"validation, {which}: " + "  ".join(f"{key} {value:.4f}" for key, value in evaluation.metrics.items()))
        if recipe.train.keep == "best" and epochs > 1:
            run.log("  slightly too high: the epoch was chosen on the rows that it is scored on (not with train.keep last)")
        fitted = fit_decisions(task.val, prediction.val, task.metric, folder)
        if sample is not None and prediction.test is not None:
            submit(recipe.predict, folder.submission, sample, prediction.test, fitted.decisions, run.log, recipe.train.metric)
        result: dict[str, Any] = {
            "metric": task.metric,
            "best_epoch": outcome.best_epoch,
            "epochs": epochs,
            "rows": task.num_queries,
        }
        result |= evaluation.metrics
        if fitted.calibration is not None:
            result |= {name: value for name, value in fitted.calibration.numbers().items() if name not in result}
        if (interval := evaluation.interval()) is not None:
            result["interval"] = interval
        if prediction.shift is not None:
            run.log(describe_shift(prediction.shift[0]))
            result["test_shift"] = prediction.shift[0].summary()
        write_run_page(recipe, folder, _shown(task, evaluation, fitted), outcome.history, result, prediction.shift)
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


def _shown(task: Task, evaluation: Evaluation, fitted: FittedDecisions) -> HeldOutScores | OpenSetEvaluation:
    """Return what a run's page shows of the validation."""
    if evaluation.open_set is not None:
        return evaluation.open_set
    train_images = task.target.counts(task.targets, len(task.classes)).astype(int).tolist()
    return HeldOutScores(task.val, evaluation.outputs, evaluation.decided, fitted.decisions, fitted.calibrated, train_images)
