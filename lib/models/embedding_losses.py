"""Losses of embeddings: margin losses with class centres, losses over pairs of images, and their weighted sum."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.distributed.nn
import torch.nn.functional as F
from pytorch_metric_learning import losses, miners
from torch import Tensor, nn

from lib.config.recipe import Objective
from lib.errors import FlukeError

PROXY = ("cross_entropy", "arcface", "subcenter_arcface", "cosface", "proxy_anchor")
"""Of embeddings, with a weight vector (or several) a class; the others compare the images of a batch."""
PAIRS = ("triplet", "multi_similarity", "contrastive", "supcon")


# --- embeddings -------------------------------------------------------------------------------------------------------------------


class _MarginByClass:
    """Mixed into ArcFace losses: `margin` may be a tensor (B,) in radians, one for each image."""

    margin: float | Tensor

    def modify_cosine_of_target_classes(self, cosine: Tensor) -> Tensor:
        angles = torch.acos(cosine.clamp(-1 + 1e-7, 1 - 1e-7))
        margin = torch.as_tensor(self.margin, dtype=cosine.dtype, device=cosine.device)
        # past pi the cosine rises again: from there on a straight line, as in the authors' code
        return torch.where(angles <= torch.pi - margin, torch.cos(angles + margin), cosine - margin * torch.sin(margin))


class _ArcFace(_MarginByClass, losses.ArcFaceLoss):
    pass


class _SubCenterArcFace(_MarginByClass, losses.SubCenterArcFaceLoss):
    pass


class MarginLoss(nn.Module):
    """ArcFace (Deng et al. 2019), with sub-centres (2020), or CosFace (Wang et al. 2018), whose margin may shrink with class size.

    Calls: embeddings (B, D), targets (B,) int64 -> scalar. A class of n images has margin * (n / n of the smallest) ** -power, as
    in Ha et al. 2020 (Google Landmarks; there power 0.25): few images need a wider berth.
    """

    margins: Tensor

    def __init__(self, name: str, o: Objective, counts: np.ndarray, width: int):
        super().__init__()
        kind = {"arcface": _ArcFace, "subcenter_arcface": _SubCenterArcFace, "cosface": losses.CosFaceLoss}[name]
        own = {"margin": o.margin if o.name == name else None, "scale": o.scale}  # the margin's unit is that of `o.name`
        arguments = {key: value for key, value in own.items() if value is not None}
        if name == "subcenter_arcface":
            arguments["sub_centers"] = o.sub_centers
        self.loss = kind(num_classes=len(counts), embedding_size=width, **arguments)
        shrunk = (np.maximum(counts, 1) / max(counts[counts > 0].min(), 1)) ** -o.margin_power
        self.register_buffer("margins", torch.from_numpy(shrunk.astype(np.float32)) * self.loss.margin, persistent=False)

    def forward(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        self.loss.margin = self.margins[targets]
        return self.loss(embeddings, targets)

    def centres(self) -> Tensor:
        """(C * sub_centers, D) weight vectors, those of a class beside each other."""
        return self.loss.W.t()


def gather_batch(embeddings: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The batches (B, D) and (B,) of all processes, one after the other.

    This gather carries gradients (accelerate's doesn't): each process then has the gradient of the whole batch's loss times the
    number of processes in its own images, which DistributedDataParallel's mean makes right.
    """
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return embeddings, targets
    every = [torch.empty_like(targets) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(every, targets)
    return torch.cat(torch.distributed.nn.all_gather(embeddings)), torch.cat(every)


class PairLoss(nn.Module):
    """Triplet (batch-hard, Hermans et al. 2017, or semi-hard mining), multi-similarity, contrastive or supervised contrastive loss.

    Calls: embeddings (B, D) of this process, targets (B,) int64 -> scalar, the same on every process: it compares the images of all
    processes' batches. Targets below 0 are individuals of their own, negatives to all others.
    """

    def __init__(self, name: str, o: Objective):
        super().__init__()
        margin = {} if o.margin is None or o.name != name else {"margin": o.margin}
        self.miner: nn.Module | None = None
        if name == "triplet":
            self.loss: nn.Module = losses.TripletMarginLoss(**(margin or {"margin": 0.2}))
            hard = miners.BatchHardMiner
            self.miner = (
                hard()
                if o.miner == "hard"
                else miners.TripletMarginMiner(type_of_triplets="semihard", **(margin or {"margin": 0.2}))
            )
        elif name == "multi_similarity":
            self.loss, self.miner = losses.MultiSimilarityLoss(), miners.MultiSimilarityMiner()
        elif name == "contrastive":
            self.loss = losses.ContrastiveLoss(**({"neg_margin": o.margin} if margin else {}))
        else:
            self.loss = losses.SupConLoss()

    def forward(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        embeddings, targets = gather_batch(embeddings, targets)
        alone = -1 - torch.arange(len(targets), device=targets.device)
        targets = torch.where(targets < 0, alone, targets)
        return self.loss(embeddings, targets, self.miner(embeddings, targets) if self.miner is not None else None)


class LinearLoss(nn.Module):
    """Softmax cross-entropy on a linear layer over the embeddings: (B, D), targets (B,) -> scalar."""

    def __init__(self, o: Objective, classes: int, width: int):
        super().__init__()
        self.layer = nn.Linear(width, classes, bias=False)
        self.scale = o.scale or 16.0  # embeddings have length 1: unscaled logits could not get past a loss of log(classes) - 2

    def forward(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self.scale * self.layer(embeddings), targets)


def _labelled_share(named: Tensor) -> Tensor:
    """Named images of this process over the mean of all processes': the weight with which a mean over its own makes the mean over
    all, once DistributedDataParallel has averaged."""
    count = named.sum().float()
    mean = count.clone()
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(mean)
        mean /= torch.distributed.get_world_size()
    return count / mean.clamp(min=1e-12)


class EmbeddingLoss(nn.Module):
    """The recipe's objective of embeddings and those added to it, weighted.

    Calls: embeddings (B, D) of length 1, targets (B,) int64, -1 for an individual without a name (a negative to all others in
    losses over pairs, ignored by those with class weights) -> scalar.
    """

    def __init__(self, o: Objective, counts: np.ndarray, width: int):
        super().__init__()
        self.parts = nn.ModuleDict({name: _make_part(name, o, counts, width) for name in (o.name, *o.also)})
        self.weights = {o.name: 1.0, **o.also}

    def forward(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        # keeps the graph, and DistributedDataParallel content, when a batch has no named image
        total = embeddings.sum() * 0 + sum(parameter.sum() * 0 for parameter in self.parameters())
        named = targets >= 0
        share = _labelled_share(named)
        for name, part in self.parts.items():
            if name in PAIRS:
                total = total + self.weights[name] * part(embeddings, targets)
            elif name == "proxy_anchor":  # compares the batch's images too
                every, theirs = gather_batch(embeddings, targets)
                if (theirs >= 0).any():
                    total = total + self.weights[name] * part(every[theirs >= 0], theirs[theirs >= 0])
            elif named.any():
                total = total + self.weights[name] * share * part(embeddings[named], targets[named])
        return total

    def centres(self) -> Tensor | None:
        """Class weight vectors (C * k, D) of an ArcFace or CosFace objective; None without one."""
        found = [part.centres() for part in self.parts.values() if isinstance(part, MarginLoss)]
        return found[0].detach() if found else None


def _make_part(name: str, o: Objective, counts: np.ndarray, width: int) -> nn.Module:
    if name in PAIRS:
        return PairLoss(name, o)
    makers: dict[str, Callable[[], nn.Module]] = {
        "cross_entropy": lambda: LinearLoss(o, len(counts), width),
        "proxy_anchor": lambda: losses.ProxyAnchorLoss(len(counts), width),
    }
    return makers.get(name, lambda: MarginLoss(name, o, counts, width))()


def make_embedding_loss(o: Objective, targets: np.ndarray, classes: int, width: int) -> EmbeddingLoss:
    """The objective of train_embedding for targets (n,) int64 (-1: no name) of the training rows and embeddings of `width`.

    Raises FlukeError for an objective that isn't for embeddings.
    """
    for name in (o.name, *o.also):
        if name not in PROXY + PAIRS:
            raise FlukeError(f"objective {name} is not for embeddings; train_embedding takes {', '.join(PROXY + PAIRS)}.")
    if o.mixup or o.cutmix:
        raise FlukeError("objective.mixup and cutmix mix labels, which embeddings can't; set them to 0.")
    if o.label_smoothing or o.class_weights != "none" or o.logit_adjustment:
        raise FlukeError("objective.label_smoothing, class_weights and logit_adjustment are for train_classifier.")
    return EmbeddingLoss(o, np.bincount(targets[targets >= 0], minlength=classes), width)
