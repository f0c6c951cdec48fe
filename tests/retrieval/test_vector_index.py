"""A gallery on FAISS in its folder and on Milvus: the same answers, changes, history and candidates by one suite."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lib.config.recipe import Retrieval
from lib.errors import FlukeError
from lib.retrieval import milvus_index
from lib.retrieval.candidates import narrow_gallery, take_rows
from lib.retrieval.encounter_search import search_encounters
from lib.retrieval.gallery import Gallery, build_gallery, next_generation, open_gallery
from lib.retrieval.history import save_change, undo_change
from lib.retrieval.queries import Queries
from lib.retrieval.rows import GalleryRows
from lib.retrieval.search import search_identities
from lib.retrieval.similarity import normalize

N, D = 300, 16
STORES = ["faiss", "milvus"]


def rows_of(ids: np.ndarray) -> GalleryRows:
    names = [f"{i}.jpg" for i in ids.tolist()]
    details = {"site": np.array(["A", "B"])[ids % 2], "year": (2000 + ids % 7).astype(str)}
    return GalleryRows(ids, names, [f"w{i % 40}" for i in ids.tolist()], details=details)


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    """None for FAISS; the file of Milvus Lite, or the cluster whose address FLUKE_MILVUS holds."""
    if request.param == "faiss":
        return None
    pytest.importorskip("pymilvus", reason="the extra milvus isn't installed")
    return os.environ.get("FLUKE_MILVUS") or str(tmp_path / "vectors.db")


@pytest.fixture
def vectors() -> np.ndarray:
    return normalize(np.random.default_rng(0).normal(size=(2 * N, D))).astype(np.float32)


@pytest.fixture
def build(store: str | None, vectors: np.ndarray) -> Callable[..., Gallery]:
    def make(metric: str = "cosine") -> Gallery:
        return build_gallery(vectors[:N], rows_of(np.arange(N)), "m", metric, store=store)  # type: ignore[arg-type]

    return make


def nearest(vectors: np.ndarray, ids: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """The ids (q, k) of the k nearest of `ids`, by brute force."""
    return ids[np.argsort(-queries @ vectors[ids].T, axis=1)[:, :k]]


def test_searches_changes_and_history(build: Callable[..., Gallery], vectors: np.ndarray, tmp_path: Path) -> None:
    folder = tmp_path / "gallery"
    folder.mkdir()
    asked = vectors[[3, 299, 301, 333]]
    build().save(folder)
    opened = open_gallery(folder)
    assert (len(opened.index), opened.index.dimension) == (N, D)
    scores, ids = opened.search(asked, 5, "m")
    assert (ids == nearest(vectors, np.arange(N), asked, 5)).all()
    assert scores == pytest.approx(np.take_along_axis(asked @ vectors[:N].T, ids, 1), abs=1e-5)
    some = np.array([7, 7, 2])
    assert opened.embeddings(some) == pytest.approx(vectors[some], abs=1e-6)

    opened.add(vectors[N : N + 10], rows_of(np.arange(N, N + 10)), "m")
    assert open_gallery(folder).search(asked, 1, "m")[1][2, 0] < N  # what isn't saved isn't there
    save_change(opened, folder, "add", 10)
    grown = np.arange(N + 10)
    assert (open_gallery(folder).search(asked, 5, "m")[1] == nearest(vectors, grown, asked, 5)).all()

    opened = open_gallery(folder)
    opened.remove([301, 3])
    save_change(opened, folder, "remove", 2)
    fewer = np.setdiff1d(grown, [301, 3])
    assert (open_gallery(folder).search(asked, 5, "m")[1] == nearest(vectors, fewer, asked, 5)).all()
    assert len(open_gallery(folder).index) == len(fewer)

    undo_change(folder)
    assert (open_gallery(folder).search(asked, 5, "m")[1] == nearest(vectors, grown, asked, 5)).all()
    undo_change(folder)
    assert (open_gallery(folder).search(asked, 5, "m")[1] == nearest(vectors, np.arange(N), asked, 5)).all()


def test_the_last_row_that_is_removed_comes_back(build: Callable[..., Gallery], vectors: np.ndarray, tmp_path: Path) -> None:
    """Its id isn't given to another image while a change can be undone, where vectors lie in one place."""
    build().save(tmp_path)
    opened = open_gallery(tmp_path)
    opened.remove([N - 1])
    save_change(opened, tmp_path, "remove", 1)
    opened = open_gallery(tmp_path)
    first = max([opened.rows.ids.max(), *opened.index.reserved]) + 1
    opened.add(vectors[N : N + 1], rows_of(np.array([first])), "m")
    save_change(opened, tmp_path, "add", 1)
    undo_change(tmp_path)
    undo_change(tmp_path)
    assert open_gallery(tmp_path).search(vectors[[N - 1]], 1, "m")[1].tolist() == [[N - 1]]


def test_candidates_by_metadata_and_rankings(build: Callable[..., Gallery], vectors: np.ndarray) -> None:
    gallery, asked = build(), vectors[N : N + 20]
    part = narrow_gallery(gallery, "site == 'A' and year >= 2003")
    ids = np.arange(N)
    allowed = ids[(ids % 2 == 0) & (ids % 7 >= 3)]
    assert (part.search(asked, 6, "m")[1] == nearest(vectors, allowed, asked, 6)).all()
    few = take_rows(gallery, np.array([4, 9]))
    assert few.search(asked[:1], 3, "m")[1][0].tolist()[2] == -1
    exact = build_gallery(vectors[:N], rows_of(ids), "m")
    for found, expected in zip(*(search_identities(g, Queries(asked), Retrieval(neighbours=20), 30) for g in (gallery, exact))):
        assert (found == expected).all() if found.dtype.kind in "Ui" else found == pytest.approx(expected, abs=1e-5)
    sides = np.array(["A", "B", ""])[np.arange(20) % 3]
    r = Retrieval(orientation_column="site")
    found, expected = (search_encounters(g, Queries(asked, viewpoints=sides), r, 5) for g in (gallery, exact))
    assert (found.images == expected.images).all()


def test_squared_distances_of_embeddings_as_they_are(build: Callable[..., Gallery], vectors: np.ndarray) -> None:
    gallery = build("l2")
    scores, ids = gallery.search(2 * vectors[N : N + 3], 4, "m")
    assert scores == pytest.approx(-np.square(2 * vectors[N : N + 3, None] - vectors[ids]).sum(axis=2), abs=1e-4)


# --- what only Milvus can do wrong ------------------------------------------------------------------------------------------------


@pytest.fixture
def lite(tmp_path: Path) -> str:
    pytest.importorskip("pymilvus", reason="the extra milvus isn't installed")
    return str(tmp_path / "vectors.db")


def test_collections_that_no_gallery_needs_are_dropped(lite: str, vectors: np.ndarray, tmp_path: Path) -> None:
    def collections() -> list[str]:
        return sorted(milvus_index._connect(lite).list_collections())

    def make() -> Gallery:
        return build_gallery(vectors[:N], rows_of(np.arange(N)), "m", store=lite)

    folder = tmp_path / "gallery"
    folder.mkdir()
    unsaved = make()
    assert len(collections()) == 1
    del unsaved
    assert collections() == []
    make().save(folder)
    first = collections()
    make().save(folder)  # built again
    assert len(collections()) == 1
    assert collections() != first
    assert next_generation(folder) == 3
    name = json.loads((folder / "index-2.milvus").read_text())["collection"]
    assert [name] == collections()
    milvus_index._connect(lite).drop_collection(name)
    with pytest.raises(FlukeError, match=r"index-2.*: missing or damaged .*has no collection fluke_"):
        open_gallery(folder)


def test_milvus_that_is_not_there_is_a_sentence(
    lite: str, vectors: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FlukeError, match="16,384 neighbours of a query at most"):
        build_gallery(vectors[:N], rows_of(np.arange(N)), "m", store=lite).index.search(vectors[:1], 20_000)
    monkeypatch.setattr(milvus_index, "SECONDS", 1)
    for place in ("http://127.0.0.1:9", str(tmp_path / "vectors.txt")):
        with pytest.raises(
            FlukeError, match=f"retrieval.store {place}: Milvus says: .*; correct the address, or start Milvus there"
        ):
            build_gallery(vectors[:N], rows_of(np.arange(N)), "m", store=place)


def test_without_pymilvus_a_sentence_comes(vectors: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pymilvus", None)
    with pytest.raises(FlukeError, match=r"retrieval.store .*: needs pymilvus; pip install -e '.\[milvus\]'"):
        build_gallery(vectors[:N], rows_of(np.arange(N)), "m", store=str(tmp_path / "none.db"))
    assert not (tmp_path / "gallery.json").exists()
