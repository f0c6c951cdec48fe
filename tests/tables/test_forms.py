"""Tables in the forms in which contests publish them: labels, images, rows and ids in other places than one column of names."""

import json
from pathlib import Path

import pytest
from PIL import Image

from lib.config.recipe import Data, Folds
from lib.errors import FlukeError
from lib.tables.loading import load_test, load_train
from lib.tables.table import Table
from lib.tables.target import ONE_LABEL


def images(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9)).save(root / name)


def table(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.replace(" ", ","))


def train(root: Path, folds: Folds | None = None, **fields: object) -> Table:
    return load_train(Data(root=str(root), **fields), folds or Folds())  # type: ignore[arg-type]


def labels(found: Table) -> dict[str, tuple[str, ...]]:
    assert found.labels is not None
    return dict(zip(found.names, found.labels))


# --- labels -----------------------------------------------------------------------------------------------------------------------


def test_one_hot_columns_are_one_label_or_several(tmp_path: Path) -> None:
    images(tmp_path, "a.png", "b.png", "c.png")
    table(tmp_path / "train.csv", "image x_1 x_2 other\na 1.0 0.0 5\nb 0 1 5\nc 0 1.0 5\n")
    assert labels(train(tmp_path, label_columns=["x_*"])) == {"a": ("x_1",), "b": ("x_2",), "c": ("x_2",)}
    table(tmp_path / "train.csv", "image x_1 x_2\na 1 1\nb 0 1\nc 0 0\n")
    with pytest.raises(FlukeError, match=r"2 rows have no label or several in data\.label_columns: line 2, 4"):
        train(tmp_path, label_columns=["x_1", "x_2"])
    several = train(tmp_path, label_columns=["x_1", "x_2"], label_separator=" ")
    assert labels(several) == {"a": ("x_1", "x_2"), "b": ("x_2",), "c": ()}
    for columns, fault in (
        (["y*"], "no column 'y\\*'"),
        (["x_1"], "a single column is data.label_column"),
        (["image", "x_1"], "no number"),
    ):
        with pytest.raises(FlukeError, match=fault):
            train(tmp_path, label_columns=columns)


def test_labels_in_names_and_in_folders_of_any_depth(tmp_path: Path) -> None:
    images(tmp_path, "t/cat.0.png", "t/dog.1.png", "t/more/cat.2.png", "t/readme.png", "test/cat.9.png")
    found = train(tmp_path, train_csv=None, train_dir="t", label_pattern=r"(?P<label>cat|dog)\.")
    assert labels(found) == {"cat.0.png": ("cat",), "dog.1.png": ("dog",), "more/cat.2.png": ("cat",)}
    assert "1 images without a label left out (readme.png)" in found.notes[0]
    for pattern, fault in (("(cow)", "finds no label in any of 4 image names"), ("(cow", "not a regular expression")):
        with pytest.raises(FlukeError, match=fault):
            train(tmp_path, train_csv=None, train_dir="t", label_pattern=pattern)
    second = train(tmp_path, train_csv=None, train_dir="t", label_pattern=r"(cat|dog)\.(\d)")
    assert labels(second)["dog.1.png"] == ("dog",)  # of several groups without a name, the first


def test_classes_are_merged_renamed_and_left_out(tmp_path: Path) -> None:
    images(tmp_path, "Cover/1.png", "A/1.png", "B/1.png", "Test/9.png", "Docs/1.png")
    fields = {"train_csv": None, "train_dir": ".", "test_dir": "Test"}
    found = train(tmp_path, class_map={"Cover": "0", "A": "1", "B": "1", "Docs": None}, **fields)
    assert labels(found) == {"A/1.png": ("1",), "B/1.png": ("1",), "Cover/1.png": ("0",)}
    assert found.classes == ("0", "1")
    assert any("is no class, because data.test_dir is there" in note for note in found.notes)
    with pytest.raises(FlukeError, match="no label 'Covr'; did you mean Cover"):
        train(tmp_path, class_map={"Covr": "0"}, **fields)


def test_images_without_a_label_stay_where_a_label_is_left_out(tmp_path: Path) -> None:
    images(tmp_path, "a.png", "b.png", "c.png", "d.png")
    table(tmp_path / "train.csv", "image x y z\na 1 1 0\nb 0 1 0\nc 0 0 0\nd 1 0 1\n")
    found = train(tmp_path, label_columns=["x", "y", "z"], label_separator=" ", class_map={"y": None})
    assert labels(found) == {"a": ("x",), "c": (), "d": ("x", "z")}


def test_a_row_for_each_label_of_an_image(tmp_path: Path) -> None:
    images(tmp_path, "a.png", "b.png")
    table(tmp_path / "train.csv", "image label\na x\nb y\na y\n")
    assert labels(train(tmp_path, label_separator=" ")) == {"a": ("x", "y"), "b": ("y",)}
    with pytest.raises(FlukeError, match="more than one row"):
        train(tmp_path)


# --- images -----------------------------------------------------------------------------------------------------------------------


def test_images_further_down_are_found_by_their_names(tmp_path: Path) -> None:
    images(tmp_path, "im/5/a.png", "im/7/x/b.png", "im/c.png")
    table(tmp_path / "train.csv", "image label\na x\nb.png y\nc y\n")
    found = train(tmp_path, image_dir="im")
    assert [path.relative_to(tmp_path).as_posix() for path in found.paths] == ["im/5/a.png", "im/7/x/b.png", "im/c.png"]
    assert "2 images found by their names in folders below" in found.notes[0]
    images(tmp_path, "im/8/a.png")
    with pytest.raises(FlukeError, match=r"'a' \(5/a.png, 8/a.png\)"):
        train(tmp_path, image_dir="im")


def test_a_row_may_have_several_images_which_stay_together(tmp_path: Path) -> None:
    images(tmp_path, "im/p1-1.png", "im/p1-2.png", "im/p2-1.png", "im/p22-1.png")
    table(tmp_path / "train.csv", "image label\np1 x\np2 y\n")
    found = train(tmp_path, image_dir="im", image_pattern="{name}-*.png")
    assert labels(found) == {"p1-1.png": ("x",), "p1-2.png": ("x",), "p2-1.png": ("y",)}
    assert found.groups is not None
    assert found.groups.tolist() == found.ids == ["p1", "p1", "p2"]
    table(tmp_path / "train.csv", "image label\np1 x\np3 y\n")
    with pytest.raises(FlukeError, match="1 of 2 rows have no image: 'p3'"):
        train(tmp_path, image_dir="im", image_pattern="{name}-*.png")


# --- rows and ids -----------------------------------------------------------------------------------------------------------------


def test_one_table_holds_training_and_test_rows(tmp_path: Path) -> None:
    images(tmp_path, *[f"{name}.png" for name in "abcd"])
    table(tmp_path / "train.csv", "id path split label\n7 a.png database x\n8 b.png query \n9 c.png database y\n3 d.png val \n")
    fields = {"image_column": "path", "train_where": {"split": "database"}, "test_where": {"split": ["query", "val"]}}
    found = train(tmp_path, **fields)
    assert labels(found) == {"a.png": ("x",), "c.png": ("y",)}
    assert found.rows.tolist() == [0, 2]
    assert found.lines is not None
    assert found.lines.tolist() == [2, 4]
    table(tmp_path / "sample.csv", "id label\n3 x\n8 x\n")
    data = Data(root=str(tmp_path), sample_submission="sample.csv", **fields)  # type: ignore[arg-type]
    test = load_test(data, found.classes, ONE_LABEL)
    assert test is not None
    assert (test.names, test.ids, test.labels) == (["b.png", "d.png"], ["8", "3"], None)
    assert "the sample's ids are in the column 'id'" in test.notes[-1]
    with pytest.raises(FlukeError, match=r"no row has split 'train' \(data.train_where\); found: 'database', 'query', 'val'"):
        train(tmp_path, image_column="path", train_where={"split": "train"})


def test_ids_of_coco_images_are_found_and_several_images_may_have_one(tmp_path: Path) -> None:
    images(tmp_path, "t/1.png", "t/2.png", "t/3.png")
    records = [{"id": i, "file_name": f"{i}.png", "breast": "L" if i < 3 else "R"} for i in (1, 2, 3)]
    (tmp_path / "test.json").write_text(json.dumps({"images": records}))
    data = {
        "root": str(tmp_path),
        "test_csv": "test.json",
        "test_dir": "t",
        "image_column": "file_name",
        "sample_submission": "s.csv",
    }
    table(tmp_path / "s.csv", "Breast cancer\nR 0\nL 0\n")
    test = load_test(Data(**data), ("0", "1"), ONE_LABEL)  # type: ignore[arg-type]
    assert test is not None
    assert test.ids == ["L", "L", "R"]
    assert test.answers == ["L", "R"]
    named = load_test(Data(**data, id_column="id"), ("0", "1"), ONE_LABEL)  # type: ignore[arg-type]
    assert named is not None
    assert named.ids == ["1", "2", "3"]


def test_grades_are_ordered_as_numbers(tmp_path: Path) -> None:
    images(tmp_path, "1.png", "2.png", "3.png")
    table(tmp_path / "train.csv", "image label\n1.png 10\n2.png 9\n3.png 2\n")
    assert train(tmp_path, task="ordinal").classes == ("2", "9", "10")
    assert train(tmp_path).classes == ("10", "2", "9")


def test_one_hot_columns_are_said_where_the_label_column_is_missing(tmp_path: Path) -> None:
    images(tmp_path, "1.png", "2.png")
    table(tmp_path / "train.csv", "image ant bee year\n1.png 1 0 2020\n2.png 0 1 2021\n")
    with pytest.raises(FlukeError, match=r"no column 'label' .*, but one-hot columns of 0 and 1: ant, bee; name them"):
        train(tmp_path)
    table(tmp_path / "train.csv", "image labels is_old\n1.png a 0\n2.png b 1\n")
    with pytest.raises(FlukeError, match="did you mean labels"):
        train(tmp_path)


def test_test_images_lie_in_several_folders(tmp_path: Path) -> None:
    images(tmp_path, "a/1.png", "b/2.png", "b/1.png")
    table(tmp_path / "s.csv", "image label\n1 x\n2 x\n")
    test = load_test(Data(root=str(tmp_path), test_dir=["a", "b"], sample_submission="s.csv"), ("x",), ONE_LABEL)
    assert test is not None
    assert [path.relative_to(tmp_path).as_posix() for path in test.paths] == ["a/1.png", "b/2.png"]


# --- groups -----------------------------------------------------------------------------------------------------------------------


def test_groups_of_another_table_are_named_and_never_guessed(tmp_path: Path) -> None:
    images(tmp_path, "x/1.png", "y/2.png")
    table(tmp_path / "drivers.csv", "subject classname img\np1 x 1.png\np2 y 2.png\n")
    fields = {"train_csv": None, "train_dir": "."}
    found = train(tmp_path, Folds(group_csv="drivers.csv", group_column="subject"), **fields)
    assert found.groups is not None
    assert found.groups.tolist() == ["p1", "p2"]
    with pytest.raises(FlukeError, match=r"has 3 columns .*; name the one to take with folds.group_column"):
        train(tmp_path, Folds(group_csv="drivers.csv"), **fields)


def test_groups_by_a_pattern_of_names(tmp_path: Path) -> None:
    images(tmp_path, "10_left.png", "10_right.png", "11_left.png")
    table(tmp_path / "train.csv", "image label\n10_left x\n10_right y\n11_left y\n")
    found = train(tmp_path, Folds(group_pattern=r"^(\d+)_"))
    assert found.groups is not None
    assert found.groups.tolist() == ["10", "10", "11"]
    with pytest.raises(FlukeError, match="finds nothing in 2 of 3 image names: '10_left', '11_left'"):
        train(tmp_path, Folds(group_pattern="right"))
