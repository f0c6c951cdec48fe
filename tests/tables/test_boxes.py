"""Boxes are read from columns and from MegaDetector's JSON, and what is no box is refused."""

import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from lib.config.recipe import Data, Folds
from lib.errors import FlukeError
from lib.tables.box import Box
from lib.tables.loading import load_images, load_test, load_train
from lib.tables.target import ONE_LABEL


def contest(root: Path, **columns) -> None:
    names = ["a.png", "b.png", "c.png"]
    (root / "deep").mkdir()
    for name in names:
        Image.new("RGB", (40, 30)).save(root / name)
    pd.DataFrame({"image": names, "label": ["x", "y", "x"], **columns}).to_csv(root / "train.csv", index=False)


def test_columns_of_size_and_of_corners(tmp_path):
    contest(tmp_path, x=[1, 2, 3], y=[4, 5, 6], w=[10, 11, 12], h=["7", "8", "9"], t=[0, 0.5, -0.5])
    given = Data(root=str(tmp_path), box_columns=["x", "y", "w", "h"])
    assert load_train(given, Folds()).boxes == [Box(1, 4, 10, 7), Box(2, 5, 11, 8), Box(3, 6, 12, 9)]
    corners = Data(root=str(tmp_path), box_columns=["x", "y", "w", "h", "t"], box_form="corners")
    assert load_train(corners, Folds()).boxes == [Box(1, 4, 9, 3), Box(2, 5, 9, 3, 0.5), Box(3, 6, 9, 3, -0.5)]
    assert load_train(corners, Folds()).take([2, 0]).boxes == [Box(3, 6, 9, 3, -0.5), Box(1, 4, 9, 3)]


def test_shares_of_the_sides_and_blank_cells(tmp_path):
    contest(tmp_path, x=[0.1, "", 0], y=[0.2, "", 0], w=[0.5, "", 1], h=[0.5, "", 1])
    table = load_train(Data(root=str(tmp_path), box_columns=["x", "y", "w", "h"]), Folds())
    assert table.boxes == [Box(0.1, 0.2, 0.5, 0.5, relative=True), None, Box(0, 0, 1, 1, relative=True)]
    assert "1 of 3 images have no box and are read whole" in table.notes
    assert Box(0.1, 0.2, 0.5, 0.5, relative=True).pixels(40, 30) == (4, 6, 20, 15)


def test_tables_to_predict_may_lack_the_columns(tmp_path):
    contest(tmp_path, x=[1, 2, 3], y=[4, 5, 6], w=[10, 11, 12], h=[7, 8, 9])
    pd.DataFrame({"image": ["a.png"]}).to_csv(tmp_path / "test.csv", index=False)
    data = Data(root=str(tmp_path), box_columns=["x", "y", "w", "h"], test_csv="test.csv")
    table = load_test(data, (), ONE_LABEL)
    assert table is not None
    assert table.boxes is None
    assert any("whole images are read" in note for note in table.notes)
    with pytest.raises(FlukeError, match=r"train.csv: has no column 'z' \(data.box_columns z\)"):
        load_train(Data(root=str(tmp_path), box_columns=["z", "y", "w", "h"]), Folds())


def test_the_most_confident_animal_of_megadetector(tmp_path):
    contest(tmp_path)

    def found(category, conf, *box):
        return {"category": category, "conf": conf, "bbox": list(box)}

    images = [
        {"file": "cam\\a.png", "detections": [found("1", 0.4, 0, 0, 0.5, 0.5), found("1", 0.9, 0.1, 0.1, 0.2, 0.3)]},
        {"file": "cam/b.png", "detections": [found("2", 0.99, 0, 0, 1, 1), found("1", 0.1, 0, 0, 1, 1)]},
        {"file": "cam/c.png", "failure": "Failure image access"},
    ]
    names = {"1": "animal", "2": "person", "3": "vehicle"}
    (tmp_path / "md.json").write_text(json.dumps({"images": images, "detection_categories": names}))
    data = Data(root=str(tmp_path), detections="md.json")
    assert load_train(data, Folds()).boxes == [Box(0.1, 0.1, 0.2, 0.3, relative=True), None, None]
    assert load_images(tmp_path, [tmp_path], data, (), ONE_LABEL).boxes == [Box(0.1, 0.1, 0.2, 0.3, relative=True), None, None]
    (tmp_path / "md.json").write_text(json.dumps({"images": images[:2]}))
    with pytest.raises(FlukeError, match=r"md.json: lacks 1 of the images \(c.png\)"):
        load_train(data, Folds())
    for content in ([], {"images": [{"detections": []}]}, {"images": [{"file": "a.png", "detections": [{"conf": 1}]}]}):
        (tmp_path / "md.json").write_text(json.dumps(content))
        with pytest.raises(FlukeError, match="is not a result of MegaDetector"):
            load_train(data, Folds())


@pytest.mark.parametrize("width", ["0", "-3", "x", "", "nan"])
def test_cells_that_are_no_box_are_refused(width, tmp_path):
    contest(tmp_path, x=[1, 2, 3], y=[4, 5, 6], w=["5", width, "5"], h=[7, 8, 9])
    with pytest.raises(FlukeError, match=r"train.csv: 1 rows hold no box \(data.box_columns\): line 3 'b.png'"):
        load_train(Data(root=str(tmp_path), box_columns=["x", "y", "w", "h"]), Folds())
