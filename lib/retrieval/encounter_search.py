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
from lib.retrieval.local_search import LocalSearch
from lib.retrieval.rows import LeftOut
from lib.retrieval.search import SearchResult, search_identities
from lib.retrieval.similarity import Ints

_DEPTH = 25  # names per photograph that are pooled


def search_encounters(
    gallery: Gallery,
    queries: np.ndarray,
    r: Retrieval,
    topk: int,
    centres: ClassCentres | None = None,
    left_out: LeftOut | None = None,
    encounters: NDArray[np.str_] | None = None,
    viewpoints: NDArray[np.str_] | None = None,
    local: LocalSearch | None = None,
) -> SearchResult:
    """Return the `topk` best identities of each query (q, d), as `search_identities` does, by all photographs of its encounter.

    encounters (q,): "" for a photograph that is alone; None: all are. viewpoints (q,): as in `search_viewpoints`, or None. The
    queries are of the gallery's model. local: local scores of these queries.
    """
    depth = topk if encounters is None else max(topk, _DEPTH)
    matched = None if local is None else (local, np.arange(len(queries)))
    if viewpoints is None:
        found = search_identities(gallery, queries, r, gallery.model, depth, centres, left_out, matched)
    else:
        found = search_viewpoints(gallery, queries, r, depth, centres, left_out, viewpoints, matched)
    return found if encounters is None else pool_encounters(found, encounters, topk)


def blank_unknown(orientations: NDArray[np.str_]) -> NDArray[np.str_]:
    """Return values of retrieval.orientation_column, "" for those of images that are compared with all: blank or "unknown"."""
    return np.where(np.char.lower(orientations) == "unknown", "", orientations)


def search_viewpoints(
    gallery: Gallery,
    queries: np.ndarray,
    r: Retrieval,
    topk: int,
    centres: ClassCentres | None,
    left_out: LeftOut | None,
    viewpoints: NDArray[np.str_],
    local: tuple[LocalSearch, Ints] | None = None,
) -> SearchResult:
    """Search, for queries of each viewpoint (q,), the images whose retrieval.orientation_column is the same or blank, exactly.

    Queries of viewpoint "" are compared with all images. Raises FlukeError for a gallery without the column.
    """
    of_row = gallery.rows.details.get(r.orientation_column or "")
    if of_row is None:
        hint = did_you_mean(
            r.orientation_column or "", gallery.rows.details, otherwise="; build it again from a table that has it."
        )
        raise FlukeError(f"retrieval.orientation_column: the gallery has no column {r.orientation_column!r}{hint}")
    of_row, viewpoints, queries = blank_unknown(of_row), blank_unknown(viewpoints), np.asarray(queries)
    result = SearchResult(
        np.full((len(queries), topk), "", gallery.rows.labels.dtype),
        np.full((len(queries), topk), -np.inf, np.float32),
        np.full((len(queries), topk), -1, np.int64),
    )
    for viewpoint in np.unique(viewpoints):
        asked = np.flatnonzero(viewpoints == viewpoint)
        seen = np.flatnonzero((of_row == viewpoint) | (of_row == "") | (viewpoint == ""))
        if not len(seen):
            continue
        alone = viewpoint != "" and len(seen) < len(of_row)
        part = take_rows(gallery, seen) if alone else gallery
        hidden = None if left_out is None else LeftOut(left_out.of_query[asked], left_out.of_row[seen])
        by = replace(r, search={}) if alone else r  # search parameters are those of the gallery's own index
        matched = None if local is None else (local[0], local[1][asked])
        found = search_identities(part, queries[asked], by, gallery.model, topk, centres, hidden, matched)
        for values, new_values in zip(result, found):
            values[asked] = new_values
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
    result = SearchResult(
        np.full((len(totals), topk), "", found.names.dtype),
        np.full((len(totals), topk), -np.inf, np.float32),
        np.full((len(totals), topk), -1, np.int64),
    )
    result.names[at], result.scores[at], result.images[at] = (kept[name].to_numpy() for name in ("name", "score", "image"))
    return SearchResult(*(part[code] for part in result))
