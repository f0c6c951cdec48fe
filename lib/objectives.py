"""What is optimised: modules that turn outputs and targets into one loss, and own whatever weights that takes."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from timm.loss import AsymmetricLossMultiLabel
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from lib import config
from lib.files import FlukeError

SINGLE = ("cross_entropy", "focal")
MULTI = ("bce", "focal", "asymmetric")


def class_weights(targets: np.ndarray, classes: int, power: float = 1.0) -> np.ndarray:
    """Weights (classes,) float32 of the training rows' `targets`.

    (n,) int64, one label an image: n / (classes * images of the class), scikit-learn's "balanced", to the power `power`.
    (n, classes) float32, several: negatives / positives of each label, for positives. A class without an image gets 1.
    """
    if targets.ndim == 1:
        counts = np.bincount(targets, minlength=classes).astype(float)
        weights = len(targets) / (classes * np.maximum(counts, 1))
    else:
        counts = targets.sum(0)
        weights = (len(targets) - counts) / np.maximum(counts, 1)
    weights[counts == 0] = 1
    return (weights**power).astype(np.float32)


class Softmax(nn.Module):
    """Cross-entropy or focal loss of one label an image.

    Calls: logits (B, C), targets (B,) int64 or (B, C) float (mixed labels) -> scalar, the mean over the batch of weight * loss. (PyTorch's
    weighted mean divides by the batch's weights; then the halves of a batch on two processes would not average to the batch.)
    Focal loss: Lin et al. 2017, -alpha * (1 - p)^gamma * log p, summed over the target's classes. Logit adjustment: Menon et al. 2021.
    """

    def __init__(self, o: config.Objective, weight: Tensor, log_prior: Tensor):
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
        return (-self.o.alpha * (1 - log_p.exp()) ** self.o.gamma * log_p * targets * self.weight).sum(1).mean()


class MultiLabel(nn.Module):
    """BCE, focal loss on BCE, or asymmetric loss (Ridnik et al. 2021; gamma 4 and 1, clip 0.05) of several labels an image.

    Calls: logits (B, C), targets (B, C) float in [0, 1] -> scalar, the mean over images and labels; positives count `weight`.
    """

    def __init__(self, o: config.Objective, weight: Tensor):
        super().__init__()
        self.o = o
        self.register_buffer("weight", weight, persistent=False)
        self.asymmetric = AsymmetricLossMultiLabel(reduction="none")

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        logits, targets = logits.float(), targets.float()
        if self.o.name == "bce":
            loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        elif self.o.name == "focal":
            loss = self.o.alpha * sigmoid_focal_loss(logits, targets, alpha=-1, gamma=self.o.gamma)
        else:
            loss = self.asymmetric(logits, targets)
        return (loss * (targets * self.weight + (1 - targets))).mean()


def make_objective(o: config.Objective, targets: np.ndarray, classes: tuple[str, ...], multi: bool) -> nn.Module:
    """The objective of a classifier; class weights and priors come from `targets`, those of the training rows alone.

    Raises FlukeError when the objective doesn't fit the labels or a class factor names no class.
    """
    fitting = MULTI if multi else SINGLE
    if o.name not in fitting:
        kind = "several labels an image" if multi else "one label an image"
        raise FlukeError(f"objective.name {o.name} is not for {kind} in train_classifier; it takes {', '.join(fitting)}.")
    if unknown := sorted(set(o.class_factors) - set(classes)):
        raise FlukeError(f"objective.class_factors names {unknown[0]!r}, which is not a class; classes begin with {list(classes)[:5]}.")
    n = len(classes)
    weight = class_weights(targets, n, o.class_weight_power) if o.class_weights == "balanced" else np.ones(n, np.float32)
    weight *= np.array([o.class_factors.get(name, 1.0) for name in classes], np.float32)
    if multi:
        if o.logit_adjustment or o.label_smoothing:
            raise FlukeError("objective.logit_adjustment and label_smoothing are for one label an image; set them to 0.")
        return MultiLabel(o, torch.from_numpy(weight))
    share = np.maximum(np.bincount(targets, minlength=n), 1) / len(targets)
    return Softmax(o, torch.from_numpy(weight), torch.from_numpy(np.log(share).astype(np.float32)))
