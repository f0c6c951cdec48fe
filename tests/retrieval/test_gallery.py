"""The gallery against brute-force numpy, its files after a crash and when damaged, and bad input."""

import json
import subprocess
import sys

import numpy as np
import pytest

from lib.errors import FlukeError
from lib.files import read_json
from lib.retrieval import gallery as gallery_module
from lib.retrieval.gallery import build_gallery, open_gallery
from lib.retrieval.rows import GalleryRows
from tests.retrieval.conftest import made, unit

FACTORIES = ["Flat", "SQ8", "IVF8,Flat", "HNSW16", "PCA12,IVF8,SQ8", "PCA12,Flat", "IVF8,Flat,RFlat", "NSG16", "IDMap2,Flat"]


def brute(x, queries, ids, k, metric):
    if metric == "cosine":
        scores = unit(queries.astype(np.float64)) @ unit(x.astype(np.float64)).T
    else:
        scores = -((queries[:, None].astype(np.float64) - x[None]) ** 2).sum(axis=2)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), np.asarray(ids)[order]


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_exact_search_is_brute_force(metric):
    x, rows = made()
    queries = made(seed=1)[0][:50]
    gallery = build_gallery(x, rows, "model", metric)
    scores, found = gallery.search(queries, 10, "model")
    want_scores, want_ids = brute(x, queries, rows.ids, 10, metric)
    assert scores.dtype == np.float32
    assert found.dtype == np.int64
    np.testing.assert_allclose(scores, want_scores, atol=1e-4)
    np.testing.assert_array_equal(found, want_ids)
    np.testing.assert_array_equal(gallery.rows.ids[gallery.rows.positions(found)], found)


def test_rows_of_the_new_label_are_left_out():
    x, rows = made(30)
    rows = GalleryRows(rows.ids, rows.names, ["new_whale" if i in (3, 7) else label for i, label in enumerate(rows.labels)])
    gallery = build_gallery(x, rows, "m", new_label="new_whale")
    assert sorted(gallery.rows.ids) == sorted(set(rows.ids) - {rows.ids[3], rows.ids[7]})
    assert "new_whale" not in gallery.rows.labels
    assert len(gallery.index) == 28


def test_gallery_smaller_than_k_fills_up_and_equal_scores_go_by_id():
    x = np.ones((3, 4), np.float32)
    scores, ids = build_gallery(x, GalleryRows([9, 5, 7], list("abc"), list("xyz")), "m").search(x[:2], 5, "m")
    np.testing.assert_array_equal(ids, [[5, 7, 9, -1, -1]] * 2)
    assert np.isneginf(scores[:, 3:]).all()
    np.testing.assert_allclose(scores[:, :3], 1, atol=1e-6)


@pytest.mark.parametrize("factory", FACTORIES)
def test_added_rows_are_found_and_removed_ones_are_not_and_the_rest_keep_their_ids(factory):
    x, rows = made()
    gallery = build_gallery(x[:300], rows.take(slice(300)), "m", factory=factory)
    gallery.index.set_parameters({"nprobe": 8} if "IVF" in factory else {"efSearch": 400} if "HNSW" in factory else {})
    gallery.add(x[300:], rows.take(slice(300, None)), "m")
    assert (gallery.search(x, 1, "m")[1][:, 0] == rows.ids).mean() > 0.97
    gone = rows.ids[::3]
    gallery.remove(gone)
    found = gallery.search(x, 5, "m")[1]
    assert not np.isin(found, gone).any()
    kept = ~np.isin(rows.ids, gone)
    assert (found[kept, 0] == rows.ids[kept]).mean() > 0.97
    assert len(gallery.index) == len(gallery.rows) == kept.sum()
    np.testing.assert_array_equal(gallery.rows.labels[gallery.rows.positions(rows.ids[kept])], rows.labels[kept])


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_reopened_memory_mapped_gallery_finds_the_same_and_can_be_changed(factory, tmp_path):
    x, rows = made()
    rows = GalleryRows(rows.ids, rows.names, ["ñandú, the 1st", *rows.labels[1:]])
    gallery = build_gallery(x, rows, "m", factory=factory)
    gallery.save(tmp_path)
    again = open_gallery(tmp_path)
    for before, after in zip(gallery.search(x[:40], 6, "m"), again.search(x[:40], 6, "m")):
        np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(again.rows.labels, rows.labels)
    again.remove(rows.ids[:10])
    again.add(x[:5], rows.take(slice(5)), "m")
    again.save(tmp_path)
    third = open_gallery(tmp_path)
    assert sorted(third.rows.ids) == sorted([*rows.ids[10:], *rows.ids[:5]])
    np.testing.assert_array_equal(third.search(x, 3, "m")[1], again.search(x, 3, "m")[1])
    assert len(list(tmp_path.iterdir())) == 3  # nothing of the first generation is left


def test_reopening_maps_the_vectors_instead_of_reading_them(tmp_path):
    n, d = 40_000, 256  # 41 MB
    x = np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)
    build_gallery(x, GalleryRows(np.arange(n), [""] * n, ["w"] * n), "m").save(tmp_path)
    code = (
        "import sys, pathlib; from lib.retrieval.gallery import open_gallery\n"
        "def rss(): return next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('VmRSS'))\n"
        "before = rss(); g = open_gallery(pathlib.Path(sys.argv[1])); print(rss() - before)"
    )
    out = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True).stdout
    assert int(out) < 10_000  # kB


def test_a_crash_while_saving_leaves_the_old_gallery(tmp_path, monkeypatch):
    x, rows = made()
    gallery = build_gallery(x, rows, "m")
    gallery.save(tmp_path)
    gallery.remove(rows.ids[:100])
    monkeypatch.setattr("lib.retrieval.gallery.write_json", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        gallery.save(tmp_path)
    assert len(open_gallery(tmp_path).rows) == len(rows)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("factory", ["Flat", "IVF8,Flat", "HNSW8"])
def test_embeddings_are_returned_by_row_id(factory, metric):
    x, rows = made()
    got = build_gallery(x, rows, "m", metric, factory).embeddings(rows.ids[[5, 2, 9]])
    np.testing.assert_allclose(got, (unit(x) if metric == "cosine" else x)[[5, 2, 9]], atol=1e-6)


def test_bad_input_is_one_sentence():
    x, rows = made(30)
    gallery = build_gallery(x, rows, "resnet a1")
    nan = x.copy()
    nan[[4, 8]] = np.nan
    cases = [
        ("2 of 30 embeddings hold NaN.*4, 8", lambda: build_gallery(nan, rows, "m")),
        ("2 of 30", lambda: gallery.search(nan, 5, "resnet a1")),
        ("topk 0", lambda: gallery.search(x, 0, "resnet a1")),
        ("shape .30, 8..*16", lambda: gallery.search(x[:, :8], 5, "resnet a1")),
        ("'resnet a1'.*'resnet b2'", lambda: gallery.search(x, 5, "resnet b2")),
        ("'resnet a1'.*'resnet b2'", lambda: gallery.add(x, GalleryRows(rows.ids + 1, rows.names, rows.labels), "resnet b2")),
        ("empty", lambda: build_gallery(x[:0], GalleryRows([], [], []), "m")),
        ("labelled w;", lambda: build_gallery(x, GalleryRows(rows.ids, rows.names, ["w"] * 30), "m", new_label="w")),
        ("1 row ids .*repeated .3.;", lambda: GalleryRows([3, 3, *rows.ids[2:]], rows.names, rows.labels)),
        ("30 row ids are in the gallery already .3, 10", lambda: gallery.add(x, rows, "resnet a1")),
        ("not in the gallery .4.", lambda: gallery.remove([4])),
        ("would be empty", lambda: gallery.remove(rows.ids)),
        ("30 embeddings for 29", lambda: build_gallery(x, rows.take(slice(1, None)), "m")),
        ("expected one of each per row", lambda: GalleryRows(rows.ids, rows.names, rows.labels[1:])),
        ("factory IVF64,Flat: can't be trained on 30", lambda: build_gallery(x, rows, "m", factory="IVF64,Flat")),
        ("factory PQ8: can't be trained on 30", lambda: build_gallery(x, rows, "m", factory="PQ8")),
        ("factory Blat: no FAISS index", lambda: build_gallery(x, rows, "m", factory="Blat")),
        ("search nprobe: 4 can't be set on a Flat", lambda: gallery.index.set_parameters({"nprobe": 4})),
    ]
    for sentence, action in cases:
        with pytest.raises(FlukeError, match=sentence) as caught:
            action()
        assert "\n" not in str(caught.value)
    assert (gallery.search(x, 1, "resnet a1")[1][:, 0] == rows.ids).all()  # unchanged


def test_damaged_and_mixed_files_are_one_sentence(tmp_path):
    x, rows = made()
    gallery = build_gallery(x, rows, "m")
    gallery.save(tmp_path)
    index, table, about = (tmp_path / name for name in ("index-1.faiss", "rows-1.npz", "gallery.json"))
    content = {path: path.read_bytes() for path in (index, table, about)}

    def refused(path, damaged):
        path.write_bytes(damaged)
        with pytest.raises(FlukeError, match=r"damaged|description|belong|readable") as caught:
            open_gallery(tmp_path)
        assert "\n" not in str(caught.value)
        path.write_bytes(content[path])

    for path in (index, table):
        for length in (0, 3, 40, len(content[path]) // 2, len(content[path]) - 1):
            refused(path, content[path][:length])
        refused(path, b"\x00" * len(content[path]))
    refused(about, b"{}")
    refused(about, b"[1]")
    refused(about, content[about].replace(b'"cosine"', b'"l3"'))
    refused(about, json.dumps(json.loads(content[about]) | {"generation": "../1"}).encode())
    other = tmp_path / "other"
    build_gallery(x[:50], rows.take(slice(50)), "m").save(other)
    smaller = (other / "index-1.faiss").read_bytes()
    refused(index, smaller)
    refused(index, smaller + bytes(len(content[index]) - len(smaller)))
    refused(index, bytes(100) + content[index][100:])
    refused(table, (other / "rows-1.npz").read_bytes())
    np.savez(tmp_path / "pickled.npz", ids=rows.ids, names=np.array([object()] * len(rows)), labels=rows.labels)
    refused(table, (tmp_path / "pickled.npz").read_bytes())
    assert len(open_gallery(tmp_path).rows) == 400


def test_a_gallery_that_is_replaced_while_it_is_opened_is_opened_anew(tmp_path, monkeypatch):
    x, rows = made()
    build_gallery(x, rows, "m").save(tmp_path)

    def replaced_after_reading(path):
        about = read_json(path)
        monkeypatch.setattr(gallery_module, "read_json", read_json)
        build_gallery(x[:50], rows.take(slice(50)), "m").save(tmp_path)
        return about

    monkeypatch.setattr(gallery_module, "read_json", replaced_after_reading)
    assert len(open_gallery(tmp_path).rows) == 50


@pytest.mark.parametrize("factory", ["IVF32,Flat", "PCA12,IVF32,SQ8"])
def test_an_inverted_file_searches_enough_cells_also_when_it_is_opened_again(factory, tmp_path):
    x, rows = made(3000, 16, 600)
    queries = x[:300] + 0.2 * np.random.default_rng(1).normal(size=(300, 16)).astype(np.float32)
    build_gallery(x, rows, "m", factory=factory).save(tmp_path)
    opened = open_gallery(tmp_path)
    found = opened.search(queries, 1, "m")[1]
    opened.index.set_parameters({"nprobe": 32})
    assert (found == opened.search(queries, 1, "m")[1]).mean() > 0.97
