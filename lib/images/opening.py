"""Open image files by Pillow: formats, size limit, and what its pixels mean as RGB.

Nothing here imports torch, because pages are written without it.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from lib.errors import FlukeError, one_line
from lib.images.arrays import ARRAY_SUFFIXES, open_array
from lib.tables.box import Box
from lib.tables.folders import IMAGE_FORMATS
from lib.tables.foreign import describe_foreign
from lib.tables.image_path import MAX_PIXELS, ImagePath
from lib.tables.pixels import load_pixels

_LIMIT = threading.Lock()
BITS = (8, 12, 16)
"""Ranges of the values in a file of more than 8 bits per pixel."""

MAGIC = {b"\x89PNG": "PNG", b"\xff\xd8": "JPEG", b"RIFF": "WEBP", b"GIF8": "GIF", b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF"}
"""Formats by the first bytes of a file."""

ORIENTATIONS = {  # EXIF orientation: transposition that sets the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_image(path: Path) -> Image.Image:
    """Open an image file, read its header and check its size; pixels are not decoded yet. Raises FlukeError."""
    if isinstance(path, ImagePath) and path.array is not None:
        planes = load_pixels(path.array, path.row, path.channels)
        return Image.fromarray(np.ascontiguousarray(np.moveaxis(planes[[min(i, len(planes) - 1) for i in range(3)]], 0, -1)))
    if not os.path.isfile(path):  # a named pipe would block for ever
        raise FlukeError(f"{path}: {'not a regular file' if os.path.exists(path) else 'no such file'}.")
    if path.suffix.lower() in ARRAY_SUFFIXES:
        return open_array(path)
    try:
        with _without_limit():
            source = Image.open(path, formats=IMAGE_FORMATS)
    except UnidentifiedImageError:
        if (kind := describe_foreign(path)) is not None and " image" not in kind:
            raise FlukeError(f"{path}: is {kind}.") from None
        with path.open("rb") as file:
            start = file.read(16)
        named = next((name for magic, name in MAGIC.items() if start.startswith(magic)), None)
        found = f"it begins with {start!r}" if start else "it is empty"
        if named is not None:
            raise FlukeError(f"{path}: a {named} file that is damaged or of an unusual kind; save it again.") from None
        raise FlukeError(
            f"{path}: not an image in a supported format ({found}); supported are {', '.join(IMAGE_FORMATS)}."
        ) from None
    except Exception as error:
        raise FlukeError(f"{path}: can't be opened ({one_line(error)}).") from None
    width, height = source.size
    if width * height >= (limit := getattr(path, "max_pixels", MAX_PIXELS)):
        source.close()
        raise FlukeError(
            f"{path}: too large ({width} x {height} pixels); images must be below {limit / 1e6:g} megapixels (data.max_megapixels)."
        )
    return source


@contextmanager
def _without_limit() -> Iterator[None]:
    """Suspend Pillow's own limit of pixels, which a recipe may exceed; `open_image` compares the size itself.

    One thread at a time: a second one would take None for the limit, and restore that.
    """
    with _LIMIT:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


@contextmanager
def as_far_as_it_goes(path: Path) -> Iterator[None]:
    """Let Pillow decode a file that is known to be damaged, within the context, and leave the missing pixels grey or black."""
    if not getattr(path, "damaged", False):
        yield
        return
    with _LIMIT:
        before = ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


def exif_transpose(source: Image.Image) -> Image.Transpose | None:
    """Return the transposition that sets an image upright by its EXIF orientation, None if it is."""
    try:
        return ORIENTATIONS.get(source.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken EXIF doesn't affect the pixels
        return None


def cut_out(image: Image.Image, box: Box) -> Image.Image:
    """Return the part of an upright image in a box, to whole pixels; a turned box upright, black where the image ends.

    Raises ValueError for a box that is outside of the image.
    """
    left, top, width, height = box.pixels(*image.size)
    if box.angle == 0:
        edges = [min(max(round(edge), 0), side) for edge, side in zip((left, top, left + width, top + height), image.size * 2)]
        if edges[2] <= edges[0] or edges[3] <= edges[1]:
            raise ValueError(f"the box {left:g}, {top:g}, {width:g}, {height:g} holds no pixel of {image.width} x {image.height}")
        return image.crop((edges[0], edges[1], edges[2], edges[3]))
    size = max(round(width), 1), max(round(height), 1)
    cos, sin = math.cos(box.angle), math.sin(box.angle)
    x, y = left + width / 2, top + height / 2  # from the middle of the result a step to the right goes (cos, sin) in the image
    to_image = (cos, -sin, x - cos * size[0] / 2 + sin * size[1] / 2, sin, cos, y - sin * size[0] / 2 - cos * size[1] / 2)
    return image.transform(size, Image.Transform.AFFINE, to_image, Image.Resampling.BILINEAR)


def to_rgb(source: Image.Image) -> Image.Image:
    """Return an opened image as RGB, as `decode` does. Raises ValueError for pixels without a known range."""
    if source.mode.startswith("I") or source.mode == "F":  # convert("RGB") would clip 256...65535 to 255
        source = Image.fromarray(_to_8_bits(np.asarray(source), white_is_zero=_is_white_zero(source)))
    if source.has_transparency_data:  # convert("RGB") would show the colors stored under transparent pixels
        rgba = source.convert("RGBA")
        source = Image.new("RGBA", rgba.size, "white")
        source.alpha_composite(rgba)
    return source if source.mode == "RGB" else source.convert("RGB")


def _is_white_zero(source: Image.Image) -> bool:
    """Return whether a TIFF's zero is white, which Pillow turns only for 8 bits and fewer."""
    return getattr(source, "tag_v2", {}).get(262, 1) == 0


def _to_8_bits(values: np.ndarray, white_is_zero: bool) -> np.ndarray:
    """Return grayscale `values` (H, W) integer or float as uint8. Raises ValueError for values without a known range."""
    low, high = values.min(), values.max()
    if values.dtype.kind == "f" and 0 <= low <= high <= 1:
        scaled = np.rint(values * 255).astype(np.uint8)
    elif low >= 0 and high < 2 ** BITS[-1]:
        top = next(2**bits - 1 for bits in BITS if high < 2**bits)
        table = np.rint(np.arange(top + 1) * (255 / top)).astype(np.uint8)
        scaled = table[values.astype(np.uint16, copy=False)]
    else:
        raise ValueError(f"pixels from {low:g} to {high:g} have no known range; save it with 8 or 16 bits")
    return 255 - scaled if white_is_zero else scaled
