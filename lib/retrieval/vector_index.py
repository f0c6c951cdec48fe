"""Where a gallery's vectors lie: what any place can do, and the places there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from lib.retrieval.faiss_index import FaissIndex
from lib.retrieval.milvus_index import MilvusIndex
from lib.retrieval.similarity import Floats, Ints


class VectorIndex(Protocol):
    """Vectors with int64 ids, searched by squared Euclidean distance. Built and opened by `build_index` and `open_index`."""

    nprobe: int | None
    suffix: str
    """Of the file that `save` writes."""

    def __len__(self) -> int: ...

    @property
    def factory(self) -> str:
        """retrieval.factory."""

    @property
    def reserved(self) -> list[int]:
        """Ids that further rows can't have, besides those of the gallery."""

    @property
    def dimension(self) -> int:
        """Number of values per vector."""

    def search(self, queries: Floats, k: int) -> tuple[Floats, Ints]:
        """Return the squared distances (q, k) to the k nearest vectors of each query, and their ids; -1 where fewer are found."""

    def set_parameters(self, parameters: dict[str, int]) -> None:
        """Set search parameters by name (retrieval.search). Raises FlukeError for those that the index lacks."""

    def reconstruct(self, ids: Ints) -> Floats:
        """Return the stored vectors (m, d) of ids (m,)."""

    def add(self, vectors: Floats, ids: Ints, present: Ints) -> None:
        """Add vectors (n, d) with ids (n,) above those there; `present` are all ids before."""

    def remove(self, ids: Ints, remaining: Ints) -> None:
        """Remove the vectors of `ids`; `remaining` are all other ids."""

    def save(self, path: Path) -> None:
        """Write to `path` what `open_index` reads."""


def build_index(vectors: Floats, ids: Ints, factory: str, store: str | None) -> VectorIndex:
    """Build an index of vectors (n, d) with ids (n,), in a file (store None) or in Milvus; see `FaissIndex`, `MilvusIndex`."""
    return FaissIndex.build(vectors, ids, factory) if store is None else MilvusIndex.build(vectors, ids, factory, store)


def open_index(stem: Path, about: dict[str, Any]) -> VectorIndex:
    """Open the index that was saved as `stem` with its suffix, as gallery.json describes it.

    Raises OSError, RuntimeError, MemoryError, ValueError or FlukeError for a missing or damaged file.
    """
    milvus = stem.with_suffix(MilvusIndex.suffix)
    if milvus.exists():
        return MilvusIndex.open(milvus)
    return FaissIndex.open(stem.with_suffix(FaissIndex.suffix), about["factory"], int(about["bytes"]), about.get("nprobe"))
