"""A frozen backbone's features in training: a head that starts fitted, and epochs in which the backbone doesn't run."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lib.config.command_line import load_recipe
from lib.config.recipe import Recipe
from lib.errors import FlukeError
from lib.files import read_json
from lib.images.augmentation import make_eval_transform
from lib.images.dataset import FeatureDataset
from lib.models.heads import Numbers
from lib.models.network import Network
from lib.pipelines.features import backbone_mark, compute_features
from lib.pipelines.run_tables import Splits, make_dataset
from lib.run_folder import RunFolder
from lib.scores.probes import LAYERS
from lib.tables.table import Table
from lib.training.checkpoint import load_checkpoint
from lib.training.distributed import broadcast_from_main
from lib.training.inference import InferenceOptions, predict
from lib.training.loop import Datasets
from lib.training.run import Run
from lib.training.tasks import Task

TIMED = 64
"""Images of which the time of a prediction is measured."""


# --- epochs without the backbone --------------------------------------------------------------------------------------------------


def trains_on_features(recipe: Recipe) -> bool:
    """Return whether all epochs see the same features of each image: nothing before the head changes, neither image nor weights."""
    d, o = recipe.data, recipe.objective
    same_image = not (d.augment or o.mixup or o.cutmix or d.mirror_identities or recipe.predict.tta) and d.eval_size in (
        None,
        d.size,
    )
    return same_image and "" in recipe.optim.freeze and recipe.model.pool != "gem" and recipe.train.epochs > 0


def make_feature_data(recipe: Recipe, run: Run, task: Task, network: Network, tables: Splits, begun: Path | None) -> Datasets:
    """Return the features of the images to train on and to validate on, for `trains_on_features`.

    `begun` is the resumable state to go on from, whose backbone is used. Raises Interrupted when a signal came.
    """
    if begun is not None:
        load_checkpoint(begun, {"model": network})
    features = features_of_rows(recipe, run, network, tables, task.train.join(task.val))
    run.log(
        f"the backbone is frozen and images are not augmented: it has run once for {len(features):,} images, and epochs train "
        "the head on its features"
    )
    train, val = np.split(features, [len(task.train)])
    return Datasets(FeatureDataset(train, task.targets), FeatureDataset(val))


def seconds_per_image(recipe: Recipe, run: Run, network: Network, tables: Splits) -> float:
    """Return the seconds that a prediction takes per image, measured on a few held-out ones."""
    few = tables.val.take(np.arange(min(len(tables.val), TIMED)))
    images = make_dataset(
        recipe, few, make_eval_transform(recipe.data), cached=tables.val if tables.cached is None else tables.cached
    )
    options = InferenceOptions.from_recipe(recipe, run.accelerator.num_processes)
    began = time.monotonic()
    predict([network], images, run.accelerator, options, run.stop.check, "time of a prediction")
    return (time.monotonic() - began) / len(few)


def features_of_rows(recipe: Recipe, run: Run, network: Network, tables: Splits, table: Table) -> np.ndarray:
    """Return the features (n, D) float32 of a table's images, computed with those of all rows of the run where they share a cache.

    Then probe.py, all folds and this run take them from one another.
    """
    whole = table if tables.cached is None else tables.cached
    features = compute_features(network, recipe, whole, run, "features", run.log)
    position = {path: i for i, path in enumerate(whole.paths)}
    return features[[position[path] for path in table.paths]]


# --- a head that starts fitted ----------------------------------------------------------------------------------------------------


def fit_head(recipe: Recipe, run: Run, task: Task, network: Network, tables: Splits) -> None:
    """Set the last layer to the head of the probe's kind, fitted on the training rows; for `model.head_from`.

    The probe's own heads were fitted on rows that are held out here. Raises FlukeError when the probe is of another backbone or of
    other classes, and for a network whose head is not one linear layer.
    """
    _check_probe(RunFolder(str(recipe.model.head_from)), recipe, task, network)
    features = features_of_rows(recipe, run, network, tables, task.train)
    kind = "ridge" if task.target.numeric else "logistic"

    def fit() -> tuple[np.ndarray, np.ndarray]:
        return LAYERS[kind](features, task.train.targets(), len(task.classes))

    weights, biases = broadcast_from_main(run.accelerator, fit)
    last = list(network.head.children())[-1]
    if isinstance(last, Numbers):  # its output is scaled
        mean, std = (each.cpu().double().numpy() for each in (last.mean, last.std))
        weights, biases, last = weights / std, (biases - mean) / std, last.linear
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.copy_(torch.from_numpy(weights.T))
        last.bias.copy_(torch.from_numpy(biases))
    run.log(f"model.head_from: the head starts as a {kind} regression on the features of the {len(features):,} training images")


def _check_probe(probe: RunFolder, recipe: Recipe, task: Task, network: Network) -> None:
    """Raise FlukeError unless the head of a probe's run fits."""
    place, m = f"model.head_from {probe}", recipe.model
    before, about = load_recipe(probe.recipe), read_json(probe.cv).get("probe") if probe.cv.exists() else None
    if about is None or before is None:
        raise FlukeError(f"{place}: no finished run of probe.py; name the folder of a backbone in its --out.")
    if task.target.outputs == "embeddings":
        raise FlukeError(f"{place}: is for train_classifier; set it to null.")
    if network.spec.head != "linear":
        raise FlukeError(
            f"{place}: objective.name {recipe.objective.name} has a head of its own; take cross_entropy, or set it to null."
        )
    theirs, ours = read_json(probe.classes), list(task.classes)
    if theirs != ours:
        raise FlukeError(
            f"{place}: is of {len(theirs):,} classes, not of the {len(ours):,} here, or in another order; probe this table."
        )
    for name in ("name", "pool", "kwargs"):
        if (was := getattr(before.model, name)) != (now := getattr(m, name)):
            raise FlukeError(f"{place}: is of another backbone (model.{name} {was} there, {now} here); set one as the other.")
    width = network.pooled_width(network.spec.size)
    if about.get("width", width) != width:
        raise FlukeError(f"{place}: has {about['width']:,} features, and the backbone has {width:,}; probe this backbone.")
    if about.get("backbone", mark := backbone_mark(network)) != mark:
        raise FlukeError(f"{place}: its backbone had other weights; set model.weights and model.pretrained as there.")
