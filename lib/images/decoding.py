"""Decode an image file into a torch uint8 tensor (3, height, width), RGB.

Pillow decodes, because it reads every format and mode found in contests, and because its scaled JPEG decoding is faster on
photographs than torchvision.io, which torchvision 0.29 retires (benchmarks/decoding.py prints the ratios). The tensor is a view of
Pillow's row-by-row RGB, the memory layout in which torchvision resizes uint8 fastest. Normalization is the network's part.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lib.errors import FlukeError, first_few, one_line
from lib.images.arrays import load_planes
from lib.images.opening import as_far_as_it_goes, cut_out, exif_transpose, open_image, to_rgb
from lib.tables.box import Box
from lib.tables.image_path import MAX_PIXELS, ImagePath, files_of, parts_of
from lib.tables.pixels import load_pixels

LARGE = 16_000_000
"""Pixels above which an image is averaged down, where the caller will resize it, before it is copied."""


def decode(path: Path, short_side: int | None = None, box: Box | None = None) -> torch.Tensor:
    """Decode an image file, upright by its EXIF orientation, to uint8 (3, height, width), RGB. Of several frames, take the first.

    An ImagePath may say otherwise: several files, each a channel, or another number C of channels, uint8 (C, height, width).

    Transparent pixels are composited over white, as in a browser. Grayscale of more than 8 bits is scaled to 8 by the smallest
    range of BITS that holds the file's values, because values of 8 and 12 bits are often stored in 16 or 32; floats in [0, 1] by
    255. With `short_side` (pixels), the caller resizes: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, never with a shorter
    side below `short_side`, and what still has more than LARGE pixels is averaged over squares, never to less than twice
    `short_side`. The pixels depend on the file and `short_side` alone. With a `box` they are those of a file that holds this part
    alone, without loss. Raises FlukeError with the reason.
    """
    channels, files = getattr(path, "channels", 3), files_of(path)
    is_array = isinstance(path, ImagePath) and path.array is not None
    if box is not None and (is_array or (channels != 3 and path.suffix.lower() == ".npy")):
        raise FlukeError(f"{path}: is an array, of which no box can be cut; leave out data.box_columns and data.detections.")
    if isinstance(path, ImagePath) and path.array is not None:
        return torch.from_numpy(load_pixels(path.array, path.row, channels))
    if len(files) > 1:
        planes = [decode(part, short_side, box) for part in parts_of(path)]
        if len({plane.shape for plane in planes}) > 1:
            sizes = first_few(f"{file.name} {plane.shape[2]} x {plane.shape[1]}" for file, plane in zip(files, planes))
            raise FlukeError(f"{path}: the files of its channels have several sizes ({sizes}); make them equal.")
        return torch.cat(planes)
    if channels != 3 and path.suffix.lower() == ".npy":
        return torch.from_numpy(load_planes(path, channels))
    try:
        # Pillow's warnings concern odd metadata, not pixels, and would come once per file and process.
        with warnings.catch_warnings(action="ignore"), open_image(path) as source:
            if short_side is not None and box is None:
                source.draft(None, (short_side, short_side))
                _seek_reduced(source, short_side)
            with as_far_as_it_goes(path):
                source.load()
            image = _with_channels(source, channels)
            transpose = exif_transpose(source)
            if box is not None:
                image, transpose = cut_out(image if transpose is None else image.transpose(transpose), box), None
            if short_side is not None and image.width * image.height > LARGE:
                image = image.reduce(max(min(image.size) // (2 * short_side), 1))
            if transpose is not None:  # FLIP_LEFT_RIGHT is 0
                image = image.transpose(transpose)
    except FlukeError:
        raise
    except Exception as error:  # plugins raise OSError, SyntaxError, ValueError, struct.error, KeyError, ... for a damaged file
        raise FlukeError(f"{path}: can't be decoded ({one_line(error)}).") from None
    pixels = np.array(image)
    return torch.from_numpy(pixels[:, :, None] if pixels.ndim == 2 else pixels).permute(2, 0, 1)


def _with_channels(source: Image.Image, channels: int) -> Image.Image:
    """Return an opened image as RGB, as grey (1 channel), or with its bands as they are. Raises ValueError for another number."""
    if channels == 3:
        return to_rgb(source)
    if channels == 1:
        return to_rgb(source).convert("L")
    if len(source.getbands()) != channels:
        raise ValueError(f"has {len(source.getbands())} channels, but data.channels is {channels}")
    return source


def _seek_reduced(source: Image.Image, short_side: int) -> None:
    """Go to the smallest page of a huge pyramid (TIFF) whose short side is `short_side` at least; others stay at the first page.

    A page of a pyramid is the first one at a fraction of its size.
    """
    if source.width * source.height < MAX_PIXELS or getattr(source, "n_frames", 1) == 1:
        return
    ratio, best, smallest = source.width / source.height, 0, min(source.size)
    for page in range(1, getattr(source, "n_frames", 1)):
        source.seek(page)
        if abs(source.width / source.height / ratio - 1) < 0.02 and short_side <= min(source.size) < smallest:
            best, smallest = page, min(source.size)
    source.seek(best)
