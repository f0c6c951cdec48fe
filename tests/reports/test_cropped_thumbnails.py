"""Pages show the part of a photograph that the network sees: what lies in its box, turned upright."""

import base64
import copy
import io
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from lib.images.decoding import decode
from lib.reports import html, query_pages
from lib.reports.query_pages import write_query_pages
from lib.reports.thumbnails import thumbnail
from lib.retrieval.gallery import open_gallery
from lib.tables.box import Box, read_box
from lib.tables.image_path import box_of, cut_path
from scripts import retrieve

COLOURS = {"red": (230, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 230), "yellow": (230, 220, 20)}


def shown(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB"), np.float64)


def quarters(path: Path, **options: object) -> Path:
    """Write a picture of four colours: red, green above, blue, yellow below."""
    image = Image.new("RGB", (800, 400), COLOURS["red"])
    for name, place in (("green", (400, 0)), ("blue", (0, 200)), ("yellow", (400, 200))):
        image.paste(COLOURS[name], (*place, place[0] + 400, place[1] + 200))
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    "box", [Box(500, 250, 200, 100), Box(0.2, 0.3, 0.5, 0.4, relative=True), Box(100, 100, 260, 120, 0.7), Box(380, 180, 8, 4)]
)
def test_a_thumbnail_shows_what_is_read(tmp_path: Path, suffix: str, orientation: int, box: Box) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    if orientation == 6:  # the upright picture is 400 wide and 800 high
        box = box._replace(x=box.y, y=box.x, width=box.height, height=box.width)
    path = quarters(tmp_path / f"a.{suffix}", exif=exif)
    found = shown(thumbnail(cut_path(path, box), 96))
    read = Image.fromarray(decode(path, None, box).permute(1, 2, 0).numpy())
    read.thumbnail((96, 96))
    assert found.shape == (read.height, read.width, 3)
    assert np.abs(found - np.asarray(read, np.float64)).mean() < 16


def test_a_box_belongs_to_the_path(tmp_path: Path) -> None:
    plain, one, other = tmp_path / "a.png", Box(1, 2, 3, 4, 0.5), Box(0.1, 0.2, 0.3, 0.4, relative=True)
    assert cut_path(plain, None) is plain
    paths = [plain, cut_path(plain, one), cut_path(plain, other)]
    assert len(set(paths)) == 3  # two animals of one photograph are two pictures
    assert paths[1] != plain != paths[2]
    assert paths[1] == cut_path(plain, one)
    assert [box_of(pickle.loads(pickle.dumps(path))) for path in paths] == [None, one, other]
    assert [box_of(copy.copy(path)) for path in paths] == [None, one, other]
    assert [read_box(box.text) for box in (one, other)] == [one, other]
    assert read_box("") is None


def test_a_gallery_with_boxes_shows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As queries and as answers, on one page and on several."""
    import timm

    torch.manual_seed(0)
    torch.save(timm.create_model("resnet10t").state_dict(), tmp_path / "weights.pth")
    (tmp_path / "images").mkdir()
    rows = []
    for number in range(8):
        quarters(tmp_path / "images" / f"{number}.png")
        rows.append((f"{number}.png", "rb"[number % 2], 0, 200 * (number % 2), 400, 200))
    table = pd.DataFrame(rows, columns=["image", "label", "x", "y", "w", "h"])
    table.to_csv(tmp_path / "train.csv", index=False)
    options = ["--data.root", str(tmp_path), "--data.image_dir", "images", "--data.size", "32", "--data.workers", "0"]
    options += ["--data.box_columns", "[x, y, w, h]", "--out", str(tmp_path / "out")]
    retrieve.main(["--model", "resnet10t", "--weights", str(tmp_path / "weights.pth"), *options])
    gallery = tmp_path / "out" / "gallery"
    boxes = open_gallery(gallery).rows.boxes
    assert [read_box(text) for text in boxes.tolist()] == [Box(*row[2:]) for row in rows]
    for name in ("red.jpg", "blue.jpg"):  # other files than the gallery's
        quarters(tmp_path / "images" / name, comment=name.encode())
    asked = pd.DataFrame({"image": ["red.jpg", "blue.jpg"], "x": 0, "y": [0, 200], "w": 400, "h": 200})
    asked.to_csv(tmp_path / "asked.csv", index=False)
    drawn = []

    def remember(path: Path, page: html.Page, queries: list[html.Query], score: str) -> None:
        drawn.extend(queries)
        write_query_pages(path, page, queries, score)

    monkeypatch.setattr("lib.reports.retrieval_page.write_query_pages", remember)
    retrieve.main(["--gallery", str(gallery), "--queries", str(tmp_path / "asked.csv"), "--image_dir", str(tmp_path / "images")])
    assert len(drawn) == 2
    for query in drawn:
        colour = query.name.removesuffix(".jpg")
        assert shown(thumbnail(query.image, 32)).mean(axis=(0, 1)) == pytest.approx(COLOURS[colour], abs=12)
        answers = [answer for answer in query.answers if answer.name != "new"]
        first = {"r": "red", "b": "blue"}[answers[0].name]
        assert first == colour
        assert answers[0].image is not None
        assert shown(thumbnail(answers[0].image, 32)).mean(axis=(0, 1)) == pytest.approx(COLOURS[colour], abs=12)
    monkeypatch.setattr(query_pages, "PER_PAGE", 1)
    write_query_pages(tmp_path / "many.html", html.Page("t"), drawn, "cosine")
    assert len(list((tmp_path / "many_pages").glob("*.jpg"))) >= 4
    assert Image.MAX_IMAGE_PIXELS is not None  # after several threads opened images
