"""The part of an image that is read."""

from __future__ import annotations

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
