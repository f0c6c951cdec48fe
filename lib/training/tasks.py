"""What differs between training a classifier and an embedding: the loss, the order of the rows, the evaluation of a validation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch import nn

from lib.config.recipe import Recipe
from lib.config.traits import LOSSES
from lib.errors import FlukeError, did_you_mean
from lib.images.samplers import ClassGroupOrder, RandomOrder, derive_seed, sampling_weights, share_with_partner
from lib.metrics import registry
from lib.metrics.intervals import bootstrap_interval
from lib.models.embedding_losses import EmbeddingLoss, make_embedding_loss
from lib.models.losses import make_classification_loss
from lib.retrieval.class_centres import ClassCentres, make_class_centres
from lib.retrieval.evaluation import OpenSetEvaluation, evaluate_open_set
from lib.retrieval.held_out import ValidationSet
from lib.scores.decided import decide_out_of_fold
from lib.tables.table import Table
from lib.tables.target import IDENTITY, Target

LEAST_PAIRED = 0.5
"""Share of the images with another one of their individual in their batch, below which losses over pairs learn little."""


@dataclass(frozen=True)
class Evaluation:
    """Everything that a validation says, computed once: metrics.json, the interval and the report read it."""

    metrics: dict[str, float]
    outputs: np.ndarray
    """(n, C) logits or (n, D) embeddings of the task's validation table, float32."""
    decided: np.ndarray | None = None
    """(n, C) logits whose plain decisions are those of a submission, where they aren't `outputs`."""
    open_set: OpenSetEvaluation | None = None
    """Of embeddings: the threshold and the value of each query."""
    compute_interval: Callable[[], tuple[float, float] | None] = field(default=lambda: None, repr=False)

    def interval(self) -> tuple[float, float] | None:
        """Return the 95% bootstrap interval of the task's metric, groups drawn whole; None for a metric that has none."""
        return self.compute_interval()


class Task(Protocol):
    """One kind of training, on a training and a validation table."""

    target: Target
    metric: str
    """Name of the metric that chooses the best epoch."""
    train: Table
    """Rows to train on."""
    classes: tuple[str, ...]
    val: Table
    """Rows that the network is run on at a validation."""
    num_queries: int
    """How many rows of `val`, the last ones, are held out."""
    unmeasured: Table
    """Held-out rows that are scored at the end but not evaluated: rows of classes that aren't trained (data.only_classes)."""
    chance: dict[str, float]
    """The metric of the same scores for every row, and the `loss` of a uniform guess; {} where they aren't known."""
    targets: np.ndarray
    """Encoded targets of the training images; longer than `train` where mirrored images follow (data.mirror_identities)."""

    def make_loss(self, width: int) -> nn.Module:
        """Return the recipe's objective; `width` is the number of columns of an embedding."""

    def make_order(self) -> RandomOrder | ClassGroupOrder:
        """Return the order of the rows in each epoch, positions in `targets`."""

    def note_on_order(self) -> str | None:
        """Return a note on an order from which the loss learns little, else None. Raises FlukeError if it learns nothing."""

    def measure(self, outputs: np.ndarray, loss: nn.Module | None) -> dict[str, float]:
        """Return the metric, with what is computed on the way to it, of a validation during training.

        `outputs` are the network's for `val`, and `loss` is its own. Raises FlukeError when `metric` is undefined.
        """

    def evaluate(self, outputs: np.ndarray, loss: nn.Module | None) -> Evaluation:
        """Return all that the outputs for `val` say. Raises FlukeError when `metric` is undefined."""


def make_task(recipe: Recipe, target: Target, train: Table, val: Table, own: Table | None = None) -> Task:
    """Return the task of a target. Raises FlukeError when the metric, the objective or the sampler don't fit the labels."""
    return EmbeddingTask(recipe, train, val, own) if target is IDENTITY else ClassificationTask(recipe, train, val)


def check_task(recipe: Recipe, target: Target) -> None:
    """Raise FlukeError when the metric or a classifier's objective doesn't fit the target: before any table is read."""
    registry.resolve_metric(recipe.train.metric, target)
    if recipe.train.epochs == 0 and (target is not IDENTITY or recipe.model.embedding_dim is not None):
        raise FlukeError(
            "train.epochs 0: is for train_embedding without model.embedding_dim; other heads must be trained to answer."
        )
    if target is not IDENTITY and target.name not in LOSSES[recipe.objective.name].targets:
        takes = ", ".join(name for name, traits in LOSSES.items() if target.name in traits.targets)
        raise FlukeError(
            f"objective.name {recipe.objective.name} is not for {target.wording} in train_classifier; it takes {takes}."
        )


class ClassificationTask(Task):
    """Train logits, of one label per image or several, or numbers. Raises FlukeError as `make_task` does."""

    def __init__(self, recipe: Recipe, train: Table, val: Table):
        self.recipe, self.train, self.classes, self.target = recipe, train, train.classes, train.target
        trained = val.in_classes()
        self.val, self.unmeasured = val.take(trained), val.take(~trained)
        self.num_queries = len(self.val)
        if not self.num_queries:
            raise FlukeError(f"{train.source}: no held-out image has one of the {len(self.classes)} classes to be trained.")
        self.metric = registry.resolve_metric(recipe.train.metric, self.target)
        if recipe.train.sampler == "pk":
            raise FlukeError("train.sampler pk is for train_embedding; train_classifier takes shuffle or weighted.")
        if registry.METRICS[self.metric].traits.two_classes and len(self.classes) != 2:
            raise FlukeError(
                f"train.metric {self.metric} is for two classes ({train.source} has {len(self.classes):,}); choose another."
            )
        self.targets, self.val_targets = train.targets(), self.val.targets()
        self.val_loss = self.make_loss(0).eval()
        shares = np.maximum(self.target.counts(self.targets, len(self.classes)), 0.5) / len(self.train)
        same = self.targets.mean(0) if self.target.numeric else shares
        self.chance = self.measure(self.target.to_logits(np.tile(same, (len(self.val), 1))), None)
        uniform = np.tile(same, (len(self.val), 1)) if self.target.numeric else np.zeros((len(self.val), len(self.classes)))
        self.chance["loss"] = self._loss(uniform.astype(np.float32))

    def make_loss(self, width: int) -> nn.Module:
        return make_classification_loss(self.recipe.objective, self.targets, self.classes, self.target)

    def make_order(self) -> RandomOrder:
        t = self.recipe.train
        if t.sampler != "weighted":
            return RandomOrder(len(self.train), derive_seed(t.seed, 0))
        if unknown := sorted(set(t.sampler_factors) - set(self.classes)):
            raise FlukeError(f"train.sampler_factors names {unknown[0]!r}, no class{did_you_mean(unknown[0], self.classes)}")
        factors = np.array([t.sampler_factors.get(name, 1.0) for name in self.classes])
        return RandomOrder(len(self.train), derive_seed(t.seed, 0), sampling_weights(self.targets, t.sampler_power, factors))

    def note_on_order(self) -> str | None:
        return None

    def _loss(self, outputs: np.ndarray) -> float:
        with torch.no_grad():
            return float(self.val_loss(torch.from_numpy(outputs), torch.from_numpy(self.val_targets)))

    def _decided(self, outputs: np.ndarray) -> np.ndarray:
        """Return the outputs as `metric` takes them: with what a submission would give where it is a metric of that."""
        groups, empty = self.val.groups, self.recipe.predict.allow_empty
        return decide_out_of_fold(outputs, self.val_targets, self.target, self.metric, groups=groups, allow_empty=empty)

    def measure(self, outputs: np.ndarray, loss: nn.Module | None) -> dict[str, float]:
        found = {"loss": self._loss(outputs)}
        if self.metric != "loss":
            found = {self.metric: registry.METRICS[self.metric].function(self._decided(outputs), self.val_targets), **found}
        _require_metric(self.metric, {name: value for name, value in found.items() if not np.isnan(value)}, len(outputs))
        return found

    def evaluate(self, outputs: np.ndarray, loss: nn.Module | None) -> Evaluation:
        decided = self._decided(outputs)
        metrics = registry.compute_metrics(self.target, outputs, self.val_targets, self.metric, decided)
        metrics["loss"] = self._loss(outputs)
        _require_metric(self.metric, metrics, len(outputs))

        def interval() -> tuple[float, float] | None:
            if registry.METRICS[self.metric].resampled is None:
                return None
            return bootstrap_interval((self.metric, decided, self.val_targets), groups=self.val.groups)

        return Evaluation(metrics, outputs, decided, compute_interval=interval)


class EmbeddingTask(Task):
    """Train embeddings of individuals.

    A validation searches for each held-out image among the training images of known individuals, of which `own` are those of the
    contest's table (None: all); some held-out individuals are unknown there.

    Raises FlukeError as `make_task` does, and for fewer than two individuals to train on.
    """

    def __init__(self, recipe: Recipe, train: Table, val: Table, own: Table | None = None):
        d, t = recipe.data, recipe.train
        self.recipe, self.num_queries, self.target = recipe, len(val), IDENTITY
        self.metric = registry.resolve_metric(t.metric, IDENTITY)
        labels = [label for (label,) in train.labels or []]
        self.train = replace(train, classes=tuple(sorted(set(labels) - {d.new_label})))
        self.classes = self.train.classes
        if len(self.classes) < 2:
            raise FlukeError(f"{train.source}: {len(self.classes)} individuals to train on; an embedding needs at least two.")
        position = {name: i for i, name in enumerate(self.classes)}
        self.targets = np.array([position.get(label, -1) for label in labels])
        own = train if own is None else own
        gallery = np.flatnonzero([label in position for (label,) in own.labels or []])
        self.val, self.unmeasured = own.take(gallery).join(val), val.take(slice(0))
        self.labels = np.array([label for (label,) in self.val.labels or []])
        self.chance: dict[str, float] = {}
        if d.mirror_identities:
            mirrored = np.where(self.targets >= 0, self.targets + len(self.classes), -1)
            self.targets = np.concatenate([self.targets, mirrored])

    def make_loss(self, width: int) -> nn.Module:
        n = len(self.classes) * (1 + self.recipe.data.mirror_identities)
        return make_embedding_loss(self.recipe.objective, self.targets, n, width)

    def make_order(self) -> RandomOrder | ClassGroupOrder:
        t = self.recipe.train
        seed = derive_seed(t.seed, 0)
        if t.sampler == "pk":
            return ClassGroupOrder(self.targets, t.images_per_class, t.images_per_batch, t.singles, seed)
        labelled = np.where(self.targets < 0, self.targets.max() + 1, self.targets)
        return RandomOrder(
            len(self.targets), seed, sampling_weights(labelled, t.sampler_power) if t.sampler == "weighted" else None
        )

    def note_on_order(self) -> str | None:
        o, t = self.recipe.objective, self.recipe.train
        over_pairs = [name for name in (o.name, *o.also) if LOSSES[name].compares_pairs]
        if not over_pairs:
            return None
        share = share_with_partner(self.targets[self.make_order()(0)], t.images_per_batch)
        if share == 0 and len(over_pairs) == 1 + len(o.also) and np.bincount(self.targets[self.targets >= 0]).max() == 1:
            raise FlukeError(
                f"objective {over_pairs[0]}: compares images of one individual, and none has two training images; use a loss with "
                "class centres (arcface), or train.sampler pk with train.singles repeat."
            )
        if share >= LEAST_PAIRED or t.sampler == "pk":
            return None
        return (
            f"note: objective {over_pairs[0]} compares images of one individual, but {share:.0%} of the images share a batch of "
            f"{t.images_per_batch} with another one of theirs; train.sampler pk makes batches of such pairs"
        )

    def measure(self, outputs: np.ndarray, loss: nn.Module | None) -> dict[str, float]:
        return self.evaluate(outputs, loss).metrics

    def evaluate(self, outputs: np.ndarray, loss: nn.Module | None) -> Evaluation:
        is_query = np.arange(len(outputs)) >= len(outputs) - self.num_queries
        centres = class_centres(loss, self.recipe, self.classes)
        rows = ValidationSet(outputs, self.labels, is_query, self.val.groups)
        found = evaluate_open_set(rows, self.recipe, centres)
        _require_metric(self.metric, found.metrics, self.num_queries)
        return Evaluation(found.metrics, outputs, None, found, lambda: found.interval(self.metric))


def class_centres(loss: nn.Module | None, recipe: Recipe, classes: tuple[str, ...]) -> ClassCentres | None:
    """Return the class centres of an embedding's objective, None if it has none."""
    assert isinstance(loss, EmbeddingLoss)
    found = loss.centres()
    if found is None:
        return None
    return make_class_centres(found.cpu().float().numpy(), classes, recipe.data.mirror_identities, "mirror" in recipe.predict.tta)


def _require_metric(metric: str, metrics: dict[str, float], rows: int) -> None:
    if metric not in metrics:
        raise FlukeError(f"train.metric {metric} is undefined on these {rows} validation rows; hold out more, or choose another.")
