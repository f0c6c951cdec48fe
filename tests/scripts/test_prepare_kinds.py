"""scripts/prepare.py on further layouts of published contests."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lib.errors import FlukeError
from lib.tables.loading import load_test, load_train
from lib.tables.pixels import find_pixel_columns
from lib.tables.sample import load_sample
from scripts import prepare, unpack
from tests.scripts.test_prepare import images, table, written


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "contest").mkdir()
    return tmp_path / "contest"


def test_a_test_table_with_other_columns_and_observations_of_two_images(root: Path) -> None:
    images(root, *[f"train_300/{i:02}.jpg" for i in range(24)], *[f"test_300/t{i}.jpg" for i in range(8)])
    rows = [(1000 + i // 2, f"sp{i // 2 % 4}", f"{i:02}.jpg", i // 2 % 4) for i in range(24)]
    table(root / "train_metadata.csv", "ObservationID species image_path class_id", rows)
    table(root / "test_metadata.csv", "ObservationID filename", [(2000 + i // 2, f"t{i}.jpg") for i in range(8)])
    table(root / "sample_submission.csv", "ObservationId ClassId", [(2000 + i, -1) for i in range(4)])
    recipe, _ = written(root)
    d = recipe.data
    assert (d.image_column, d.test_image_column, d.test_dir) == ("image_path", "filename", "test_300")
    assert (d.label_column, d.id_column, recipe.folds.group_column) == ("class_id", "ObservationID", "ObservationID")
    train = load_train(d, recipe.folds)
    test = load_test(d, train.classes, train.target)
    assert test is not None
    assert (test.names[0], test.answers) == ("t0.jpg", ["2000", "2001", "2002", "2003"])


def test_class_folders_for_the_test_too(root: Path) -> None:
    images(root, *[f"xray/{side}/{kind}/{kind}{i}.png" for side in ("train", "test") for kind in ("ill", "well") for i in range(6)])
    recipe, _ = written(root)
    assert (recipe.data.train_dir, recipe.data.test_dir) == ("xray/train", "xray/test")
    train = load_train(recipe.data, recipe.folds)
    test = load_test(recipe.data, train.classes, train.target)
    assert test is not None
    assert test.names == [f"{kind}/{kind}{i}.png" for kind in ("ill", "well") for i in range(6)]
    assert "12 images in its sub-folders (ill, well)" in test.notes[0]
    table(
        root / "sample_submission.csv",
        "image_id label",
        [(f"{kind}{i}.png", "well ill") for kind in ("ill", "well") for i in range(6)],
    )
    (root.parent / "recipe.yaml").unlink()
    assert written(root)[0].train.metric == "map@2"


def test_a_benchmark_is_the_sample_and_fractions_are_numbers(root: Path) -> None:
    rng = np.random.default_rng(0)
    images(root, *[f"images_training/{i}.jpg" for i in range(12)], *[f"images_test/{i}.jpg" for i in range(50, 54)])
    table(root / "training_solutions.csv", "GalaxyID Class1.1 Class1.2", [(i, *rng.random(2)) for i in range(12)])
    table(root / "all_zeros_benchmark.csv", "GalaxyID Class1.1 Class1.2", [(i, 0, 0) for i in range(50, 54)])
    table(root / "all_ones_benchmark.csv", "GalaxyID Class1.1 Class1.2", [(i, 1, 1) for i in range(50, 54)])
    d = written(root)[0].data
    assert (d.train_csv, d.number_columns, d.task) == ("training_solutions.csv", ["Class1.1", "Class1.2"], "number")
    assert d.sample_submission in ("all_zeros_benchmark.csv", "all_ones_benchmark.csv")


def test_columns_of_signs_and_blanks_are_labels(root: Path) -> None:
    rng = np.random.default_rng(0)
    images(root, *[f"img/{i:02}.jpg" for i in range(24)], "test/x.jpg")
    cells = [("", "1", "-1", "0")[k] for k in rng.integers(0, 4, 48)]
    table(root / "attributes.csv", "image_id bald male", [(f"{i:02}.jpg", *cells[2 * i : 2 * i + 2]) for i in range(24)])
    recipe, _ = written(root)
    assert (recipe.data.label_columns, recipe.predict.submission) == (["bald", "male"], "scores")
    labels = load_train(recipe.data, recipe.folds).labels
    assert labels == [tuple(n for n, c in zip(("bald", "male"), cells[2 * i : 2 * i + 2]) if c == "1") for i in range(24)]


def test_the_table_of_most_images_trains_and_no_sample_gives_the_form_of_the_task(root: Path) -> None:
    images(root, *[f"images_{i % 2}/images/{i:03}.png" for i in range(24)], "test/x.png")
    found = ["a|b", "a", "none", "b"]
    table(root / "Boxes.csv", "image y", [(f"{i:03}.png", i) for i in range(3)])
    pd.DataFrame(
        [(f"{i:03}.png", found[i % 4], i // 2) for i in range(24)], columns=["Image Index", "Finding Labels", "Patient ID"]
    ).to_csv(root / "Data.csv", index=False)
    recipe, _ = written(root)
    assert (recipe.data.train_csv, recipe.data.label_column, recipe.data.label_separator) == ("Data.csv", "Finding Labels", "|")
    assert (recipe.folds.group_column, recipe.predict.submission) == ("Patient ID", "labels")
    table(root / "Data.csv", "image_name c1 MOS", [(f"{i:03}.png", i % 2, 3.7 * i) for i in range(24)])
    (root.parent / "recipe.yaml").unlink()
    recipe, _ = written(root)
    assert (recipe.data.label_column, recipe.data.task, recipe.predict.submission) == ("MOS", "number", "numbers")


def test_numbered_features_beside_images_are_no_pixels(root: Path) -> None:
    images(root, *[f"images/{i}.jpg" for i in range(16)])
    header = [f"margin{i}" for i in range(64)]
    rows = np.random.default_rng(0).random((16, 64)).round(3)
    table(root / "train.csv", f"id species {' '.join(header)}", [(i, "ab"[i % 2], *rows[i]) for i in range(12)])
    table(root / "test.csv", f"id {' '.join(header)}", [(i, *rows[i]) for i in range(12, 16)])
    table(root / "sample_submission.csv", "id a b", [(i, 0.5, 0.5) for i in range(12, 16)])
    recipe, text = written(root)
    assert (recipe.data.pixel_columns, recipe.data.label_column, recipe.data.image_dir) == ([], "species", "images")
    assert "its columns margin* count as features" in text
    table(root / "both.csv", " ".join(f"{kind}{i}" for kind in ("margin", "shape") for i in range(64)), [(0,) * 128])
    assert find_pixel_columns(root / "both.csv") == ([], 0)


def test_images_in_folders_of_two_sizes(root: Path) -> None:
    for side, n in (("train", 12), ("test", 4)):
        images(root, *[f"images/{side}/{size}/{side}{i}.jpg" for size in ("300p", "500p") for i in range(n)])
    table(root / "train.csv", "filename category_id", [(f"train{i}.jpg", i % 3) for i in range(12)])
    table(root / "sample_submission.csv", "filename predictions", [(f"test{i}.jpg", "0 1 2") for i in range(4)])
    recipe, _ = written(root)
    assert (recipe.data.image_dir, recipe.data.test_dir) == ("images/train/300p", "images/test/300p")
    assert recipe.train.metric == "map@3"


def test_the_column_that_is_called_a_label_comes_before_others_with_the_samples_cells(root: Path) -> None:
    images(root, *[f"train/{i:02}.jpg" for i in range(24)], *[f"test/{i}.jpg" for i in range(50, 54)])
    table(root / "train.csv", "id place category_id", [(f"{i:02}", i // 3, i % 3) for i in range(24)])
    table(root / "sample_submission.csv", "Id Predicted", [(i, 0) for i in range(50, 54)])
    assert written(root)[0].data.label_column == "category_id"


def test_rows_of_pixels_need_no_name_for_a_submission_without_a_sample(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(root.parent / "cache"))
    pixels = np.random.default_rng(0).integers(0, 256, (16, 64))
    rows = [(i % 3, " ".join(map(str, row)), "Training" if i < 12 else "PublicTest") for i, row in enumerate(pixels)]
    table(root / "faces.csv", "emotion pixels Usage", rows)
    recipe, _ = written(root)
    sample = load_sample(recipe, ["13", "14"], ("0", "1"))
    assert sample is not None
    assert sample.ids == ["13", "14"]


def test_pictures_that_are_not_square_in_columns_of_parquet(root: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64 * 65)).astype(np.uint8)
    pixels[0, :2] = 0, 255
    packed = pd.DataFrame(pixels, columns=[str(i) for i in range(64 * 65)])
    packed.insert(0, "image_id", ["a", "b", "c"])
    packed.to_parquet(root / "train_image_data_0.parquet")
    with pytest.raises(
        FlukeError, match=r"neither images.*\(train_image_data_0.parquet: 4,160 columns of pixels.*unpack.py --shape\)"
    ):
        prepare.main([str(root), "--out", str(root.parent / "recipe.yaml")])
    out = root.parent / "out"
    assert unpack.main([str(root / "*.parquet"), "--shape", "64", "65", "--out", str(out)]) == 3
    for name, row in zip("abc", pixels):
        assert (np.load(out / f"images/{name}.npy") == row.reshape(64, 65)).all()
    with pytest.raises(FlukeError, match=r"4,160 columns ''... are no pictures of 64 x 64; set --shape HEIGHT WIDTH"):
        unpack.main([str(root / "*.parquet"), "--out", str(root.parent / "other")])


def test_a_label_without_images_is_filled(root: Path) -> None:
    images(root, *[f"train/{i}.jpg" for i in range(12)], *[f"test_images/{i}.jpg" for i in range(50, 54)])
    table(root / "truth.csv", "image MEL NV UNK", [(i, i % 2 * 1.0, 1.0 - i % 2, 0.0) for i in range(12)])
    recipe, _ = written(root)
    assert recipe.predict.fill == {"UNK": 0.0}
    sample = load_sample(recipe, ["50"], ("MEL", "NV"))
    assert sample is not None
    assert sample.columns == ["image", "MEL", "NV", "UNK"]
