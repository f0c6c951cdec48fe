"""The page on which a person decides whether two photographs show one individual: by keyboard, from disk, without a server."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from lib.files import write_text
from lib.reports.html import TEMPLATES
from lib.reports.thumbnails import thumbnail

SIDE = 420
"""Longer side of a photograph on the page, in pixels."""


@dataclass(frozen=True)
class Side:
    """A photograph of one of the two clusters."""

    image: str
    path: Path
    name: str
    """Name of its cluster."""
    images: int
    """Images of the cluster."""


@dataclass(frozen=True)
class Pair:
    """Two photographs to decide on."""

    first: Side
    second: Side
    merged: bool
    """Whether they are in one cluster so far."""
    probability: float
    """That they show one individual."""
    points: Sequence[Sequence[float]] = ()
    """Points that match: x and y in the first, x and y in the second photograph, each centred in a square of side 1."""


def write_review_page(path: Path, pairs: Sequence[Pair]) -> None:
    """Write the page. It keeps answers in the browser as they are given, and saves decisions.csv (first, second, answer)."""
    images = {side.path: f"i{n}" for n, side in enumerate(side for pair in pairs for side in (pair.first, pair.second))}
    rows = [
        {
            "first": pair.first.image,
            "second": pair.second.image,
            "a": images[pair.first.path],
            "b": images[pair.second.path],
            "about": f"{pair.first.images} of {pair.first.name} | {pair.second.images} of {pair.second.name}",
            "state": _describe(pair),
            "points": [[round(value, 4) for value in point] for point in pair.points],
        }
        for pair in pairs
    ]
    key = hashlib.sha256(json.dumps([[row["first"], row["second"]] for row in rows]).encode()).hexdigest()[:16]
    data = json.dumps({"key": key, "pairs": rows}).replace("<", "\\u003c")  # a name can't end the element
    script = (TEMPLATES / "review.js").read_text(encoding="utf-8")
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined)
    text = environment.get_template("review.html.j2").render(
        data=data,
        images={name: thumbnail(image, SIDE) for image, name in images.items()},
        script=script,
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    write_text(path, text.encode("utf-8", "replace").decode("utf-8"))


def _describe(pair: Pair) -> str:
    said = [f"in {'one cluster' if pair.merged else 'two clusters'}", f"one individual: {pair.probability:.0%}"]
    return "; ".join([*said, *([f"{len(pair.points)} points match"] if pair.points else [])])
