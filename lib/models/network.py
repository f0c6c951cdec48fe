"""The network: backbone, pooling, head and loss as one module, which is prepared, trained and saved as a whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Literal

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

from lib.config.recipe import Model, Objective
from lib.config.validation import make_section
from lib.errors import FlukeError, one_line
from lib.models.backbone import count_in_chans, make_backbone
from lib.models.heads import make_last_layer
from lib.tables.target import Target, describe_target, stored_target


@dataclass(frozen=True)
class NetworkSpec:
    """What is needed to build a network and to feed it; saved inside its weights file."""

    model: Model
    classes: tuple[str, ...]
    target: Target
    size: int
    """Side in pixels of the images that it is evaluated on."""
    fit: Literal["squash", "crop", "pad"]
    """How images become square (data.fit of the recipe)."""
    head: Literal["linear", "value", "cumulative", "binned"] = "linear"
    """What the last layer computes (lib/models/heads.py)."""
    bins: int = 0
    """Bins of each number, for the head "binned"."""

    @property
    def kind(self) -> str:
        """The network's name by its outputs: classifier or embedding."""
        return KINDS[self.target.outputs]

    def to_dict(self) -> dict[str, Any]:
        """Return the description as JSON values, which `from_dict` reads."""
        stored = {**describe_target(self.target), "kind": self.kind, "size": self.size, "fit": self.fit}
        stored |= {} if self.head == "linear" else {"head": self.head}
        stored |= {"bins": self.bins} if self.bins else {}
        return {"model": asdict(self.model), "classes": list(self.classes), **stored}

    @staticmethod
    def from_dict(stored: dict[str, Any]) -> NetworkSpec:
        """Return the NetworkSpec that `to_dict` has described. Raises ValueError, TypeError or KeyError for other values."""
        values = dict(stored)
        outputs = {kind: outputs for outputs, kind in KINDS.items()}[values.pop("kind")]
        target = stored_target(outputs, values.pop("multi"), values.pop("target", None))
        return NetworkSpec(make_section("model", values.pop("model")), tuple(values.pop("classes")), target, **values)


KINDS = {"logits": "classifier", "embeddings": "embedding"}
"""Names in weights files of networks, by their outputs."""


class GeM(nn.Module):
    """Generalized-mean pooling with one learned p (Radenovic et al. 2018): (B, C, H, W) -> (B, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: Tensor) -> Tensor:
        return x.float().clamp(min=1e-6).pow(self.p).mean((2, 3)).pow(1 / self.p)


class Network(nn.Module):
    """uint8 images (B, C, H, W) -> {"output": logits (B, K) or embeddings (B, D), both float32, and with targets "loss": scalar}.

    Instead of images it takes what `features` returns for them, (B, width): a frozen backbone need not run in each epoch.
    As in timm's task modules, head and loss (`objective`) are parts of the module that DistributedDataParallel wraps, so that their
    weights are synchronized, optimized and saved with the backbone's.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: NetworkSpec, objective: Objective | None = None):
        super().__init__()
        self.spec = spec
        self.backbone = make_backbone(spec.model, pretrained=False)
        cfg = timm.data.resolve_data_config({}, model=self.backbone)
        self.channels = count_in_chans(spec.model)
        for name in ("mean", "std"):
            self.register_buffer(name, 255 * _of_channels(cfg[name], self.channels).view(1, -1, 1, 1), persistent=False)
        self.pool = GeM() if spec.model.pool == "gem" else nn.Identity()
        self.head, self.width = make_head(self.pooled_width(spec.size), spec)
        """`width`: number of logits or dimensions of the embedding."""
        self.objective: nn.Module | None = None
        self.mix = make_mixup(objective, len(spec.classes)) if objective is not None else None
        self.frozen: tuple[str, ...] = ()
        """Prefixes of the names of frozen backbone parts; "" freezes all of it."""
        self.compiled: Callable[[Tensor], Tensor] | None = None
        """The backbone's forward pass in training after `compile_training`."""

    def _normalize(self, images: Tensor) -> Tensor:
        return (images.float() - self.mean) / self.std

    def _pooled_features(self, x: Tensor) -> Tensor:
        backbone = self.compiled if self.training and self.compiled is not None else self.backbone
        with torch.no_grad() if "" in self.frozen else nullcontext():
            x = backbone(x)
        return self.pool(x)

    def compile_training(self) -> None:
        """Compile the backbone for training alone, because it would compile anew for inference, whose batches have other sizes."""
        self.compiled = torch.compile(self.backbone.forward)

    @torch.no_grad()
    def pooled_width(self, size: int) -> int:
        """Return the number of pooled features, measured on one image of `size` px.

        timm's num_features ignores layers between feature map and classifier (VGG, MobileNetV3). Raises FlukeError when the
        backbone can't take images of that size, has no feature map for GeM, or gives something else than features.
        """
        m = self.spec.model
        try:
            x = self.backbone.eval()(torch.zeros(1, self.channels, size, size))
        except Exception as error:  # whatever a backbone raises for a size that it can't take
            reason = one_line(error, 200)
            own = timm.data.resolve_data_config({}, model=self.backbone)["input_size"][-1]
            raise FlukeError(
                f"model.name {m.name}: can't take images of {size} px ({reason}); set another size, such as its own {own} px."
            ) from None
        finally:
            self.backbone.train()
        if m.pool == "gem" and not (_is_features(x, 4) and x.shape[1] == self.backbone.head_hidden_size):
            raise FlukeError(f"model.pool gem: {m.name} has no feature map (B, C, H, W) to pool; set model.pool to default.")
        if m.pool != "gem" and not _is_features(x, 2):
            found = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise FlukeError(
                f"model.name {m.name}: gives {found} with kwargs {m.kwargs}, not a vector per image; leave out what makes it so "
                "(features_only, global_pool)."
            )
        return self.pool(x).shape[1]

    def features(self, images: Tensor) -> Tensor:
        """Return the input of the head, (B, width) float32, for uint8 images (B, C, H, W)."""
        return self._pooled_features(self._normalize(images)).float()

    def forward(self, images: Tensor, targets: Tensor | None = None) -> dict[str, Tensor]:
        if images.ndim == 2:
            x = images
        else:
            x = self._normalize(images)
            if self.training and targets is not None and self.mix is not None:
                x, targets = self.mix(x, targets)
            x = self._pooled_features(x).float()
        # Not in bfloat16: its 8 bits make the best two of many logits tie, and give cosines near 1 wrong gradients.
        with torch.autocast(x.device.type, enabled=False):
            output = self.head(x)
            if self.spec.target.outputs == "embeddings":
                output = F.normalize(output)
            if targets is None or self.objective is None:
                return {"output": output}
            return {"output": output, "loss": self.objective(output, targets)}

    def freeze(self, prefixes: tuple[str, ...]) -> None:
        """Freeze the backbone parts whose names begin with one of `prefixes` ("" freezes all), and no others.

        Frozen BatchNorm keeps its statistics: see `train`. Raises FlukeError for a prefix that no part has.
        """
        for prefix in prefixes:
            if not any(_has_prefix(name, prefix) for name, _ in self.backbone.named_parameters()):
                parts = [name for name, _ in self.backbone.named_children()]
                raise FlukeError(
                    f"optim.freeze: {prefix!r} is no part of {self.spec.model.name}; its parts are {', '.join(parts)}."
                )
        self.frozen = prefixes
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad_(not any(_has_prefix(name, prefix) for prefix in prefixes))
        self.train(self.training)

    def train(self, mode: bool = True) -> Network:
        """Set training mode, except for frozen parts, whose BatchNorm would go on updating its statistics."""
        super().train(mode)
        for name, module in self.backbone.named_modules():
            if any(_has_prefix(name, prefix) for prefix in self.frozen):
                module.eval()
        return self


def _of_channels(rgb: Sequence[float], channels: int) -> Tensor:
    """Return statistics of RGB for other channels, (channels,): in turn, as timm repeats pretrained filters, or one mean."""
    values = torch.tensor(rgb)
    return values.mean()[None] if channels == 1 else values[torch.arange(channels) % len(values)]


def _is_features(x: object, ndim: int) -> bool:
    return isinstance(x, Tensor) and x.ndim == ndim


def _has_prefix(name: str, prefix: str) -> bool:
    return prefix == "" or name == prefix or name.startswith(prefix + ".")


def make_head(width: int, spec: NetworkSpec) -> tuple[nn.Module, int]:
    """Return the head for `width` features, and the width of its output.

    It consists of hidden layers (Linear, BatchNorm, ReLU), dropout, and a Linear to the classes or, for embeddings, a Linear and
    BatchNorm (the neck of Luo et al. 2019).
    """
    layers: list[nn.Module] = []
    for hidden in spec.model.hidden:
        layers += [nn.Linear(width, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU()]
        width = hidden
    layers.append(nn.Dropout(spec.model.dropout))
    if spec.target.outputs == "logits":
        layers.append(last := make_last_layer(width, len(spec.classes), spec.head, spec.target.numeric, spec.bins))
        if spec.target.several and isinstance(last, nn.Linear):
            # A low initial probability, or thousands of easy negatives dominate the first steps (Lin et al. 2017, section 3.3).
            nn.init.constant_(last.bias, math.log(0.05 / 0.95))
        return nn.Sequential(*layers), len(spec.classes)
    if spec.model.embedding_dim is not None:
        layers.append(nn.Linear(width, spec.model.embedding_dim, bias=False))
        width = spec.model.embedding_dim
    layers.append(nn.BatchNorm1d(width))
    return nn.Sequential(*layers), width


def make_mixup(o: Objective, classes: int) -> nn.Module | None:
    """Return torchvision's MixUp, CutMix or a random choice of them for normalized batches; None when both are off.

    They draw from torch's default generator.
    """
    choices: list[nn.Module] = []
    if o.mixup:
        choices.append(v2.MixUp(alpha=o.mixup, num_classes=classes))
    if o.cutmix:
        choices.append(v2.CutMix(alpha=o.cutmix, num_classes=classes))
    if not choices or o.mix_prob == 0:
        return None
    mix = v2.RandomChoice(choices) if len(choices) > 1 else choices[0]
    return mix if o.mix_prob == 1 else v2.RandomApply([mix], p=o.mix_prob)
