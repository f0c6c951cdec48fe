"""An image file becomes a uint8 picture: decoding, bringing it to the network's size, augmentation by name.

A picture is a torch uint8 tensor (3, height, width), RGB. Pillow decodes: it reads every format and mode that contests bring, and
on photographs its scaled JPEG decoding beats torchvision.io, which torchvision 0.29 retires (benchmarks/decoding.py prints the
ratios). The tensor is a view of Pillow's row-by-row RGB, the layout in which torchvision resizes uint8 fastest. Normalisation is
no part of this: the model does it on the device.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch.utils.data import DataLoader
from tqdm import tqdm

from lib.errors import FlukeError, one_line
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
        raise FlukeError(f"{path}: can't be decoded ({one_line(error)}).") from None
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
        raise FlukeError(f"{path}: can't be opened ({one_line(error)}).") from None
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
