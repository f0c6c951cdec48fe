"""Where training stands, what it leaves, and how an epoch is described."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class TrainState:
    """Where training stands, as state.json holds it."""

    epoch: int = 0
    """Epochs that are finished."""
    batch: int = 0
    """Batches of the next epoch that are done."""
    step: int = 0
    """Optimizer steps."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """One dict per epoch: epoch, train_loss, lr, the validation metric and loss of epochs that were validated, seconds,
    images_per_second, and waiting, the share of the time in which no image was ready."""
    best_epoch: int | None = None
    waited: int = 0
    """Epochs since the best one."""


@dataclass
class Outcome:
    """What the loop leaves besides the files."""

    history: list[dict[str, Any]]
    best_epoch: int | None
    val_outputs: np.ndarray | None
    """Validation outputs (n, C or D) of the weights that are kept; None where this process hasn't computed them."""
    finished: bool
    """False when train.max_minutes ended the run early: --resume goes on."""


def is_better(value: float, best: float, higher_is_better: bool) -> bool:
    """Return whether a metric is better than the best so far; a number is better than NaN."""
    if math.isnan(best):
        return not math.isnan(value)
    return value > best if higher_is_better else value < best


def describe_epoch(entry: dict[str, Any], metric: str, epochs: int, is_best: bool) -> str:
    """Return the line of the log about an epoch, `entry` of the history."""
    named = [key for key in dict.fromkeys(["loss", metric, "recall@1", "auroc"]) if key in entry]
    parts = [f"train loss {entry['train_loss']:.4f}", *(f"val {key} {entry[key]:.4f}" for key in named)]
    parts += [f"lr {entry['lr']:.2e}", f"{entry['seconds']:.0f} s", f"{entry['images_per_second']:.0f} images/s"]
    parts.append(f"{entry['waiting']:.0%} waiting for images")
    return f"epoch {entry['epoch']}/{epochs}  " + "  ".join(parts) + ("  best" if is_best else "")
