"""A gallery's possible errors as a table and a page, each with the command that mends it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.files import atomic_write
from lib.pipelines.gallery_files import sighting_column
from lib.pipelines.retrieval_session import RetrievalSession
from lib.process import announce
from lib.reports.html import Page, write_page
from lib.retrieval.catalogue_errors import EXPECTED, Suspicion, find_errors
from lib.retrieval.gallery import open_gallery
from lib.retrieval.rows import GalleryRows
from lib.training.distributed import run_on_main

SHOWN = 40
"""Errors with pictures on the page."""
_PICTURES = 4  # of each side


def list_errors(session: RetrievalSession, out: Path) -> dict[str, Any]:
    """Write errors.csv and errors.html, the possible errors of the saved gallery, into `out`.

    Returns the number of images, and about how many of the names are wrong by the list. Raises FlukeError without a gallery.
    """
    return run_on_main(session.accelerator, lambda: _list(session, out)) or {}


def _list(session: RetrievalSession, out: Path) -> dict[str, Any]:
    gallery = open_gallery(session.gallery_folder)
    rows = gallery.rows
    sightings = rows.details.get(sighting_column(session.recipe))
    found = find_errors(gallery.embeddings(rows.ids), rows.labels, sightings)
    table = errors_table(found, rows, session.gallery_folder)
    out.mkdir(parents=True, exist_ok=True)
    with atomic_write(out / "errors.csv") as temporary:
        table.to_csv(temporary, index=False)
    images = {
        f"{each.probability:.0%}: {_sentence(each, rows)}": _pictures(each, rows)
        for each in found[:SHOWN]
        if each.probability > EXPECTED
    }
    listed = table.drop(columns="command").rename(columns={"images": "photographs"})
    write_page(out / "errors.html", Page(f"{session.gallery_folder}: possible errors", tables={"All": listed}, images=images))
    several = {kind: int((table["probability"][table["kind"] == kind] > 0.5).sum()) for kind in dict.fromkeys(table["kind"])}
    session.log(
        f"{len(rows):,} images of {len(gallery.identities):,} individuals"
        + ("" if sightings is not None else "; no sightings are known (folds.group_column), which would tell much more")
        + "; more probable than not: "
        + ", ".join(f"{kind} {count:,}" for kind, count in several.items())
    )
    announce([out / "errors.csv", out / "errors.html"])
    return {"images": len(rows), "errors": sum(several.values())}


def errors_table(found: list[Suspicion], rows: GalleryRows, folder: Path) -> pd.DataFrame:
    """Return one row per possible error: kind, probability, individual, other, images (joined by blanks), command."""
    values = [
        (
            each.kind,
            round(each.probability, 4),
            each.individual,
            each.other,
            " ".join(_images(each, rows)),
            _command(each, rows, folder),
        )
        for each in found
    ]
    return pd.DataFrame(values, columns=["kind", "probability", "individual", "other", "images", "command"])


def _images(each: Suspicion, rows: GalleryRows) -> list[str]:
    return [str(rows.names[row]) for row in each.images]


def _command(each: Suspicion, rows: GalleryRows, folder: Path) -> str:
    """Return the command that mends an error."""
    if each.kind == "two names":
        change = ["--merge", each.other, each.individual]
    elif each.kind == "two animals":
        change = ["--split", f"{each.individual}_2", *_images(each, rows)]
    else:
        change = ["--move", each.other, *_images(each, rows)]
    return shlex.join(["python", "scripts/catalogue.py", "--gallery", str(folder), *change])


def _sentence(each: Suspicion, rows: GalleryRows) -> str:
    if each.kind == "two names":
        return f"{each.individual} and {each.other} may be one animal"
    if each.kind == "two animals":
        return f"{each.individual} may be two animals"
    why = "its sighting has another name" if each.kind == "sighting" else "unlike the others"
    return f"{_images(each, rows)[0]} may not be {each.individual} ({why}), but {each.other}"


def _pictures(each: Suspicion, rows: GalleryRows) -> list[tuple[Path, str]]:
    """Return the images in question, others of their individual, and some of the other individual."""
    rest = np.setdiff1d(np.flatnonzero(rows.labels == each.individual), each.images)
    of_other = np.flatnonzero((rows.labels == each.other) & (each.other != ""))
    shown = [("in question", each.images), ("", rest.tolist()), ("", of_other.tolist())]
    return [
        (rows.picture(row) or Path(), f"{rows.labels[row]} {note}".strip())
        for note, some in shown
        for row in list(some)[:_PICTURES]
    ]
