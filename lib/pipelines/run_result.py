"""What a run leaves after its training: predictions, what was fitted on them, submission, page, metrics.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors.torch import load_file
from torch import nn

from lib.config.recipe import Recipe
from lib.errors import Interrupted
from lib.files import write_json
from lib.images.augmentation import make_eval_transform
from lib.models.network import Network
from lib.pipelines.run_tables import Splits, group_list, make_dataset
from lib.pipelines.shift import compare_with_test, describe_shift
from lib.reports.class_results import HeldOutScores
from lib.reports.run_page import write_run_page
from lib.retrieval.evaluation import OpenSetEvaluation
from lib.scores.score_file import Scores, save_scores
from lib.scores.shift import Shift
from lib.submission.decisions import FittedDecisions, fit_decisions
from lib.submission.writing import submit
from lib.tables.sample import Sample
from lib.tables.table import Table
from lib.training.distributed import broadcast_from_main, run_on_main
from lib.training.inference import InferenceOptions, predict
from lib.training.loop import Outcome
from lib.training.run import Run
from lib.training.tasks import Evaluation, Task


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

    def write() -> dict[str, Any]:
        evaluation = task.evaluate(prediction.val, prediction.objective)
        run.log(_describe_validation(recipe, outcome, evaluation))
        fitted = fit_decisions(task.val, task.target, prediction.val, task.metric, run.folder)
        if sample is not None and prediction.test is not None:
            submit(recipe.predict, run.folder.submission, sample, prediction.test, fitted.decisions, run.log, recipe.train.metric)
        result: dict[str, Any] = {
            "metric": task.metric,
            "best_epoch": outcome.best_epoch,
            "epochs": len(outcome.history),
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
        write_run_page(recipe, run.folder, _shown(task, evaluation, fitted), outcome.history, result, prediction.shift)
        if outcome.finished:
            write_json(run.folder.metrics, result)
        return result

    result = broadcast_from_main(run.accelerator, write)
    run.log(_describe_end(run, outcome))
    return result


def _describe_validation(recipe: Recipe, outcome: Outcome, evaluation: Evaluation) -> str:
    """Return the line of the log about the kept weights, with a note where their score is too high."""
    which = f"{recipe.train.keep} epoch {outcome.best_epoch}" if outcome.best_epoch else "of an unfinished first epoch"
    which = which if recipe.train.epochs else "without training"
    line = f"validation, {which}: " + "  ".join(f"{key} {value:.4f}" for key, value in evaluation.metrics.items())
    if recipe.train.keep == "best" and len(outcome.history) > 1:
        line += "\n  slightly too high: the epoch was chosen on the rows that it is scored on (not with train.keep last)"
    return line


def _describe_end(run: Run, outcome: Outcome) -> str:
    """Return the last line of a run's log: finished, or cut short by train.max_minutes."""
    if outcome.finished:
        return f"done: {run.folder}"
    kept = "the best so far" if outcome.history else "a network that has not finished one epoch, whose predictions are poor"
    return f"train.max_minutes is over after {len(outcome.history)} epochs: predictions are of {kept}; {run.resume_command}"


def _shown(task: Task, evaluation: Evaluation, fitted: FittedDecisions) -> HeldOutScores | OpenSetEvaluation:
    """Return what a run's page shows of the validation."""
    if evaluation.open_set is not None:
        return evaluation.open_set
    train_images = task.target.counts(task.targets, len(task.classes)).astype(int).tolist()
    return HeldOutScores(task.val, evaluation.outputs, evaluation.decided, fitted.decisions, fitted.calibrated, train_images)
