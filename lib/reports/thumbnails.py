"""Thumbnails of images as data URIs, for pages of one file."""

from __future__ import annotations

import base64
import functools
import io
import warnings
from pathlib import Path

from PIL import Image, ImageOps

from lib.images.opening import to_rgb
from lib.tables.folders import IMAGE_FORMATS

MAX_PIXELS = 50_000_000  # an image with more, after a JPEG's scaled decoding, gets no thumbnail


def thumbnail(path: Path, side: int) -> str:
    """Return a JPEG data URI at most `side` pixels wide and high; a placeholder if the image is missing, huge or not decodable."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about large photographs or odd metadata: neither matters at this size
            with Image.open(path, formats=IMAGE_FORMATS) as image:
                image.draft("RGB", (2 * side, 2 * side))
                if image.width * image.height > MAX_PIXELS:
                    return _placeholder()
                image.load()
                small = ImageOps.exif_transpose(image)
                small = to_rgb(small)
                small.thumbnail((side, side))
    except Exception:  # whatever a plugin raises for a damaged file: a page is written all the same
        return _placeholder()
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=78, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


@functools.cache
def _placeholder() -> str:
    svg = (Path(__file__).parent / "templates" / "placeholder.svg").read_bytes()
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
