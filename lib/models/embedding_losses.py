"""Losses of embeddings: with weight vectors per class, over pairs of images, and weighted sums of them.

To add a loss, write a function that builds it and add a line to EMBEDDING_LOSSES.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
import torch.distributed.nn
import torch.nn.functional as F
from pytorch_metric_learning import losses, miners
from torch import Tensor, nn

from lib.config.recipe import Objective
from lib.errors import FlukeError

# --- batches on several processes -------------------------------------------------------------------------------------------------


def gather_batch(embeddings: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the embeddings (B, D) and targets (B,) of all processes, concatenated in the order of ranks.

    This gather carries gradients; accelerate's does not. Each process gets, for its own images, the gradient of the whole batch's
    loss times the number of processes, which DistributedDataParallel's mean over processes corrects.
    """
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return embeddings, targets
    all_targets = [torch.empty_like(targets) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(all_targets, targets)
    return torch.cat(torch.distributed.nn.all_gather(embeddings)), torch.cat(all_targets)


def relative_count(labeled: Tensor) -> Tensor:
    """Return this process's number of True in `labeled` (B,), divided by its mean over the processes.

    Weighted so, the processes' means over their labeled images average, in DistributedDataParallel, to the mean over all of them.
    """
    count = labeled.sum().float()
    mean = count.clone()
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(mean)
        mean /= torch.distributed.get_world_size()
    return count / mean.clamp(min=1e-12)


# --- kinds of losses --------------------------------------------------------------------------------------------------------------


class EmbeddingLoss(nn.Module):
    """Base of losses of embeddings.

    Calls: embeddings (B, D) of length 1, targets (B,) int64 -> scalar. A target of -1 means an unlabeled image: of an individual
    that is not among the classes.
    """

    def process_weight(self, targets: Tensor) -> Tensor | float:
        """Return the weight of this process's loss in the mean over processes: 1 if it is the loss of all processes' images."""
        return 1.0

    def centres(self) -> Tensor | None:
        """Return the weight vectors that stand for the classes, (C * k, D), those of a class adjacent; None if there are none."""
        return None


class ClassLoss(EmbeddingLoss, ABC):
    """Loss of each image against weight vectors of the classes. Unlabeled images are left out."""

    all_labeled = False
    """Whether no training image is unlabeled: then a step neither asks other processes nor waits for the device to know."""

    def process_weight(self, targets: Tensor) -> Tensor | float:
        return 1.0 if self.all_labeled else relative_count(targets >= 0)

    def forward(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        if self.all_labeled:
            return self.mean_loss(embeddings, targets)
        labeled = targets >= 0
        if not labeled.any():
            return embeddings.new_zeros(())
        return self.mean_loss(embeddings[labeled], targets[labeled])

    @abstractmethod
    def mean_loss(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of labeled images, a scalar."""


class LinearLoss(ClassLoss):
    """Softmax cross-entropy on a linear layer over the embeddings."""

    def __init__(self, classes: int, width: int, scale: float):
        super().__init__()
        self.layer = nn.Linear(width, classes, bias=False)
        self.scale = scale

    def mean_loss(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self.scale * self.layer(embeddings), targets)


class MarginLoss(ClassLoss):
    """A margin loss whose margin shrinks with class size: a class of n images has margin * (n / n of the smallest) ** -power.

    Classes with few images need a wider margin (Ha et al. 2020, Google Landmarks, with power 0.25). `loss` is ArcFace or CosFace,
    `counts` (C,) the images of each class.
    """

    margins: Tensor

    def __init__(self, loss: losses.ArcFaceLoss | losses.CosFaceLoss, counts: np.ndarray, power: float):
        super().__init__()
        self.loss = loss
        factors = (np.maximum(counts, 1) / max(counts[counts > 0].min(), 1)) ** -power
        self.register_buffer("margins", torch.from_numpy(factors.astype(np.float32)) * loss.margin, persistent=False)

    def mean_loss(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        self.loss.margin = self.margins[targets]
        return self.loss(embeddings, targets)

    def centres(self) -> Tensor:
        return self.loss.W.t().detach()


class PairLoss(EmbeddingLoss):
    """Loss over pairs or triplets of the images of all processes' batches: the same value on every process.

    Each unlabeled image counts as an individual of its own, a negative to all others.
    """

    def __init__(self, loss: nn.Module, miner: nn.Module | None = None):
        super().__init__()
        self.miner = miner
        self.loss = loss

    def forward(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        embeddings, targets = gather_batch(embeddings, targets)
        distinct = -1 - torch.arange(len(targets), device=targets.device)
        targets = torch.where(targets < 0, distinct, targets)
        return self.loss(embeddings, targets, self.miner(embeddings, targets) if self.miner is not None else None)


class ProxyAnchorLoss(EmbeddingLoss, losses.ProxyAnchorLoss):
    """Proxy anchor loss (Kim et al. 2020) over the labeled images of all processes' batches."""

    def forward(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        embeddings, targets = gather_batch(embeddings, targets)
        labeled = targets >= 0
        return super().forward(embeddings[labeled], targets[labeled]) if labeled.any() else embeddings.new_zeros(())


class WeightedSum(EmbeddingLoss):
    """The recipe's loss and those of objective.also, times their weights."""

    def __init__(self, parts: dict[str, EmbeddingLoss], weights: dict[str, float]):
        super().__init__()
        self.parts = nn.ModuleDict(parts)
        self.weights = weights

    def _items(self) -> Iterable[tuple[str, EmbeddingLoss]]:
        return cast(Iterable[tuple[str, EmbeddingLoss]], self.parts.items())

    def forward(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        # Each parameter gets a gradient, as DistributedDataParallel requires, even if the batch has no labeled image.
        total = embeddings.sum() * 0 + sum(parameter.sum() * 0 for parameter in self.parameters())
        for name, part in self._items():
            total = total + self.weights[name] * part.process_weight(targets) * part(embeddings, targets)
        return total

    def centres(self) -> Tensor | None:
        return next((centres for _, part in self._items() if (centres := part.centres()) is not None), None)


# --- choice by name ---------------------------------------------------------------------------------------------------------------


class _MarginPerImage:
    """Mixin for ArcFace losses whose `margin` is a tensor (B,) in radians, one entry per image."""

    margin: float | Tensor

    def modify_cosine_of_target_classes(self, cosine: Tensor) -> Tensor:
        angles = torch.acos(cosine.clamp(-1 + 1e-7, 1 - 1e-7))
        margin = torch.as_tensor(self.margin, dtype=cosine.dtype, device=cosine.device)
        # Beyond pi the cosine rises again; continue with a straight line there, as the authors' code does.
        return torch.where(angles <= torch.pi - margin, torch.cos(angles + margin), cosine - margin * torch.sin(margin))


class _ArcFace(_MarginPerImage, losses.ArcFaceLoss):
    pass


class _SubCenterArcFace(_MarginPerImage, losses.SubCenterArcFaceLoss):
    pass


def start_centres(centres: Tensor) -> None:
    """Draw class centres from N(0, 0.01^2), as the authors of ArcFace do (InsightFace).

    Only their directions matter, and a step of AdamW moves each entry by about the learning rate, whatever its size. From N(0, 1),
    pytorch-metric-learning's default, centres of 512 dimensions turn by 5 degrees in 200 steps at 1e-3; from here by 84.
    """
    nn.init.normal_(centres, std=0.01)


def _without_none(**arguments: Any) -> dict[str, Any]:
    """Return the arguments that are not None, so that a function's defaults apply to the others."""
    return {name: value for name, value in arguments.items() if value is not None}


def _class_centres(counts: np.ndarray, width: int) -> dict[str, Any]:
    """Return the arguments of a loss with class centres: their number, width and start."""
    return {"num_classes": len(counts), "embedding_size": width, "weight_init_func": start_centres}


def cross_entropy(o: Objective, counts: np.ndarray, width: int) -> EmbeddingLoss:
    """Build softmax cross-entropy with a scale: embeddings have length 1, without a scale the loss stays above log(classes) - 2."""
    return LinearLoss(len(counts), width, o.scale or 16.0)


def arcface(o: Objective, counts: np.ndarray, width: int) -> EmbeddingLoss:
    """Build ArcFace (Deng et al. 2019)."""
    settings = _without_none(margin=o.margin, scale=o.scale)
    return MarginLoss(_ArcFace(**_class_centres(counts, width), **settings), counts, o.margin_power)


def subcenter_arcface(o: Objective, counts: np.ndarray, width: int) -> EmbeddingLoss:
    """Build ArcFace with several centres per class (Deng et al. 2020)."""
    settings = _without_none(margin=o.margin, scale=o.scale, sub_centers=o.sub_centers)
    return MarginLoss(_SubCenterArcFace(**_class_centres(counts, width), **settings), counts, o.margin_power)


def cosface(o: Objective, counts: np.ndarray, width: int) -> EmbeddingLoss:
    """Build CosFace (Wang et al. 2018)."""
    settings = _without_none(margin=o.margin, scale=o.scale)
    return MarginLoss(losses.CosFaceLoss(**_class_centres(counts, width), **settings), counts, o.margin_power)


def triplet(o: Objective, counts: np.ndarray, width: int) -> EmbeddingLoss:
    """Build the triplet loss with batch-hard (Hermans et al. 2017) or semi-hard mining."""
    margin = 0.2 if o.margin is None else o.margin
    mining: dict[str, Callable[[], nn.Module]] = {
        "hard": miners.BatchHardMiner,
        "semihard": lambda: miners.TripletMarginMiner(margin=margin, type_of_triplets="semihard"),
    }
    return PairLoss(losses.TripletMarginLoss(margin=margin), mining[o.miner]())


EMBEDDING_LOSSES: dict[str, Callable[[Objective, np.ndarray, int], EmbeddingLoss]] = {
    "cross_entropy": cross_entropy,
    "arcface": arcface,
    "subcenter_arcface": subcenter_arcface,
    "cosface": cosface,
    "proxy_anchor": lambda o, counts, width: ProxyAnchorLoss(**_class_centres(counts, width)),
    "triplet": triplet,
    "multi_similarity": lambda o, counts, width: PairLoss(losses.MultiSimilarityLoss(), miners.MultiSimilarityMiner()),
    "contrastive": lambda o, counts, width: PairLoss(losses.ContrastiveLoss(**_without_none(neg_margin=o.margin))),
    "supcon": lambda o, counts, width: PairLoss(losses.SupConLoss()),
}
"""Function that builds a loss, by `objective.name`: (settings, training images per class (C,), embedding width) -> loss."""


def make_embedding_loss(o: Objective, targets: np.ndarray, classes: int, width: int) -> WeightedSum:
    """Return the loss of train_embedding for embeddings (B, width) and training rows with targets (n,) int64, -1: unlabeled.

    Raises FlukeError for losses and settings that are not for embeddings.
    """
    weights = {o.name: 1.0, **o.also}
    for name in weights:
        if name not in EMBEDDING_LOSSES:
            raise FlukeError(f"objective {name} is not for embeddings; train_embedding takes {', '.join(EMBEDDING_LOSSES)}.")
    if o.mixup or o.cutmix:
        raise FlukeError("objective.mixup and cutmix mix labels, which embeddings can't; set them to 0.")
    if o.label_smoothing or o.class_weights != "none" or o.logit_adjustment:
        raise FlukeError("objective.label_smoothing, class_weights and logit_adjustment are for train_classifier.")
    counts = np.bincount(targets[targets >= 0], minlength=classes)
    # objective.margin has the unit of objective.name: the losses of objective.also keep their default margins.
    settings = {name: o if name == o.name else replace(o, margin=None) for name in weights}
    parts = {name: EMBEDDING_LOSSES[name](settings[name], counts, width) for name in weights}
    for part in parts.values():
        if isinstance(part, ClassLoss):
            part.all_labeled = bool((targets >= 0).all())
    return WeightedSum(parts, weights)
