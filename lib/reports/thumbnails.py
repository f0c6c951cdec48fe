"""Thumbnails of images, of what lies in their boxes, as data URIs for pages of one file."""

from __future__ import annotations

import base64
import functools
import io
import math
import warnings
from pathlib import Path

from PIL import Image

from lib.images.opening import cut_out, exif_transpose, open_image, to_rgb
from lib.tables.box import Box
from lib.tables.image_path import box_of, parts_of

SIDEWAYS = {Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90}
"""Transpositions that exchange width and height."""
MAX_PIXELS = 50_000_000  # an image with more, after a JPEG's scaled decoding, gets no thumbnail


def thumbnail(path: Path, side: int) -> str:
    """Return a JPEG data URI at most `side` pixels wide and high; a placeholder if the image is missing, huge or not decodable."""
    content = thumbnail_bytes(path, side)
    kind, content = ("svg+xml", placeholder()) if content is None else ("jpeg", content)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def thumbnail_bytes(path: Path, side: int) -> bytes | None:
    """Return a JPEG file of the part that is read, at most `side` pixels wide and high.

    None if the image is missing, huge or not decodable.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about large photographs or odd metadata: neither matters at this size
            bands = [_read_small(part, side, box_of(path)) for part in parts_of(path)[:3]]
            if len(bands) == 1:
                small = bands[0]
            else:  # grey files, of which the first three are shown as red, green and blue
                grey = [band.convert("L") for band in bands]
                small = Image.merge("RGB", [grey[min(i, len(grey) - 1)] for i in range(3)])
    except Exception:  # whatever a plugin raises for a damaged file: a page is written all the same
        return None
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=78, optimize=True)
    return buffer.getvalue()


def _read_small(path: Path, side: int, box: Box | None) -> Image.Image:
    """Return the part of a file in `box` as RGB, at most `side` pixels wide and high. Raises ValueError for a huge one."""
    with open_image(path) as image:
        transpose, full = exif_transpose(image), image.size
        least = 2 * side
        if box is not None:
            upright = full[::-1] if transpose in SIDEWAYS else full
            box = Box(*box.pixels(*upright), box.angle)
            least = math.ceil(least * max(full) / max(box.width, box.height))
        image.draft("RGB", (least, least))
        if image.width * image.height > MAX_PIXELS:
            raise ValueError("huge")
        image.load()
        small = to_rgb(image)
        small = small if transpose is None else small.transpose(transpose)
        if box is not None:
            scale = image.width / full[0]
            small = cut_out(small, Box(box.x * scale, box.y * scale, box.width * scale, box.height * scale, box.angle))
        small.thumbnail((side, side))
        return small


@functools.cache
def placeholder() -> bytes:
    """Return the SVG file that stands for an image without a thumbnail."""
    return (Path(__file__).parent / "templates" / "placeholder.svg").read_bytes()
