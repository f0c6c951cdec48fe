"""Rows for training only: read like the training table, kept apart from held-out images, never held out themselves."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib.config.recipe import Data, Folds
from lib.errors import FlukeError
from lib.tables.extra import group_copies, join_extra, load_extra
from lib.tables.loading import load_train
from lib.tables.table import Table


def images(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9), (len(name), sum(map(ord, name)) % 255, 0)).save(root / name)


def table(path: Path, text: str) -> None:
    path.write_text(text.replace(" ", ","))


def load(root: Path, folds: Folds | None = None, **fields: object) -> tuple[Table, Table]:
    data = Data(root=str(root), **({"extra_csv": "more.csv"} | fields))  # type: ignore[arg-type]
    train = load_train(data, folds or Folds())
    extra = load_extra(data, folds or Folds(), train)
    assert extra is not None
    return train, extra


@pytest.fixture
def root(tmp_path: Path) -> Path:
    images(tmp_path, "a.png", "b.png", "c.png", "out/a.png", "out/d.png", "out/e.png")
    table(tmp_path / "train.csv", "image label site\na x 1\nb y 1\nc y 2\n")
    table(tmp_path / "more.csv", "image label site\na x 2\nd y 1\ne z 3\n")
    return tmp_path


def test_rows_have_the_classes_of_the_training_table(root: Path) -> None:
    train, extra = load(root, extra_dir="out")
    assert train.classes == extra.classes == ("x", "y")
    assert extra.names == ["out/a", "out/d"]
    assert extra.labels == [("x",), ("y",)]
    assert "1 of 3 rows are left out because they have a label that" in extra.notes[-1]
    assert "'z'" in extra.notes[-1]
    assert (train.groups, extra.groups) == (None, None)
    table(root / "more.csv", "image label\ne z\n")
    with pytest.raises(FlukeError, match="all 1 rows of .*more.csv have a label that .*train.csv lacks: 'z'"):
        load(root, extra_dir="out")


def test_images_of_the_training_table_are_refused(root: Path) -> None:
    table(root / "more.csv", "image label\na.png x\nout/d y\n")
    with pytest.raises(FlukeError, match=r"1 images of .*more.csv are in .*train.csv too.*line 2 'a.png'"):
        load(root)
    (root / "out/a.png").unlink()
    (root / "out/a.png").symlink_to(root / "a.png")
    table(root / "more.csv", "image label\nout/a x\n")
    with pytest.raises(FlukeError, match="are in .*train.csv too"):
        load(root)
    images(root, "more/x/1.png", "more/y/2.png")
    train, extra = load(root, extra_csv=None, extra_dir="more")
    assert extra.names == ["more/x/1.png", "more/y/2.png"]
    with pytest.raises(FlukeError, match="1 images of .*more are the same files as images of .*train.csv.*'more/y/2.png' = 'b'"):
        group_copies(train, extra, [[1, 4]], [[1, 4]])


def test_rows_of_held_out_groups_are_left_out(root: Path) -> None:
    train, extra = load(root, Folds(group_column="site"), extra_dir="out")
    assert extra.groups is not None
    assert extra.groups.tolist() == ["2", "1"]
    joined, said = join_extra(train.take([2]), extra, train.take([0, 1]))
    assert joined.names == ["c", "out/a"]
    assert "1 rows of" in said
    assert "1 are left out because images of their group are held out" in said
    table(root / "more.csv", "image label\na x\nd y\n")  # without the column: groups of their own
    train, extra = load(root, Folds(group_column="site"), extra_dir="out")
    assert len(join_extra(train.take([2]), extra, train.take([0, 1]))[0]) == 3
    table(root / "sites.csv", "img site\na 1\nb 1\nc 2\nout/d 2\n")
    _, extra = load(root, Folds(group_csv="sites.csv", group_column="site"), extra_dir="out")
    assert extra.groups is not None
    _, extra = load(root, Folds(group_pattern="^(out|.)"), extra_dir="out")
    assert extra.groups is not None


def test_near_copies_share_a_group(root: Path) -> None:
    train, extra = load(root, extra_dir="out")
    train, extra = group_copies(train, extra, [], [[0, 2], [1, 4]])
    assert train.groups is not None
    assert extra.groups is not None
    assert (train.groups[0], train.groups[1]) == (train.groups[2], extra.groups[1])
    assert extra.groups[0] not in set(train.groups)


def test_numbers_need_numbers(root: Path) -> None:
    table(root / "train.csv", "image label\na 1\nb 2\n")
    table(root / "more.csv", "image label\na 1.5\nd x\n")
    train, extra = load(root, extra_dir="out", task="number")
    assert extra.names == ["out/a"]
    assert np.allclose(extra.targets(), 1.5)
    assert train.classes == extra.classes
