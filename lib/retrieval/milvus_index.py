"""A gallery's vectors in Milvus (retrieval.store): a cluster by its address, or Milvus Lite in a file, by the same code.

The folder of the gallery keeps all else: names, the open-set model, held-out queries, history. A change never deletes or replaces
a vector that the gallery before it needs: added ids lie above a mark, removed ones are left out of searches, and both are written
with the gallery's other files. So a change that is killed leaves the old gallery, and an undone one restores it.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import uuid
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lib.errors import FlukeError, one_line
from lib.files import write_text
from lib.retrieval.similarity import Floats, Ints

DEEPEST = 16_384
"""Milvus returns no more neighbours of a query."""
SECONDS = 20
"""For which an address is tried."""
_ROWS = 1000  # of a request


class MilvusIndex:
    """A collection of Milvus, searched by squared Euclidean distance; made by `build` and `open`."""

    suffix = ".milvus"
    nprobe: int | None = None

    def __init__(self, about: dict[str, Any]):
        self.about = about
        """What `save` writes: uri, collection, dimension, factory, count; last, the largest id; removed, ids that are left out."""
        self.only: Ints | None = None
        self.parameters: dict[str, int] = {}
        self._drop: weakref.finalize[..., Any] | None = None

    @classmethod
    def build(cls, vectors: Floats, ids: Ints, factory: str, uri: str) -> MilvusIndex:
        """Fill a new collection with vectors (n, d) and ids (n,); it is dropped at the end of the program unless it is saved.

        factory: Flat is exact, else a type of Milvus's (AUTOINDEX, HNSW, IVF_FLAT). Raises FlukeError where Milvus can't.
        """
        uri = uri if "://" in uri else str(Path(uri).absolute())
        about = {"uri": uri, "collection": f"fluke_{uuid.uuid4().hex}", "dimension": vectors.shape[1], "factory": factory}
        made = cls(about | {"count": len(ids), "last": int(ids.max()), "removed": []})
        with _explained(uri):
            from pymilvus import DataType

            client = _connect(uri)
            schema = client.create_schema(auto_id=False)
            schema.add_field("id", DataType.INT64, is_primary=True)
            schema.add_field("vector", DataType.FLOAT_VECTOR, dim=vectors.shape[1])
            index = client.prepare_index_params()
            index.add_index("vector", index_type="FLAT" if factory == "Flat" else factory, metric_type="L2")
            client.create_collection(about["collection"], schema=schema, index_params=index, consistency_level="Strong")
            made._drop = weakref.finalize(made, _drop, uri, about["collection"])
            made._insert(vectors, ids)
        return made

    @classmethod
    def open(cls, path: Path) -> MilvusIndex:
        """Open the collection that a file by `save` names. Raises ValueError for a damaged file, FlukeError where Milvus can't."""
        opened = cls(json.loads(path.read_text(encoding="utf-8")))
        uri, collection = opened.about["uri"], opened.about["collection"]
        with _explained(uri):
            if not _connect(uri).has_collection(collection):
                raise FlukeError(f"{uri}: has no collection {collection}, which holds the gallery's vectors")
        return opened

    def __len__(self) -> int:
        return int(self.about["count"])

    @property
    def dimension(self) -> int:
        """Number of values per vector."""
        return int(self.about["dimension"])

    @property
    def reserved(self) -> list[int]:
        """Ids of removed rows, whose vectors the history may need."""
        return list(self.about["removed"])

    @property
    def factory(self) -> str:
        """How the collection is indexed."""
        return str(self.about["factory"])

    def search(self, queries: Floats, k: int) -> tuple[Floats, Ints]:
        """Return the squared distances (q, k) to the k nearest vectors of each query, and their ids; -1 where fewer are found.

        Raises FlukeError for k above DEEPEST.
        """
        if k > DEEPEST:
            raise FlukeError(f"Milvus finds {DEEPEST:,} neighbours of a query at most ({k:,} asked); lower retrieval.neighbours.")
        distances, ids = np.full((len(queries), k), np.inf, np.float32), np.full((len(queries), k), -1, np.int64)
        with _explained(self.about["uri"]):
            for start in range(0, len(queries), _ROWS):
                found = _connect(self.about["uri"]).search(
                    self.about["collection"],
                    data=list(queries[start : start + _ROWS]),
                    limit=k,
                    filter=self._condition(),
                    search_params={"params": self.parameters},
                )
                for q, hits in enumerate(found, start):
                    distances[q, : len(hits)] = [hit["distance"] for hit in hits]
                    ids[q, : len(hits)] = [hit["id"] for hit in hits]
        return distances, ids

    def set_parameters(self, parameters: dict[str, int]) -> None:
        """Set Milvus's search parameters (nprobe, ef, ...), which it checks itself."""
        self.parameters = parameters

    def reconstruct(self, ids: Ints) -> Floats:
        """Return the stored vectors (m, d) of ids (m,). Raises FlukeError for those that the collection lacks."""
        unique, inverse = np.unique(ids, return_inverse=True)
        vectors, found = np.empty((len(unique), self.dimension), np.float32), 0
        with _explained(self.about["uri"]):
            for start in range(0, len(unique), _ROWS):
                asked = unique[start : start + _ROWS].tolist()
                rows = _connect(self.about["uri"]).get(self.about["collection"], ids=asked, output_fields=["id", "vector"])
                for row in rows:
                    vectors[np.searchsorted(unique, row["id"])] = row["vector"]
                found += len(rows)
        if found < len(unique):
            raise FlukeError(
                f"{self.about['uri']}: collection {self.about['collection']} lacks {len(unique) - found:,} of the gallery's "
                "vectors; build the gallery again."
            )
        return vectors[inverse]

    def subset(self, ids: Ints) -> MilvusIndex:
        """Return the same collection, of which vectors of ids (m,) alone answer, by Milvus's filter."""
        part = copy.copy(self)
        part.about, part.only, part._drop = self.about | {"count": len(ids)}, ids, None
        return part

    def add(self, vectors: Floats, ids: Ints, present: Ints) -> None:
        """Add vectors (n, d) with ids (n,) that are larger than all before."""
        with _explained(self.about["uri"]):
            self._insert(vectors, ids)
        self.about = self.about | {"count": len(self) + len(ids), "last": int(ids.max())}

    def remove(self, ids: Ints, remaining: Ints) -> None:
        """Leave the vectors of `ids` out of searches; they stay in the collection, for the history."""
        self.about = self.about | {"count": len(remaining), "removed": [*self.about["removed"], *ids.tolist()]}

    def save(self, path: Path) -> None:
        """Write where the vectors are, and which of them are the gallery's."""
        write_text(path, json.dumps(self.about))
        if self._drop is not None:
            self._drop.detach()

    def _insert(self, vectors: Floats, ids: Ints) -> None:
        client, collection = _connect(self.about["uri"]), self.about["collection"]
        for start in range(0, len(ids), _ROWS):
            part = slice(start, start + _ROWS)
            client.upsert(collection, [{"id": i, "vector": v} for i, v in zip(ids[part].tolist(), vectors[part])])

    def _condition(self) -> str:
        conditions = [f"id <= {self.about['last']}"]
        if self.about["removed"]:
            conditions.append(f"id not in {self.about['removed']}")
        if self.only is not None:
            conditions.append(f"id in {self.only.tolist()}")
        return " and ".join(conditions)


def drop_collections(paths: Sequence[Path], kept: Sequence[Path]) -> None:
    """Drop the collections that files by `MilvusIndex.save` name, but those that `kept` ones name."""
    used = {_read_place(path) for path in kept}
    for place in {_read_place(path) for path in paths} - used:
        _drop(*place)


def _read_place(path: Path) -> tuple[str, str]:
    about = json.loads(path.read_text(encoding="utf-8"))
    return about["uri"], about["collection"]


def _drop(uri: str, collection: str) -> None:
    with _explained(uri):
        _connect(uri).drop_collection(collection)


@functools.cache
def _connect(uri: str) -> Any:
    """Return a client of Milvus at an address or in a file; MILVUS_TOKEN, user:password, is what a cluster may ask for."""
    try:
        from pymilvus import MilvusClient
    except ImportError:
        raise FlukeError(f"retrieval.store {uri}: needs pymilvus; pip install -e '.[milvus]'.") from None
    if "://" not in uri:
        Path(uri).parent.mkdir(parents=True, exist_ok=True)
    return MilvusClient(uri, token=os.environ.get("MILVUS_TOKEN", ""), timeout=SECONDS)


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turn what pymilvus raises into a FlukeError."""
    try:
        yield
    except FlukeError:
        raise
    except ImportError:
        raise FlukeError(f"retrieval.store {uri}: needs pymilvus; pip install -e '.[milvus]'.") from None
    except Exception as error:  # MilvusException, and gRPC's own
        reason = one_line(error)
        raise FlukeError(f"retrieval.store {uri}: Milvus says: {reason}; correct the address, or start Milvus there.") from None
