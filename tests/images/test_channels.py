"""Images of other channels than RGB: several grey files, arrays of planes, bands of a file; and larger images than usual."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lib.config.recipe import Data, Folds
from lib.errors import FlukeError
from lib.images.augmentation import make_eval_transform, make_train_transform
from lib.images.cache import open_cache
from lib.images.checking import describe_sizes, find_unreadable
from lib.images.decoding import decode
from lib.images.duplicates import find_identical
from lib.images.near_duplicates import SIDE
from lib.images.opening import open_image
from lib.reports.thumbnails import thumbnail
from lib.tables.image_path import make_image_path
from lib.tables.loading import load_files, load_train
from lib.tables.target import ONE_LABEL
from tests.images.made_files import noise, save

COLOURS = ["{name}_red.png", "{name}_green.png", "{name}_blue.png", "{name}_yellow.png"]


def stacked(root: Path, name: str, planes: np.ndarray) -> None:
    for pattern, plane in zip(COLOURS, planes):
        save(root / pattern.replace("{name}", name), plane)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for i, name in enumerate("abc"):
        stacked(tmp_path, name, np.random.default_rng(i).integers(0, 256, (4, 20, 30)).astype(np.uint8))
    (tmp_path / "train.csv").write_text("image,label\na,x\nb,y\nc,y\n")
    return tmp_path


def paths(root: Path, **fields: object) -> list[Path]:
    return load_train(Data(root=str(root), **({"channels": COLOURS} | fields)), Folds()).paths  # type: ignore[arg-type]


def test_grey_files_become_channels(root: Path) -> None:
    found = paths(root)
    image = decode(found[1])
    assert (image.dtype, tuple(image.shape)) == (torch.uint8, (4, 20, 30))
    for i, pattern in enumerate(COLOURS):
        np.testing.assert_array_equal(image[i], np.array(Image.open(root / pattern.replace("{name}", "b"))))
    again = pickle.loads(pickle.dumps(found[1]))
    assert torch.equal(decode(again), image)
    assert find_unreadable(found, 0, "decode") == find_unreadable(found, 0, "header") == {}
    assert "short side 20 px" in describe_sizes(found)
    data = Data(channels=COLOURS, size=16)
    assert make_train_transform(data)(image).shape == make_eval_transform(data)(image).shape == (4, 16, 16)
    with pytest.raises(FlukeError, match="data.augment: ColorJitter can't be used"):
        make_train_transform(Data(channels=COLOURS, size=16, augment=[{"ColorJitter": {"hue": 0.1}}]))


def test_files_that_are_missing_damaged_or_unequal_are_named(root: Path) -> None:
    (root / "b_yellow.png").unlink()
    with pytest.raises(FlukeError, match=r"line 3 'b' \(no file b_yellow.png\)"):
        paths(root)
    save(root / "b_yellow.png", noise(20, 31)[..., 0])
    (root / "c_green.png").write_bytes(b"cut")
    found = find_unreadable(paths(root), 0, "decode")
    assert "several sizes (b_red.png 30 x 20, b_green.png 30 x 20" in found[1]
    assert "not an image" in found[2]
    assert 2 in find_unreadable(paths(root), 0, "header")
    with pytest.raises(FlukeError, match="images of 4 files each are named by a table"):
        load_files([root / "a_red.png"], (), ONE_LABEL, Data(channels=COLOURS))


def test_copies_have_the_same_bytes_in_all_files(root: Path) -> None:
    for colour in ("red", "green"):
        (root / f"b_{colour}.png").write_bytes((root / f"a_{colour}.png").read_bytes())
    assert find_identical(paths(root)) == []
    for colour in ("blue", "yellow"):
        (root / f"b_{colour}.png").write_bytes((root / f"a_{colour}.png").read_bytes())
    assert find_identical(paths(root)) == [[0, 1]]
    thumbnails = torch.zeros(3, 3, SIDE, SIDE, dtype=torch.uint8)
    assert find_unreadable(paths(root), 0, "decode", thumbnails=thumbnails) == {}
    assert torch.equal(thumbnails[0], thumbnails[1])


def test_the_cache_and_the_pages_hold_them(root: Path) -> None:
    found = paths(root)
    cache = open_cache(root / "cache", found, 64, 0)
    assert torch.equal(cache.take([2]).get(0), decode(found[2]))
    save(root / "c_blue.png", noise(20, 30)[..., 0])  # a changed channel is a changed image
    assert torch.equal(open_cache(root / "cache", found, 64, 0).get(2), decode(found[2]))
    rgb = Image.merge("RGB", [Image.open(root / f"a_{colour}.png") for colour in ("red", "green", "blue")])
    rgb.save(root / "rgb.png")
    assert thumbnail(found[0], 16) == thumbnail(root / "rgb.png", 16)


def test_arrays_of_planes_and_bands_of_a_file(tmp_path: Path) -> None:
    planes = np.random.default_rng(0).integers(0, 256, (5, 8, 9)).astype(np.uint8)
    np.save(tmp_path / "first.npy", planes)
    np.save(tmp_path / "last.npy", np.moveaxis(planes, 0, -1))
    np.save(tmp_path / "deep.npy", planes.astype(np.uint16) * 257)
    for name in ("first", "last", "deep"):
        path = make_image_path(tmp_path / f"{name}.npy", 5, 10**8)
        np.testing.assert_array_equal(decode(path), planes)
        assert "short side 8 px" in describe_sizes([path])
        assert thumbnail(path, 8).startswith("data:image/jpeg")
    with pytest.raises(FlukeError, match=r"an array \(5, 8, 9\) has no axis of 4 channels \(data.channels\)"):
        decode(make_image_path(tmp_path / "first.npy", 4, 10**8))
    rgba = save(tmp_path / "rgba.png", np.random.default_rng(1).integers(0, 256, (8, 9, 4)).astype(np.uint8))
    np.testing.assert_array_equal(decode(make_image_path(rgba, 4, 10**8)), np.array(Image.open(rgba)).transpose(2, 0, 1))
    rgb = save(tmp_path / "rgb.png", noise(8, 9))
    with pytest.raises(FlukeError, match="has 3 channels, but data.channels is 4"):
        decode(make_image_path(rgb, 4, 10**8))
    assert decode(make_image_path(rgb, 1, 10**8)).shape == (1, 8, 9)


def test_pages_show_the_first_three_planes_as_red_green_and_blue(tmp_path: Path) -> None:
    planes = np.full((5, 8, 8), 128, np.uint8) * np.array([1, 0, 0, 1, 1], np.uint8)[:, None, None]
    np.save(tmp_path / "a.npy", planes)
    with open_image(make_image_path(tmp_path / "a.npy", 5, 10**8)) as shown:
        assert np.array(shown)[0, 0].tolist() == [128, 0, 0]
    np.save(tmp_path / "b.npy", planes[2:4])
    with open_image(make_image_path(tmp_path / "b.npy", 2, 10**8)) as shown:
        assert np.array(shown)[0, 0].tolist() == [0, 128, 128]


def test_larger_images_are_allowed_by_a_field_and_read_scaled(tmp_path: Path) -> None:
    large = tmp_path / "large.jpg"
    Image.new("L", (12_000, 9_000), 77).save(large)  # 108 megapixels
    (tmp_path / "train.csv").write_text("image,label\nlarge,x\nsmall,y\n")
    save(tmp_path / "small.png", noise(20, 30))
    usual = paths(tmp_path, channels=3)
    assert "must be below 100 megapixels (data.max_megapixels)" in find_unreadable(usual, 0, "header")[0]
    allowed = paths(tmp_path, channels=3, max_megapixels=120.0)
    assert find_unreadable(allowed, 0, "decode") == {}
    assert decode(allowed[0], 200).shape == (3, 1125, 1500)
    assert decode(allowed[0], 200).unique().tolist() == [77]
    assert Image.MAX_IMAGE_PIXELS is not None


def test_pyramids_are_read_at_the_page_that_is_large_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib.images.decoding.MAX_PIXELS", 1000)
    pages = [Image.new("RGB", (side, side // 2), (value, 0, 0)) for side, value in ((80, 10), (40, 20), (20, 30), (16, 40))]
    pages[-1] = Image.new("RGB", (16, 16), (40, 0, 0))  # a label that was scanned beside the slide
    pages[0].save(tmp_path / "a.tiff", save_all=True, append_images=pages[1:])
    assert decode(tmp_path / "a.tiff", 15).shape == (3, 20, 40)
    assert decode(tmp_path / "a.tiff", 10).shape == (3, 10, 20)
    assert decode(tmp_path / "a.tiff", 30).shape == decode(tmp_path / "a.tiff").shape == (3, 40, 80)
