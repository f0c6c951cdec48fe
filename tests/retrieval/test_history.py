"""Changes of a gallery: none is lost, none is half done, and the last ones can be undone."""

import json
import os

import numpy as np
import pytest

from lib.errors import FlukeError
from lib.retrieval.class_centres import ClassCentres
from lib.retrieval.gallery import build_gallery, open_gallery
from lib.retrieval.held_out import HeldOut, ValidationSet, hold_out, hold_out_catalogue
from lib.retrieval.history import KEPT, read_history, require_unchanged, save_change, undo_change
from lib.retrieval.rows import GalleryRows
from tests.retrieval.conftest import made


class Killed(BaseException):
    """As a signal, no `except Exception` sees it."""


def saved(folder, factory="Flat"):
    x, rows = made()
    gallery = build_gallery(x, rows, "m", factory=factory)
    gallery.held_out = hold_out_catalogue(x, rows, None)
    gallery.about = {"open_set": {"threshold": 0.5}}
    gallery.save(folder)
    return x, rows


def contents(folder, x):
    """Return all that a gallery answers with."""
    gallery = open_gallery(folder)
    held_out = gallery.held_out
    assert held_out is not None
    found = gallery.search(x, 3, "m")
    return [*found, *gallery.rows.columns().values(), *held_out, np.array([json.dumps(gallery.about)])]


def same(before, after):
    return all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def relabel(folder, old, new):
    gallery = open_gallery(folder)
    gallery.relabel(gallery.rows.ids[gallery.rows.labels == old], new)
    gallery.about = {"open_set": {"threshold": len(new) / 10}}
    save_change(gallery, folder, f"{old} to {new}", 1)


def remove(folder, count):
    gallery = open_gallery(folder)
    gallery.remove(gallery.rows.ids[:count])
    save_change(gallery, folder, f"remove {count}", count)


@pytest.mark.parametrize("factory", ["Flat", "IVF8,SQ8"])
def test_changes_are_undone_one_after_another_to_the_very_gallery(factory, tmp_path):
    x, _ = saved(tmp_path, factory)
    states = [contents(tmp_path, x)]
    for change in (
        lambda: relabel(tmp_path, "w_03", "Luna"),
        lambda: remove(tmp_path, 40),
        lambda: relabel(tmp_path, "w_05", "w_06"),
    ):
        change()
        states.append(contents(tmp_path, x))
        assert not same(states[-2], states[-1])
    for before in states[-2::-1]:
        undo_change(tmp_path)
        assert same(contents(tmp_path, x), before)
    with pytest.raises(FlukeError, match="no change is left to undo"):
        undo_change(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [line["what"] for line in lines[:4]] == ["w_03 to Luna", "remove 40", "w_05 to w_06", "undo: w_05 to w_06"]
    assert lines[1]["rows"] == 40
    assert lines[1]["time"].endswith("Z")
    require_unchanged(tmp_path)  # all of it is undone


def test_only_the_last_changes_are_kept(tmp_path):
    saved(tmp_path)
    for number in range(KEPT + 3):
        relabel(tmp_path, "w_03" if not number else f"x{number - 1}", f"x{number}")
    assert len(list(tmp_path.glob("index-*.faiss"))) == KEPT + 1
    assert len({path.stat().st_ino for path in tmp_path.glob("index-*.faiss")}) == 1  # names change no vectors
    for _ in range(2):
        undo_change(tmp_path)
    relabel(tmp_path, f"x{KEPT}", "y")  # what was undone isn't undone again
    for _ in range(KEPT - 1):
        undo_change(tmp_path)
    assert "x2" in open_gallery(tmp_path).identities
    with pytest.raises(FlukeError, match="no change is left to undo"):
        undo_change(tmp_path)
    with pytest.raises(FlukeError, match="was changed"):
        require_unchanged(tmp_path)


@pytest.mark.parametrize("change", [lambda path: remove(path, 30), undo_change], ids=["change", "undo"])
def test_a_killed_change_leaves_the_old_gallery_whole(change, tmp_path, monkeypatch):
    """Killed before and after each replacement of a file: the gallery is the old or the new one, and its history says which."""
    points = 0
    while True:
        folder = tmp_path / str(points)
        x, _ = saved(folder)
        relabel(folder, "w_03", "Luna")
        old, lines = contents(folder, x), len(read_history(folder))
        with monkeypatch.context() as patch:
            moved = iter(range(1000))
            replace = os.replace

            def killed(source, target, moved=moved, replace=replace, at=points):
                if next(moved) == at:
                    raise Killed
                replace(source, target)
                if next(moved) == at:
                    raise Killed

            patch.setattr("os.replace", killed)
            try:
                change(folder)
                break
            except Killed:
                pass
        now = contents(folder, x)
        assert same(now, old) == (len(read_history(folder)) == lines)
        remove(folder, 5)  # the next change works on what is there
        points += 1
    assert points >= 4


def test_a_gallery_without_changes_can_be_built_again_and_an_earlier_versions_history_counts(tmp_path):
    saved(tmp_path)
    require_unchanged(tmp_path)
    (tmp_path / "changes.txt").write_text("added\n")
    with pytest.raises(FlukeError, match="was changed"):
        require_unchanged(tmp_path)
    (tmp_path / "history.jsonl").write_text("{}\n")
    with pytest.raises(FlukeError, match=r"history.jsonl: not a gallery's history"):
        read_history(tmp_path)


def held(labels, is_query, groups=None):
    n = len(labels)
    rows = ValidationSet(np.eye(n, dtype=np.float32), np.array(labels), np.array(is_query), groups, np.arange(n) + 10)
    return hold_out(rows, "new")


def test_held_out_queries_follow_the_names():
    queries = held([*"aabbc", "new"], [False, True, False, True, True, True])
    assert queries.is_new.tolist() == [False, False, True, True]
    renamed = queries.relabel(np.array([10, 11]), "long name")
    assert renamed.labels.tolist() == renamed.keys.tolist() == ["long name", "b", "c", "new"]
    assert renamed.clusters.tolist() == ["long name", "b", "c", "new 15"]
    merged = queries.relabel(np.array([12, 13, 14]), "b")  # c was held out whole, and is b, who was learnt
    assert merged.labels.tolist() == ["a", "b", "b", "new"]
    assert merged.is_new.tolist() == [False, False, False, True]
    rows = GalleryRows(np.arange(5) + 10, [f"{i}" for i in range(5)], [*"aabbb"])
    hidden = merged.left_out(rows)
    assert [(hidden.of_row == code).nonzero()[0].tolist() for code in hidden.of_query] == [[1], [3, 4], [3, 4], []]


def test_held_out_sightings_follow_the_names():
    x, rows = made(n=12, classes=3)
    queries = hold_out_catalogue(x, rows, np.arange(12) // 2, share=0.0)
    new = queries.relabel(rows.ids[rows.labels == "w_01"], "w")
    old = queries.keys[rows.labels == "w_01"]
    assert new.keys[rows.labels == "w_01"].tolist() == [key.replace("w_01\t", "w\t") for key in old]
    assert isinstance(new, HeldOut)


def test_class_centres_follow_the_names():
    centres = ClassCentres(np.eye(3, dtype=np.float32), ("a", "b", "c"))
    now = centres.rename({"a": "b", "c": ""})  # a is called b; the b that was trained is gone, and so is c
    scores = now.scores(np.eye(3, dtype=np.float32), np.array(["a", "b", "c"]))
    np.testing.assert_array_equal(scores[:, 1], [1, 0, 0])
    assert np.isnan(scores[:, [0, 2]]).all()
