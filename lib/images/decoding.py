"""An image file becomes a uint8 picture: decoding, bringing it to the network's size, augmentation by name.

A picture is a torch uint8 tensor (3, height, width), RGB. Pillow decodes: it reads every format and mode that contests bring, and
on photographs its scaled JPEG decoding beats torchvision.io, which torchvision 0.29 retires (benchmarks/decoding.py prints the
ratios). The tensor is a view of Pillow's row-by-row RGB, the layout in which torchvision resizes uint8 fastest. Normalisation is
no part of this: the model does it on the device.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch.utils.data import DataLoader
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F
from tqdm import tqdm

from lib.config.recipe import Data
from lib.errors import FlukeError, did_you_mean
from lib.process import is_main_process

MAX_PIXELS = 100_000_000
"""An image of this many pixels or more is refused before it is decoded."""

# Raster formats only: among Pillow's others are EPS, which starts Ghostscript, and containers that hide a second format.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")

Image.MAX_IMAGE_PIXELS = None  # Pillow's limit warns first and refuses later; ours is one sentence

ORIENTATIONS = {  # EXIF orientation: what sets the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Transform = Callable[[torch.Tensor], torch.Tensor]


# --- decoding ---------------------------------------------------------------------------------------------------------------------


def decode(path: Path, short_side: int | None = None) -> torch.Tensor:
    """The picture in an image file, upright (EXIF), uint8 (3, height, width), RGB; of several frames the first.

    Transparent pixels are laid over white, as a browser shows them; 16-bit greyscale is scaled to 8 bits. `short_side` in pixels
    lets a JPEG be decoded at 1/2, 1/4 or 1/8 of its size, never with a shorter side below it: the caller still resizes. The pixels
    are a function of the file and `short_side` alone. Raises FlukeError naming the file and the reason.
    """
    try:
        # Pillow's warnings (odd metadata) would come once a file and process, and say nothing about the pixels.
        with warnings.catch_warnings(action="ignore"), _open(path) as source:
            if short_side is not None:
                source.draft(None, (short_side, short_side))
            source.load()
            picture = _rgb(source)
            if (turn := _orientation(source)) is not None:  # FLIP_LEFT_RIGHT is 0
                picture = picture.transpose(turn)
    except FlukeError:
        raise
    except Exception as error:  # plugins raise OSError, SyntaxError, ValueError, struct.error, KeyError, ... for a damaged file
        raise FlukeError(f"{path}: can't be decoded ({_one_line(error)}).") from None
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def _open(path: Path) -> Image.Image:
    """The file with its header read and its size checked; pixels not yet decoded."""
    if not os.path.isfile(path):  # a named pipe would hang
        raise FlukeError(f"{path}: {'not a regular file' if os.path.exists(path) else 'no such file'}.")
    try:
        source = Image.open(path, formats=FORMATS)
    except UnidentifiedImageError:
        with path.open("rb") as file:
            begin = file.read(16)
        what = f"it begins with {begin!r}" if begin else "it is empty"
        raise FlukeError(f"{path}: not an image that is read here ({', '.join(FORMATS)}): {what}.") from None
    except Exception as error:
        raise FlukeError(f"{path}: can't be opened ({_one_line(error)}).") from None
    width, height = source.size
    if width * height >= MAX_PIXELS:
        source.close()
        raise FlukeError(f"{path}: {width} x {height} pixels; only images below {MAX_PIXELS // 10**6} megapixels are read.")
    return source


def _orientation(source: Image.Image) -> Image.Transpose | None:
    try:
        return ORIENTATIONS.get(source.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken EXIF: the pixels are as good as without it
        return None


def _rgb(source: Image.Image) -> Image.Image:
    if source.mode.startswith("I"):  # convert("RGB") would clip 256...65535 to 255
        values = np.asarray(source).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("32-bit pixels have no known range; save it with 8 or 16 bits")
        source = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if source.mode == "F":
        raise ValueError("floating-point pixels have no known range; save it with 8 or 16 bits")
    if source.has_transparency_data:  # convert("RGB") would show what lies under the transparent pixels
        layer = source.convert("RGBA")
        source = Image.new("RGBA", layer.size, "white")
        source.alpha_composite(layer)
    return source if source.mode == "RGB" else source.convert("RGB")


def find_unreadable(paths: Sequence[Path], workers: int, check: Literal["decode", "header"]) -> dict[int, str]:
    """Position in `paths` -> reason, for every file that can't be read; in order, by `workers` processes (0: this one).

    `decode` decodes each file (a JPEG at 1/8, which reads all of its data in a third of the time); `header` only opens it, some
    ten times as fast, and misses files that are cut off.
    """
    # Its own generator: a DataLoader draws a seed, which must not move the job's random numbers.
    collate = partial(_reasons, check=check)
    loader: DataLoader[Any] = DataLoader(paths, batch_size=32, num_workers=workers, collate_fn=collate, generator=torch.Generator())  # type: ignore[arg-type]
    unreadable: dict[int, str] = {}
    with tqdm(total=len(paths), desc="checking images", unit="", delay=2, leave=False, disable=not is_main_process()) as bar:
        for reasons in loader:
            unreadable |= {bar.n + i: reason for i, reason in enumerate(reasons) if reason}
            bar.update(len(reasons))
    return unreadable


def describe_sizes(paths: Sequence[Path], most: int = 200) -> str:
    """What is printed of the images' sizes, from the headers of `most` of them, evenly spaced; what can't be opened is left out."""
    looked = [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, min(most, len(paths))).astype(int))]
    sizes = []
    with warnings.catch_warnings(action="ignore"):
        for path in looked:
            with contextlib.suppress(FlukeError), _open(path) as source:
                sizes.append(source.size)
    if not sizes:
        return "no image can be opened"
    short, long = np.sort(np.array(sizes), axis=1).T
    span = [f"{a.min():,} to {a.max():,}" if a.min() < a.max() else f"{a.min():,}" for a in (short, long)]
    return f"short side {span[0]} px, long side {span[1]} px (of {len(sizes):,} images looked at)"


def _reasons(paths: Sequence[Path], check: str) -> list[str | None]:
    reasons: list[str | None] = []
    for path in paths:
        try:
            if check == "decode":
                decode(path, short_side=1)
            else:
                with warnings.catch_warnings(action="ignore"):
                    _open(path).close()
            reasons.append(None)
        except FlukeError as error:
            reasons.append(str(error).removeprefix(f"{path}: ").removesuffix("."))
    return reasons


def _one_line(error: Exception) -> str:
    """An exception's message on one line, its type where it has none."""
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


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
            f"{where} can't be used with {given}: {_one_line(error)}; it has the arguments {', '.join(parameters)}."
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
