"""The gallery: embeddings of known individuals in a FAISS index beside the rows they came from; searched, changed, saved, reopened.

Everything here is a function of numpy arrays. What neighbours mean for an identity is identify.py's.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import faiss
import numpy as np
from numpy.typing import ArrayLike, NDArray

from lib.errors import FlukeError
from lib.files import atomic_write, read_json, write_json

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Metric = Literal["cosine", "l2"]

_SAMPLE = 200_000  # rows that an index is trained on at most; k-means itself takes 256 a centroid


@dataclass
class Gallery:
    """An index and its rows; made by `build_gallery` and `open_gallery`, never empty.

    `ids` (n,) int64 are unique row ids, `names` (n,) their image names, `labels` (n,) their identities, `model` the fingerprint of
    whatever made the embeddings (any string; equal strings mean comparable embeddings).
    """

    index: faiss.Index
    ids: Ints
    names: NDArray[np.str_]
    labels: NDArray[np.str_]
    model: str
    metric: Metric
    factory: str
    mapped: bool = False

    def search(self, queries: ArrayLike, k: int, model: str) -> tuple[Floats, Ints]:
        """The k nearest rows of each query.

        queries: (q, d). Returns scores (q, k) float32, higher is nearer (cosine similarity, or minus the squared Euclidean
        distance), and row ids (q, k), best first, equal scores by id. Where an index finds fewer than k (a small gallery, few
        probes) the rest is -inf and -1. Raises FlukeError for k < 1, another model or dimension, and NaN.
        """
        if k < 1:
            raise FlukeError(f"topk {k}: a search answers with at least 1 neighbour.")
        self._same_model(model, "queries")
        queries = check_embeddings(queries, "queries", self.metric, self.index.d)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        ids = np.full((len(queries), k), -1, np.int64)
        if len(queries):
            width = min(k, len(self.ids))
            distance, nearest = self.index.search(queries, width)
            near = np.where(nearest < 0, -np.inf, 1 - distance / 2 if self.metric == "cosine" else -distance)
            order = np.lexsort((nearest, -near), axis=1)
            scores[:, :width] = np.take_along_axis(near, order, 1)
            ids[:, :width] = np.take_along_axis(nearest, order, 1)
        return scores, ids

    def rows(self, ids: Ints) -> Ints:
        """Positions of row ids (any shape) in `ids`, `names`, `labels`; -1 stays -1. FlukeError for ids that aren't there."""
        order = np.argsort(self.ids)
        at = order[np.searchsorted(self.ids, ids, sorter=order).clip(max=len(order) - 1)]
        missing = (self.ids[at] != ids) & (ids != -1)
        if missing.any():
            raise FlukeError(f"{missing.sum()} row ids are not in the gallery: {_first_few(ids[missing])}.")
        return np.where(ids == -1, -1, at)

    def vectors(self, ids: Ints) -> Floats:
        """The embeddings (m, d) that the index holds for row ids (m,): normalised for cosine, approximate in a lossy index."""
        self.rows(ids)
        if (ivf := faiss.try_extract_index_ivf(self.index)) is not None and not isinstance(self.index, faiss.IndexIDMap2):
            ivf.set_direct_map_type(faiss.DirectMap.Hashtable)  # type: ignore[attr-defined]
        return self.index.reconstruct_batch(np.ascontiguousarray(ids, np.int64))

    def add(self, embeddings: ArrayLike, ids: ArrayLike, names: ArrayLike, labels: ArrayLike, model: str) -> None:
        """Add rows, of old or new individuals, without training again; rows of the new label are the caller's to leave out.

        Arguments and FlukeErrors as in `build_gallery`.
        """
        self._same_model(model, "rows to add")
        rows = _check_rows(ids, names, labels)
        vectors = check_embeddings(embeddings, "rows to add", self.metric, self.index.d, len(rows[0]))
        if len(twice := np.intersect1d(self.ids, rows[0])):
            raise FlukeError(f"{len(twice)} row ids are in the gallery already: {_first_few(twice)}.")
        self._own()
        self.index.add_with_ids(vectors, rows[0])
        self.ids, self.names, self.labels = (np.concatenate(pair) for pair in zip((self.ids, self.names, self.labels), rows))

    def remove(self, ids: ArrayLike) -> None:
        """Remove rows without training again. Raises FlukeError for ids that aren't there, and when nothing would be left."""
        ids = np.unique(np.asarray(ids, np.int64))
        self.rows(ids)
        keep = ~np.isin(self.ids, ids)
        if not keep.any():
            raise FlukeError("The gallery would be empty; delete its folder, or leave some rows in it.")
        self._own()
        try:
            self.index.remove_ids(faiss.IDSelectorBatch(ids))
        except RuntimeError:  # graphs and refined indexes can't forget: fill them again, trained as they are
            vectors = self.vectors(self.ids[keep])
            self.index.reset()
            self.index.add_with_ids(vectors, self.ids[keep])
        self.ids, self.names, self.labels = self.ids[keep], self.names[keep], self.labels[keep]

    def tune(self, search: dict[str, int]) -> None:
        """Set FAISS search parameters by name (nprobe, efSearch, k_factor_rf, ...). Raises FlukeError for one the index hasn't."""
        for name, value in search.items():
            try:
                faiss.ParameterSpace().set_index_parameter(self.index, name, value)
            except RuntimeError:
                raise FlukeError(f"retrieval.search {name}: {value} can't be set on a {self.factory} index.") from None

    def save(self, folder: Path) -> None:
        """Write gallery.json, index-N.faiss and rows-N.npz, replacing what was saved there before in one step.

        gallery.json is replaced last and names the other two by their generation N, so that a crash leaves the old gallery whole.
        """
        old = read_json(folder / "gallery.json")["generation"] if (folder / "gallery.json").exists() else 0
        with atomic_write(folder / f"index-{old + 1}.faiss") as temporary:
            faiss.write_index(self.index, str(temporary))
            size = temporary.stat().st_size
        with atomic_write(folder / f"rows-{old + 1}.npz") as temporary, open(temporary, "wb") as file:
            np.savez(file, ids=self.ids, names=self.names, labels=self.labels)
        about = {"generation": old + 1, "metric": self.metric, "factory": self.factory, "model": self.model}
        write_json(folder / "gallery.json", about | {"rows": len(self.ids), "dimension": self.index.d, "bytes": size})
        for stale in [*folder.glob("index-*.faiss"), *folder.glob("rows-*.npz")]:
            if stale.stem.split("-")[1] != str(old + 1):
                stale.unlink()

    def _same_model(self, model: str, what: str) -> None:
        if model != self.model:
            raise FlukeError(f"The gallery was embedded by {self.model!r} and the {what} by {model!r}; embed both with one model.")

    def _own(self) -> None:
        if self.mapped:  # FAISS aborts the process when a memory-mapped index is changed
            self.index, self.mapped = faiss.deserialize_index(faiss.serialize_index(self.index)), False


def build_gallery(
    embeddings: ArrayLike,
    ids: ArrayLike,
    names: ArrayLike,
    labels: ArrayLike,
    model: str,
    metric: Metric = "cosine",
    factory: str = "Flat",
    new_label: str | None = None,
) -> Gallery:
    """A gallery of embeddings (n, d) with row ids (n,), image names (n,) and identities (n,).

    factory: a faiss.index_factory string; "Flat" is exact. What has to be trained is trained on a seeded sample of the rows.
    Rows labelled `new_label` are left out, for they are nobody in particular. Raises FlukeError for an empty gallery, only new
    labels, ids given twice, lengths that differ, NaN, a factory that FAISS doesn't know, and too few rows to train it.
    """
    rows = _check_rows(ids, names, labels)
    vectors = check_embeddings(embeddings, "gallery", metric, None, len(rows[0]))
    if not len(vectors):
        raise FlukeError("The gallery is empty; it needs at least one image of a known individual.")
    if not (known := rows[2] != new_label).any():
        raise FlukeError(f"Every image of the gallery is labelled {new_label}; it needs at least one known individual.")
    if not known.all():
        vectors, rows = vectors[known], tuple(part[known] for part in rows)
    try:
        # For cosine too, where |a - b|^2 = 2 - 2 cos of unit vectors: PCA subtracts a mean, which inner products don't survive.
        index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_L2)
    except RuntimeError as error:
        raise FlukeError(
            f"retrieval.factory {factory}: no FAISS index of {vectors.shape[1]} dimensions ({_reason(error)})."
        ) from None
    # IDMap2 around an inverted file answers with wrong ids after a removal, for the file doesn't shift what follows the removed
    # row; it keeps ids of its own instead.
    inner = index
    while isinstance(inner, faiss.IndexPreTransform):
        inner = faiss.downcast_index(inner.index)
    if not isinstance(inner, faiss.IndexIVF):
        index = faiss.IndexIDMap2(index)
    try:
        if not index.is_trained:
            index.train(vectors[np.sort(np.random.default_rng(0).permutation(len(vectors))[:_SAMPLE])])
        index.add_with_ids(vectors, rows[0])
    except RuntimeError as error:
        raise FlukeError(
            f"retrieval.factory {factory}: can't be trained on {len(vectors)} embeddings ({_reason(error)}); fewer cells, or Flat."
        ) from None
    return Gallery(index, *rows, model, metric, factory)


def open_gallery(folder: Path) -> Gallery:
    """The gallery saved in `folder`, its vectors memory-mapped: read from disk as a search touches them.

    Raises FlukeError when a file is missing, truncated, or doesn't belong to the others.
    """
    about: dict[str, Any] = read_json(folder / "gallery.json")
    try:
        generation, model, metric, factory = int(about["generation"]), about["model"], about["metric"], about["factory"]
        rows, dimension, size = int(about["rows"]), int(about["dimension"]), int(about["bytes"])
    except (KeyError, TypeError, ValueError) as error:
        raise FlukeError(f"{folder / 'gallery.json'}: not a gallery's description ({error!r}); build the gallery again.") from None
    path = folder / f"rows-{generation}.npz"
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            ids, names, labels = _check_rows(file["ids"], file["names"], file["labels"])
        path = folder / f"index-{generation}.faiss"
        if path.stat().st_size != size:  # FAISS notices a missing end only when it reads, not when it maps
            raise ValueError(f"{path.stat().st_size:,} bytes instead of {size:,}")
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except (OSError, RuntimeError, MemoryError, ValueError, KeyError, EOFError, zipfile.BadZipFile, FlukeError) as error:
        raise FlukeError(f"{path}: missing or damaged ({_reason(error)}); build the gallery again.") from None
    known = metric in get_args(Metric) and index.metric_type == faiss.METRIC_L2
    if not known or (index.ntotal, len(ids), index.d) != (rows, rows, dimension):
        raise FlukeError(
            f"{folder}: its files don't belong together (gallery.json: {rows} rows of {dimension}, {metric}; rows: {len(ids)}; "
            f"index: {index.ntotal} of {index.d}); build the gallery again."
        )
    return Gallery(index, ids, names, labels, model, metric, factory, mapped=True)


def check_embeddings(values: ArrayLike, what: str, metric: Metric, dimension: int | None, count: int | None = None) -> Floats:
    """Checked float32 (n, d), C-contiguous, rows of length 1 for cosine (a copy where that changes anything)."""
    vectors = np.ascontiguousarray(values, np.float32)
    if vectors.ndim != 2 or (dimension is not None and vectors.shape[1] != dimension):
        raise FlukeError(f"{what}: embeddings of shape {vectors.shape}; expected (rows, {dimension or 'dimension'}).")
    if count is not None and len(vectors) != count:
        raise FlukeError(f"{what}: {len(vectors)} embeddings for {count} row ids; expected one each.")
    if (bad := np.flatnonzero(~np.isfinite(vectors).all(axis=1))).size:
        raise FlukeError(
            f"{what}: {bad.size} of {len(vectors)} embeddings hold NaN or infinity (counted from 0: {_first_few(bad)})."
        )
    if metric == "cosine":
        vectors = vectors.copy()
        faiss.normalize_L2(vectors)
    return vectors


def _check_rows(ids: ArrayLike, names: ArrayLike, labels: ArrayLike) -> tuple[Ints, NDArray[np.str_], NDArray[np.str_]]:
    rows = np.asarray(ids, np.int64), np.asarray(names, np.str_), np.asarray(labels, np.str_)
    if rows[0].ndim != 1 or not rows[0].shape == rows[1].shape == rows[2].shape:
        raise FlukeError(
            f"Row ids, names and labels of shapes {', '.join(str(part.shape) for part in rows)}; expected one each a row."
        )
    unique, counts = np.unique(rows[0], return_counts=True)
    if (bad := unique[(counts > 1) | (unique < 0)]).size:
        raise FlukeError(f"{bad.size} row ids are negative or given twice: {_first_few(bad)}.")
    return rows


def _first_few(values: NDArray[Any]) -> str:
    return ", ".join(map(str, values[:5])) + (", ..." if len(values) > 5 else "")


def _reason(error: Exception) -> str:
    """The part of FAISS's message that a user can read: not the C++ signature and file before it."""
    return str(error).split("Error: ")[-1].split("cpp:")[-1].strip() or type(error).__name__
