"""What differs between a classifier and an embedding: the objective, the order of the rows, what a validation says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import nn

from lib import metrics
from lib.config import Recipe
from lib.data import Order, row_weights, seed_of
from lib.files import FlukeError
from lib.objectives import make_objective
from lib.table import Table


class Task(Protocol):
    """One kind of training on a training and a validation table."""

    kind: str
    """classifier or embedding"""
    name: metrics.Task
    metric: str
    """What chooses the best epoch."""

    def objective(self) -> nn.Module:
        """What is optimised, with weights of its own if it has any."""

    def order(self) -> Order:
        """The rows of each epoch, as positions in the training table."""

    def targets(self) -> np.ndarray:
        """Targets of the training table, as the objective takes them."""

    def evaluate(self, outputs: np.ndarray) -> dict[str, float]:
        """Metrics of the network's outputs (n_val, C or D) for the validation table, `metric` among them."""


@dataclass
class Classifier:
    """Softmax over classes, or a sigmoid a label. Raises FlukeError when metric or objective don't fit the labels."""

    recipe: Recipe
    train: Table
    val: Table
    kind = "classifier"

    def __post_init__(self) -> None:
        self.name: metrics.Task = "multi" if self.train.multi else "single"
        self.metric = self.recipe.train.metric
        if self.metric == "auto":
            self.metric = metrics.auto_metric(self.name)
        metrics.check_metric(self.metric, self.name)
        self.train_targets, self.val_targets = self.train.targets(), self.val.targets()
        self.loss = self.objective().eval()

    def objective(self) -> nn.Module:
        return make_objective(self.recipe.objective, self.train_targets, self.train.classes, self.train.multi)

    def order(self) -> Order:
        t = self.recipe.train
        weights = row_weights(self.train_targets, t.sampler_power) if t.sampler == "weighted" else None
        return Order(len(self.train), seed_of(t.seed, 0), weights)

    def targets(self) -> np.ndarray:
        return self.train_targets

    def evaluate(self, outputs: np.ndarray) -> dict[str, float]:
        found = metrics.evaluate(self.name, outputs, self.val_targets)
        with torch.no_grad():
            found["loss"] = float(self.loss(torch.from_numpy(outputs), torch.from_numpy(self.val_targets)))
        if self.metric not in found:
            raise FlukeError(f"train.metric {self.metric} isn't defined on these {len(outputs)} validation rows; hold out more, or choose another.")
        return found
