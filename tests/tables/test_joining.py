"""A second table joined with the first: its columns are labels, groups, filters and ids."""

from pathlib import Path

import pytest
from PIL import Image

from lib.config.recipe import Data, Folds
from lib.errors import FlukeError
from lib.tables.loading import load_test, load_train
from lib.tables.table import Table
from lib.tables.target import ONE_LABEL


def table(path: Path, text: str) -> None:
    path.write_text(text.replace(" ", ","))


def train(root: Path, folds: Folds | None = None, **fields: object) -> Table:
    return load_train(Data(root=str(root), join_csv="meta.csv", **fields), folds or Folds())  # type: ignore[arg-type]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in "abcd":
        Image.new("RGB", (9, 9)).save(tmp_path / f"{name}.png")
    table(tmp_path / "train.csv", "image label visit\na x 11\nb y 12\nc y 12\n")
    table(tmp_path / "meta.csv", "age visit_id patient view\n30 12 P1 front\n30 11 P2 front\n31 13 P3 side\n")
    return tmp_path


def test_columns_of_the_second_table_are_groups_labels_and_filters(root: Path) -> None:
    found = train(root, Folds(group_column="patient"))
    assert found.groups is not None
    assert found.groups.tolist() == ["P2", "P1", "P1"]
    assert found.notes[0] == (
        f"joined with {root / 'meta.csv'} on visit = visit_id (data.join_key names others); 1 of its rows aren't used"
    )
    assert train(root, label_column="patient").labels == [("P2",), ("P1",), ("P1",)]
    assert train(root, label_column="visit", train_where={"view": "front"}).names == ["a", "b", "c"]
    assert train(root, Folds(group_column="patient"), join_key=["visit", "visit_id"]).groups.tolist() == found.groups.tolist()  # type: ignore[union-attr]
    assert train(root).notes == ()  # nothing of it is needed


def test_image_names_are_a_key_with_or_without_extension(root: Path) -> None:
    table(root / "meta.csv", "n img age\n0 b.png old\n1 a.png young\n2 c.png old\n")
    table(root / "train.csv", "image label\na 0\nb 1\nc 2\n")  # labels that are row numbers of the other table
    assert train(root, label_column="age").labels == [("young",), ("old",), ("old",)]
    (root / "k").mkdir()
    for name in "ab":
        (root / f"{name}.png").rename(root / "k" / f"{name}.png")
    (root / "l").mkdir()
    (root / "c.png").rename(root / "l/c.png")
    found = train(root, Folds(group_column="age"), train_csv=None, train_dir=".", test_dir="t")
    assert found.groups is not None
    assert found.groups.tolist() == ["young", "old", "old"]


def test_rows_without_a_match_are_counted_and_keys_come_once(root: Path) -> None:
    table(root / "train.csv", "image label visit\na x 11\nb y 12\nc y 14\nd x \n")
    with pytest.raises(FlukeError, match=r"2 of 4 rows have no row in .*meta.csv .*: line 4 'c', line 5 'd'; add them"):
        train(root, Folds(group_column="patient"))
    found = train(root, train_where={"view": "front"})
    assert found.names == ["a", "b"]
    assert "2 of 4 rows have no match there" in found.notes[0]
    table(root / "meta.csv", "visit_id patient\n12 P1\n11 P2\n12 P9\n")
    with pytest.raises(FlukeError, match=r"meta.csv: 1 values of visit_id come more than once: '12' \(line 2, 4\)"):
        train(root, Folds(group_column="patient"), join_key=["visit", "visit_id"])
    for fields, fault in (
        ({}, "shares no column of values"),
        ({"join_key": ["label", "visit_id"]}, "no row's label is a visit_id"),
        ({"join_key": "visit"}, "has no column 'visit' .data.join_key."),
    ):
        table(root / "meta.csv", "visit_id patient\n21 P1\n22 P2\n22 P9\n" if not fields else "visit_id patient\n21 P1\n22 P2\n")
        with pytest.raises(FlukeError, match=fault):
            train(root, Folds(group_column="patient"), **fields)
    with pytest.raises(FlukeError, match=r"has no column 'owner' \(folds.group_column\), nor has .*meta.csv"):
        train(root, Folds(group_column="owner"), label_column="patient")


def test_test_rows_are_joined_too(root: Path) -> None:
    table(root / "test.csv", "image visit\nc 13\nd 12\n")
    table(root / "sample.csv", "patient label\nP3 x\n")
    data = Data(
        root=str(root),
        join_csv="meta.csv",
        test_csv="test.csv",
        test_where={"view": "side"},
        id_column="patient",
        sample_submission="sample.csv",
    )
    test = load_test(data, ("x", "y"), ONE_LABEL)
    assert test is not None
    assert (test.names, test.ids) == (["c"], ["P3"])


def test_a_column_with_repeated_values_is_no_key(root: Path) -> None:
    table(root / "train.csv", "image label visit age\na x 12 30\nb y 12 31\nc y 12 30\n")
    table(root / "meta.csv", "age visit_id patient\n30 12 P1\n31 13 P2\n30 14 P3\n")
    found = train(root, Folds(group_column="patient"))
    assert found.groups is not None
    assert found.groups.tolist() == ["P1", "P1", "P1"]


def test_of_equal_columns_those_of_one_name_are_the_key(root: Path) -> None:
    """Visits and doctors have the same numbers: joined on another column, all rows would get a wrong patient, without a word."""
    table(root / "train.csv", "image doctor visit label\na 2 1 x\nb 3 2 y\nc 1 3 y\n")
    table(root / "meta.csv", "visit patient\n1 P1\n2 P2\n3 P3\n")
    assert train(root, label_column="patient").labels == [("P1",), ("P2",), ("P3",)]
