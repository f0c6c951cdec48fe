"""Rows of a gallery, and which of them answer which query."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lib.errors import FlukeError, first_few
from lib.retrieval.similarity import Ints
from lib.tables.box import read_box
from lib.tables.image_path import cut_path


class GalleryRows:
    """Row ids (n,) int64, image names (n,) str, labels (n,) str, the identities, and the images' paths, content hashes and boxes
    (`Box.text`), (n,) str each, "" where unknown; `details` are further columns of the table by name, (n,) str each.

    Raises FlukeError for lengths that differ, and for ids that are negative or repeated.
    """

    def __init__(
        self,
        ids: ArrayLike,
        names: ArrayLike,
        labels: ArrayLike,
        paths: ArrayLike | None = None,
        hashes: ArrayLike | None = None,
        details: Mapping[str, ArrayLike] | None = None,
        boxes: ArrayLike | None = None,
    ):
        self.ids: Ints = np.asarray(ids, np.int64)
        self.names: NDArray[np.str_] = np.asarray(names, np.str_)
        self.labels: NDArray[np.str_] = np.asarray(labels, np.str_)
        self.paths, self.hashes, self.boxes = (
            np.full(self.ids.shape, "") if part is None else np.asarray(part, np.str_) for part in (paths, hashes, boxes)
        )
        self.details = {name: np.asarray(column, np.str_) for name, column in (details or {}).items()}
        shapes = [part.shape for part in (*self.columns().values(), *self.details.values())]
        if self.ids.ndim != 1 or len(set(shapes)) > 1:
            raise FlukeError(f"Row ids, names and labels have shapes {', '.join(map(str, shapes))}; expected one of each per row.")
        unique, counts = np.unique(self.ids, return_counts=True)
        if (bad := unique[(counts > 1) | (unique < 0)]).size:
            raise FlukeError(f"{bad.size} row ids are negative or repeated ({first_few(bad)}); expected unique ids from 0 on.")

    def __len__(self) -> int:
        return len(self.ids)

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the columns that every gallery has, by name."""
        return {name: getattr(self, name) for name in ("ids", "names", "labels", "paths", "hashes", "boxes")}

    def picture(self, position: int) -> Path | None:
        """Return the file of an image with its box; None where it is unknown."""
        path = str(self.paths[position])
        return cut_path(Path(path), read_box(str(self.boxes[position]))) if path else None

    def take(self, index: NDArray[Any]) -> GalleryRows:
        """Return the rows that `index` (integers or booleans) selects."""
        details = {name: column[index] for name, column in self.details.items()}
        return GalleryRows(**{name: column[index] for name, column in self.columns().items()}, details=details)

    def relabel(self, chosen: NDArray[np.bool_], label: str) -> GalleryRows:
        """Return the rows with another label where `chosen` (n,)."""
        columns = self.columns() | {"labels": np.where(chosen, np.str_(label), self.labels)}
        return GalleryRows(**columns, details=self.details)

    def join(self, other: GalleryRows) -> GalleryRows:
        """Return these rows followed by those of `other`."""
        mine, theirs = self.columns(), other.columns()
        details = {
            name: np.concatenate([rows.details.get(name, np.full(len(rows), "")) for rows in (self, other)])
            for name in dict.fromkeys([*self.details, *other.details])
        }
        return GalleryRows(**{name: np.concatenate([mine[name], theirs[name]]) for name in mine}, details=details)

    def positions(self, ids: Ints) -> Ints:
        """Return the positions of row ids (any shape); -1 stays -1. Raises FlukeError for ids that don't exist."""
        order = np.argsort(self.ids)
        at = order[np.searchsorted(self.ids, ids, sorter=order).clip(max=len(order) - 1)]
        missing = (self.ids[at] != ids) & (ids != -1)
        if missing.any():
            raise FlukeError(
                f"{missing.sum()} row ids are not in the gallery ({first_few(ids[missing])}); build the gallery again."
            )
        return np.where(ids == -1, -1, at)


class LeftOut(NamedTuple):
    """Gallery images that must not answer a query: those whose code is the query's."""

    of_query: Ints
    """(q,) codes, from 0, or -1 for none."""
    of_row: Ints
    """(n,) codes by position in the gallery, from 0, or -2 for none."""

    def counts(self) -> Ints:
        """Return the number of images that are left out of each query's answers, (q,)."""
        sizes = np.bincount(self.of_row[self.of_row >= 0], minlength=self.of_query.max(initial=0) + 1)
        return np.where(self.of_query >= 0, sizes[self.of_query], 0)

    def take(self, index: NDArray[np.int64]) -> LeftOut:
        """Return it for the queries that `index` selects."""
        return LeftOut(self.of_query[index], self.of_row)
