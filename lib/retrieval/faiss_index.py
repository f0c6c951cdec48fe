"""The FAISS index of a gallery: built, trained, searched, changed, written, and opened memory-mapped."""

from __future__ import annotations

import os
from pathlib import Path

import faiss
import numpy as np

from lib.errors import FlukeError
from lib.retrieval.similarity import Floats, Ints

_TRAINING_ROWS = 200_000  # at most; k-means itself takes 256 per centroid
_RECALL, _PROBED_ROWS, _PROBED_NEIGHBOURS = 0.99, 500, 10  # of the choice of nprobe


class FaissIndex:
    """Vectors with int64 ids, searched by squared Euclidean distance.

    Cosine similarity uses it too, since |a - b|^2 = 2 - 2 cos for unit vectors. Inner products wouldn't do, because a PCA subtracts
    a mean, which changes them.
    """

    suffix = ".faiss"

    def __init__(self, index: faiss.Index, factory: str, memory_mapped: bool = False, nprobe: int | None = None):
        self.index, self.factory, self.memory_mapped, self.nprobe = index, factory, memory_mapped, nprobe
        self.reserved: list[int] = []
        self.path: Path | None = None  # of the file that holds the index as it is
        if nprobe is not None:
            self._probe(nprobe)

    @classmethod
    def build(cls, vectors: Floats, ids: Ints, factory: str) -> FaissIndex:
        """Build an index of vectors (n, d) with ids (n,).

        factory: a faiss.index_factory string; "Flat" is exact. What needs training is trained on a seeded sample of the vectors.
        Raises FlukeError for a factory that FAISS doesn't know, and for too few vectors to train it.
        """
        index = _make_empty(vectors.shape[1], factory)
        try:
            if not index.is_trained:
                index.train(vectors[np.sort(np.random.default_rng(0).permutation(len(vectors))[:_TRAINING_ROWS])])
            index.add_with_ids(vectors, ids)
        except RuntimeError as error:
            raise FlukeError(
                f"retrieval.factory {factory}: can't be trained on {len(vectors)} embeddings ({faiss_reason(error)}); use fewer "
                "cells, or Flat."
            ) from None
        built = cls(index, factory)
        built._choose_nprobe(vectors)
        return built

    @classmethod
    def open(cls, path: Path, factory: str, size: int, nprobe: int | None = None) -> FaissIndex:
        """Open a saved index of `size` bytes memory-mapped: vectors are read from the disk when a search needs them.

        Raises OSError, RuntimeError, MemoryError or ValueError for a missing or damaged file.
        """
        if path.stat().st_size != size:  # FAISS notices a missing end only when it reads, not when it maps
            raise ValueError(f"{path.stat().st_size:,} bytes instead of {size:,}")
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        if index.metric_type != faiss.METRIC_L2:
            raise ValueError("not an index of squared Euclidean distances")
        opened = cls(index, factory, True, nprobe)
        opened.path = path
        return opened

    def _probe(self, cells: int) -> None:
        faiss.ParameterSpace().set_index_parameter(self.index, "nprobe", cells)

    def _choose_nprobe(self, vectors: Floats) -> None:
        """Set `nprobe` of an inverted file to the fewest cells, a power of 2, that find 99% of a sample's nearest neighbours.

        FAISS searches a single cell unless told otherwise. The neighbours by all cells are the reference, with the index's own
        compression.
        """
        ivf = faiss.try_extract_index_ivf(self.index)
        if ivf is None:
            return
        sample = vectors[np.random.default_rng(0).permutation(len(vectors))[:_PROBED_ROWS]]
        k = min(_PROBED_NEIGHBOURS + 1, len(vectors))  # a sampled vector finds itself
        self._probe(ivf.nlist)
        exact = self.index.search(sample, k)[1][:, 1:]
        cells = 1
        while cells < ivf.nlist:
            self._probe(cells)
            found = self.index.search(sample, k)[1]
            if np.mean([np.isin(row, near).mean() for row, near in zip(exact, found)]) >= _RECALL:
                break
            cells *= 2
        self.nprobe = min(cells, ivf.nlist)
        self._probe(self.nprobe)

    def save(self, path: Path) -> None:
        """Write the index to `path`, or link it there where it is as it was opened."""
        try:
            if self.path is not None:
                os.link(self.path, path)
                return
        except OSError:  # no links here, or the file is gone: its memory map isn't
            pass
        faiss.write_index(self.index, str(path))

    def __len__(self) -> int:
        return int(self.index.ntotal)

    @property
    def dimension(self) -> int:
        """Number of values per vector."""
        return int(self.index.d)

    def search(self, queries: Floats, k: int) -> tuple[Floats, Ints]:
        """Return the squared distances (q, k) to the k nearest vectors of each query, and their ids; -1 where fewer are found."""
        return self.index.search(queries, k)

    def set_parameters(self, parameters: dict[str, int]) -> None:
        """Set FAISS search parameters by name (nprobe, efSearch, k_factor_rf, ...). Raises FlukeError for one the index lacks."""
        for name, value in parameters.items():
            try:
                faiss.ParameterSpace().set_index_parameter(self.index, name, value)
            except RuntimeError:
                raise FlukeError(
                    f"retrieval.search {name}: {value} can't be set on a {self.factory} index; remove it, or choose another "
                    "retrieval.factory."
                ) from None

    def reconstruct(self, ids: Ints) -> Floats:
        """Return the stored vectors (m, d) of ids (m,); approximate in an index that compresses."""
        if (ivf := faiss.try_extract_index_ivf(self.index)) is not None and not isinstance(self.index, faiss.IndexIDMap2):
            ivf.set_direct_map_type(faiss.DirectMap.Hashtable)  # type: ignore[attr-defined]
        return self.index.reconstruct_batch(np.ascontiguousarray(ids, np.int64))

    def add(self, vectors: Floats, ids: Ints, present: Ints) -> None:
        """Add vectors (n, d) with ids (n,), without training again; `present` are all ids before."""
        self._load_into_memory()
        try:
            self.index.add_with_ids(vectors, ids)
        except RuntimeError:  # NSG takes all vectors at once
            self._refill(np.concatenate([self.reconstruct(present), vectors]), np.concatenate([present, ids]))

    def remove(self, ids: Ints, remaining: Ints) -> None:
        """Remove the vectors of `ids`, without training again; `remaining` are all other ids."""
        self._load_into_memory()
        try:
            self.index.remove_ids(faiss.IDSelectorBatch(ids))
        except RuntimeError:  # graphs and refined indexes can't remove vectors: fill them again, trained as they are
            self._refill(self.reconstruct(remaining), remaining)

    def _refill(self, vectors: Floats, ids: Ints) -> None:
        self.index.reset()
        self.index.add_with_ids(vectors, ids)

    def _load_into_memory(self) -> None:
        if self.memory_mapped:  # FAISS aborts the process when a memory-mapped index is changed
            self.index, self.memory_mapped = faiss.deserialize_index(faiss.serialize_index(self.index)), False
            self.path = None


def _make_empty(dimension: int, factory: str) -> faiss.Index:
    """Return an untrained index that keeps ids. Raises FlukeError for a factory that FAISS doesn't know."""
    try:  # ids are kept here anyway
        index = faiss.index_factory(dimension, factory.removeprefix("IDMap2,").removeprefix("IDMap,"), faiss.METRIC_L2)
    except RuntimeError as error:
        raise FlukeError(
            f"retrieval.factory {factory}: no FAISS index of {dimension} dimensions ({faiss_reason(error)}); use Flat, or another "
            "faiss.index_factory string."
        ) from None
    # An IDMap2 around an inverted file returns wrong ids after a removal, because the file doesn't shift the vectors that follow
    # the removed one. The inverted file keeps ids itself.
    inner = index
    while isinstance(inner, faiss.IndexPreTransform):
        inner = faiss.downcast_index(inner.index)
    return index if isinstance(inner, faiss.IndexIVF) else faiss.IndexIDMap2(index)


def faiss_reason(error: Exception) -> str:
    """Return the readable part of FAISS's message: without the C++ signature and file name before it."""
    return str(error).split("Error: ")[-1].split("cpp:")[-1].strip() or type(error).__name__


def nearest_neighbours(vectors: Floats, k: int) -> Ints:
    """Return the `k` rows of `vectors` (n, d) with the largest inner product with each row, (n, k) int64, itself included."""
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    return faiss.knn(vectors, vectors, k, metric=faiss.METRIC_INNER_PRODUCT)[1]
