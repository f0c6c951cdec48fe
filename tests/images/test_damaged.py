"""Damaged test images are decoded as far as they go, where the recipe allows it."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from lib.errors import FlukeError
from lib.images.checking import find_unreadable
from lib.images.decoding import decode
from lib.pipelines.readable import require_test_images
from lib.tables.image_path import cut_path, salvage_path
from lib.tables.table import Table
from lib.tables.target import ONE_LABEL


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """Return a whole JPEG, one without its last bytes, one and a PNG without their second half, and a file that is no image."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for suffix in ("jpg", "png"):
        Image.fromarray(pixels).save(tmp_path / f"whole.{suffix}", quality=95)
    jpg, png = ((tmp_path / f"whole.{suffix}").read_bytes() for suffix in ("jpg", "png"))
    parts = {"tail.jpg": jpg[:-2], "half.jpg": jpg[: len(jpg) // 2], "half.png": png[: len(png) // 2]}
    for name, part in parts.items():
        (tmp_path / name).write_bytes(part)
    names = ["whole.jpg", *parts]
    return Table(np.arange(4), names, [tmp_path / name for name in names], None, ("a",), None, ONE_LABEL, source=tmp_path / "t.csv")


def test_what_there_is_of_damaged_images_is_decoded(table: Table, tmp_path: Path) -> None:
    bad = find_unreadable(table.paths, 0, "decode")
    assert sorted(bad) == [1, 2, 3]
    found = require_test_images(table, bad, "drop")
    assert found.names == table.names
    assert "3 damaged images are decoded as far as they go: 'tail.jpg', 'half.jpg', 'half.png'" in found.notes[-1]
    whole, tail, half, of_png = (decode(path) for path in found.paths)
    assert torch.equal(whole, tail)
    exact = decode(tmp_path / "whole.png")
    for image, like in ((half, whole), (of_png, exact)):
        assert torch.equal(image[:, :8], like[:, :8])
        assert not torch.equal(image[:, 40:], like[:, 40:])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False  # for all other images


def test_without_leave_they_are_refused(table: Table) -> None:
    bad = find_unreadable(table.paths, 0, "decode")
    with pytest.raises(FlukeError, match=r"3 of 4 images can't be read.* Damaged files are .* with data.on_unreadable: drop"):
        require_test_images(table, bad, "error")
    table.paths[1].write_bytes(b"<html>404</html>")
    with pytest.raises(FlukeError, match=r"1 of 4 images can't be read: 'tail.jpg' \(is a web page"):
        require_test_images(table, find_unreadable(table.paths, 0, "decode"), "drop")


def test_the_path_says_so_to_workers(tmp_path: Path) -> None:
    path = salvage_path(cut_path(tmp_path / "a.jpg", None))
    assert path.damaged
    assert pickle.loads(pickle.dumps(path)).damaged
