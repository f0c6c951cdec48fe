"""Last layers of networks: class logits, numbers in the units of the table, and heads for ordered classes.

Heads for ordered classes compute logits of the classes too, so that all that comes after a softmax comes after them. `value`
predicts one number, the place v in the order: the logits are (v k - k^2 / 2) / SPREAD^2 of class k, a normal distribution around
v, whose best class is the nearest. `cumulative` is the proportional odds model (McCullagh 1980).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SPREAD = 0.5
"""Standard deviation, in classes, of the distribution around a predicted place; calibration corrects it."""


class Numbers(nn.Module):
    """Linear layer whose outputs are scaled to the mean and the spread of the training rows: (B, width) -> (B, K)."""

    mean: Tensor
    std: Tensor

    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.linear = nn.Linear(width, outputs)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("mean", torch.zeros(outputs))
        self.register_buffer("std", torch.ones(outputs))

    def set_scale(self, mean: Tensor, std: Tensor) -> None:
        """Set the mean and the standard deviation (K,) of the numbers to predict."""
        self.mean.copy_(mean)
        self.std.copy_(std)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * self.std + self.mean


class Binned(nn.Module):
    """Numbers as expected values over bins (DEX, Rothe et al. 2015): (B, width) -> (B, K); in training, logits (B, K * bins).

    The bins of a number are evenly spaced from its lowest to its highest value in the training rows.
    """

    low: Tensor
    high: Tensor

    def __init__(self, width: int, outputs: int, bins: int):
        super().__init__()
        self.bins = bins
        self.linear = nn.Linear(width, outputs * bins)
        self.register_buffer("low", torch.zeros(outputs))
        self.register_buffer("high", torch.ones(outputs))

    def set_range(self, low: Tensor, high: Tensor) -> None:
        """Set the first and the last bin (K,) of each number."""
        self.low.copy_(low)
        self.high.copy_(high)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.linear(x)
        if self.training:
            return logits
        share = torch.linspace(0, 1, self.bins, dtype=logits.dtype, device=logits.device)
        centres = self.low[:, None] + (self.high - self.low)[:, None] * share
        return (logits.unflatten(1, centres.shape).softmax(2) * centres).sum(2)


class Place(Numbers):
    """A place in the order of the classes, as logits of the classes: (B, width) -> (B, C)."""

    def __init__(self, width: int, classes: int):
        super().__init__(width, 1)
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        k = torch.arange(self.classes, dtype=x.dtype, device=x.device)
        return (super().forward(x) * k - k**2 / 2) / SPREAD**2


def place_of(logits: Tensor) -> Tensor:
    """Return the place, (B,), that the logits (B, C) of a Place stand for."""
    last = logits.shape[1] - 1
    return (logits[:, -1] - logits[:, 0]) * SPREAD**2 / last + last / 2


class Cumulative(nn.Module):
    """Proportional odds: P(class > k) = sigmoid(f - b_k) with increasing cut points b; (B, width) -> log-probabilities (B, C)."""

    def __init__(self, width: int, classes: int):
        super().__init__()
        self.linear = nn.Linear(width, 1, bias=False)
        start = torch.arange(classes - 1) - (classes - 2) / 2
        self.first = nn.Parameter(start[:1].clone())
        self.steps = nn.Parameter(torch.full((classes - 2,), 0.5413))  # softplus: 1

    def forward(self, x: Tensor) -> Tensor:
        cuts = torch.cat([self.first, self.first + torch.cumsum(F.softplus(self.steps), 0)])
        below = cuts - self.linear(x)  # P(class <= k) = sigmoid(below)
        first, last = F.logsigmoid(below[:, :1]), F.logsigmoid(-below[:, -1:])
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a))
        a, b = below[:, 1:], below[:, :-1]
        middle = F.logsigmoid(a) + F.logsigmoid(-b) + torch.log(-torch.expm1((b - a).clamp(max=-1e-6)))
        return torch.cat([first, middle, last], 1)


def make_last_layer(width: int, classes: int, head: str, numeric: bool, bins: int) -> nn.Module:
    """Return the last layer of a classifier or of a network of numbers; `bins` is for the head "binned"."""
    if head == "binned":
        return Binned(width, classes, bins)
    if numeric:
        return Numbers(width, classes)
    return {"linear": nn.Linear, "value": Place, "cumulative": Cumulative}[head](width, classes)
