"""Predict the images of any table with a trained network, or with the mean of several; evaluate them where labels are known."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from scipy.special import logit

from lib.config.command_line import load_recipe
from lib.config.recipe import Data, Recipe
from lib.errors import FlukeError, first_few
from lib.files import read_json, write_json
from lib.images.augmentation import ResizeToSquare
from lib.images.checking import find_unreadable
from lib.metrics import registry
from lib.metrics.intervals import bootstrap_interval
from lib.models.network import NetworkSpec
from lib.models.weights import load_network, read_spec
from lib.pipelines.readable import require_test_images
from lib.pipelines.run_tables import make_dataset
from lib.process import announce, is_main_process
from lib.run_folder import FinalFolder, RunFolder, default_run_folder, run_of_weights, submit_command
from lib.scores.cut_points import cut_at
from lib.scores.decided import give_one_label
from lib.scores.score_file import Scores, save_scores
from lib.submission.choice import check_sample
from lib.submission.decisions import PLAIN, Decisions, read_decisions
from lib.submission.writing import submit
from lib.tables import loading
from lib.tables.sample import Sample, load_sample, read_recipe_sample, without_extension
from lib.tables.table import Table
from lib.training.accelerator import make_inference_accelerator
from lib.training.distributed import broadcast_from_main
from lib.training.inference import InferenceOptions, predict


@dataclass(frozen=True)
class PredictArguments:
    """The arguments of scripts/predict.py; None: as the recipe says, or the default there."""

    run: str
    table: str | None = None
    image_dir: str | None = None
    sample: str | None = None
    out: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    label_separator: str | None = None
    deadline: float | None = None
    """Value of time.monotonic() after which OutOfTime is raised; for one process."""


class OutOfTime(FlukeError):
    """The deadline came before all images were predicted."""


def predict_table(arguments: PredictArguments) -> dict[str, Any]:
    """Write the scores of a table's images and, where there is a sample submission, the submission.

    Returns the metrics, {} without labels. Raises FlukeError.
    """
    files, recipe = find_networks(Path(arguments.run))
    if recipe is None and arguments.table is None:
        raise FlukeError(f"--run {arguments.run}: has no recipe that names the test images; name a table or a folder with --table.")
    folder = choose_folder(arguments)
    spec = read_network_spec(arguments, files)
    table, recipe = load_table(arguments, recipe, spec)
    sample = find_sample(arguments, recipe, spec, table)
    decisions = read_decisions(run_of(Path(arguments.run)), spec.classes, spec.target)

    accelerator = make_inference_accelerator(recipe.train.precision, folder.path)
    folder = broadcast_from_main(accelerator, lambda: folder)  # without --out, its name depends on the clock
    d = recipe.data
    bad = broadcast_from_main(accelerator, lambda: find_unreadable(table.paths, d.workers, d.check))
    table = require_test_images(table, bad, d.on_unreadable)
    outputs = predict_average(files, recipe, table, accelerator, _deadline_check(arguments, len(table)))
    classes = () if spec.target.outputs == "embeddings" else spec.classes
    source = {"run": arguments.run, "model": spec.model.name, "networks": len(files), "table": str(table.source)}
    scores = Scores(table.rows, table.names, classes, outputs, table.labels, spec.target, source, ids=table.ids)

    def write() -> dict[str, Any]:
        if sample is not None:
            submit(recipe.predict, folder.submission, sample, scores, decisions, metric=recipe.train.metric)
        save_scores(folder.scores_test, scores)
        result = {}
        if table.labels is not None and spec.target.outputs == "logits":
            result = evaluate_predictions(table, outputs, decisions, recipe)
        if result:
            write_json(folder.metrics, result)
        hand_in = submit_command(RunFolder(arguments.run), f"--file {folder.submission}")
        announce(folder.list_paths(), hand_in if folder.submission.exists() and Path(arguments.run).is_dir() else None)
        return result

    return broadcast_from_main(accelerator, write)


def _deadline_check(arguments: PredictArguments, images: int) -> Callable[[], None]:
    """Return a function that raises OutOfTime after the deadline."""

    def check() -> None:
        if arguments.deadline is not None and time.monotonic() > arguments.deadline:
            raise OutOfTime(
                f"--run {arguments.run}: {images:,} images don't fit into the time limit; allow more minutes, or take fewer folds."
            )

    return check


# --- what is predicted with what --------------------------------------------------------------------------------------------------


def find_networks(run: Path) -> tuple[list[Path], Recipe | None]:
    """Return the weights files of a run and its recipe, if it has one; of a k-fold run one per fold, of its `final` one per seed.

    Raises FlukeError.
    """
    if run.is_file():
        return [run], None
    final = FinalFolder(run)
    folder = RunFolder(run.parent) if final.final.exists() else RunFolder(run)
    recipe = load_recipe(folder.recipe)
    parts = [folder]
    if final.final.exists():
        parts = [final.seed(seed) for seed in read_json(final.final)["seeds"]]
    elif folder.is_kfold and recipe is not None:
        parts = [folder.fold(k) for k in range(recipe.folds.n)]
    missing = [part.name for part in parts if not part.weights.exists()]
    if missing and len(parts) > 1:
        raise FlukeError(
            f"--run {run}: {', '.join(missing)} of its {len(parts)} folds have no weights yet; kfold.py --resume makes them."
        )
    if missing:
        found = f"has no {folder.weights.relative_to(run)}" if run.is_dir() else "no such folder or file"
        raise FlukeError(f"--run {run}: {found}; is it a run?")
    unfinished = [part.name for part in parts if recipe is not None and not final.final.exists() and not part.metrics.exists()]
    if unfinished and is_main_process():
        print(f"note: {', '.join(unfinished)} isn't finished; these are the best weights so far")
    return [part.weights for part in parts], recipe


def run_of(run: Path) -> RunFolder | None:
    """Return the run whose recipe and fitted decisions hold: of models of all rows (kfold.py --final) the k-fold run.

    None for a file of weights that is in no run.
    """
    if run.is_file():
        return run_of_weights(run)
    return RunFolder(run.parent if FinalFolder(run).final.exists() else run)


def choose_folder(arguments: PredictArguments) -> RunFolder:
    """Return the folder to write to. Raises FlukeError when it holds a run or another prediction."""
    folder = RunFolder(arguments.out or default_run_folder("predict"))
    if taken := [path.name for path in (folder.recipe, folder.scores_test, folder.submission) if path.exists()]:
        raise FlukeError(f"--out {folder}: holds {' and '.join(taken)} already; use another name, or remove it first.")
    return folder


def read_network_spec(arguments: PredictArguments, files: Sequence[Path]) -> NetworkSpec:
    """Return the description of the networks. Raises FlukeError for weights without one, and for embeddings of several folds."""
    spec = read_spec(files[0])
    if spec is None:
        raise FlukeError(f"{files[0]}: weights without a description; only the best weights of a run need no recipe.")
    if spec.target.outputs == "embeddings" and (len(files) > 1 or arguments.sample):
        why = "those of several folds can't be averaged; name one fold"
        if arguments.sample:
            why = "retrieve.py writes their submission"
        raise FlukeError(f"--run {arguments.run}: a network of embeddings; {why}.")
    return spec


def load_table(arguments: PredictArguments, recipe: Recipe | None, spec: NetworkSpec) -> tuple[Table, Recipe]:
    """Return the images to predict, and the recipe (the default one without) with the arguments' columns. Raises FlukeError."""
    names = ("image_column", "label_column", "label_separator")
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    data = replace(Data(label_separator=" ") if recipe is None else recipe.data, **given)
    if spec.target.numeric and (recipe is None or arguments.label_column is not None):
        named = arguments.label_column is not None and len(spec.classes) == 1
        data = replace(data, number_columns=[data.label_column] if named else list(spec.classes))
    if arguments.table is None:
        if not Path(data.root).is_dir():
            raise FlukeError(
                f"--run {arguments.run}: its recipe's data.root {data.root} isn't there, for the data has moved; name "
                "a table or folder, its images and the sample with --table, --image_dir and --sample."
            )
        table = loading.load_test(data, spec.classes, spec.target)
        if table is None:
            raise FlukeError(f"--run {arguments.run}: its recipe has no test images; name a table or a folder with --table.")
    else:
        path = Path(arguments.table)
        folders = [path.parent] if recipe is None else loading.test_folders(data)
        folders = folders if arguments.image_dir is None else [Path(arguments.image_dir)]
        has_labels = arguments.sample is None or os.path.realpath(path) != os.path.realpath(arguments.sample)
        table = loading.load_images(path, folders, data, spec.classes, spec.target, has_labels)
    return table, replace(recipe or Recipe(), data=data)


def find_sample(arguments: PredictArguments, recipe: Recipe, spec: NetworkSpec, table: Table) -> Sample | None:
    """Return the sample submission to fill: --sample, else the recipe's if the table has its images. Raises FlukeError."""
    sample = None
    if arguments.sample:
        sample = read_recipe_sample(Path(arguments.sample), recipe.data)
    elif spec.target.outputs == "logits":
        sample = _recipe_sample(arguments, recipe, table, spec)
    if sample is not None and not arguments.sample and arguments.table is not None:
        if not set(map(without_extension, sample.ids)) <= set(map(without_extension, table.names)):
            if is_main_process():
                print(f"no submission: {sample.path} lists images that {arguments.table} doesn't; --sample names another one")
            sample = None
    if sample is not None:  # its faults are found now, not after the prediction
        line = check_sample(sample, recipe.predict, table.answers, spec.classes, spec.target, recipe.train.metric)
        if is_main_process():
            print(line)
    return sample


def _recipe_sample(arguments: PredictArguments, recipe: Recipe, table: Table, spec: NetworkSpec) -> Sample | None:
    """Return the recipe's sample submission; None where other images are predicted and it can't be read any more."""
    try:
        return load_sample(recipe, table.answers, spec.classes)
    except FlukeError as error:
        if arguments.table is None:
            raise
        if is_main_process():
            print(f"no submission: {error}")
        return None


# --- prediction and evaluation ----------------------------------------------------------------------------------------------------


def predict_average(
    files: Sequence[Path], recipe: Recipe, table: Table, accelerator: Accelerator, check: Callable[[], None] = lambda: None
) -> np.ndarray:
    """Return the mean outputs (n, C) float32 of the networks in `files` for the images of a table, each decoded once.

    Of `recipe` only the sections data (workers, cache) and predict, and train.batch_size, are used. `check` is called once per
    batch and may raise. Raises FlukeError when the networks differ in more than weights.
    """
    networks = [load_network(path).to(accelerator.device).to(memory_format=torch.channels_last) for path in files]
    spec = networks[0].spec
    for path, network in zip(files, networks):
        if replace(network.spec, model=spec.model) != spec:
            raise FlukeError(f"{path}: its classes or image size are not those of {files[0]}; they can't be averaged.")
    data = make_dataset(recipe, table, ResizeToSquare(spec.size, spec.fit))
    options = InferenceOptions.from_recipe(recipe, accelerator.num_processes)
    outputs = predict(networks, data, accelerator, options, check=check, title="predict test")
    total = np.zeros(outputs[0].shape)  # not np.mean, which copies all networks' outputs into one array first
    for output in outputs:
        total += output
    return (total / len(outputs)).astype(np.float32)


def evaluate_predictions(
    table: Table, logits: np.ndarray, decisions: Decisions = PLAIN, recipe: Recipe | None = None
) -> dict[str, Any]:
    """Print and return the metrics of logits (n, C) on a labelled table, and the interval of the recipe's metric (None: the
    target's).

    Labels that the network does not know are counted and left out, with their image if it has no other; {} if nothing is left.
    Metrics that depend on thresholds or cut points use those of `decisions`.
    """
    classes = set(table.classes)
    unknown = {label: count for label, count in table.counts().most_common() if label not in classes}
    if unknown:
        named = first_few(f"{label!r} ({count:,} images)" for label, count in unknown.items())
        print(f"left out of the metrics: {len(unknown):,} labels that the network doesn't know: {named}")
        labels = [tuple(label for label in row if label not in unknown) for row in table.labels or []]
        kept = [i for i, row in enumerate(labels) if table.target.several or row]
        table, logits = replace(table, labels=labels).take(kept), logits[kept]
    if len(table) == 0:
        return {}
    targets, recipe = table.targets(), recipe or Recipe()
    metric = registry.metric_from_logits(registry.resolve_metric(recipe.train.metric, table.target), table.target)
    decided, thresholds = logits, decisions.thresholds
    if thresholds is not None:
        decided = logits - logit(np.clip([thresholds[label] for label in table.classes], 1e-9, 1 - 1e-9))
        if registry.METRICS[metric].handed_in and not recipe.predict.allow_empty:
            decided = give_one_label(decided, logits)
    if decisions.cut_points is not None:
        decided = cut_at(logits, np.array(decisions.cut_points))
    metrics = registry.compute_metrics(table.target, logits, targets, metric, decided)
    if thresholds is not None:
        at_thresholds = registry.compute_metrics(table.target, decided, targets)
        metrics |= {name: value for name, value in at_thresholds.items() if registry.uses_thresholds(name)}
    if metric not in metrics:  # such as an AUC of one class alone
        metric = table.target.default_metric
    low, high = bootstrap_interval(
        (metric, decided if registry.METRICS[metric].handed_in else logits, targets), groups=table.groups
    )
    print(f"{len(table):,} labelled images: " + "  ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    print(f"{metric}: 95% interval {low:.4f} to {high:.4f}")
    return {"rows": len(table), "metric": metric, **metrics, "interval": [low, high], "unknown_labels": unknown}
