"""Transforms of decoded images: resize them to the network's size, augment them by transforms that the recipe names."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

import numpy as np
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from lib.config.recipe import Data
from lib.errors import FlukeError, did_you_mean, one_line

Transform = Callable[[torch.Tensor], torch.Tensor]


# --- to the network's size --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ResizeToSquare:
    """Brings a picture to uint8 (3, size, size): squash both sides, crop the central square, or pad the short side with grey."""

    size: int
    how: Literal["squash", "crop", "pad"]

    def __call__(self, picture: torch.Tensor) -> torch.Tensor:
        height, width = picture.shape[-2:]
        if self.how == "crop":  # before resizing, or one row of a million pixels would become 224 rows of 224 million
            picture = F.center_crop(picture, [min(height, width)] * 2)
        elif self.how == "pad":
            scale = self.size / max(height, width)
            height, width = (max(1, round(side * scale)) for side in (height, width))
            picture = F.resize(picture, [height, width], antialias=True)
            left, top = (self.size - width) // 2, (self.size - height) // 2
            return F.pad(picture, [left, top, self.size - width - left, self.size - height - top], fill=[128.0])
        return F.resize(picture, [self.size, self.size], antialias=True)


def make_eval_transform(data: Data, size: int | None = None) -> Transform:
    """Validation's and test's transform: picture -> uint8 (3, size, size), without randomness. `size`: null takes the recipe's."""
    return ResizeToSquare(size or data.eval_size or data.size, data.fit)


def make_train_transform(data: Data) -> Transform:
    """Training's transform: picture -> uint8 (3, data.size, data.size), `data.augment` in order.

    The picture is brought to `data.size` first, unless an entry of the list does the scaling (SCALING), and last, should the list
    have left another size. All randomness is drawn from torch's default generator. Each transform is built and tried here; raises
    FlukeError naming the one that is unknown, can't be built, fails, or leaves something else than a uint8 RGB picture.
    """
    fit, squash = ResizeToSquare(data.size, data.fit), ResizeToSquare(data.size, "squash")
    first = [] if any(name in SCALING for name in map(_name, data.augment)) else [fit]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(action="error", category=UserWarning):
        picture = torch.randint(256, (3, 2 * data.size, 3 * data.size), dtype=torch.uint8)
        steps, _ = _build_all(data.augment, data.size, first[0](picture) if first else picture)
    return v2.Compose([*first, *steps, squash])


def decode_side(transform: Transform) -> int | None:
    """`short_side` for `decode`, so that what `transform` makes of the picture is as good as from the full one, or nearly so.

    15% above the size asked for. RandomResizedCrop: so large that a crop of its smallest area, or of a quarter of the picture if
    that is more, is not enlarged (torchvision's default of 8% would forbid any scaled decoding). None (decode in full) where the
    first step counts in pixels of the picture.
    """
    for step in transform.transforms if isinstance(transform, v2.Compose) else [transform]:
        if isinstance(step, v2.RandomHorizontalFlip | v2.RandomVerticalFlip):
            continue
        if isinstance(step, ResizeToSquare):
            return math.ceil(1.15 * step.size)
        if isinstance(step, v2.RandomResizedCrop):
            return math.ceil(max(step.size) / math.sqrt(max(step.scale[0], 0.25)))
        if isinstance(step, v2.Resize) and step.size:
            return math.ceil(1.15 * max(step.size))
        break
    return None


# --- augmentation by name ---------------------------------------------------------------------------------------------------------

TRANSFORMS: dict[str, type[v2.Transform]] = {
    name: kind
    for name, kind in vars(v2).items()
    if inspect.isclass(kind) and issubclass(kind, v2.Transform) and kind is not v2.Transform
}
SCALING = ("RandomResizedCrop", "Resize", "RandomResize", "RandomShortestSize", "ScaleJitter")
ENUMS: dict[str, type[Enum]] = {"interpolation": v2.InterpolationMode, "policy": v2.AutoAugmentPolicy}
UINT8 = "pictures stay uint8: the model normalises them on the device with its backbone's mean and deviation; leave it out"
REFUSED = dict.fromkeys(("Normalize", "ToTensor", "ToDtype", "ConvertImageDtype", "ToPureTensor", "ToImage", "ToPILImage"), UINT8)
REFUSED |= {"MixUp": "set objective.mixup instead", "CutMix": "set objective.cutmix instead"}


def _build_all(entries: Iterable[Any], size: int, picture: torch.Tensor) -> tuple[list[v2.Transform], torch.Tensor]:
    steps = []
    for entry in entries:
        step, picture = _build(entry, size, picture)
        steps.append(step)
    return steps, picture


def _build(entry: Any, size: int, picture: torch.Tensor) -> tuple[v2.Transform, torch.Tensor]:
    """The transform that `entry` names, and what it makes of `picture` when it is applied for sure, whatever its probability."""
    name = _name(entry)
    given = (entry[name] or {}) if isinstance(entry, dict) else {}
    args = dict(given)
    where = f"data.augment: {name}"
    if name in REFUSED:
        raise FlukeError(f"{where}: {REFUSED[name]}.")
    if name not in TRANSFORMS:
        raise FlukeError(f"{where} is no transform of torchvision.transforms.v2{did_you_mean(name, TRANSFORMS)}")
    parameters = inspect.signature(TRANSFORMS[name]).parameters
    for key in args:
        if key not in parameters:
            raise FlukeError(f"{where} has no argument {key} but {', '.join(parameters) or 'none'}{did_you_mean(key, parameters)}")
    if name == "RandomErasing" and args.get("value") == "random":
        raise FlukeError(f"{where}: value 'random' is noise around 0 for normalised pictures; give a number or three, 0 to 255.")
    for key, kind in ENUMS.items():
        if key in args and args[key] not in (values := [choice.value for choice in kind]):
            raise FlukeError(f"{where}: {key} is one of {', '.join(values)}, not {args[key]!r}.")
        if key in args:
            args[key] = kind(args[key])
    if "size" in parameters and parameters["size"].default is inspect.Parameter.empty:
        args.setdefault("size", (size, size))
    nested = args.get("transforms")
    if nested is not None:
        if not isinstance(nested, list) or not nested:
            raise FlukeError(f"{where}: transforms is a list of transforms, not {nested!r}.")
        if name == "RandomChoice":
            built = [_build(choice, size, picture) for choice in nested]
            args["transforms"], after = [step for step, _ in built], built[0][1]
        else:
            args["transforms"], after = _build_all(nested, size, picture)
    if name == "CenterCrop" and (cut := np.max(args["size"])) > min(picture.shape[-2:]):
        raise FlukeError(f"{where} cuts {cut} px out of a picture of {min(picture.shape[-2:])}: the rest would be black.")
    try:
        step = TRANSFORMS[name](**args)
        if nested is None:
            after = TRANSFORMS[name](**args | ({"p": 1.0} if "p" in parameters else {}))(picture)
    except Exception as error:  # whatever torchvision raises for arguments it can't use
        raise FlukeError(
            f"{where} can't be used with {given}: {one_line(error)}; it has the arguments {', '.join(parameters)}."
        ) from None
    if not (isinstance(after, torch.Tensor) and after.dtype == torch.uint8 and after.ndim == 3 and len(after) == 3):
        got = f"{after.dtype} {tuple(after.shape)}" if isinstance(after, torch.Tensor) else type(after).__name__
        raise FlukeError(f"{where} leaves {got}, not a uint8 picture (3, height, width).")
    return step, after


def _name(entry: Any) -> str:
    if isinstance(entry, str):
        return entry
    if isinstance(entry, dict) and len(entry) == 1 and isinstance(next(iter(entry.values())), dict | None):
        return str(next(iter(entry)))
    raise FlukeError(
        f"data.augment: {entry!r} is neither a transform's name nor a name with arguments, {{RandomRotation: {{degrees: 10}}}}."
    )
