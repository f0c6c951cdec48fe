"""Lists in text files without column names, and image names that several columns make up."""

from pathlib import Path

import pytest

from lib.config.recipe import Data
from lib.errors import FlukeError
from lib.tables.loading import load_test
from lib.tables.readers import read_columns, read_header
from lib.tables.target import ONE_LABEL
from tests.tables.test_forms import images, labels, train


def test_names_without_endings_in_class_folders(tmp_path: Path) -> None:
    """As Food-101 has them: which images are for training, and which for the test."""
    images(tmp_path, "images/pie/1.jpg", "images/pie/2.jpg", "images/soup/1.jpg", "images/soup/7.jpg")
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/train.txt").write_text("pie/2\nsoup/1\n\n")
    (tmp_path / "meta/test.txt").write_text("soup/7\npie/1\n")
    fields = {"image_dir": "images", "image_column": "train_1", "label_pattern": "^([^/]+)/", "train_csv": "meta/train.txt"}
    assert labels(train(tmp_path, **fields)) == {"pie/2": ("pie",), "soup/1": ("soup",)}
    fields |= {"test_csv": "meta/test.txt", "test_image_column": "test_1"}
    test = load_test(Data(root=str(tmp_path), **fields), ("pie", "soup"), ONE_LABEL)  # type: ignore[arg-type]
    assert test is not None
    assert test.names == ["soup/7", "pie/1"]


def test_lists_are_joined_on_a_number(tmp_path: Path) -> None:
    """As CUB-200 has them: images.txt, train_test_split.txt, each row with the number of an image."""
    images(tmp_path, "a.Wren/1.jpg", "b.Owl/2.jpg", "b.Owl/3.jpg")
    (tmp_path / "images.txt").write_text("1 a.Wren/1.jpg\n2 b.Owl/2.jpg\n3 b.Owl/3.jpg\n")
    (tmp_path / "split.txt").write_text("1 1\n2 0\n3 1\n")
    fields = {"train_csv": "images.txt", "image_column": "images_2", "label_pattern": r"\.(\w+)/"}
    fields |= {"join_csv": "split.txt", "join_key": ["images_1", "split_1"], "train_where": {"split_2": "1"}}
    assert labels(train(tmp_path, **fields)) == {"a.Wren/1.jpg": ("Wren",), "b.Owl/3.jpg": ("Owl",)}


def test_a_list_names_the_rows_of_a_table_with_labels(tmp_path: Path) -> None:
    """As NIH's chest X-rays have them: the labels of all images in one table, those for training in a list."""
    images(tmp_path, "1.png", "2.png", "3.png")
    (tmp_path / "all.csv").write_text("Image Index,Finding Labels\n1.png,Mass|Hernia\n2.png,Mass\n3.png,Hernia\n")
    (tmp_path / "train_val_list.txt").write_text("3.png\n1.png\n")
    fields = {"train_csv": "train_val_list.txt", "image_column": "train_val_list_1", "join_csv": "all.csv"}
    found = train(tmp_path, **fields, label_column="Finding Labels", label_separator="|")
    assert labels(found) == {"3.png": ("Hernia",), "1.png": ("Mass", "Hernia")}


def test_comments_and_ragged_rows(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("#Image CLASS SPECIES\nCat_1 1 1\n# more\nDog_2  2   1\n")
    assert read_header(path) == ["list_1", "list_2", "list_3"]
    columns, lines = read_columns(path, {"image": "list_1", "label": "list_2"})
    assert columns == {"image": ["Cat_1", "Dog_2"], "label": ["1", "2"]}
    assert lines.tolist() == [2, 4]
    path.write_text("a.jpg 1\nb.jpg\n")
    with pytest.raises(FlukeError, match=r"list.txt: 1 rows don't have 2 fields .*: line 2 \(1\); make it a CSV file"):
        read_columns(path, {"image": "list_1"})


@pytest.mark.parametrize("text", ["image\na.jpg\nb.jpg\n", "image,label\na.jpg,x\nb.jpg,y\n", "image\tlabel\na.jpg\tx\nb.jpg\ty\n"])
def test_a_text_file_with_column_names_is_read_as_csv(tmp_path: Path, text: str) -> None:
    (tmp_path / "train.txt").write_text(text)
    assert read_columns(tmp_path / "train.txt", {"image": "image"})[0] == {"image": ["a.jpg", "b.jpg"]}


def test_several_columns_make_up_a_name(tmp_path: Path) -> None:
    """As the cellular images of Recursion have them, whose sample lists another column."""
    for well in ("RPE/Plate1/B02", "RPE/Plate2/B02", "U2OS/Plate1/C03"):
        images(tmp_path, f"train/{well}_w1.png", f"train/{well}_w2.png")
    rows = "id,experiment,plate,well,sirna\n1,RPE,1,B02,a\n2,RPE,2,B02,b\n3,U2OS,1,C03,a\n"
    (tmp_path / "train.csv").write_text(rows)
    (tmp_path / "s.csv").write_text("id,sirna\n3,a\n1,a\n2,a\n")
    fields = {"image_column": "{experiment}/Plate{plate}/{well}", "channels": ["{name}_w1.png", "{name}_w2.png"]}
    found = train(tmp_path, **fields, image_dir="train", label_column="sirna")
    assert labels(found) == {"RPE/Plate1/B02": ("a",), "RPE/Plate2/B02": ("b",), "U2OS/Plate1/C03": ("a",)}
    data = Data(root=str(tmp_path), test_csv="train.csv", test_dir="train", sample_submission="s.csv", id_column="id", **fields)  # type: ignore[arg-type]
    test = load_test(data, ("a", "b"), ONE_LABEL)
    assert test is not None
    assert test.ids == ["1", "2", "3"]
    with pytest.raises(FlukeError, match=r"has no column 'plat' \(data.image_column plat\).*did you mean plate"):
        train(tmp_path, image_column="{experiment}/{plat}", label_column="sirna")
    with pytest.raises(FlukeError, match=r"data.image_column '\{plate': names columns between"):
        train(tmp_path, image_column="{plate", label_column="sirna")


@pytest.mark.parametrize("fields", [{"label_pattern": r"^(\d+)_"}, {}], ids=["file names", "folders"])
def test_numbers_in_names_are_learnt(tmp_path: Path, fields: dict[str, str]) -> None:
    """As UTKFace has them: the age begins the name of the file."""
    names = ["35_0.jpg", "7_1.jpg"] if fields else ["35/0.jpg", "7/1.jpg"]
    images(tmp_path, *(f"faces/{name}" for name in names))
    found = train(tmp_path, train_csv=None, train_dir="faces", task="number", **fields)
    assert found.target.numeric
    assert found.targets().tolist() == [[35.0], [7.0]]
