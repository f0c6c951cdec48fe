"""The part of an image that is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Box(NamedTuple):
    """A rectangle of an image that is upright by its EXIF orientation."""

    x: float
    """Left edge, top edge, width and height, in pixels or, with `relative`, in shares of the image's sides."""
    y: float
    width: float
    height: float
    angle: float = 0.0
    """Radians by which the rectangle is turned about its centre, clockwise as the image is seen."""
    relative: bool = False

    def pixels(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Return left, top, width and height in pixels of an image of this size."""
        across, down = (width, height) if self.relative else (1, 1)
        return self.x * across, self.y * down, self.width * across, self.height * down

    @property
    def text(self) -> str:
        """The box as `read_box` reads it."""
        return " ".join(map(repr, map(float, self)))


def write_boxes(boxes: Sequence[Box | None] | None, count: int) -> list[str]:
    """Return the text of `count` boxes, "" for whole images; None: all are whole."""
    return ["" if box is None else box.text for box in boxes or [None] * count]


def read_box(text: str) -> Box | None:
    """Return the box that `Box.text` wrote; None for "", a whole image."""
    if not text:
        return None
    x, y, width, height, angle, relative = map(float, text.split())
    return Box(x, y, width, height, angle, bool(relative))
