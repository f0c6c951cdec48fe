"""What all figures share: colors, axes and legends, labels that the font can draw, PNG files.

Figures are made without pyplot, so there is no global state, and the same data give the same bytes.
"""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

from lib.files import atomic_write

INK, GREY = "#26292e", "#6b7280"
BLUE, ORANGE = "#0072b2", "#d55e00"  # Okabe and Ito 2008: distinct for every kind of color vision


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG on white, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(png_bytes(figure))


def png_bytes(figure: Figure, transparent: bool = False) -> bytes:
    """Return a figure as PNG bytes, without date or version in them."""
    buffer, background = io.BytesIO(), "none" if transparent else "white"
    figure.savefig(buffer, format="png", dpi=150, transparent=transparent, facecolor=background, metadata={"Software": None})
    return buffer.getvalue()


def drawable(label: str, index: int, width: int = 28) -> str:
    """Return `label` as a figure can show it: one line of at most `width` characters.

    Characters that the font lacks become □, and then #`index` identifies the label.
    """
    flat = " ".join(label.split())
    drawn = "".join(c if c.isprintable() and _font().get_char_index(ord(c)) else "□" for c in flat)
    if drawn != flat or not flat:
        drawn = f"#{index} {drawn}".strip()
    return drawn if len(drawn) <= width else drawn[: width - 1] + "…"


@functools.cache
def _font() -> Any:
    return get_font(findfont(FontProperties()))


def style_axes(ax: Axes, x: str, y: str) -> None:
    """Give axes their labels and the common style."""
    ax.set_xlabel(x, fontsize=10, color=INK, parse_math=False)
    ax.set_ylabel(y, fontsize=10, color=INK, parse_math=False)
    ax.tick_params(labelsize=9, colors=INK)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(GREY)
    ax.grid(color="#dfe3e8", linewidth=0.7)
    ax.set_axisbelow(True)


def add_legend(ax: Axes, corner: str = "", columns: int = 4) -> None:
    """Add a legend in the given corner of the axes (one that holds no data), by default above the axes."""
    above = {"loc": "lower left", "bbox_to_anchor": (0, 1.0), "ncols": columns, "borderaxespad": 0.2}
    legend = ax.legend(frameon=False, fontsize=9, labelcolor=INK, **({"loc": corner} if corner else above))
    for text in legend.get_texts():
        text.set_parse_math(False)
