"""Thumbnails of images as data URIs, for pages of one file."""

from __future__ import annotations

import base64
import functools
import io
import warnings
from pathlib import Path

from PIL import Image, ImageOps

from lib.images.opening import open_image, to_rgb
from lib.tables.image_path import parts_of

MAX_PIXELS = 50_000_000  # an image with more, after a JPEG's scaled decoding, gets no thumbnail


def thumbnail(path: Path, side: int) -> str:
    """Return a JPEG data URI at most `side` pixels wide and high; a placeholder if the image is missing, huge or not decodable."""
    content = thumbnail_bytes(path, side)
    kind, content = ("svg+xml", placeholder()) if content is None else ("jpeg", content)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def thumbnail_bytes(path: Path, side: int) -> bytes | None:
    """Return a JPEG file at most `side` pixels wide and high; None if the image is missing, huge or not decodable."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about large photographs or odd metadata: neither matters at this size
            bands = [_read_small(part, side) for part in parts_of(path)[:3]]
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


def _read_small(path: Path, side: int) -> Image.Image:
    """Return a file as RGB, at most `side` pixels wide and high. Raises ValueError for a huge one."""
    with open_image(path) as image:
        image.draft("RGB", (2 * side, 2 * side))
        if image.width * image.height > MAX_PIXELS:
            raise ValueError("huge")
        image.load()
        small = to_rgb(ImageOps.exif_transpose(image))
        small.thumbnail((side, side))
        return small


@functools.cache
def placeholder() -> bytes:
    """Return the SVG file that stands for an image without a thumbnail."""
    return (Path(__file__).parent / "templates" / "placeholder.svg").read_bytes()
