"""The page of a run: one HTML file that loads nothing.

Images are data URIs, every label is escaped, and a content security policy forbids whatever a label might smuggle in. Without
JavaScript all is there but searching and sorting. The same data give the same bytes.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageOps
from sklearn.metrics import average_precision_score, precision_recall_fscore_support

from lib.files import write_text
from lib.reports.figures import png_bytes

TEMPLATES = Path(__file__).parent / "templates"
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # never EPS or the like, which start other programs
PIXELS = 50_000_000  # an image with more, after a JPEG's scaled decoding, gets no thumbnail


@dataclass(frozen=True)
class Headline:
    """The number a page opens with, its 95% interval (None: unknown) and how many rows it was measured on."""

    metric: str
    value: float
    rows: int
    interval: tuple[float, float] | None = None
    note: str = ""


@dataclass(frozen=True)
class Example:
    """An image with its label and the model's answer."""

    image: Path
    truth: str
    answer: str
    probability: float


@dataclass(frozen=True)
class Answer:
    """A name for a query, with its score, calibrated probability (None: unknown) and the matching gallery image (None: none)."""

    name: str
    score: float
    probability: float | None = None
    image: Path | None = None


@dataclass(frozen=True)
class Query:
    """A query image with its answers, best first, and its true name if that is known."""

    name: str
    image: Path
    answers: Sequence[Answer]
    truth: str | None = None

    @property
    def rank(self) -> int | None:
        """Place of the true name among the answers, from 1; None: not among them, or unknown."""
        return next((place for place, answer in enumerate(self.answers, 1) if answer.name == self.truth), None)


# --- tables -----------------------------------------------------------------------------------------------------------------------


def class_table(
    logits: NDArray[np.floating], targets: NDArray[Any], classes: Sequence[str], train_images: Sequence[int] | None = None
) -> pd.DataFrame:
    """A row a class, worst first: lowest recall, or with several labels per image lowest average precision.

    `logits`: (n, C); `targets`: (n,) indices into `classes`, or (n, C) 0 or 1; `train_images`: the classes' numbers of training
    images. One label per image: also what the class is most often taken for. What is undefined for want of images is NaN, and last.
    """
    several = targets.ndim == 2
    answers = (logits > 0).astype(int) if several else logits.argmax(axis=1)
    precision, recall, f1, images = precision_recall_fscore_support(
        targets, answers, labels=range(len(classes)), average=None, zero_division=np.nan
    )
    table = pd.DataFrame({"#": range(len(classes)), "class": list(classes), "images": images})
    if train_images is not None:
        table.insert(2, "training images", list(train_images))
    if several:
        table["share of images"] = targets.mean(axis=0)
        table["average precision"] = [average_precision_score(t, z) if t.any() else np.nan for t, z in zip(targets.T, logits.T)]
    table = table.assign(recall=recall, precision=precision, F1=f1)
    if not several:
        pairs = confused_pairs(targets, answers, classes, most=None).drop_duplicates("true class")
        taken = {true: f"{other} ({n:,})" for true, other, n in zip(pairs["true class"], pairs["predicted"], pairs["images"])}
        table["most often taken for"] = [taken.get(name, "") for name in classes]
    worst = ["average precision" if several else "recall", "F1"]
    return table.sort_values(worst, kind="stable", na_position="last", ignore_index=True)


def confused_pairs(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], classes: Sequence[str], most: int | None = 20
) -> pd.DataFrame:
    """The most frequent mistakes of (n,) indices into `classes`: true class, predicted, images, their share of the true class."""
    frame = pd.DataFrame({"true": truth, "predicted": predicted})
    wrong = frame[frame["true"] != frame["predicted"]].value_counts(sort=False).rename("images").reset_index()
    wrong = wrong.sort_values("images", ascending=False, kind="stable", ignore_index=True).head(
        len(wrong) if most is None else most
    )
    total = np.bincount(truth, minlength=len(classes))
    names = np.asarray(classes, dtype=object)
    columns = {"true class": names[wrong["true"]], "predicted": names[wrong["predicted"]], "images": wrong["images"]}
    return pd.DataFrame({**columns, "share of the class": wrong["images"] / total[wrong["true"]]})


def confident_mistakes(
    images: Sequence[Path], truth: NDArray[Any], probabilities: NDArray[np.floating], classes: Sequence[str], most: int = 48
) -> list[Example]:
    """The most confident mistakes, most confident first.

    `probabilities`: (n, C); `truth`: (n,) indices into `classes`, or (n, C) bool for several labels per image, where an image's
    mistake is the label whose probability is furthest from the truth, "no X" if X was missed.
    """
    row = np.arange(len(images))
    if truth.ndim == 1:
        answer = probabilities.argmax(axis=1)
        sure = np.where(answer != truth, probabilities[row, answer], 0)
        told = [(classes[t], classes[a]) for t, a in zip(truth.tolist(), answer.tolist())]
    else:
        off = np.abs(probabilities - truth)
        answer = off.argmax(axis=1)
        sure = np.where(off[row, answer] > 0.5, off[row, answer], 0)
        sets = [", ".join(classes[i] for i in np.flatnonzero(labels).tolist()) for labels in truth]
        told = [(sets[i], f"no {classes[a]}" if truth[i, a] else classes[a]) for i, a in enumerate(answer.tolist())]
    worst = [int(i) for i in np.argsort(-sure, kind="stable")[:most] if sure[i] > 0]
    return [Example(images[i], told[i][0], told[i][1], float(sure[i])) for i in worst]


# --- pages ------------------------------------------------------------------------------------------------------------------------


def write_page(
    path: Path,
    title: str,
    headline: Headline | None = None,
    others: Mapping[str, float] | None = None,
    figures: Mapping[str, Figure] | None = None,
    tables: Mapping[str, pd.DataFrame] | None = None,
    examples: Sequence[Example] = (),
    facts: Mapping[str, Mapping[str, Any]] | None = None,
    most: int = 500,
) -> None:
    """Write a run's page: headline, `others` (metrics), figures by title, tables by title, confident mistakes, facts by section.

    Columns of floats between 0 and 1 get bars; of a table at most the first `most` rows are shown, and the page says so. A fact of
    several lines (the recipe, as YAML) is folded away.
    """
    html = _render(
        "page.html.j2",
        title=title,
        headline=headline,
        others=others or {},
        figures=_figure_values(figures or {}),
        tables={name: _table_values(table, most) for name, table in (tables or {}).items()},
        examples=[(example, thumbnail(example.image, 144)) for example in examples],
        facts=facts or {},
    )
    write_text(path, html)


def write_retrieval_page(
    path: Path,
    title: str,
    queries: Sequence[Query],
    score: str,
    headline: Headline | None = None,
    others: Mapping[str, float] | None = None,
    figures: Mapping[str, Figure] | None = None,
    facts: Mapping[str, Mapping[str, Any]] | None = None,
    most: int = 1000,
    megabytes: float = 12.0,
) -> None:
    """Write a page with each query image beside its answers; `score` says what an answer's number is ("cosine similarity").

    Mistakes come first, the most confident foremost; where no truth is known, the least certain. At most `most` queries are shown,
    and no more than fit into `megabytes` of images, each inlined once; the page says how many of how many.
    """
    images: dict[Path, str] = {}
    shown: list[Query] = []
    size = 0
    for query in sorted(queries, key=_sort_key)[:most]:
        for image in [query.image, *(answer.image for answer in query.answers if answer.image is not None)]:
            if image not in images:
                images[image] = thumbnail(image, 112)
                size += len(images[image])
        size += 600 * (1 + len(query.answers))  # its HTML, roughly
        if shown and size > megabytes * 1e6:
            break
        shown.append(query)
    used = {image for query in shown for image in [query.image, *(answer.image for answer in query.answers)]}
    html = _render(
        "retrieval.html.j2",
        title=title,
        headline=headline,
        others=others or {},
        figures=_figure_values(figures or {}),
        facts=facts or {},
        queries=shown,
        total=len(queries),
        known=sum(query.truth is not None for query in queries),
        score=score,
        images={image: uri for image, uri in images.items() if image in used},
        ids={image: f"i{number}" for number, image in enumerate(images)},
    )
    write_text(path, html)


def _sort_key(query: Query) -> tuple[int, float]:
    """Sort key: known and wrong (surest first), unknown truth (least sure first), right."""
    best = query.answers[0] if query.answers else Answer("", -math.inf)
    sure = best.score if best.probability is None else best.probability
    if query.truth is None:
        return 1, sure
    return (2, sure) if query.rank == 1 else (0, -sure)


@functools.cache
def _placeholder() -> str:
    svg = (TEMPLATES / "placeholder.svg").read_bytes()
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"


def thumbnail(path: Path, side: int) -> str:
    """A JPEG data URI at most `side` pixels wide and high; a placeholder for an image that is missing, huge or not decodable."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a large photograph or odd metadata: neither matters at this size
            with Image.open(path, formats=FORMATS) as image:
                image.draft("RGB", (2 * side, 2 * side))
                if image.width * image.height > PIXELS:
                    return _placeholder()
                image.load()
                small = ImageOps.exif_transpose(image)
                if small.mode.startswith("I"):  # 16 bits a pixel: PIL's own conversion clips to white
                    small = Image.fromarray((np.asarray(small) // 257).astype(np.uint8))
                small = small.convert("RGB")
                small.thumbnail((side, side))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return _placeholder()
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=78, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _figure_values(figures: Mapping[str, Figure]) -> list[dict[str, Any]]:
    """Figures as the template wants them; on transparent ground, so that dark pages can invert them."""
    return [
        {
            "title": title,
            "alt": figure.get_label(),
            "uri": f"data:image/png;base64,{base64.b64encode(png_bytes(figure, transparent=True)).decode()}",
            "width": round(figure.get_figwidth() * 96),
        }
        for title, figure in figures.items()
    ]


def _table_values(table: pd.DataFrame, most: int) -> dict[str, Any]:
    """A table as the template wants it: cells of (text, share for the bar or None), and which columns are numbers."""
    columns = []
    for name in table.columns:
        values = table[name].head(most)
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
    return {"columns": list(zip(table.columns, numeric)), "rows": list(zip(*columns)), "total": len(table)}


def _render(template: str, **values: Any) -> str:
    """Render with autoescape; the policy names the page's own script by its hash, so no other can run."""
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
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    html = environment.get_template(template).render(script=script, digest=digest, **values)
    return html.encode("utf-8", "replace").decode("utf-8")  # file names may hold bytes that are no UTF-8
