"""Losses of classifiers: modules that compute one scalar from logits and targets.

To add a loss, write a subclass of SoftmaxLoss or SigmoidLoss and add a line to CLASSIFICATION_LOSSES.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from timm.loss import AsymmetricLossMultiLabel
from torch import Tensor, nn

from lib.config.recipe import Objective
from lib.config.traits import LOSSES
from lib.errors import FlukeError
from lib.models.heads import place_of
from lib.tables.target import ONE_LABEL, ORDINAL, REGRESSION, SEVERAL_LABELS, Target

EPSILON = 1e-8
"""Least distance of a probability from its target in focal losses, because with gamma below 1 the gradient at 0 is not finite
(torchvision's sigmoid_focal_loss gives NaN at a logit of 20)."""


class ClassificationLoss(nn.Module, ABC):
    """Base of the losses of classifiers. Calls: logits (B, C), targets as `Target.encode` returns them -> scalar."""

    weight: Tensor

    def __init__(self, objective: Objective, weight: Tensor, log_prior: Tensor):
        """`weight` (C,) multiplies the classes' losses; `log_prior` (C,) is the logarithm of their shares of the training rows."""
        super().__init__()
        self.settings = objective
        self.register_buffer("weight", weight, persistent=False)


# --- one label per image ----------------------------------------------------------------------------------------------------------


class SoftmaxLoss(ClassificationLoss):
    """Base of losses for one label per image. `targets` are (B,) int64, or (B, C) float for mixed labels.

    The loss is the mean of weight * loss over the batch. PyTorch's weighted mean divides by the sum of the batch's weights instead,
    so that the losses of half batches on two processes would not average to the loss of the batch. In training, `log_prior` times
    objective.logit_adjustment is added to the logits (Menon et al. 2021).
    """

    log_prior: Tensor

    def __init__(self, objective: Objective, weight: Tensor, log_prior: Tensor):
        super().__init__(objective, weight, log_prior)
        self.register_buffer("log_prior", log_prior, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        logits = logits.float()
        if self.training and self.settings.logit_adjustment:
            logits = logits + self.settings.logit_adjustment * self.log_prior
        return self.loss_per_image(logits, targets).mean()

    @abstractmethod
    def loss_per_image(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return weight * loss of each image, (B,)."""


class SoftmaxCrossEntropy(SoftmaxLoss):
    """Cross-entropy with label smoothing and class weights."""

    def loss_per_image(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets, self.weight, label_smoothing=self.settings.label_smoothing, reduction="none")


class SoftmaxFocalLoss(SoftmaxLoss):
    """Focal loss (Lin et al. 2017): -(1 - p)^gamma * log p, summed over the target's classes."""

    def loss_per_image(self, logits: Tensor, targets: Tensor) -> Tensor:
        settings = self.settings
        if targets.ndim == 1:
            targets = F.one_hot(targets, logits.shape[1]).float()
        targets = targets * (1 - settings.label_smoothing) + settings.label_smoothing / logits.shape[1]
        log_p = F.log_softmax(logits, 1)
        distance = (1 - log_p.exp()).clamp(min=EPSILON)
        return (-(distance**settings.gamma) * log_p * targets * self.weight).sum(1)


# --- several labels per image -----------------------------------------------------------------------------------------------------


class SigmoidLoss(ClassificationLoss):
    """Base of losses for several labels per image. `targets` are (B, C) float between 0 and 1.

    The loss is the mean over images and labels of target * weight * positive loss + (1 - target) * negative loss, also for mixed
    labels. Raises FlukeError for settings that need one label per image.
    """

    def __init__(self, objective: Objective, weight: Tensor, log_prior: Tensor):
        super().__init__(objective, weight, log_prior)
        if objective.logit_adjustment or objective.label_smoothing:
            raise FlukeError("objective.logit_adjustment and label_smoothing are for one label per image; set them to 0.")

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        logits, targets = logits.float(), targets.float()
        positive, negative = self.losses(logits)
        return (targets * self.weight * positive + (1 - targets) * negative).mean()

    @abstractmethod
    def losses(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the losses (B, C) if every label applies, and if none does."""


class BinaryCrossEntropy(SigmoidLoss):
    """Binary cross-entropy per label."""

    def losses(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        return F.softplus(-logits), F.softplus(logits)


class SigmoidFocalLoss(BinaryCrossEntropy):
    """Focal loss on binary cross-entropy (Lin et al. 2017).

    The paper's alpha, a weight of positives against negatives, is objective.class_weights here.
    """

    def losses(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        positive, negative = super().losses(logits)
        p, gamma = logits.sigmoid(), self.settings.gamma
        return (1 - p).clamp(min=EPSILON) ** gamma * positive, p.clamp(min=EPSILON) ** gamma * negative


class AsymmetricLoss(SigmoidLoss):
    """Asymmetric loss (Ridnik et al. 2021): gamma 4 for negatives and 1 for positives, clip 0.05."""

    def losses(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        loss = AsymmetricLossMultiLabel(reduction="none")
        return loss(logits, torch.ones_like(logits)), loss(logits, torch.zeros_like(logits))


# --- numbers and places in an order -----------------------------------------------------------------------------------------------


class NumberLoss(nn.Module):
    """Mean of a loss of the distances between outputs and targets, in standard deviations of the training rows.

    Calls: numbers (B, K) and targets (B, K); or, for ordered classes, logits of a Place (B, C) and class indices (B,), or shares of
    classes (B, C) where images are mixed, whose mean place is the target.
    """

    std: Tensor
    LOSSES: ClassVar[dict[str, Callable[[Tensor, Tensor], Tensor]]] = {
        "mse": F.mse_loss,
        "l1": F.l1_loss,
        "huber": F.huber_loss,  # quadratic up to one standard deviation
    }

    def __init__(self, name: str, mean: Tensor, std: Tensor, ordinal: bool):
        """`mean` and `std` (K,) are those of the training rows' targets."""
        super().__init__()
        self.name, self.ordinal = name, ordinal
        self.mean = mean
        self.register_buffer("std", std, persistent=False)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        outputs = outputs.float()
        if self.ordinal:
            if targets.ndim == 2:
                targets = (targets * torch.arange(targets.shape[1], device=targets.device)).sum(1)
            outputs = place_of(outputs)
        return self.LOSSES[self.name](outputs / self.std, targets.float() / self.std)


class BinnedLoss(nn.Module):
    """Cross-entropy of bins, between which each number is shared in proportion to its distance (a "two-hot" target, as in
    Schrittwieser et al. 2020, appendix F, and Farebrother et al. 2024): the expected value of the target is the number.

    Calls: in training logits (B, K * bins) of heads.Binned and numbers (B, K), whose mean over both is returned. In evaluation, the
    outputs are numbers (B, K), and the loss is that of mse.
    """

    low: Tensor
    high: Tensor

    def __init__(self, numbers: np.ndarray, bins: int, distances: NumberLoss):
        """`numbers` (n, K) are those of the training rows; `distances` is the loss in evaluation."""
        super().__init__()
        low, high = numbers.min(0), numbers.max(0)
        self.bins, self.distances = bins, distances
        self.register_buffer("low", torch.from_numpy(low.astype(np.float32)), persistent=False)
        self.register_buffer("high", torch.from_numpy(np.where(high > low, high, low + 1).astype(np.float32)), persistent=False)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if not self.training:
            return self.distances(outputs, targets)
        place = ((targets.float() - self.low) / (self.high - self.low)).clamp(0, 1) * (self.bins - 1)
        below = place.floor().clamp(max=self.bins - 2)
        shares = torch.stack([1 - (place - below), place - below], 2)  # of the bin below and of the next
        at = torch.stack([below, below + 1], 2).long()
        log_p = outputs.float().unflatten(1, (len(self.low), self.bins)).log_softmax(2)
        return -(log_p.gather(2, at) * shares).sum(2).mean()


# --- choice by name ---------------------------------------------------------------------------------------------------------------

ONE_LABEL_LOSSES: dict[str, type[ClassificationLoss]] = {"cross_entropy": SoftmaxCrossEntropy, "focal": SoftmaxFocalLoss}
CLASSIFICATION_LOSSES: dict[str, dict[str, type[ClassificationLoss]]] = {
    ONE_LABEL.name: ONE_LABEL_LOSSES,
    ORDINAL.name: {**ONE_LABEL_LOSSES, "cumulative": SoftmaxCrossEntropy},
    REGRESSION.name: {},
    SEVERAL_LABELS.name: {"bce": BinaryCrossEntropy, "focal": SigmoidFocalLoss, "asymmetric": AsymmetricLoss},
}
"""Losses by target and `objective.name`."""


def class_weights(targets: np.ndarray, classes: int, power: float = 1.0) -> np.ndarray:
    """Return balanced class weights (classes,) float32 of training rows, to the power `power`.

    For `targets` (n,) int64, one label per image: n / (classes * images of the class), scikit-learn's "balanced". For (n, classes)
    float32, several labels: negatives / positives of each label, as a weight of positives. A class without images, and a label that
    every image has, gets 1.
    """
    if targets.ndim == 1:
        counts = np.bincount(targets, minlength=classes).astype(float)
        weights = len(targets) / (classes * np.maximum(counts, 1))
    else:
        counts = targets.sum(0)
        weights = (len(targets) - counts) / np.maximum(counts, 1)
    weights[(counts == 0) | (weights == 0)] = 1
    return (weights**power).astype(np.float32)


def head_for(o: Objective, target: Target) -> Literal["linear", "value", "cumulative", "binned"]:
    """Return the last layer that an objective needs (lib/models/heads.py)."""
    if o.name == "cumulative":
        return "cumulative"
    if o.name == "binned":
        return "binned"
    return "value" if target is ORDINAL and o.name in NumberLoss.LOSSES else "linear"


def make_classification_loss(
    o: Objective, targets: np.ndarray, classes: tuple[str, ...], target: Target
) -> ClassificationLoss | NumberLoss | BinnedLoss:
    """Return the loss of a classifier; its class weights and priors come from `targets`, the encoded labels of the training rows.

    Raises FlukeError when the loss doesn't fit the target.
    """
    fitting = CLASSIFICATION_LOSSES[target.name]
    if target.name in LOSSES[o.name].targets and o.name in (*NumberLoss.LOSSES, "binned"):
        numbers = targets.reshape(len(targets), -1).astype(np.float64)
        std = np.where(numbers.std(0) > 0, numbers.std(0), 1)
        scale = [torch.from_numpy(each.astype(np.float32)) for each in (numbers.mean(0), std)]
        if o.name == "binned":
            return BinnedLoss(numbers, o.bins, NumberLoss("mse", scale[0], scale[1], ordinal=False))
        return NumberLoss(o.name, scale[0], scale[1], target is ORDINAL)
    if o.name not in fitting:
        raise FlukeError(f"objective.name {o.name} is not for {target.wording} in train_classifier; it takes {', '.join(fitting)}.")
    n = len(classes)
    weight = class_weights(targets, n, o.class_weight_power) if o.class_weights == "balanced" else np.ones(n, np.float32)
    shares = np.maximum(target.counts(targets, n), 1) / len(targets)
    return fitting[o.name](o, torch.from_numpy(weight), torch.from_numpy(np.log(shares).astype(np.float32)))
