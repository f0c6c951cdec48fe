"""Decode an image file into a torch uint8 tensor (3, height, width), RGB.

Pillow decodes, because it reads every format and mode found in contests, and because its scaled JPEG decoding is faster on
photographs than torchvision.io, which torchvision 0.29 retires (benchmarks/decoding.py prints the ratios). The tensor is a view of
Pillow's row-by-row RGB, the memory layout in which torchvision resizes uint8 fastest. Normalization is the network's part.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError

from lib.errors import FlukeError, one_line

MAX_PIXELS = 100_000_000
"""An image of this many pixels or more is refused before it is decoded."""

# Raster formats only: Pillow's others include EPS, which starts Ghostscript, and containers that hide a second format.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")

Image.MAX_IMAGE_PIXELS = None  # replaced by MAX_PIXELS: Pillow's limit first warns and only refuses at twice its value

ORIENTATIONS = {  # EXIF orientation: transposition that sets the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(path: Path, short_side: int | None = None) -> torch.Tensor:
    """Decode an image file, upright by its EXIF orientation, to uint8 (3, height, width), RGB. Of several frames, take the first.

    Transparent pixels are composited over white, as in a browser; 16-bit grayscale is scaled to 8 bits. With `short_side` (pixels),
    a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, never with a shorter side below `short_side`: the caller resizes.
    The pixels depend on the file and `short_side` alone. Raises FlukeError naming the file and the reason.
    """
    try:
        # Pillow's warnings concern odd metadata, not pixels, and would come once per file and process.
        with warnings.catch_warnings(action="ignore"), open_image(path) as source:
            if short_side is not None:
                source.draft(None, (short_side, short_side))
            source.load()
            image = _to_rgb(source)
            if (transpose := _exif_transpose(source)) is not None:  # FLIP_LEFT_RIGHT is 0
                image = image.transpose(transpose)
    except FlukeError:
        raise
    except Exception as error:  # plugins raise OSError, SyntaxError, ValueError, struct.error, KeyError, ... for a damaged file
        raise FlukeError(f"{path}: can't be decoded ({one_line(error)}).") from None
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def open_image(path: Path) -> Image.Image:
    """Open an image file, read its header and check its size; pixels are not decoded yet. Raises FlukeError."""
    if not os.path.isfile(path):  # a named pipe would block for ever
        raise FlukeError(f"{path}: {'not a regular file' if os.path.exists(path) else 'no such file'}.")
    try:
        source = Image.open(path, formats=FORMATS)
    except UnidentifiedImageError:
        with path.open("rb") as file:
            start = file.read(16)
        found = f"it begins with {start!r}" if start else "it is empty"
        raise FlukeError(f"{path}: not an image in a supported format ({found}); supported are {', '.join(FORMATS)}.") from None
    except Exception as error:
        raise FlukeError(f"{path}: can't be opened ({one_line(error)}).") from None
    width, height = source.size
    if width * height >= MAX_PIXELS:
        source.close()
        raise FlukeError(f"{path}: too large ({width} x {height} pixels); images must be below {MAX_PIXELS // 10**6} megapixels.")
    return source


def _exif_transpose(source: Image.Image) -> Image.Transpose | None:
    try:
        return ORIENTATIONS.get(source.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken EXIF doesn't affect the pixels
        return None


def _to_rgb(source: Image.Image) -> Image.Image:
    if source.mode.startswith("I"):  # convert("RGB") would clip 256...65535 to 255
        values = np.asarray(source).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("32-bit pixels have no known range; save it with 8 or 16 bits")
        source = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if source.mode == "F":
        raise ValueError("floating-point pixels have no known range; save it with 8 or 16 bits")
    if source.has_transparency_data:  # convert("RGB") would show the colors stored under transparent pixels
        rgba = source.convert("RGBA")
        source = Image.new("RGBA", rgba.size, "white")
        source.alpha_composite(rgba)
    return source if source.mode == "RGB" else source.convert("RGB")
