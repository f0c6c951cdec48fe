"""What is optimised: modules that turn outputs and targets into one loss, and own whatever weights that takes."""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed.nn
import torch.nn.functional as F
from timm.loss import AsymmetricLossMultiLabel
from torch import Tensor, nn

from lib.config.recipe import Objective
from lib.errors import FlukeError
from lib.tables.target import Target

SINGLE = ("cross_entropy", "focal")
MULTI = ("bce", "focal", "asymmetric")

EPSILON = 1e-8
"""Least distance of a probability from right in focal losses: with gamma below 1 the gradient at 0 is not finite (torchvision's
sigmoid_focal_loss gives NaN at a logit of 20)."""


def class_weights(targets: np.ndarray, classes: int, power: float = 1.0) -> np.ndarray:
    """Weights (classes,) float32 of the training rows' `targets`.

    (n,) int64, one label per image: n / (classes * images of the class), scikit-learn's "balanced", to the power `power`.
    (n, classes) float32, several: negatives / positives of each label, for positives. A class without an image, and a label of
    every image, gets 1.
    """
    if targets.ndim == 1:
        counts = np.bincount(targets, minlength=classes).astype(float)
        weights = len(targets) / (classes * np.maximum(counts, 1))
    else:
        counts = targets.sum(0)
        weights = (len(targets) - counts) / np.maximum(counts, 1)
    weights[(counts == 0) | (weights == 0)] = 1
    return (weights**power).astype(np.float32)


class SoftmaxLoss(nn.Module):
    """Cross-entropy or focal loss of one label per image.

    Calls: logits (B, C), targets (B,) int64 or (B, C) float (mixed labels) -> scalar, the mean over the batch of weight * loss.
    (PyTorch's weighted mean divides by the batch's weights; then the halves of a batch on two processes would not average to the
    batch.) Focal loss: Lin et al. 2017, -alpha * (1 - p)^gamma * log p, summed over the target's classes. Logit adjustment: Menon
    et al. 2021.
    """

    weight: Tensor
    log_prior: Tensor

    def __init__(self, o: Objective, weight: Tensor, log_prior: Tensor):
        super().__init__()
        self.o = o
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("log_prior", log_prior, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        logits = logits.float()
        if self.training and self.o.logit_adjustment:
            logits = logits + self.o.logit_adjustment * self.log_prior
        if self.o.name == "cross_entropy":
            loss = F.cross_entropy(logits, targets, self.weight, label_smoothing=self.o.label_smoothing, reduction="none")
            return loss.mean()
        if targets.ndim == 1:
            targets = F.one_hot(targets, logits.shape[1]).float()
        targets = targets * (1 - self.o.label_smoothing) + self.o.label_smoothing / logits.shape[1]
        log_p = F.log_softmax(logits, 1)
        missed = (1 - log_p.exp()).clamp(min=EPSILON)
        return (-self.o.alpha * missed**self.o.gamma * log_p * targets * self.weight).sum(1).mean()


class SigmoidLoss(nn.Module):
    """BCE, focal loss on BCE, or asymmetric loss (Ridnik et al. 2021; gamma 4 and 1, clip 0.05) of several labels per image.

    Calls: logits (B, C), targets (B, C) float in [0, 1] -> scalar, the mean over images and labels of t * weight * loss if true +
    (1 - t) * loss if not: mixed targets, too, are drawn to their positive side by `weight`, and by each side's own focus.
    """

    weight: Tensor

    def __init__(self, o: Objective, weight: Tensor):
        super().__init__()
        self.o = o
        self.register_buffer("weight", weight, persistent=False)
        self.asymmetric = AsymmetricLossMultiLabel(reduction="none")

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        logits, targets = logits.float(), targets.float()
        if self.o.name == "asymmetric":
            true, false = self.asymmetric(logits, torch.ones_like(targets)), self.asymmetric(logits, torch.zeros_like(targets))
        else:
            true, false = F.softplus(-logits), F.softplus(logits)
        if self.o.name == "focal":
            p = logits.sigmoid()
            true = self.o.alpha * (1 - p).clamp(min=EPSILON) ** self.o.gamma * true
            false = self.o.alpha * p.clamp(min=EPSILON) ** self.o.gamma * false
        return (targets * self.weight * true + (1 - targets) * false).mean()


def make_classification_loss(o: Objective, targets: np.ndarray, classes: tuple[str, ...], target: Target) -> nn.Module:
    """The objective of a classifier; class weights and priors come from `targets`, those of the training rows alone.

    Raises FlukeError when the objective doesn't fit the labels or a class factor names no class.
    """
    fitting = MULTI if target.several else SINGLE
    if o.name not in fitting:
        raise FlukeError(f"objective.name {o.name} is not for {target.wording} in train_classifier; it takes {', '.join(fitting)}.")
    if unknown := sorted(set(o.class_factors) - set(classes)):
        raise FlukeError(
            f"objective.class_factors names {unknown[0]!r}, which is not a class; classes begin with {list(classes)[:5]}."
        )
    n = len(classes)
    weight = class_weights(targets, n, o.class_weight_power) if o.class_weights == "balanced" else np.ones(n, np.float32)
    weight *= np.array([o.class_factors.get(name, 1.0) for name in classes], np.float32)
    if target.several:
        if o.logit_adjustment or o.label_smoothing:
            raise FlukeError("objective.logit_adjustment and label_smoothing are for one label per image; set them to 0.")
        return SigmoidLoss(o, torch.from_numpy(weight))
    share = np.maximum(np.bincount(targets, minlength=n), 1) / len(targets)
    return SoftmaxLoss(o, torch.from_numpy(weight), torch.from_numpy(np.log(share).astype(np.float32)))
