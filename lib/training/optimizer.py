"""Parameter groups, the optimizer, and the learning rate as a function of the optimizer step."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from timm.optim import create_optimizer_v2, list_optimizers, param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from lib.config.recipe import Optim
from lib.errors import FlukeError, one_line

UNSUPPORTED = {
    "adahessian": "needs second derivatives, which the training loop doesn't compute",
    "kron": "draws random numbers, so that a resumed run would differ",
    "kronc": "draws random numbers, so that a resumed run would differ",
    "kronw": "draws random numbers, so that a resumed run would differ",
}
"""Optimizers of timm that runs can't have, and why."""


def make_optimizer(o: Optim, backbone: nn.Module, head: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer over all parameters that may be trained; each group has `lr_scale`, its factor on the schedule's rate.

    `head` is head and objective. Parameters that timm's backbone excludes from weight decay (positions, class tokens) are excluded.
    Raises FlukeError for a name that timm doesn't know, and for values that the optimizer doesn't take.
    """
    known = [str(name) for name in list_optimizers() if name not in UNSUPPORTED]
    if o.name.lower() in UNSUPPORTED:
        raise FlukeError(
            f"optim.name {o.name}: not supported, because it {UNSUPPORTED[o.name.lower()]}; take another, such as adamw."
        )
    if o.name.lower() not in known:
        raise FlukeError(f"optim.name {o.name}: timm knows {', '.join(known)}.")
    undecayed: Any = getattr(backbone, "no_weight_decay", tuple)()
    if o.layer_decay is None:
        groups = param_groups_weight_decay(backbone, o.weight_decay, no_weight_decay_list=undecayed)
    else:
        groups = param_groups_layer_decay(backbone, o.weight_decay, no_weight_decay_list=undecayed, layer_decay=o.layer_decay)
    groups = [{"lr_scale": 1.0, **group} for group in groups]
    groups += [{**group, "lr_scale": o.head_lr} for group in param_groups_weight_decay(head, o.weight_decay)]
    groups = [group for group in groups if group["params"]]
    for group in groups:
        group.pop("use_fallback", None)
        group["lr"] = o.lr * group["lr_scale"]
    try:
        arguments: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in o.kwargs.items()}
        return create_optimizer_v2(groups, opt=o.name, lr=o.lr, weight_decay=o.weight_decay, momentum=o.momentum, **arguments)
    except (ValueError, TypeError, AssertionError, RuntimeError) as error:
        given = f" with kwargs {o.kwargs}" if o.kwargs else ""
        raise FlukeError(f"optim.name {o.name}{given}: {one_line(error)}.") from None


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set every group's learning rate to `rate` times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


def schedule_factor(o: Optim, step: int, total: int, per_epoch: int) -> float:
    """Return the factor on `optim.lr` at optimizer step `step` (0-based) of `total`, with `per_epoch` steps per epoch.

    It is constant for `plateau`, whose drops depend on the metric: the loop multiplies by `plateau_factor`.
    """
    warmup = round(o.warmup_epochs * per_epoch)
    if o.schedule == "onecycle":
        # Smith 2018, with the shape and the rates of torch's OneCycleLR: lr/25 up to lr, then down to lr/25/10,000; momentum stays.
        peak = (warmup or 0.3 * total) - 1
        if step <= peak:
            return _cosine_between(1 / 25, 1.0, step / max(peak, 1))
        return _cosine_between(1.0, 1 / 25e4, (step - peak) / max(total - 1 - peak, 1))
    if step < warmup:
        return 0.01 + 0.99 * step / warmup
    done = (step - warmup) / max(total - warmup, 1)
    if o.schedule == "cosine":
        return _cosine_between(1.0, o.min_lr, done)
    if o.schedule == "step":
        if isinstance(o.step_epochs, list):
            return o.factor ** sum(step >= per_epoch * epoch for epoch in o.step_epochs)
        return o.factor ** math.floor(step / (per_epoch * o.step_epochs))
    return 1.0


def _cosine_between(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(share, 1.0))) / 2


class Plateau(torch.optim.lr_scheduler.ReduceLROnPlateau):
    """ReduceLROnPlateau over a rate that starts at 1; unlike torch's, its state_dict restores the rate too."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.optimizer.param_groups[0]["lr"] = self.get_last_lr()[0]


def make_plateau(o: Optim, higher_is_better: bool) -> Plateau:
    """Return the recipe's plateau, which steps on the validation metric; `plateau_factor` reads its rate."""
    carrier = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    mode: Literal["min", "max"] = "max" if higher_is_better else "min"
    return Plateau(carrier, mode=mode, factor=o.factor, patience=o.plateau_patience, min_lr=o.min_lr)


def plateau_factor(plateau: Plateau) -> float:
    """Return the product of the drops so far."""
    return plateau.optimizer.param_groups[0]["lr"]
