"""scripts/prepare.py: data sets whose text files list the images."""

from pathlib import Path

import pytest

from lib.config.recipe import Recipe
from lib.tables.loading import load_test, load_train
from lib.tables.target import ONE_LABEL
from tests.scripts.test_prepare import images, table, written

CLASSES = ("apple_pie", "soup", "tacos")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def write_list(path: Path, *rows: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows))


def test_names(recipe: Recipe) -> list[str]:
    test = load_test(recipe.data, CLASSES, ONE_LABEL)
    assert test is not None
    return test.names


test_names.__test__ = False  # type: ignore[attr-defined]


def test_class_folders_with_lists_for_training_and_test(root: Path) -> None:
    """Food-101: meta/train.txt names images without ending; README.txt and classes.txt are no lists of images."""
    images(root, *[f"images/{name}/{i}.jpg" for name in CLASSES for i in range(6)])
    write_list(root / "meta/train.txt", *[f"{name}/{i}" for name in CLASSES for i in range(4)])
    write_list(root / "meta/test.txt", *[f"{name}/{i}" for name in CLASSES for i in (4, 5)])
    write_list(root / "meta/classes.txt", *CLASSES)
    write_list(root / "README.txt", "The data set.", "It has 18 images, of three kinds.")
    recipe, text = written(root)
    assert (recipe.data.train_csv, recipe.data.image_dir) == ("meta/train.txt", "images")
    train = load_train(recipe.data, recipe.folds)
    assert train.counts() == dict.fromkeys(CLASSES, 4)
    assert test_names(recipe) == [f"{name}/{i}" for name in CLASSES for i in (4, 5)]
    assert "README" not in text


def test_a_table_of_all_labels_with_lists(root: Path) -> None:
    """NIH's chest X-rays: the images lie in several folders."""
    images(root, *[f"images_{i % 3:03}/images/{i:08}.png" for i in range(30)])
    found = ["Mass", "Edema", "Hernia", "No Finding"]
    rows = [(f"{i:08}.png", "|".join(dict.fromkeys((found[i % 4], found[i // 4 % 3]))), i // 3, 40 + i % 30) for i in range(30)]
    table(root / "Data_Entry_2017.csv", "ImageIndex FindingLabels PatientID Age", rows)
    write_list(root / "train_val_list.txt", *[f"{i:08}.png" for i in range(24)])
    write_list(root / "test_list.txt", *[f"{i:08}.png" for i in range(24, 30)])
    recipe, _ = written(root)
    train = load_train(recipe.data, recipe.folds)
    assert train.names == [f"{i:08}.png" for i in range(24)]
    assert train.classes == ("Edema", "Hernia", "Mass", "No Finding")
    assert train.groups is not None  # patients
    assert test_names(recipe) == [f"{i:08}.png" for i in range(24, 30)]


def test_a_list_of_images_and_classes(root: Path) -> None:
    """Places365: the number of the class stands behind each name."""
    images(root, *[f"train/p{i:04}.jpg" for i in range(20)], *[f"val/q{i:04}.jpg" for i in range(4)])
    write_list(root / "train.txt", *[f"p{i:04}.jpg {i % 4}" for i in range(20)])
    write_list(root / "test.txt", *[f"q{i:04}.jpg" for i in range(4)])
    write_list(root / "categories.txt", *[f"/a/kind{i} {i}" for i in range(4)])
    recipe, _ = written(root)
    assert load_train(recipe.data, recipe.folds).counts() == {"0": 5, "1": 5, "2": 5, "3": 5}
