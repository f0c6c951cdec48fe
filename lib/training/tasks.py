"""What differs between a classifier and an embedding: the objective, the order of the rows, what a validation says."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import nn

from lib.config.recipe import Recipe
from lib.errors import FlukeError, did_you_mean
from lib.images.samplers import ClassGroupOrder, RandomOrder, derive_seed, sampling_weights
from lib.metrics import registry
from lib.metrics.intervals import bootstrap_interval
from lib.models.embedding_losses import EmbeddingLoss, make_embedding_loss
from lib.models.losses import make_classification_loss
from lib.retrieval.class_centres import ClassCentres, make_class_centres
from lib.retrieval.evaluation import OpenSetEvaluation, ValidationSet, evaluate_open_set
from lib.tables.table import Table


class Task(Protocol):
    """One kind of training on a training and a validation table."""

    kind: str
    """classifier or embedding"""
    name: registry.Task
    metric: str
    """What chooses the best epoch."""

    train: Table
    """What is trained on."""
    classes: tuple[str, ...]
    shown: Table
    """What the network is run on at a validation."""
    queries: int
    """How many of its rows, the last, are held out."""
    beside: Table
    """Held-out rows that are scored at the end but not measured: those of classes that aren't learnt."""
    targets: np.ndarray
    """Targets of the training images, as the objective takes them; longer than the table where mirrored images follow."""

    def objective(self, width: int) -> nn.Module:
        """What is optimised, with weights of its own if it has any; `width` is that of embeddings."""

    def order(self) -> RandomOrder | ClassGroupOrder:
        """The rows of each epoch, as positions among `targets`; its `n` is their number."""

    def evaluate(self, outputs: np.ndarray, objective: nn.Module | None) -> dict[str, float]:
        """Metrics of the network's outputs (len(shown), C or D), `metric` among them."""

    def interval(self, outputs: np.ndarray, objective: nn.Module | None) -> tuple[float, float] | None:
        """95% bootstrap interval of `metric`, groups drawn whole; None where it is neither a function of logits nor a mean of
        queries."""


class Classifier:
    """Softmax over classes, or a sigmoid a label. Raises FlukeError when metric or objective don't fit the labels."""

    kind = "classifier"

    def __init__(self, recipe: Recipe, train: Table, val: Table):
        self.recipe, self.train, self.classes = recipe, train, train.classes
        known = val.known()
        self.shown, self.beside = val.take(known), val.take(~known)
        self.queries = len(self.shown)
        if not self.queries:
            raise FlukeError(f"{train.source}: no held-out image is of the {len(self.classes)} classes to be learnt.")
        self.name: registry.Task = "multi" if train.multi else "single"
        self.metric = registry.default_metric(self.name) if recipe.train.metric == "auto" else recipe.train.metric
        registry.check_metric(self.metric, self.name)
        if recipe.train.sampler == "pk":
            raise FlukeError("train.sampler pk is for train_embedding; train_classifier takes shuffle or weighted.")
        self.targets, self.val_targets = train.targets(), self.shown.targets()
        self.loss = self.objective(0).eval()

    def objective(self, width: int) -> nn.Module:
        return make_classification_loss(self.recipe.objective, self.targets, self.classes, self.train.multi)

    def order(self) -> RandomOrder:
        t = self.recipe.train
        if t.sampler != "weighted":
            return RandomOrder(len(self.train), derive_seed(t.seed, 0))
        if unknown := sorted(set(t.sampler_factors) - set(self.classes)):
            raise FlukeError(f"train.sampler_factors names {unknown[0]!r}, no class{did_you_mean(unknown[0], self.classes)}")
        factors = np.array([t.sampler_factors.get(name, 1.0) for name in self.classes])
        return RandomOrder(len(self.train), derive_seed(t.seed, 0), sampling_weights(self.targets, t.sampler_power, factors))

    def evaluate(self, outputs: np.ndarray, objective: nn.Module | None) -> dict[str, float]:
        found = registry.compute_metrics(self.name, outputs, self.val_targets)
        with torch.no_grad():
            found["loss"] = float(self.loss(torch.from_numpy(outputs), torch.from_numpy(self.val_targets)))
        return _require_metric(self.metric, found, len(outputs))

    def interval(self, outputs: np.ndarray, objective: nn.Module | None) -> tuple[float, float] | None:
        if registry.METRICS[self.metric].resampled is None:
            return None
        return bootstrap_interval((self.metric, outputs, self.val_targets), groups=self.shown.groups)


class Embedder:
    """Embeddings of individuals; validation asks for each held-out image who it is, among the training images and strangers.

    Raises FlukeError when metric or objective don't fit, and when there is one individual or none to train on.
    """

    kind = "embedding"

    def __init__(self, recipe: Recipe, train: Table, val: Table):
        d, t = recipe.data, recipe.train
        self.recipe, self.queries = recipe, len(val)
        self.name: registry.Task = "retrieval"
        self.metric = registry.default_metric("retrieval") if t.metric == "auto" else t.metric
        registry.check_metric(self.metric, "retrieval")
        labels = [label for (label,) in train.labels or []]
        self.train = replace(train, classes=tuple(sorted(set(labels) - {d.new_label})))
        self.classes = self.train.classes
        if len(self.classes) < 2:
            raise FlukeError(f"{train.source}: {len(self.classes)} individuals to train on; an embedding needs two at least.")
        place = {name: i for i, name in enumerate(self.classes)}
        self.targets = np.array([place.get(label, -1) for label in labels])
        gallery = np.flatnonzero(self.targets >= 0)
        self.shown, self.beside = train.take(gallery).join(val), val.take(slice(0))
        self.labels = np.array([label for (label,) in self.shown.labels or []])
        if d.mirror_identities:
            mirrored = np.where(self.targets >= 0, self.targets + len(self.classes), -1)
            self.targets = np.concatenate([self.targets, mirrored])

    def objective(self, width: int) -> nn.Module:
        n = len(self.classes) * (1 + self.recipe.data.mirror_identities)
        return make_embedding_loss(self.recipe.objective, self.targets, n, width)

    def order(self) -> RandomOrder | ClassGroupOrder:
        t = self.recipe.train
        seed = derive_seed(t.seed, 0)
        if t.sampler == "pk":
            return ClassGroupOrder(self.targets, t.images_per_class, t.batch_size, t.singles, seed)
        named = np.where(self.targets < 0, self.targets.max() + 1, self.targets)
        return RandomOrder(len(self.targets), seed, sampling_weights(named, t.sampler_power) if t.sampler == "weighted" else None)

    def evaluate(self, outputs: np.ndarray, objective: nn.Module | None) -> dict[str, float]:
        return _require_metric(
            self.metric, self.validate(outputs, class_centres(objective, self.recipe, self.classes)).metrics, self.queries
        )

    def interval(self, outputs: np.ndarray, objective: nn.Module | None) -> tuple[float, float] | None:
        each = self.validate(outputs, class_centres(objective, self.recipe, self.classes)).per_query
        groups = None if self.shown.groups is None else self.shown.groups[-self.queries :]
        return query_interval(each[self.metric], groups) if self.metric in each else None

    def validate(self, outputs: np.ndarray, centres: ClassCentres | None) -> OpenSetEvaluation:
        """Answers to the held-out images, with the threshold that suits them."""
        is_query = np.arange(len(outputs)) >= len(outputs) - self.queries
        return evaluate_open_set(ValidationSet(outputs, self.labels, is_query, self.shown.groups), self.recipe, centres)


def class_centres(objective: nn.Module | None, recipe: Recipe, classes: tuple[str, ...]) -> ClassCentres | None:
    """The class centres of an embedding's objective, None if it has none."""
    assert isinstance(objective, EmbeddingLoss)
    found = objective.centres()
    if found is None:
        return None
    return make_class_centres(found.cpu().float().numpy(), classes, recipe.data.mirror_identities, "mirror" in recipe.predict.tta)


def query_interval(each: np.ndarray, groups: np.ndarray | None) -> tuple[float, float]:
    """95% bootstrap interval of the mean of what queries add to a metric, (q,) with NaN for those left out; whole groups."""
    there = ~np.isnan(each)
    return bootstrap_interval(each[there], groups=None if groups is None else groups[there])


def _require_metric(metric: str, found: dict[str, float], rows: int) -> dict[str, float]:
    if metric not in found:
        raise FlukeError(f"train.metric {metric} isn't defined on these {rows} validation rows; hold out more, or choose another.")
    return found
