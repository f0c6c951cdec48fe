"""Pages of a run and of a retrieval: HTML files that load no other file.

Images are data URIs, every label is escaped, and a content security policy forbids scripts that a label might contain. Without
JavaScript only searching and sorting are missing. The same data give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from matplotlib.figure import Figure

from lib.files import write_text
from lib.reports.class_tables import Mistake
from lib.reports.drawing import png_bytes
from lib.reports.thumbnails import thumbnail

TEMPLATES = Path(__file__).parent / "templates"
MAX_ROWS = 5000  # of a table


@dataclass(frozen=True)
class Headline:
    """The main metric of a page: its value, the number of rows that it was measured on, its 95% interval (None: unknown)."""

    metric: str
    value: float
    rows: int
    interval: tuple[float, float] | None = None
    note: str = ""


@dataclass(frozen=True)
class Page:
    """What any page may show, in this order."""

    title: str
    headline: Headline | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Other metrics, by name."""
    figures: Mapping[str, Figure] = field(default_factory=dict)
    """By title; a figure's label is its alt text."""
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """By title, at most MAX_ROWS rows each. Columns of floats between 0 and 1 get bars."""
    images: Mapping[str, Sequence[tuple[Path, str]]] = field(default_factory=dict)
    """By title: images, each with its caption."""
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By section and name; a value of several lines (the recipe, as YAML) is folded."""
    subtitle: str = ""
    """What was run, in a line."""


@dataclass(frozen=True)
class Answer:
    """A ranked name: score, calibrated probability (None: unknown) and the matching gallery image (None: none)."""

    name: str
    score: float
    probability: float | None = None
    image: Path | None = None
    points: Sequence[Sequence[float]] = ()
    """Points that match: x and y in the query, x and y in this image, each centred in a square of side 1."""


@dataclass(frozen=True)
class Query:
    """A query image with its answers, best first, and its true name (None: unknown)."""

    name: str
    image: Path
    answers: Sequence[Answer]
    truth: str | None = None

    @property
    def rank(self) -> int | None:
        """Position of the true name among the answers, from 1; None if it isn't among them or unknown."""
        return next((rank for rank, answer in enumerate(self.answers, 1) if answer.name == self.truth), None)


def write_page(path: Path, page: Page, mistakes: Sequence[Mistake] = ()) -> None:
    """Write the page of a run, with the images of a classifier's mistakes."""
    thumbnails = [(mistake, thumbnail(mistake.image, 144)) for mistake in mistakes]
    images = {title: [(caption, thumbnail(image, 144)) for image, caption in shown] for title, shown in page.images.items()}
    write_text(path, render("run.html.j2", page, mistakes=thumbnails, images=images))


def _figure_values(figures: Mapping[str, Figure]) -> list[dict[str, Any]]:
    """Return figures as the template needs them, on a transparent background, because dark pages invert them."""
    return [
        {
            "title": title,
            "alt": figure.get_label(),
            "uri": f"data:image/png;base64,{base64.b64encode(png_bytes(figure, transparent=True)).decode()}",
            "width": round(figure.get_figwidth() * 96),
        }
        for title, figure in figures.items()
    ]


def _table_values(table: pd.DataFrame) -> dict[str, Any]:
    """Return a table as the template needs it: cells (text, share for the bar or None), and which columns are numbers."""
    columns = []
    for name in table.columns:
        values = table[name].head(MAX_ROWS)
        if pd.api.types.is_float_dtype(values):
            bars = bool(values.dropna().between(0, 1 + 1e-9).all() and values.max() >= 0.1)  # shares, not learning rates
            columns.append(
                [("–", None) if math.isnan(v) else (f"{v:.4g}" if not bars else f"{v:.3f}", v if bars else None) for v in values]
            )
        elif pd.api.types.is_integer_dtype(values):
            columns.append([(f"{v:,}", None) for v in values])
        else:
            columns.append([(str(v), None) for v in values])
    numeric = [pd.api.types.is_numeric_dtype(table[name]) for name in table.columns]
    bounded = next((name for name in ("recall", "average precision", "images") if name in table.columns), None)
    hint = f"words, or {bounded.replace(' ', '')}<{'10' if bounded == 'images' else '0.5'}" if bounded else "words"
    return {"columns": list(zip(table.columns, numeric)), "rows": list(zip(*columns)), "total": len(table), "hint": hint}


def render(template: str, page: Page, **values: Any) -> str:
    """Render a page with autoescape; its policy names the hash of the page's own script, so that no other script can run."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = lambda value: (
        "undefined" if math.isnan(value) else f"{value:{'.4f' if abs(value) <= 1 else ',.4g'}}"
    )
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    values = {"picture_source": "data:"} | values
    values |= {
        "page": page,
        "figures": _figure_values(page.figures),
        "tables": {title: _table_values(table) for title, table in page.tables.items()},
        "script": script,
        "digest": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    html = environment.get_template(template).render(values)
    return html.encode("utf-8", "replace").decode("utf-8")  # file names may hold bytes that are no UTF-8
