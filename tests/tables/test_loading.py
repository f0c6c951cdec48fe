"""Loading of tables: strings stay unchanged, errors list all bad lines, filters and paths follow the recipe."""

import csv
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lib.config.recipe import Data, Folds
from lib.errors import FlukeError
from lib.tables.filters import drop_unreadable
from lib.tables.loading import load_images, load_test, load_train
from lib.tables.readers import read_columns
from lib.tables.table import Table, describe_table
from lib.tables.target import ONE_LABEL


def write_contest(
    root: Path, rows: list[tuple[str, ...]], header: tuple[str, ...] = ("image", "label"), files: list[str] | None = None
) -> Path:
    """Write train.csv and empty image files, by default those that the rows name; return the folder."""
    with open(root / "train.csv", "w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows([header, *rows])
    for name in [row[0] for row in rows] if files is None else files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def train(root: Path, folds: Folds | None = None, **data: object) -> Table:
    return load_train(Data(root=str(root), **data), folds or Folds())  # type: ignore[arg-type]


def load_error(root: Path, folds: Folds | None = None, **data: object) -> str:
    with pytest.raises(FlukeError) as caught:
        train(root, folds, **data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


ROWS = [("a.jpg", "x"), ("b.jpg", "x"), ("c.jpg", "y"), ("d.jpg", "y")]


# --- five real contests -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "folds", "n", "classes", "n_test"),
    [
        (
            {"root": "", "train_csv": "fashion20/train.csv", "test_csv": "fashion20/test.csv", "image_dir": "fashion"},
            {},
            5255,
            20,
            2831,
        ),
        (
            {
                "root": "",
                "train_csv": "fashion79/train.csv",
                "sample_submission": "fashion79/sample_submission.csv",
                "image_dir": "fashion",
                "label_column": "labels",
                "label_separator": " ",
            },
            {},
            6228,
            79,
            3355,
        ),
        ({"root": "lesion5", "train_csv": None, "train_dir": "train", "test_dir": "test"}, {}, 1464, 5, 693),
        (
            {
                "root": "nyala",
                "image_dir": "train",
                "test_dir": "test",
                "image_column": "Image",
                "label_column": "Id",
                "sample_submission": "sample_submission.csv",
            },
            {"group_csv": "sightings.csv"},
            1189,
            180,
            753,
        ),
        (
            {"root": "grocery81", "test_csv": "sample_submission.csv", "sample_submission": "sample_submission.csv"},
            {},
            2936,
            81,
            2485,
        ),
    ],
    ids=["fashion20", "fashion79", "lesion5", "nyala", "grocery81"],
)
def test_real_contests(shared: Path, data: dict, folds: dict, n: int, classes: int, n_test: int) -> None:
    recipe = Data(**data | {"root": str(shared / "data" / data["root"])})
    table = load_train(recipe, Folds(**folds))
    test = load_test(recipe, table.classes, table.target)
    assert test is not None
    assert (len(table), len(table.classes), len(test)) == (n, classes, n_test)
    assert test.labels is None
    assert all(path.is_file() for path in table.paths[:50] + test.paths[:50])
    if recipe.train_csv is not None:  # compare with pandas
        frame = pd.read_csv(Path(recipe.root) / recipe.train_csv, dtype=str)
        assert table.names == list(frame[recipe.image_column])
        assert [" ".join(labels) for labels in table.labels or []] == list(frame[recipe.label_column])
        if table.target.several:
            dummies = frame[recipe.label_column].str.get_dummies(" ")
            assert table.classes == tuple(sorted(dummies))
            np.testing.assert_array_equal(table.targets(), dummies[list(table.classes)])
    else:
        assert [(path.parent.name,) for path in table.paths] == table.labels
    if folds:
        sightings = dict(pd.read_csv(Path(recipe.root) / "sightings.csv", dtype=str).values)
        assert table.groups is not None
        assert list(table.groups) == [sightings[name] for name in table.names]


def test_groups_match_names_without_folder_and_extension(shared: Path, tmp_path: Path) -> None:
    names = sorted(path.stem for path in (shared / "data/lesion5/train").glob("*/*.jpg"))
    pd.DataFrame({"image_id": names, "lesion": [f"L{i // 2}" for i in range(len(names))]}).to_csv(tmp_path / "g.csv", index=False)
    table = train(shared / "data/lesion5", Folds(group_csv=str(tmp_path / "g.csv")), train_csv=None, train_dir="train")
    assert table.groups is not None
    assert [f"L{names.index(path.stem) // 2}" for path in table.paths] == list(table.groups)


# --- strings stay unchanged -------------------------------------------------------------------------------------------------------

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
label = st.one_of(
    st.sampled_from(["NA", "None", "nan", "01", "1e5", "=cmd()", "a,b", 'q"uote', "two\nlines", "\u00a0x", "-", "true"]), text
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(label.filter(str.strip), min_size=2, max_size=6))
def test_labels_round_trip_through_csv(tmp_path: Path, labels: list[str]) -> None:
    labels = [*labels, "01", "1"]
    write_contest(tmp_path, [(f"{i}.jpg", value) for i, value in enumerate(labels)])
    table = train(tmp_path)
    assert table.labels == [(value,) for value in labels]
    assert table.classes == tuple(sorted(set(labels)))
    assert [table.classes[i] for i in table.targets()] == labels


def test_parquet_integers_become_plain_text(tmp_path: Path) -> None:
    write_contest(tmp_path, [], files=["1.jpg", "2.jpg", "3.jpg"])
    frame = pd.DataFrame({"id": [1, 2, 3], "class": pd.Categorical(["b", "a", "b"]), "n": [7, 8, 7], "pixels": [[1], [2], [3]]})
    frame.to_parquet(tmp_path / "t.parquet")
    assert train(tmp_path, train_csv="t.parquet", image_column="id", label_column="n").classes == ("7", "8")
    assert train(tmp_path, train_csv="t.parquet", image_column="id", label_column="class").labels == [("b",), ("a",), ("b",)]
    assert "row 2" in load_error(tmp_path, train_csv=_with_null(tmp_path), image_column="id", label_column="n")
    assert "not readable as Parquet" in load_error(tmp_path, train_csv="t.parquet", image_column="id", label_column="pixels")
    (tmp_path / "broken.parquet").write_bytes(b"nothing")
    assert "not readable as Parquet" in load_error(tmp_path, train_csv="broken.parquet")


def _with_null(root: Path) -> str:
    pd.DataFrame({"id": ["1", "2", "3"], "n": ["a", None, "b"]}).to_parquet(root / "null.parquet")
    return "null.parquet"


def test_several_labels_per_image(tmp_path: Path) -> None:
    write_contest(tmp_path, [("a.jpg", "x| y|x"), ("b.jpg", ""), ("c.jpg", "y|")])
    table = train(tmp_path, label_separator="|")
    assert table.labels == [("x", "y"), (), ("y",)]
    np.testing.assert_array_equal(table.targets(), np.array([[1, 1], [0, 0], [0, 1]], dtype=np.float32))
    assert table.targets().dtype == np.float32
    assert "1 images without any" in describe_table(table)
    assert "too few to train on" in load_error(write_contest(tmp_path, [("a.jpg", ""), ("b.jpg", "")]), label_separator="|")


# --- bad tables: one sentence that lists all lines --------------------------------------------------------------------------------


def test_missing_column_lists_the_columns(tmp_path: Path) -> None:
    message = load_error(write_contest(tmp_path, ROWS, ("Image", "Id")))
    assert all(part in message for part in ("'image'", "data.image_column", "Image, Id", "did you mean Image?"))
    assert "several columns 'label'" in load_error(write_contest(tmp_path, [("a.jpg", "x", "y")], ("image", "label", "label")))


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ["empty"]),
        (b"image,label\n", ["no rows"]),
        ("image,label\na.jpg,\xe9t\xe9\n".encode("latin-1"), ["UTF-8", "0xe9"]),
        ("image,label\na.jpg,x\n".encode("utf-16"), ["UTF-8"]),
        (b'image,label\na.jpg,x\nb.jpg,"open\nc.jpg,y\n', ["line 3", "quote"]),
        (b'"image"d,label\na.jpg,x\n', ["line 1", "not readable as CSV"]),
        (b"image,label\na.jpg,x,1\nb.jpg\nc.jpg,y\n", ["2 rows", "line 2 (3)", "line 3 (1)"]),
        (b"image,label\na.jpg,x\n\n,y\nc.jpg,  \n  ,y\n", ["2 rows", "image name", "line 4, 6"]),
        (b'image,label\na.jpg,"two\nlines"\nb.jpg,\nc.jpg, \n', ["2 rows", "blank label", "line 4, 5"]),
    ],
)
def test_broken_csv(tmp_path: Path, content: bytes, parts: list[str]) -> None:
    (tmp_path / "train.csv").write_bytes(content)
    message = load_error(tmp_path)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_tables_with_other_delimiters(delimiter: str, tmp_path: Path) -> None:
    write_contest(tmp_path, [], files=["a.jpg", "b.jpg"])
    text = f'image{delimiter}label\na.jpg{delimiter}"x, y"\nb.jpg{delimiter}"x{delimiter}z"\n'
    (tmp_path / "train.csv").write_text(text)
    assert train(tmp_path).labels == [("x, y",), (f"x{delimiter}z",)]
    (tmp_path / "sample.csv").write_text(text)
    assert load_test(Data(root=str(tmp_path), test_csv=None, sample_submission="sample.csv"), ("x",), ONE_LABEL).names == [
        "a.jpg",
        "b.jpg",
    ]


def test_byte_order_mark_blank_lines_and_missing_file(tmp_path: Path) -> None:
    write_contest(tmp_path, ROWS)
    plain = (tmp_path / "train.csv").read_bytes()
    (tmp_path / "train.csv").write_bytes(b"\xef\xbb\xbf" + plain.replace(b"b.jpg", b"\r\nb.jpg") + b"\n\n")
    table = train(tmp_path)
    assert table.names == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert table.rows.tolist() == [0, 1, 2, 3]
    assert table.lines is not None
    assert table.lines.tolist() == [2, 4, 5, 6]
    assert "other.csv: No such file" in load_error(tmp_path, train_csv="other.csv")


def test_several_rows_of_one_image(tmp_path: Path) -> None:
    write_contest(tmp_path, [*ROWS, ("a", "y"), ("c.jpg", "y")], files=["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    message = load_error(tmp_path)
    assert "2 images have more than one row" in message
    assert "line 2 'a.jpg' 'x' = line 6 'a' 'y'" in message
    assert "line 4 'c.jpg' 'y' = line 7 'c.jpg' 'y'" in message


def test_test_labels_that_training_lacks(tmp_path: Path) -> None:
    write_contest(tmp_path, ROWS)
    (tmp_path / "test.csv").write_text("image,label\na.jpg,x\nb.jpg,z\nc.jpg,z\nd.jpg,w\n")
    test = load_test(Data(root=str(tmp_path), test_csv="test.csv"), ("x", "y"), ONE_LABEL)
    assert test is not None
    with pytest.raises(FlukeError, match=r"2 labels .* 'z' \(2 images\), 'w' \(1 images\)"):
        test.targets()
    assert test.targets(("w", "x", "z")).tolist() == [1, 2, 2, 0]


# --- images -----------------------------------------------------------------------------------------------------------------------


def test_names_with_and_without_extension_and_folder(tmp_path: Path) -> None:
    write_contest(
        tmp_path,
        [("12", "x"), ("sub/13.jpg", "x"), ("sub/14", "y"), ("img.0012", "y"), ("15.JPG", "y"), ("16", "y")],
        files=[
            "im/12.png",
            "im/sub/13.jpg",
            "im/sub/14.jpeg",
            "im/img.0012.jpg",
            "im/15.jpg",
            "im/16",
            "im/16.jpg",
            "im/12/other.png",
        ],
    )
    paths = [path.relative_to(tmp_path / "im").as_posix() for path in train(tmp_path, image_dir="im").paths]
    assert paths == ["12.png", "sub/13.jpg", "sub/14.jpeg", "img.0012.jpg", "15.jpg", "16"]


def test_ambiguous_and_missing_images(tmp_path: Path) -> None:
    write_contest(tmp_path, [("a", "x"), ("b", "y")], files=["a.jpg", "a.png", "b.jpg"])
    assert "1 image names match several files: 'a' (a.jpg, a.png)" in load_error(tmp_path)
    write_contest(tmp_path, [*ROWS, ("e.jpg", "y"), ("no/f.jpg", "x")], files=["b.jpg", "c.jpg", "d.jpg"])
    os.remove(tmp_path / "a.jpg")
    os.remove(tmp_path / "a.png")
    message = load_error(tmp_path)
    assert "3 of 6 images can't be read: line 2 'a.jpg' (no such file), line 6 'e.jpg'" in message
    table = train(tmp_path, on_unreadable="drop")
    assert table.names == ["b.jpg", "c.jpg", "d.jpg"]
    assert table.rows.tolist() == [1, 2, 3]
    assert "3 of 6 images can't be read" in describe_table(table)
    assert "is data.image_dir right?" in load_error(
        write_contest(tmp_path, ROWS, files=["elsewhere/a.jpg", "im/z.jpg"]), image_dir="im"
    )
    assert "not a folder" in load_error(tmp_path, image_dir="nowhere")


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../secret.jpg", "sub/../../secret.jpg", "..", "link.jpg", "linked/secret.jpg", "linked/secret"]
)
def test_names_outside_the_image_folder_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.jpg").touch()
    images = tmp_path / "im"
    write_contest(tmp_path, [(name, "x"), ("a.jpg", "y")], files=["im/a.jpg"])
    (images / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (images / "linked").symlink_to(tmp_path)
    assert (
        "inside their folder" in (message := load_error(tmp_path, image_dir="im", on_unreadable="drop")) or "leads out" in message
    )


def test_links_inside_the_image_folder_are_followed(tmp_path: Path) -> None:
    write_contest(tmp_path, [("b.jpg", "x"), ("a.jpg", "y")], files=["a.jpg"])
    (tmp_path / "b.jpg").symlink_to(tmp_path / "a.jpg")
    assert train(tmp_path).paths == [tmp_path / "b.jpg", tmp_path / "a.jpg"]


def test_drop_unreadable(tmp_path: Path) -> None:
    table = train(write_contest(tmp_path, [*ROWS, ("e.jpg", "z")]))
    bad = {1: "truncated", 3: "not an image"}
    with pytest.raises(FlukeError, match=r"2 of 5 images .* line 3 'b.jpg' \(truncated\), line 5 'd.jpg' \(not an image\)"):
        drop_unreadable(table, bad, "error")
    kept = drop_unreadable(table, bad, "drop")
    assert kept.names == ["a.jpg", "c.jpg", "e.jpg"]
    assert kept.rows.tolist() == [0, 2, 4]
    with pytest.raises(FlukeError, match="no image is left of 'z'"):
        drop_unreadable(table, {4: "truncated"}, "drop")
    with pytest.raises(FlukeError, match="every test row"):
        drop_unreadable(table, bad, "drop", what="test")
    assert drop_unreadable(table, {}, "error") is table


def test_class_folders(tmp_path: Path) -> None:
    for name in (
        "01/b.jpg",
        "01/a.PNG",
        "NA/a.jpg",
        "two words/a.jpg",
        "two words/deep/x.jpg",
        ".cache/a.jpg",
        "01/.b.jpg",
        "01/Thumbs.db",
        "r.txt",
    ):
        write_contest(tmp_path, [], files=[f"t/{name}"])
    table = train(tmp_path, train_csv=None, train_dir="t")
    assert table.names == ["01/a.PNG", "01/b.jpg", "NA/a.jpg", "two words/a.jpg", "two words/deep/x.jpg"]
    assert table.labels == [("01",), ("01",), ("NA",), ("two words",), ("two words",)]
    assert table.paths[3] == tmp_path / "t/two words/a.jpg"
    description = describe_table(table)
    assert all(
        part in description
        for part in (
            "two words: 1 images in its sub-folders count as 'two words' (deep)",
            "01: 1 files ignored (Thumbs.db)",
            "t: 1 files ignored",
        )
    )
    (tmp_path / "t/empty").mkdir()
    assert "'empty'" in load_error(tmp_path, train_csv=None, train_dir="t")
    assert "'t' (only folders: 01, NA, empty and 1 more)" in load_error(tmp_path, train_csv=None, train_dir=".")


# --- test tables ------------------------------------------------------------------------------------------------------------------


def test_sources_of_the_test_rows(tmp_path: Path) -> None:
    write_contest(
        tmp_path, [], files=["test/b.jpg", "test/a.jpg", "test/c.jpg", "test/.hidden.jpg", "test/more/d.jpg", "other/x.png"]
    )
    (tmp_path / "test.csv").write_text("image,label\nb.jpg,x\na,y\n")
    (tmp_path / "sample.csv").write_text("id,label\nc,x\nb,x\n")

    def names(**data: str) -> list[str] | None:
        table = load_test(Data(root=str(tmp_path), test_dir="test", **data), ("x", "y"), ONE_LABEL)  # type: ignore[arg-type]
        assert table is not None
        assert table.classes == ("x", "y")
        return table.names + ([] if table.labels is None else ["labelled"])

    assert names(test_csv="test.csv", sample_submission="sample.csv") == ["b.jpg", "a", "labelled"]
    assert names(sample_submission="sample.csv") == ["c", "b"]
    assert names(test_csv="sample.csv", sample_submission="sample.csv") == ["c", "b"]
    assert names() == ["a.jpg", "b.jpg", "c.jpg"]
    assert load_test(Data(root=str(tmp_path)), ("x", "y"), ONE_LABEL) is None
    (tmp_path / "test.csv").write_text("image\nb.jpg\nz\n")
    with pytest.raises(FlukeError, match=r"1 of 2 images .* line 3 'z'.*every test row"):
        load_test(Data(root=str(tmp_path), test_csv="test.csv", test_dir="test", on_unreadable="drop"), ("x", "y"), ONE_LABEL)
    assert load_images(tmp_path / "other", [tmp_path], Data(), ("x",), ONE_LABEL).paths == [tmp_path / "other/x.png"]
    (tmp_path / "blank.csv").write_text("image,label\nb.jpg,\na,\n")
    assert load_images(tmp_path / "blank.csv", [tmp_path / "test"], Data(), ("x", "y"), ONE_LABEL).labels is None


# --- filters and groups -----------------------------------------------------------------------------------------------------------


def test_class_filters(tmp_path: Path) -> None:
    sizes = {"new": 9, "a": 5, "b": 3, "c": 3, "d": 2, "e": 1}
    rows = [(f"{label}{i}.jpg", label) for i in range(9) for label, n in sizes.items() if i < n]
    write_contest(tmp_path, rows)

    def left(**data: object) -> dict[str, int]:
        table = train(tmp_path, **data)
        assert table.classes == tuple(sorted(table.counts()))
        return dict(sorted(table.counts().items()))

    assert left() == dict(sorted(sizes.items()))
    assert left(min_images=3) == {"a": 5, "b": 3, "c": 3, "new": 9}
    assert left(min_images=4, take={"new": 1, "e": 7}) == {"a": 5, "e": 1, "new": 1}
    assert [name for name in train(tmp_path, take={"new": 2}).names if name.startswith("new")] == ["new0.jpg", "new1.jpg"]
    assert left(drop_images=["a0.jpg", "e0.jpg"]) == {"a": 4, "b": 3, "c": 3, "d": 2, "new": 9}

    assert "min_images 3: 2 classes with 3 images left out" in describe_table(train(tmp_path, min_images=3))
    message = load_error(tmp_path, min_images=6, only_classes=["a"], drop_images=["a0.jpg"])
    assert all(
        part in message for part in ("drop_images: 1 images", "min_images 6: 5 classes with 13", "only_classes ['a']: 1 classes")
    )
    assert "no 'a0', 'zz.jpg'" in load_error(tmp_path, drop_images=["a0", "zz.jpg"])
    assert "0 of 0 classes are left" in load_error(tmp_path, drop_images=[name for name, _ in rows])
    assert "no class 'New'; did you mean new?" in load_error(tmp_path, take={"New": 1})


def test_missing_image_is_dropped_by_name(tmp_path: Path) -> None:
    write_contest(tmp_path, [*ROWS, ("gone.jpg", "z")], files=["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    assert "no image is left of 'z'" in load_error(tmp_path, on_unreadable="drop")
    assert train(tmp_path, drop_images=["gone.jpg"]).classes == ("x", "y")


def test_groups_and_own_folds_after_filters(tmp_path: Path) -> None:
    write_contest(tmp_path, [(name, label, f"g{i // 2}") for i, (name, label) in enumerate(ROWS)], ("image", "label", "who"))
    table = train(tmp_path, Folds(group_column="who"), drop_images=["b.jpg"])
    assert table.groups is not None
    assert table.groups.tolist() == ["g0", "g1", "g1"]
    (tmp_path / "f.csv").write_text("image,fold\nd.jpg,1\nother.jpg,9\nc,0\na.jpg,0\nb.jpg,1\n")
    table = train(tmp_path, Folds(csv="f.csv"), drop_images=["b.jpg"])
    assert table.folds is not None
    assert table.folds.tolist() == [0, 0, 1]
    for content, part in [
        ("a.jpg,0\nb.jpg,1\nc.jpg,1\n", "no row for 1 of 4 images: 'd.jpg'"),
        ("a.jpg,0\nb.jpg,1\nc.jpg,1\nd.jpg,1\na.jpg,1\n", "1 images come more than once: 'a.jpg'"),
        ("a.jpg,0\nb.jpg,1\nc.jpg,1\nd.jpg,-1\n", "not numbers from 0 on: '-1'"),
        ("a.jpg,0\nb.jpg,1\nc.jpg,\nd.jpg,1\n", "blank fold: line 4"),
    ]:
        (tmp_path / "f.csv").write_text("image,fold\n" + content)
        assert part in load_error(tmp_path, Folds(csv="f.csv"))


def test_repeated_file_names_match_no_group(tmp_path: Path) -> None:
    write_contest(tmp_path, [("m/1.jpg", "x"), ("n/1.jpg", "y"), ("2.jpg", "y")])
    (tmp_path / "g.csv").write_text("id,who\n1,ann\n2,bob\n")
    assert "no row for 2 of 3 images: 'm/1.jpg', 'n/1.jpg'" in load_error(tmp_path, Folds(group_csv="g.csv"))


def test_take_keeps_everything_aligned(tmp_path: Path) -> None:
    write_contest(tmp_path, [(name, label, name) for name, label in ROWS], ("image", "label", "who"))
    table = train(tmp_path, Folds(group_column="who"))
    for index in (np.array([2, 0]), np.array([True, False, True, False]), slice(1, 3), [3]):
        part = table.take(index)
        chosen = np.arange(4)[index]
        assert part.rows.tolist() == chosen.tolist()
        assert part.names == [ROWS[i][0] for i in chosen] == [path.name for path in part.paths]
        assert part.labels == [(ROWS[i][1],) for i in chosen]
        assert part.groups is not None
        assert part.groups.tolist() == part.names
        assert part.classes == ("x", "y")


def test_read_columns_agrees_with_pandas(tmp_path: Path) -> None:
    rows = [("a", "NA", 'say "hi"'), ("b", "01", "x, y"), ("c", "1e5", "line\r\nbreak"), ("d", "", " lead")]
    write_contest(tmp_path, rows, ("i", "j", "k"), files=[])
    frame = pd.read_csv(tmp_path / "train.csv", dtype=str, keep_default_na=False, na_filter=False)
    columns, lines = read_columns(tmp_path / "train.csv", {name: name for name in "ijk"})
    assert columns == {name: list(frame[name]) for name in "ijk"}
    assert lines.tolist() == [2, 3, 4, 6]
    (tmp_path / "train.csv").write_text('"i\nj",k\na,b\n')
    assert read_columns(tmp_path / "train.csv", {"k": "k"})[1].tolist() == [3]


# --- what other systems write -----------------------------------------------------------------------------------------------------


def test_names_of_windows_and_of_macos(tmp_path: Path) -> None:
    """Backslashes between folders; accents that a table composes and a file name decomposes."""
    rows = [("sub\\a.jpg", "x"), ("sub\\b", "x"), ("caf\u00e9.jpg", "y"), ("m\u00fcll", "y")]
    write_contest(tmp_path, rows, files=["sub/a.jpg", "sub/b.png", "cafe\u0301.jpg", "mu\u0308ll.png"])
    table = train(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in table.paths] == [
        "sub/a.jpg", "sub/b.png", "cafe\u0301.jpg", "mu\u0308ll.png"
    ]  # fmt: skip
    assert table.names == [name for name, _ in rows]


@pytest.mark.parametrize("name", ["C:\\pictures\\a.jpg", "C:/pictures/a.jpg", "\\\\server\\share\\a.jpg", "sub\\..\\..\\a.jpg"])
def test_absolute_names_of_windows_are_refused(name: str, tmp_path: Path) -> None:
    write_contest(tmp_path, [*ROWS, (name, "y")], files=[row[0] for row in ROWS])
    assert "leads out of its folder" in load_error(tmp_path)


def test_links_into_a_trusted_folder(tmp_path: Path) -> None:
    """As in the caches of Hugging Face, DVC and git-annex."""
    store, root = tmp_path / "store", tmp_path / "contest"
    store.mkdir()
    root.mkdir()
    for name, _ in ROWS:
        (store / f"blob-{name}").touch()
        os.symlink(store / f"blob-{name}", root / name)
    write_contest(root, ROWS, files=[])
    assert "name a folder that holds it in data.trusted_roots" in load_error(root)
    assert "data.trusted_roots" in load_error(root, trusted_roots=[str(tmp_path / "other")])
    assert len(train(root, trusted_roots=[str(store)])) == 4


def test_classes_that_look_alike_are_named(tmp_path: Path) -> None:
    labels = ["Crane", "crane", "Crane ", "cafe\u0301", "caf\u00e9", "owl"]
    write_contest(tmp_path, [(f"{i}.jpg", label) for i, label in enumerate(labels)])
    (note,) = [note for note in train(tmp_path).notes if "differ only in case" in note]
    assert all(repr(label) in note for label in labels[:5])
    assert "owl" not in note


@pytest.mark.parametrize("test_csv", ["./sample.csv", "sub/../sample.csv"])
def test_the_samples_labels_are_no_labels(test_csv: str, tmp_path: Path) -> None:
    write_contest(tmp_path, ROWS)
    (tmp_path / "sub").mkdir()
    pd.DataFrame({"image": ["a.jpg", "b.jpg"], "label": ["x", "no class"]}).to_csv(tmp_path / "sample.csv", index=False)
    table = load_test(Data(root=str(tmp_path), test_csv=test_csv, sample_submission="sample.csv"), ("x", "y"), ONE_LABEL)
    assert table is not None
    assert table.labels is None


def test_one_label_in_every_test_row_is_a_placeholder(tmp_path: Path) -> None:
    write_contest(tmp_path, ROWS)
    pd.DataFrame({"image": ["a.jpg", "b.jpg"], "label": ["x", "x"]}).to_csv(tmp_path / "sample.csv", index=False)
    table = load_test(Data(root=str(tmp_path), test_csv="sample.csv"), ("x", "y"), ONE_LABEL)
    assert table is not None
    assert table.labels is None
    assert "'x', taken for a placeholder" in table.notes[-1]


@pytest.mark.parametrize("suffix", [".avif", ".jp2", ".ppm", ".JPG", ".webp"])
def test_folders_list_every_format_that_is_decoded(suffix: str, tmp_path: Path) -> None:
    for label in ("x", "y"):
        (tmp_path / "train" / label).mkdir(parents=True)
        (tmp_path / "train" / label / f"a{suffix}").touch()
    assert len(train(tmp_path, train_csv=None, train_dir="train")) == 2
