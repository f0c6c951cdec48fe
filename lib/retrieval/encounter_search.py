"""Encounters: photographs that were taken of one individual at one time are asked together. Viewpoints: left with left."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lib.config.recipe import Retrieval
from lib.errors import FlukeError, did_you_mean
from lib.retrieval.candidates import take_rows
from lib.retrieval.class_centres import ClassCentres
from lib.retrieval.gallery import Gallery
from lib.retrieval.queries import Queries
from lib.retrieval.search import SearchResult, search_identities

_DEPTH = 25  # names per photograph that are pooled


def search_encounters(
    gallery: Gallery, queries: Queries, r: Retrieval, topk: int, centres: ClassCentres | None = None
) -> SearchResult:
    """Return the `topk` best identities of each query by all photographs of its encounter, among images of its viewpoint."""
    depth = topk if queries.encounters is None else max(topk, _DEPTH)
    search = search_identities if queries.viewpoints is None else search_viewpoints
    found = search(gallery, queries, r, depth, centres)
    return found if queries.encounters is None else pool_encounters(found, queries.encounters, topk)


def blank_unknown(orientations: NDArray[np.str_]) -> NDArray[np.str_]:
    """Return values of retrieval.orientation_column, "" for those of images that are compared with all: blank or "unknown"."""
    return np.where(np.char.lower(orientations) == "unknown", "", orientations)


def search_viewpoints(
    gallery: Gallery, queries: Queries, r: Retrieval, topk: int, centres: ClassCentres | None = None
) -> SearchResult:
    """Search, for queries of each viewpoint, the images whose retrieval.orientation_column is the same or blank, exactly.

    Queries of viewpoint "" are compared with all images. Raises FlukeError for a gallery without the column.
    """
    of_row = gallery.rows.details.get(r.orientation_column or "")
    if of_row is None:
        hint = did_you_mean(
            r.orientation_column or "", gallery.rows.details, otherwise="; build it again from a table that has it."
        )
        raise FlukeError(f"retrieval.orientation_column: the gallery has no column {r.orientation_column!r}{hint}")
    assert queries.viewpoints is not None
    of_row, viewpoints = blank_unknown(of_row), blank_unknown(queries.viewpoints)
    result = SearchResult.blank(len(queries), topk, gallery.rows.labels.dtype)
    for viewpoint in np.unique(viewpoints):
        asked = np.flatnonzero(viewpoints == viewpoint)
        seen = np.flatnonzero((of_row == viewpoint) | (of_row == "") | (viewpoint == ""))
        if not len(seen):
            continue
        alone = viewpoint != "" and len(seen) < len(of_row)
        part = take_rows(gallery, seen) if alone else gallery
        by = replace(r, search={}) if alone else r  # search parameters are those of the gallery's own index
        result.fill(asked, search_identities(part, queries.take(asked).within(seen), by, topk, centres))
    return result


def pool_encounters(found: SearchResult, encounters: NDArray[np.str_], topk: int) -> SearchResult:
    """Return the answers to each photograph's encounter: its identities by the mean of their scores over the photographs.

    An identity that isn't among a photograph's m names counts there with the lowest of their scores, more than it can have. The
    nearest image is that of the photograph with the highest score. A photograph alone keeps its answers.
    """
    numbers = np.char.add("\0", np.arange(len(encounters)).astype(str))  # no encounter begins so
    code = np.unique(np.where(encounters == "", numbers, encounters), return_inverse=True)[1]
    there = np.isfinite(found.scores)
    lowest = np.where(there, found.scores, np.inf).min(axis=1).astype(np.float64)
    usable = np.isfinite(lowest)
    totals = np.bincount(code[usable], lowest[usable], minlength=code.max(initial=-1) + 1)
    counts = np.bincount(code[usable], minlength=len(totals))
    row, column = there.nonzero()
    answers = pd.DataFrame(
        {
            "encounter": code[row],
            "name": found.names[row, column],
            "score": found.scores[row, column].astype(np.float64),
            "gain": found.scores[row, column] - lowest[row],
            "image": found.images[row, column],
        }
    ).sort_values("score", ascending=False, kind="stable")
    pooled = answers.groupby(["encounter", "name"], sort=False).agg(gain=("gain", "sum"), image=("image", "first")).reset_index()
    pooled["score"] = ((pooled["gain"] + totals[pooled["encounter"]]) / counts[pooled["encounter"]]).astype(np.float32)
    pooled = pooled.sort_values(["encounter", "score", "name"], ascending=[True, False, True], kind="stable")
    place = pooled.groupby("encounter").cumcount().to_numpy()
    kept = pooled[place < topk]
    at = kept["encounter"].to_numpy(), place[place < topk]
    result = SearchResult.blank(len(totals), topk, found.names.dtype)
    result.names[at], result.scores[at], result.images[at] = (kept[name].to_numpy() for name in ("name", "score", "image"))
    return SearchResult(*(part[code] for part in result))
