"""The gallery: rows of known individuals with their embeddings in a FAISS index; searched, changed, saved and opened.

Everything here is a function of numpy arrays. ranking.py turns the nearest rows into ranked identities.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lib.errors import FlukeError, first_few
from lib.files import atomic_write, read_json, write_json
from lib.retrieval.faiss_index import FaissIndex, Ints, faiss_reason
from lib.retrieval.similarity import SIMILARITIES, Floats, Metric, check_embeddings

_DAMAGED = (OSError, RuntimeError, MemoryError, ValueError, KeyError, EOFError, zipfile.BadZipFile, FlukeError)


class GalleryRows:
    """Row ids (n,) int64, image names (n,) str and labels (n,) str, the identities; paths and contents (n,) str of the files.

    `paths` show the images on a page; "" for none. `contents` (`lib.files.content_mark`) find them among queries. Raises FlukeError
    for lengths that differ, and for ids that are negative or repeated.
    """

    def __init__(
        self, ids: ArrayLike, names: ArrayLike, labels: ArrayLike, paths: ArrayLike | None = None, contents: ArrayLike | None = None
    ):
        self.ids: Ints = np.asarray(ids, np.int64)
        self.names: NDArray[np.str_] = np.asarray(names, np.str_)
        self.labels: NDArray[np.str_] = np.asarray(labels, np.str_)
        self.paths: NDArray[np.str_] = np.asarray(np.full(self.ids.shape, "") if paths is None else paths, np.str_)
        self.contents: NDArray[np.str_] = np.asarray(np.full(self.ids.shape, "") if contents is None else contents, np.str_)
        shapes = [part.shape for part in self._parts()]
        if self.ids.ndim != 1 or len(set(shapes)) > 1:
            raise FlukeError(f"Row ids, names and labels have shapes {', '.join(map(str, shapes))}; expected one of each per row.")
        unique, counts = np.unique(self.ids, return_counts=True)
        if (bad := unique[(counts > 1) | (unique < 0)]).size:
            raise FlukeError(f"{bad.size} row ids are negative or repeated ({first_few(bad)}); expected unique ids from 0 on.")

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, index: NDArray[Any]) -> GalleryRows:
        """Return the rows that `index` (integers or booleans) selects."""
        return GalleryRows(*(part[index] for part in self._parts()))

    def join(self, other: GalleryRows) -> GalleryRows:
        """Return these rows followed by those of `other`."""
        return GalleryRows(*(np.concatenate(pair) for pair in zip(self._parts(), other._parts())))

    def _parts(self) -> tuple[NDArray[Any], ...]:
        return self.ids, self.names, self.labels, self.paths, self.contents

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


class HeldOut(NamedTuple):
    """The q queries that the network was not trained on; with them a gallery's threshold is fitted whenever it has changed."""

    ids: Ints
    """(q,) row ids; a gallery that holds such a row is searched without it."""
    embeddings: Floats
    """(q, d)"""
    labels: NDArray[np.str_]
    """(q,)"""
    groups: NDArray[np.str_]
    """(q,) sightings; each query its own where the table has none."""


CHANGES = "changes.txt"  # of a gallery's folder: one line per change by --add or --remove


@dataclass
class Gallery:
    """An index and its rows, made by `build_gallery` and `open_gallery`, never empty.

    `model` is the fingerprint of the network that made the embeddings: equal strings mean comparable embeddings.
    """

    index: FaissIndex
    rows: GalleryRows
    model: str
    metric: Metric
    held_out: HeldOut | None = None
    """None where several runs held out different rows."""
    runs: tuple[str, ...] = ()
    """Folders of the runs whose networks embed."""
    new_share: float | None = None
    """Share of new individuals, estimated when many queries were asked."""

    @property
    def identities(self) -> NDArray[np.str_]:
        """The labels (C,), sorted, each once: the class list of this gallery."""
        return np.unique(self.rows.labels)

    def search(self, queries: ArrayLike, k: int, model: str) -> tuple[Floats, Ints]:
        """Return the k nearest rows of each query.

        queries: (q, d). Returns scores (q, k) float32, higher is more similar, and row ids (q, k), best first, equal scores by id.
        Where the index finds fewer than k (a small gallery, few probes) the rest is -inf and -1. Raises FlukeError for k < 1,
        another model or dimension, and NaN.
        """
        if k < 1:
            raise FlukeError(f"topk {k}: a search returns at least 1 neighbour; set it to 1 or more.")
        self.require_model(model, "queries")
        queries = check_embeddings(queries, "queries", self.metric, self.index.dimension)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        ids = np.full((len(queries), k), -1, np.int64)
        if len(queries):
            width = min(k, len(self.rows))
            distances, nearest = self.index.search(queries, width)
            near = np.where(nearest < 0, -np.inf, SIMILARITIES[self.metric].from_squared_distance(distances))
            order = np.lexsort((nearest, -near), axis=1)
            scores[:, :width] = np.take_along_axis(near, order, 1)
            ids[:, :width] = np.take_along_axis(nearest, order, 1)
        return scores, ids

    def embeddings(self, ids: Ints) -> Floats:
        """Return the embeddings (m, d) of row ids (m,): normalized for cosine, approximate in an index that compresses."""
        self.rows.positions(ids)
        return self.index.reconstruct(ids)

    def add(self, embeddings: ArrayLike, rows: GalleryRows, model: str) -> None:
        """Add rows of known or further individuals, without training again; the caller leaves out rows of the new label.

        Raises FlukeError for another model or dimension, NaN, and ids that the gallery has already.
        """
        self.require_model(model, "rows to add")
        vectors = check_embeddings(embeddings, "rows to add", self.metric, self.index.dimension, len(rows))
        if len(repeated := np.intersect1d(self.rows.ids, rows.ids)):
            raise FlukeError(f"{len(repeated)} row ids are in the gallery already ({first_few(repeated)}); give them other ids.")
        self.index.add(vectors, rows.ids)
        self.rows = self.rows.join(rows)

    def remove(self, ids: ArrayLike) -> None:
        """Remove rows, without training again. Raises FlukeError for ids that don't exist, and when no row would remain."""
        ids = np.unique(np.asarray(ids, np.int64))
        self.rows.positions(ids)
        keep = ~np.isin(self.rows.ids, ids)
        if not keep.any():
            raise FlukeError("The gallery would be empty; keep some of its rows, or delete its folder.")
        remaining = self.rows.take(keep)
        self.index.remove(ids, remaining.ids)
        self.rows = remaining

    def save(self, folder: Path) -> None:
        """Write gallery.json, index-N.faiss, rows-N.npz and heldout-N.npz, replacing a gallery saved there before in one step.

        gallery.json is replaced last and names the others by their generation N, so that a crash leaves the old gallery intact.
        """
        old = read_json(folder / "gallery.json")["generation"] if (folder / "gallery.json").exists() else 0
        with atomic_write(folder / f"index-{old + 1}.faiss") as temporary:
            self.index.save(temporary)
            size = temporary.stat().st_size
        with atomic_write(folder / f"rows-{old + 1}.npz") as temporary, open(temporary, "wb") as file:
            np.savez(file, **vars(self.rows))
        if self.held_out is not None:
            with atomic_write(folder / f"heldout-{old + 1}.npz") as temporary, open(temporary, "wb") as file:
                np.savez(file, **self.held_out._asdict())
        about: dict[str, Any] = {"runs": list(self.runs), "new_share": self.new_share, "held_out": self.held_out is not None}
        about |= {"generation": old + 1, "metric": self.metric, "factory": self.index.factory, "model": self.model}
        write_json(folder / "gallery.json", about | {"rows": len(self.rows), "dimension": self.index.dimension, "bytes": size})
        for stale in [*folder.glob("index-*.faiss"), *folder.glob("rows-*.npz"), *folder.glob("heldout-*.npz")]:
            if stale.stem.split("-")[1] != str(old + 1):
                stale.unlink()

    def require_model(self, model: str, what: str) -> None:
        """Raise FlukeError unless `what` was embedded by the gallery's model."""
        if model != self.model:
            raise FlukeError(f"The gallery was embedded by {self.model!r} and the {what} by {model!r}; embed both with one model.")


def build_gallery(
    embeddings: ArrayLike,
    rows: GalleryRows,
    model: str,
    metric: Metric = "cosine",
    factory: str = "Flat",
    new_label: str | None = None,
) -> Gallery:
    """Build a gallery of embeddings (n, d) and their rows, without those labelled `new_label`, which aren't one individual.

    factory: as in `FaissIndex.build`, and so are its errors. Raises FlukeError too for an empty gallery, only new labels, another
    number of embeddings than of rows, and NaN.
    """
    vectors = check_embeddings(embeddings, "gallery", metric, None, len(rows))
    if not len(vectors):
        raise FlukeError("The gallery is empty; it needs at least one image of a known individual.")
    if not (known := rows.labels != new_label).any():
        raise FlukeError(f"Every image of the gallery is labelled {new_label}; it needs at least one known individual.")
    if not known.all():
        vectors, rows = vectors[known], rows.take(known)
    return Gallery(FaissIndex.build(vectors, rows.ids, factory), rows, model, metric)


def open_gallery(folder: Path) -> Gallery:
    """Open the gallery saved in `folder`, its vectors memory-mapped.

    Raises FlukeError when a file is missing or truncated, or doesn't belong to the others.
    """
    about: dict[str, Any] = read_json(folder / "gallery.json")
    try:
        generation, model, metric, factory = int(about["generation"]), about["model"], about["metric"], about["factory"]
        count, dimension, size = int(about["rows"]), int(about["dimension"]), int(about["bytes"])
    except (KeyError, TypeError, ValueError) as error:
        raise FlukeError(f"{folder / 'gallery.json'}: not a gallery's description ({error!r}); build the gallery again.") from None
    path = folder / f"rows-{generation}.npz"
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            rows = GalleryRows(*(file[name] for name in ("ids", "names", "labels", "paths", "contents") if name in file))
        held_out = None
        if about.get("held_out"):
            path = folder / f"heldout-{generation}.npz"
            with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
                held_out = HeldOut(*(file[name] for name in HeldOut._fields))
        path = folder / f"index-{generation}.faiss"
        index = FaissIndex.open(path, factory, size)
    except _DAMAGED as error:
        raise FlukeError(f"{path}: missing or damaged ({faiss_reason(error)}); build the gallery again.") from None
    if metric not in SIMILARITIES or (len(index), len(rows), index.dimension) != (count, count, dimension):
        raise FlukeError(
            f"{folder}: its files don't belong together (gallery.json: {count} rows of {dimension}, {metric}; rows: {len(rows)}; "
            f"index: {len(index)} of {index.dimension}); build the gallery again."
        )
    return Gallery(index, rows, model, metric, held_out, tuple(about.get("runs", ())), about.get("new_share"))
