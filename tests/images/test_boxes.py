"""A part of an image is read with the same pixels as a file that holds this part alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from lib.config.recipe import Data, Folds, Recipe
from lib.errors import FlukeError
from lib.images.augmentation import ResizeToSquare, make_eval_transform
from lib.images.cache import open_cache
from lib.images.dataset import ImageDataset
from lib.images.decoding import decode
from lib.pipelines.run_tables import make_dataset
from lib.tables.box import Box
from lib.tables.loading import load_train


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((320, 240), Image.Resampling.BICUBIC)
    smooth.save(tmp_path / "photo.jpg", quality=95)
    return tmp_path / "photo.jpg"


@pytest.mark.parametrize("box", [Box(40, 30, 100, 120), Box(0.125, 0.125, 0.3125, 0.5, relative=True), Box(-5, 200, 60.4, 90)])
def test_the_pixels_are_those_of_a_file_cropped_beforehand(photograph, box, tmp_path):
    left, top, width, height = box.pixels(320, 240)
    edges = [max(round(left), 0), max(round(top), 0), min(round(left + width), 320), min(round(top + height), 240)]
    Image.open(photograph).crop(edges).save(tmp_path / "cut.png")
    for side in (None, 32, 64):  # a JPEG as a whole would be decoded at an eighth of its size
        assert torch.equal(decode(photograph, side, box), decode(tmp_path / "cut.png", side))
    transform = ResizeToSquare(48, "squash")
    cut, whole = ImageDataset([tmp_path / "cut.png"], transform), ImageDataset([photograph], transform, boxes=[box])
    assert torch.equal(whole[0, 0, 0][0], cut[0, 0, 0][0])
    caches = [open_cache(tmp_path / "cache", [photograph], 32, 0, boxes=boxes).get(0) for boxes in ([box], None)]
    assert torch.equal(caches[0], open_cache(tmp_path / "cache", [tmp_path / "cut.png"], 32, 0).get(0))
    assert not torch.equal(caches[0], caches[1]) or caches[0].shape != caches[1].shape


def test_a_box_is_one_of_the_upright_image(photograph, tmp_path):
    image = Image.open(photograph)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image.save(tmp_path / "lying.png", exif=exif)
    upright = image.transpose(Image.Transpose.ROTATE_270)
    upright.crop((10, 20, 110, 220)).save(tmp_path / "cut.png")
    assert torch.equal(decode(tmp_path / "lying.png", None, Box(10, 20, 100, 200)), decode(tmp_path / "cut.png"))


@pytest.mark.parametrize("quarter", [1, 2, 3])
def test_a_turned_box_is_upright(photograph, quarter):
    """Around the middle of a square, quarter turns are exact; clockwise in the image is back in the result."""
    square = decode(photograph, None, Box(100, 60, 80, 80))
    turned = decode(photograph, None, Box(100, 60, 80, 80, quarter * np.pi / 2))
    expected = torch.rot90(square, quarter, (1, 2))
    assert (turned.int() - expected.int()).abs().max() <= 1


def test_a_slightly_turned_box_shows_a_slanted_line_straight(tmp_path):
    pixels = np.zeros((200, 200, 3), np.uint8)
    x = np.arange(200)
    for shift in range(-2, 3):
        pixels[(100 + np.round((x - 100) * np.tan(0.3)).astype(int) + shift).clip(0, 199), x] = 255
    Image.fromarray(pixels).save(tmp_path / "line.png")
    found = decode(tmp_path / "line.png", None, Box(50, 80, 100, 40, 0.3))[0].float()
    assert found[20].mean() > 250  # the line runs down to the right: clockwise
    assert found[:10].mean() < 5


def test_a_box_outside_of_the_image_is_refused(photograph):
    with pytest.raises(FlukeError, match=r"photo.jpg: can't be decoded \(the box 400, 0, 10, 10 holds no pixel of 320 x 240"):
        decode(photograph, None, Box(400, 0, 10, 10))


@pytest.mark.parametrize("cache", [None, "cache"])
def test_a_table_with_boxes_is_read_by_them(photograph, cache, tmp_path):
    (tmp_path / "copy.jpg").write_bytes(photograph.read_bytes())
    (tmp_path / "train.csv").write_text("image,label,x,y,w,h\nphoto.jpg,a,40,30,100,120\ncopy.jpg,b,,,,\n")
    data = Data(root=str(tmp_path), size=32, box_columns=["x", "y", "w", "h"], cache_dir=cache and str(tmp_path / cache), workers=0)
    images = make_dataset(Recipe(data=data), load_train(data, Folds()), make_eval_transform(data))
    whole = ImageDataset([photograph], make_eval_transform(data))
    cut = ImageDataset([photograph], make_eval_transform(data), boxes=[Box(40, 30, 100, 120)])
    assert not torch.equal(images[0, 0, 0][0], whole[0, 0, 0][0])
    difference = (images[0, 0, 0][0].int() - cut[0, 0, 0][0].int()).abs().max()
    assert difference <= (0 if cache is None else 40)  # from a cache the image is resized twice
