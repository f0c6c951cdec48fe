"""The network of a run with its first weights, and the trainer of it on the run's images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from accelerate.utils import set_seed

from lib.config.recipe import Model, Recipe
from lib.images.augmentation import make_eval_transform, make_train_transform
from lib.images.samplers import derive_seed
from lib.models.backbone import resolve_model
from lib.models.heads import Binned, Numbers
from lib.models.losses import BinnedLoss, NumberLoss, head_for
from lib.models.network import Network, NetworkSpec
from lib.models.weights import load_initial_weights, read_spec
from lib.pipelines.frozen import make_feature_data, seconds_per_image, trains_on_features
from lib.pipelines.run_tables import Splits, make_dataset
from lib.pipelines.shift import count_compared
from lib.run_folder import run_of_weights
from lib.scores.score_file import load_scores
from lib.tables.image_path import count_channels
from lib.tables.target import Target
from lib.training.loop import Datasets, Trainer
from lib.training.run import Run
from lib.training.tasks import Task


def make_spec(recipe: Recipe, model: Model, classes: Sequence[str], target: Target) -> NetworkSpec:
    """Return what the recipe's network is made of, on a backbone that `resolve_model` returned."""
    d, head = recipe.data, head_for(recipe.objective, target)
    bins = recipe.objective.bins if head == "binned" else 0
    return NetworkSpec(model, tuple(classes), target, d.eval_size or d.size, d.fit, head, bins)


def build_network(recipe: Recipe, run: Run, task: Task, new: bool) -> Network:
    """Return the network with its objective and, for a `new` one, its first weights; a checkpoint replaces those of others.

    Raises FlukeError when the backbone doesn't fit the recipe.
    """
    d = recipe.data
    model = resolve_model(recipe.model, (d.size, d.eval_size or d.size), count_channels(d))
    if added := {key: value for key, value in model.kwargs.items() if key.endswith("img_size") and key not in recipe.model.kwargs}:
        run.log(f"{recipe.model.name}: built with {added} for data.size and eval_size; model.kwargs says otherwise.")
    set_seed(derive_seed(recipe.train.seed, 2) % 2**32)
    network = Network(make_spec(recipe, model, task.classes, task.target), recipe.objective)
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


def make_trainer(recipe: Recipe, run: Run, task: Task, network: Network, tables: Splits, begun: Path | None) -> Trainer:
    """Return the trainer with its datasets; after training, other held-out and the test images are predicted.

    `begun` is the resumable state that it will go on from, if any.
    """
    compared = 0 if tables.test is None or task.target.outputs != "logits" else count_compared(len(task.val), len(tables.test))
    num_predicted = len(task.unmeasured) + tables.images_to_predict + compared
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
