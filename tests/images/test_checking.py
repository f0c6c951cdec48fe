"""Search for unreadable files, and the description of image sizes."""

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from lib.images import checked, checking
from lib.images.checking import describe_sizes, find_unreadable
from lib.images.opening import open_image
from tests.images.made_files import write_bad_files


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_files_are_found_at_their_positions(tmp_path: Path, workers: int) -> None:
    expected = write_bad_files(tmp_path)
    good = [tmp_path / "good.jpg", tmp_path / "good.png"] * 25  # more than one batch, so that each worker has some
    paths = [p for i, name in enumerate(expected) for p in (*good[: 3 + i], tmp_path / name)]
    state = torch.get_rng_state()
    found = find_unreadable(paths, workers, "decode")
    assert torch.equal(torch.get_rng_state(), state)
    assert list(found) == [i for i, path in enumerate(paths) if path.name in expected]
    for i, reason in found.items():
        assert expected[paths[i].name] in reason
        assert str(tmp_path) not in reason
    by_header = find_unreadable(paths, workers, "header")
    assert {paths[i].name for i in found.keys() - by_header.keys()} == {
        "cut.jpg",
        "cut.png",
        "flipped.png",
        "float.tif",
        "deep.tif",
    }


def test_many_readable_files_are_remembered_until_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "WORTH_REMEMBERING", 3)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for path in paths[:3]:
        Image.new("RGB", (9, 9)).save(path)
    paths[3].write_text("not an image")
    read: list[Path] = []
    monkeypatch.setitem(checking.CHECKS, "header", lambda path: read.append(path) or open_image(path).close())
    for expected in (paths, paths[3:]):  # an unreadable file is read again: it may have been mended elsewhere
        read.clear()
        assert list(find_unreadable(paths, 0, "header")) == [3]
        assert read == expected
    Image.new("RGB", (90, 9)).save(paths[1])
    os.utime(paths[2], (1, 1))
    read.clear()
    assert list(find_unreadable(paths, 0, "header")) == [3]
    assert read == paths[1:]
    assert list(find_unreadable(paths, 0, "decode")) == [3]  # opened is not yet decoded
    read.clear()
    checked.list_path().write_bytes(b"damaged")
    assert list(find_unreadable(paths, 0, "header")) == [3]
    assert read == paths


def test_positions_are_right_without_a_progress_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    (tmp_path / "bad.png").write_text("not an image")
    Image.new("RGB", (9, 9)).save(tmp_path / "good.png")
    assert list(find_unreadable([tmp_path / "good.png"] * 40 + [tmp_path / "bad.png"], 0, "decode")) == [40]


def test_sizes_are_described_from_headers(tmp_path: Path) -> None:
    for name, size in (("a.png", (40, 30)), ("b.png", (30, 50)), ("c.png", (35, 35))):
        Image.new("RGB", size).save(tmp_path / name)
    (tmp_path / "d.png").write_text("not an image")
    description = describe_sizes([tmp_path / f"{name}.png" for name in "abcd"])
    assert description == "short side 30 to 35 px, long side 35 to 50 px (sizes of 3 images)"
