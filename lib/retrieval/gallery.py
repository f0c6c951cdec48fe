"""The gallery: rows of known individuals with their embeddings in a FAISS index; searched, changed, saved and opened.

Everything here is a function of numpy arrays. ranking.py turns the nearest rows into ranked identities.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lib.errors import FlukeError, first_few
from lib.files import atomic_write, read_json, write_json
from lib.retrieval.faiss_index import faiss_reason
from lib.retrieval.held_out import HeldOut
from lib.retrieval.milvus_index import MilvusIndex, drop_collections
from lib.retrieval.rows import GalleryRows
from lib.retrieval.similarity import SIMILARITIES, Floats, Ints, Metric, check_embeddings
from lib.retrieval.vector_index import VectorIndex, build_index, open_index

_DAMAGED = (OSError, RuntimeError, MemoryError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, FlukeError)


_DETAIL = "detail "  # before the name of a table's column in rows-N.npz


@dataclass
class Gallery:
    """An index and its rows, made by `build_gallery` and `open_gallery`, never empty.

    `model` is the fingerprint of the network that made the embeddings: equal strings mean comparable embeddings.
    """

    index: VectorIndex
    rows: GalleryRows
    model: str
    metric: Metric
    about: dict[str, Any] = field(default_factory=dict)
    """What else gallery.json holds: the open-set model and the settings that it was fitted for."""
    held_out: HeldOut | None = None
    """Queries on which the open-set model is fitted again when the gallery changes."""

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
        self.index.add(vectors, rows.ids, self.rows.ids)
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

    def relabel(self, ids: Ints, label: str) -> None:
        """Give the rows `ids` (m,), and their held-out queries, another label. Raises FlukeError for ids that don't exist."""
        self.rows.positions(ids)
        self.held_out = None if self.held_out is None else self.held_out.relabel(ids, label)
        self.rows = self.rows.relabel(np.isin(self.rows.ids, ids), label)

    def save(self, folder: Path) -> None:
        """Write gallery.json, index-N.faiss or .milvus, rows-N.npz and held_out-N.npz, replacing the gallery there in one step.

        gallery.json is replaced last and names the others by their generation N, so that a crash leaves the old gallery intact.
        """
        number = next_generation(folder)
        about = self.write(folder, number)
        write_json(folder / "gallery.json", about)
        remove_generations(folder, {number})

    def write(self, folder: Path, number: int) -> dict[str, Any]:
        """Write the files of generation `number`; return the gallery.json that will make them the gallery."""
        with atomic_write(folder / f"index-{number}{self.index.suffix}") as temporary:
            self.index.save(temporary)
            size = temporary.stat().st_size
        with atomic_write(folder / f"rows-{number}.npz") as temporary, open(temporary, "wb") as file:
            np.savez(
                file, allow_pickle=False, **self.rows.columns(), **{_DETAIL + name: c for name, c in self.rows.details.items()}
            )
        if self.held_out is not None:
            self.held_out.save(folder / f"held_out-{number}.npz")
        about: dict[str, Any] = {
            "generation": number,
            "latest": number,
            "metric": self.metric,
            "factory": self.index.factory,
            "model": self.model,
        }
        about |= {"rows": len(self.rows), "dimension": self.index.dimension, "bytes": size, "nprobe": self.index.nprobe}
        return about | {"about": self.about}

    def require_model(self, model: str, what: str) -> None:
        """Raise FlukeError unless `model` is the gallery's; `what` names the embeddings that it made."""
        if model != self.model:
            raise FlukeError(f"The gallery was embedded by {self.model!r} and the {what} by {model!r}; embed both with one model.")


def next_generation(folder: Path) -> int:
    """Return a generation that no gallery in `folder` had yet, 1 for the first."""
    if not (folder / "gallery.json").exists():
        return 1
    about = read_json(folder / "gallery.json")
    return int(about.get("latest", about["generation"])) + 1


def remove_generations(folder: Path, kept: Container[int]) -> None:
    """Delete the files of a gallery's generations but those `kept`."""
    numbers = {path: _generation(path) for path in folder.iterdir()}
    stale = [path for path, number in numbers.items() if number is not None and number not in kept]
    in_milvus = [path for path in stale if path.suffix == MilvusIndex.suffix]
    if in_milvus:
        drop_collections(in_milvus, [path for path in numbers if path.suffix == MilvusIndex.suffix and path not in stale])
    for path in stale:
        path.unlink()


def _generation(path: Path) -> int | None:
    found = re.fullmatch(r"(?:index|rows|held_out|gallery)-(\d+)\.(?:faiss|milvus|npz|json)", path.name)
    return int(found[1]) if found else None


def build_gallery(
    embeddings: ArrayLike,
    rows: GalleryRows,
    model: str,
    metric: Metric = "cosine",
    factory: str = "Flat",
    new_label: str | None = None,
    store: str | None = None,
) -> Gallery:
    """Build a gallery of embeddings (n, d) and their rows, without those labelled `new_label`, which aren't one individual.

    factory, store: as in `build_index`, and so are its errors. Raises FlukeError too for an empty gallery, only new labels, another
    number of embeddings than of rows, and NaN.
    """
    vectors = check_embeddings(embeddings, "gallery", metric, None, len(rows))
    if not len(vectors):
        raise FlukeError("The gallery is empty; it needs at least one image of a known individual.")
    if not (known := rows.labels != new_label).any():
        raise FlukeError(f"Every image of the gallery is labelled {new_label}; it needs at least one known individual.")
    if not known.all():
        vectors, rows = vectors[known], rows.take(known)
    return Gallery(build_index(vectors, rows.ids, factory, store), rows, model, metric)


def open_gallery(folder: Path) -> Gallery:
    """Open the gallery saved in `folder`, its vectors memory-mapped.

    Files that vanish while they are read belong to a gallery that was replaced meanwhile: then the new one is opened. Raises
    FlukeError when a file is missing or truncated, or doesn't belong to the others.
    """
    about: dict[str, Any] = read_json(folder / "gallery.json")
    while True:
        try:
            return _open_generation(folder, about)
        except FlukeError:
            before, about = about, read_json(folder / "gallery.json")
            if about == before:
                raise


def _open_generation(folder: Path, about: dict[str, Any]) -> Gallery:
    """Open the gallery that `about`, gallery.json, describes."""
    try:
        generation, model, metric = int(about["generation"]), about["model"], about["metric"]
        count, dimension = int(about["rows"]), int(about["dimension"])
    except (KeyError, TypeError, ValueError) as error:
        raise FlukeError(f"{folder / 'gallery.json'}: not a gallery's description ({error!r}); build the gallery again.") from None
    path = folder / f"rows-{generation}.npz"
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            of_table = [name for name in file.files if name.startswith(_DETAIL)]
            details = {name.removeprefix(_DETAIL): file[name] for name in of_table}
            rows = GalleryRows(**{name: file[name] for name in file.files if name not in of_table}, details=details)
        path = folder / f"index-{generation}.faiss"
        index = open_index(path, about)
        path = folder / f"held_out-{generation}.npz"
        held_out = HeldOut.load(path) if path.exists() else None
    except _DAMAGED as error:
        raise FlukeError(f"{path}: missing or damaged ({faiss_reason(error)}); build the gallery again.") from None
    if metric not in SIMILARITIES or (len(index), len(rows), index.dimension) != (count, count, dimension):
        raise FlukeError(
            f"{folder}: its files don't belong together (gallery.json: {count} rows of {dimension}, {metric}; rows: {len(rows)}; "
            f"index: {len(index)} of {index.dimension}); build the gallery again."
        )
    return Gallery(index, rows, model, metric, about.get("about") or {}, held_out)
