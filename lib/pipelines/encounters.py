"""Which queries, and which images of the gallery, are photographs of one encounter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lib.config.recipe import Recipe
from lib.errors import FlukeError, did_you_mean
from lib.pipelines.gallery_files import sighting_column, table_columns
from lib.retrieval.gallery import Gallery
from lib.retrieval.similarity import Ints
from lib.tables.readers import read_header, read_mapping
from lib.tables.table import Table


def query_encounters(recipe: Recipe, table: Table) -> NDArray[np.str_] | None:
    """Return the encounter of each query, (q,), "" for one alone; None without retrieval.encounter_column, and for a folder.

    Raises FlukeError for a table that lacks the column.
    """
    column, other = recipe.retrieval.encounter_column, recipe.retrieval.encounters
    if column is None:
        return None
    if other is not None:
        path = Path(recipe.data.root) / other
        return np.array(read_mapping(path, table.names, column, "retrieval.encounter_column"), np.str_)
    if table.lines is None:
        return None
    if column not in (header := read_header(table.source)):
        hint = did_you_mean(column, header, otherwise=f"; it has {', '.join(header)}.")
        raise FlukeError(f"{table.source}: has no column {column!r} (retrieval.encounter_column){hint}")
    return table_columns(table, [name for name in header if name != column])[column]


def viewpoints_of(recipe: Recipe, table: Table, required: bool = False) -> NDArray[np.str_] | None:
    """Return the viewpoint of each image, (n,), "" where it is unknown; None without retrieval.orientation_column.

    Raises FlukeError for a table without the column where it is `required`.
    """
    column = recipe.retrieval.orientation_column
    if column is None:
        return None
    if table.lines is not None and column in (header := read_header(table.source)):
        return table_columns(table, [name for name in header if name != column])[column]
    if required:
        raise FlukeError(f"{table.source}: has no column {column!r} (retrieval.orientation_column); add it, or set it to null.")
    return np.full(len(table), "")


def gallery_encounters(recipe: Recipe, gallery: Gallery) -> NDArray[np.str_] | None:
    """Return the encounter of each image of a gallery, (n,), "" where unknown: its column of this name, or of the sightings."""
    details = gallery.rows.details
    return details.get(recipe.retrieval.encounter_column or "", details.get(sighting_column(recipe)))


def match_encounters(of_query: Ints, of_row: Ints, encounters: NDArray[np.str_], known: NDArray[np.str_]) -> tuple[Ints, Ints]:
    """Return codes of queries (q,) and of gallery images (n,), which agree where both are of one encounter or one code before.

    of_query (q,) and of_row (n,): codes of files, -2 for none; encounters (q,) and known (n,): "" for none.
    """
    asked = np.concatenate([np.intersect1d(encounters, known), encounters[np.isin(of_query, of_row)]])
    shared = np.setdiff1d(asked, [""])
    of_file = dict(zip(of_query.tolist(), encounters.tolist()))
    first = int(of_query.max(initial=-1)) + 1
    code_of = {name: first + i for i, name in enumerate(shared.tolist())}
    queries = np.array([code_of.get(name, code) for name, code in zip(encounters.tolist(), of_query.tolist())], np.int64)
    rows = [code_of.get(name, code_of.get(of_file.get(code, ""), code)) for name, code in zip(known.tolist(), of_row.tolist())]
    return queries, np.array(rows, np.int64)


def count_encounters(encounters: NDArray[np.str_]) -> int:
    """Return the number of encounters among queries (q,), those alone counted each."""
    return len(np.unique(encounters[encounters != ""])) + int((encounters == "").sum())
