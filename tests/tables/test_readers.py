"""Readers of tables by kind of file."""

import json
from pathlib import Path

import pytest

from lib.errors import FlukeError
from lib.tables.readers import read_columns

COCO = {
    "images": [
        {"id": 7, "file_name": "a/1.jpg", "width": 4},
        {"id": 8, "file_name": "b.jpg", "width": 5},
        {"id": 9, "file_name": "c.jpg"},
    ],
    "annotations": [
        {"id": 0, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4]},
        {"id": 1, "image_id": 7, "category_id": 3, "bbox": [2, 2, 3, 4]},
        {"id": 2, "image_id": 8, "category_id": 1},
        {"id": 3, "image_id": 8, "category_id": 3},
    ],
    "categories": [{"id": 1, "name": "Espèce"}, {"id": 3, "name": "other"}],
    "info": {"year": 2020},
}


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_coco_is_a_row_for_each_image_and_category(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "train.json"
    path.write_text(json.dumps(COCO, ensure_ascii=False), encoding=encoding)
    columns, rows = read_columns(path, {"image": "file_name", "label": "category_name", "id": "category_id"})
    assert columns["image"] == ["a/1.jpg", "b.jpg", "b.jpg", "c.jpg"]
    assert columns["label"] == ["other", "Espèce", "other", ""]
    assert columns["id"] == ["3", "1", "3", ""]
    assert rows.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.json", json.dumps([{"id": "01", "n": 1.5, "pixels": [1, 2], "ok": True}, {"id": "b", "n": None}])),
        ("t.jsonl", '{"id": "01", "n": 1.5, "ok": true}\n\n{"id": "b"}\n'),
        ("t.json", json.dumps({"id": {"0": "01", "1": "b"}, "n": {"0": 1.5, "1": None}, "ok": {"0": True}})),
        ("t.json", json.dumps({"id": ["01", "b"], "n": [1.5, None], "ok": [True, None]})),
    ],
)
def test_json_of_records_lines_and_columns(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    columns, _ = read_columns(tmp_path / name, {"id": "id", "n": "n", "ok": "ok"})
    assert columns == {"id": ["01", "b"], "n": ["1.5", ""], "ok": ["true", ""]}


@pytest.mark.parametrize(
    ("content", "fault"), [("[1, 2]", "is no table"), ("{", "not readable as JSON"), ('{"images": [{}]}', "lacks 'id'")]
)
def test_other_json_is_refused(tmp_path: Path, content: str, fault: str) -> None:
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(FlukeError, match=fault):
        read_columns(tmp_path / "t.json", {"id": "id"})


def test_a_header_may_hold_another_readers_delimiter(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image;size (w,h);label\na.jpg;4,5;x\nb.jpg;4,6;y\n")
    assert read_columns(tmp_path / "t.csv", {"label": "label"})[0] == {"label": ["x", "y"]}
