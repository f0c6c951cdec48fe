"""Transforms of decoded images: resize them to the network's size, augment them with the transforms that the recipe names."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

import numpy as np
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from lib.config.recipe import Data
from lib.errors import FlukeError, did_you_mean, one_line
from lib.tables.image_path import count_channels

Transform = Callable[[torch.Tensor], torch.Tensor]


# --- resizing ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ResizeToSquare:
    """Resize an image to uint8 (C, size, size): squash both sides, crop the central square, or pad the short side with gray."""

    size: int
    method: Literal["squash", "crop", "pad"]

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        height, width = image.shape[-2:]
        if self.method == "crop":  # before resizing, or one row of a million pixels would become 224 rows of 224 million
            image = F.center_crop(image, [min(height, width)] * 2)
        elif self.method == "pad":
            scale = self.size / max(height, width)
            height, width = (max(1, round(side * scale)) for side in (height, width))
            image = F.resize(image, [height, width], antialias=True)
            left, top = (self.size - width) // 2, (self.size - height) // 2
            return F.pad(image, [left, top, self.size - width - left, self.size - height - top], fill=[128.0])
        return F.resize(image, [self.size, self.size], antialias=True)


def make_eval_transform(data: Data, size: int | None = None) -> Transform:
    """Return the transform of validation and test images: image -> uint8 (C, size, size), without randomness.

    `size` in pixels; None: `data.eval_size`, or `data.size` if that is null.
    """
    return ResizeToSquare(size or data.eval_size or data.size, data.fit)


def make_train_transform(data: Data) -> Transform:
    """Return the transform of training images: image -> uint8 (C, data.size, data.size), with `data.augment` in order.

    The image is resized to `data.size` first, unless an entry of the list rescales (RESCALING), and last, in case the list leaves
    another size. All randomness comes from torch's default generator. Each transform is built and applied once here. Raises
    FlukeError naming the transform that is unknown, can't be built, fails, or returns something else than a uint8 RGB image.
    """
    resize, resize_last = ResizeToSquare(data.size, data.fit), ResizeToSquare(data.size, "squash")
    first = [] if any(name in RESCALING for name in map(_entry_name, data.augment)) else [resize]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(action="error", category=UserWarning):
        sample = torch.randint(256, (count_channels(data), 2 * data.size, 3 * data.size), dtype=torch.uint8)
        steps, _ = _build_in_sequence(data.augment, data.size, resize(sample) if first else sample)
    return v2.Compose([*first, *steps, resize_last])


def decode_side(transform: Transform) -> int | None:
    """Return the `short_side` in pixels at which `decode` loses little or nothing of what `transform` needs.

    It is 15% above the target size. For RandomResizedCrop it is so large that its smallest crop, but not one below a quarter of the
    image's area, is not enlarged: torchvision's default of 8% would rule out scaled decoding. None (decode in full) where the first
    step counts in pixels of the original image.
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


def cache_side(data: Data) -> int:
    """Return the default of `data.cache_size`: the side in pixels at which neither training nor evaluation loses detail."""
    return max(decode_side(transform) or 0 for transform in (make_train_transform(data), make_eval_transform(data)))


# --- augmentation by name ---------------------------------------------------------------------------------------------------------

TRANSFORMS: dict[str, type[v2.Transform]] = {
    name: value
    for name, value in vars(v2).items()
    if inspect.isclass(value) and issubclass(value, v2.Transform) and value is not v2.Transform
}
RESCALING = ("RandomResizedCrop", "Resize", "RandomResize", "RandomShortestSize", "ScaleJitter")
ENUMS: dict[str, type[Enum]] = {"interpolation": v2.InterpolationMode, "policy": v2.AutoAugmentPolicy}
UINT8 = "images stay uint8 until the network normalizes them by its backbone's mean and standard deviation; leave it out"
REFUSED = dict.fromkeys(("Normalize", "ToTensor", "ToDtype", "ConvertImageDtype", "ToPureTensor", "ToImage", "ToPILImage"), UINT8)
REFUSED |= {
    "MixUp": "it mixes batches, not images; set objective.mixup",
    "CutMix": "it mixes batches, not images; set objective.cutmix",
}


def _entry_name(entry: Any) -> str:
    """Return the transform's name in an entry of `data.augment`: Name or {Name: {argument: value}}."""
    if isinstance(entry, str):
        return entry
    if isinstance(entry, dict) and len(entry) == 1 and isinstance(next(iter(entry.values())), dict | None):
        return str(next(iter(entry)))
    raise FlukeError(f"data.augment: {entry!r} is not a transform; write its name, or {{RandomRotation: {{degrees: 10}}}}.")


def _build_in_sequence(entries: list[Any], size: int, sample: torch.Tensor) -> tuple[list[v2.Transform], torch.Tensor]:
    """Build transforms that follow one another, each applied to what the one before made of the sample image."""
    steps = []
    for entry in entries:
        step, sample = _build(entry, size, sample)
        steps.append(step)
    return steps, sample


def _build_alternatives(entries: list[Any], size: int, sample: torch.Tensor) -> tuple[list[v2.Transform], torch.Tensor]:
    """Build transforms of which one is drawn, each applied to the sample image; the result is that of the first."""
    built = [_build(entry, size, sample) for entry in entries]
    return [step for step, _ in built], built[0][1]


def _build(entry: Any, size: int, sample: torch.Tensor) -> tuple[v2.Transform, torch.Tensor]:
    """Build the transform that `entry` names; return it and its result on a sample image with probability 1. Raises FlukeError."""
    name = _entry_name(entry)
    given = (entry[name] or {}) if isinstance(entry, dict) else {}
    place = f"data.augment: {name}"
    if name in REFUSED:
        raise FlukeError(f"{place}: {REFUSED[name]}.")
    if name not in TRANSFORMS:
        raise FlukeError(f"{place} is not a transform of torchvision.transforms.v2{did_you_mean(name, TRANSFORMS)}")
    parameters = inspect.signature(TRANSFORMS[name]).parameters
    arguments = _convert_arguments(name, given, list(parameters), place)
    if "size" in parameters and parameters["size"].default is inspect.Parameter.empty:
        arguments.setdefault("size", (size, size))
    result = None
    if (nested := arguments.get("transforms")) is not None:
        if not isinstance(nested, list) or not nested:
            raise FlukeError(f"{place}: transforms must be a list of transforms, not {nested!r}.")
        build_nested = _build_alternatives if name == "RandomChoice" else _build_in_sequence
        arguments["transforms"], result = build_nested(nested, size, sample)
    if name == "CenterCrop" and (side := np.max(arguments["size"])) > min(sample.shape[-2:]):
        raise FlukeError(
            f"{place}: {side} px is larger than the image ({min(sample.shape[-2:])} px), so its border would be black."
        )
    try:
        step = TRANSFORMS[name](**arguments)
        if result is None:
            always = TRANSFORMS[name](**arguments | ({"p": 1.0} if "p" in parameters else {}))
            result = always(sample)
    except Exception as error:  # whatever torchvision raises for arguments that it can't use
        raise FlukeError(
            f"{place} can't be used with {given} ({one_line(error)}); its arguments are {', '.join(parameters)}."
        ) from None
    _check_result(result, place, len(sample))
    return step, result


def _convert_arguments(name: str, given: dict[str, Any], parameters: list[str], place: str) -> dict[str, Any]:
    """Return arguments as torchvision takes them, names of enumerations replaced by their members."""
    arguments = dict(given)
    for key in arguments:
        if key not in parameters:
            raise FlukeError(f"{place} has no argument {key} but {', '.join(parameters) or 'none'}{did_you_mean(key, parameters)}")
    if name == "RandomErasing" and arguments.get("value") == "random":
        raise FlukeError(f"{place}: value 'random' suits normalized images only, not uint8; give one number or three, 0 to 255.")
    for key, enum in ENUMS.items():
        if key not in arguments:
            continue
        if arguments[key] not in (values := [member.value for member in enum]):
            raise FlukeError(f"{place}: {key} must be one of {', '.join(values)}, not {arguments[key]!r}.")
        arguments[key] = enum(arguments[key])
    return arguments


def _check_result(result: Any, place: str, channels: int) -> None:
    if not (isinstance(result, torch.Tensor) and result.dtype == torch.uint8 and result.ndim == 3 and len(result) == channels):
        found = f"{result.dtype} {tuple(result.shape)}" if isinstance(result, torch.Tensor) else type(result).__name__
        raise FlukeError(f"{place} returns {found}, not a uint8 image ({channels}, height, width).")
