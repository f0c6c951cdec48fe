"""Copies of photographs: found however they were edited, and nothing else is."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

from lib.errors import Interrupted
from lib.images.checking import find_unreadable
from lib.images.near_duplicates import SIDE, find_copies

EDITS = {
    "resized": lambda image: image.resize((image.width // 2, image.height * 2 // 3)),
    "recompressed": lambda image: image,
    "mirrored": ImageOps.mirror,
    "cropped": lambda image: image.crop((9, 4, image.width - 3, image.height - 8)),
    "all": lambda image: ImageOps.mirror(image.crop((6, 6, image.width, image.height - 5))).resize((180, 190)),
}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """11 photographs of 210 px: parts of two larger ones that don't overlap."""
    folder = tmp_path_factory.mktemp("photographs")
    paths = []
    for number, pixels in enumerate(load_sample_images().images):
        for row, column in product(range(2), range(3)):
            if (number, row, column) != (1, 0, 2):  # out of focus: nothing to register
                path = folder / f"{number}{row}{column}.png"
                Image.fromarray(pixels[row * 212 : row * 212 + 210, column * 213 : column * 213 + 210]).save(path)
                paths.append(path)
    return paths


def thumbnails_of(paths: list[Path]) -> torch.Tensor:
    thumbnails = torch.zeros(len(paths), 3, SIDE, SIDE, dtype=torch.uint8)
    find_unreadable(paths, 0, "decode", thumbnails=thumbnails)
    return thumbnails


@pytest.mark.parametrize("edit", EDITS)
def test_every_copy_is_found_and_no_other_pair(photographs: list[Path], tmp_path: Path, edit: str) -> None:
    copies = []
    for path in photographs:
        EDITS[edit](Image.open(path)).save(tmp_path / f"{path.stem}.jpg", quality=85)
        copies.append(tmp_path / f"{path.stem}.jpg")
    paths = photographs + copies
    assert find_copies(paths, thumbnails_of(paths), []) == [[i, i + len(photographs)] for i in range(len(photographs))]


def test_parts_that_overlap_by_half_are_other_photographs(tmp_path: Path) -> None:
    pixels = load_sample_images().images[0]
    paths = [tmp_path / f"{left}.png" for left in range(0, 400, 80)]
    for path in paths:
        Image.fromarray(pixels[:160, int(path.stem) : int(path.stem) + 160]).save(path)
    assert find_copies(paths, thumbnails_of(paths), []) == []


def test_sets_of_identical_files_are_joined(photographs: list[Path], tmp_path: Path) -> None:
    ImageOps.mirror(Image.open(photographs[3])).save(tmp_path / "a.png")
    paths = [*photographs, tmp_path / "a.png"]
    assert find_copies(paths, thumbnails_of(paths), [[3, 7], [8, 9, 10]]) == [[3, 7, 11], [8, 9, 10]]


def test_unreadable_files_are_named_and_are_no_copies(photographs: list[Path], tmp_path: Path) -> None:
    paths = [*photographs[:3], tmp_path / "a.png", tmp_path / "b.png"]
    (tmp_path / "a.png").write_bytes(photographs[0].read_bytes()[:2000])
    (tmp_path / "b.png").write_bytes(photographs[0].read_bytes()[:1900])
    thumbnails = torch.zeros(5, 3, SIDE, SIDE, dtype=torch.uint8)
    assert sorted(find_unreadable(paths, 0, "header", thumbnails=thumbnails)) == [3, 4]
    assert thumbnails[:3].float().mean((1, 2, 3)).min() > 0
    assert find_copies(paths, thumbnails, []) == []


def test_many_images_are_searched_by_cells_with_the_same_result(
    photographs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 4, 4, 3), dtype=np.uint8)
    paths = [*photographs, *(tmp_path / f"{i}.png" for i in range(200)), tmp_path / "copy.jpg"]
    for i, pixels in enumerate(noise):
        Image.fromarray(pixels).resize((64, 64)).save(tmp_path / f"{i}.png")
    ImageOps.mirror(Image.open(photographs[5])).save(tmp_path / "copy.jpg")
    monkeypatch.setattr("lib.images.near_duplicates.EXACT", 50)
    assert find_copies(paths, thumbnails_of(paths), []) == [[5, 211]]


def test_one_image_and_none_have_no_copies(photographs: list[Path]) -> None:
    for paths in ([], photographs[:1]):
        assert find_copies(paths, thumbnails_of(paths), []) == []


def test_comparing_can_be_stopped(photographs: list[Path]) -> None:
    def stop() -> None:
        raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        find_copies(photographs, thumbnails_of(photographs), [], stop)
