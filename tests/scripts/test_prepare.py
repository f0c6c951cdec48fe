"""scripts/prepare.py: the recipe that it writes loads the tables as a person would."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lib.config import command_line
from lib.config.recipe import Recipe
from lib.errors import FlukeError
from lib.tables.loading import load_test, load_train
from scripts import prepare


def images(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(len(name)).integers(0, 255, (40, 50, 3)).astype(np.uint8)).save(root / name)


def table(path: Path, header: str, rows: list[tuple[object, ...]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=header.split()).to_csv(path, index=False)


def written(root: Path) -> tuple[Recipe, str]:
    """Return the recipe that is written for a folder, whose tables load, and its text."""
    before = sorted(path for path in root.rglob("*"))
    out = root.parent / "recipe.yaml"
    text = prepare.main([str(root), "--out", str(out)])
    assert sorted(path for path in root.rglob("*")) == before
    recipe = command_line.parse(command_line.make_parser(""), ["--cfg", str(out)]).recipe
    train = load_train(recipe.data, recipe.folds)
    assert load_test(recipe.data, train.classes, train.target) is not None
    return recipe, text


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "contest").mkdir()
    return tmp_path / "contest"


def test_a_table_and_a_sample_of_probabilities(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images(root, *[f"train/{i:03}.jpg" for i in range(24)], *[f"test/t{i}.jpg" for i in range(5)])
    table(root / "train.csv", "id patient_id sex target", [(f"{i:03}", i // 3, i % 2, int(i % 3 == 0)) for i in range(24)])
    table(root / "test.csv", "id sex", [(f"t{i}", 0) for i in range(5)])
    table(root / "sample_submission.csv", "id target", [(f"t{i}", 0) for i in range(5)])
    recipe, text = written(root)
    d = recipe.data
    assert (d.train_csv, d.image_column, d.label_column, d.image_dir) == ("train.csv", "id", "target", "train")
    assert (d.test_csv, d.test_dir, d.sample_submission) == ("test.csv", "test", "sample_submission.csv")
    assert (recipe.train.metric, recipe.folds.group_column) == ("roc_auc", "patient_id")
    assert "# a guess for two classes" in text
    assert "24 images" in capsys.readouterr().out


def test_one_hot_columns_and_ids_with_extension(root: Path) -> None:
    images(root, *[f"images/a{i}.png" for i in range(12)])
    table(root / "train.csv", "image_id red green", [(f"a{i}", i % 2, 1 - i % 2) for i in range(8)])
    table(root / "sample_submission.csv", "image_id red green", [(f"a{i}.png", 0.5, 0.5) for i in range(8, 12)])
    recipe, _ = written(root)
    assert recipe.data.label_columns == ["red", "green"]
    assert recipe.data.label_separator is None
    assert recipe.train.metric in ("roc_auc", "log_loss")


def test_coco_and_ids_that_are_no_names(root: Path) -> None:
    images(root, *[f"train/{i % 3}/{i}.jpg" for i in range(12)], *[f"test/x{i}.jpg" for i in range(4)])
    records = [{"id": i, "file_name": f"{i % 3}/{i}.jpg"} for i in range(12)]
    annotations = [{"id": i, "image_id": i, "category_id": i % 3} for i in range(12)]
    (root / "train.json").write_text(json.dumps({"images": records, "annotations": annotations, "categories": []}))
    (root / "test.json").write_text(json.dumps({"images": [{"id": 50 + i, "file_name": f"x{i}.jpg"} for i in range(4)]}))
    table(root / "sample_submission.csv", "Id Predicted", [(50 + i, 0) for i in range(4)])
    recipe, _ = written(root)
    d = recipe.data
    assert (d.train_csv, d.image_column, d.label_column, d.image_dir) == ("train.json", "file_name", "category_id", "train")
    assert (d.test_csv, d.test_dir, d.id_column) == ("test.json", "test", "id")


def test_class_folders_with_drivers_in_a_table(root: Path) -> None:
    names = [f"c{i % 2}/img_{i}.jpg" for i in range(12)]
    images(root, *[f"imgs/train/{name}" for name in names], *[f"imgs/test/t{i}.jpg" for i in range(4)])
    table(root / "drivers.csv", "subject classname img", [(f"p{i // 2}", name[:2], name[3:]) for i, name in enumerate(names)])
    table(root / "sample_submission.csv", "img c0 c1", [(f"t{i}.jpg", 0.5, 0.5) for i in range(4)])
    recipe, _ = written(root)
    d = recipe.data
    assert d.test_dir == "imgs/test"
    assert (d.train_dir, d.train_csv) == ("imgs/train", None) or (d.train_csv, d.label_column) == ("drivers.csv", "classname")
    assert recipe.folds.group_column == "subject"


def test_labels_in_file_names(root: Path) -> None:
    images(root, *[f"train/{name}.{i}.jpg" for name in ("cat", "dog") for i in range(5)], *[f"test/{i}.jpg" for i in range(4)])
    table(root / "sample_submission.csv", "id label", [(i, 0.5) for i in range(4)])
    recipe, _ = written(root)
    assert recipe.data.label_pattern is not None
    assert recipe.data.order == ["cat", "dog"]
    assert recipe.train.metric == "log_loss"


def test_lists_of_labels_individuals_and_numbers(root: Path) -> None:
    images(root, *[f"train/{i}.jpg" for i in range(30)], *[f"test/t{i}.jpg" for i in range(4)])
    table(root / "train.csv", "image labels", [(f"{i}.jpg", ["a", "a b", "b", "c", "b c"][i % 5]) for i in range(30)])
    table(root / "sample_submission.csv", "image labels", [(f"t{i}.jpg", "a b") for i in range(4)])
    assert written(root)[0].data.label_separator == " "
    table(root / "train.csv", "Image Id", [(f"{i}.jpg", f"w_{i % 6}" if i % 6 else "new_whale") for i in range(30)])
    table(root / "sample_submission.csv", "Image Id", [(f"t{i}.jpg", "new_whale w_1 w_2 w_3 w_4") for i in range(4)])
    (root.parent / "recipe.yaml").unlink()
    assert written(root)[0].data.new_label == "new_whale"
    table(root / "train.csv", "Id Score", [(i, i * 3 + 1) for i in range(30)])
    table(root / "sample_submission.csv", "Id Score", [(f"t{i}", 41.7) for i in range(4)])
    (root.parent / "recipe.yaml").unlink()
    recipe, _ = written(root)
    assert (recipe.data.task, recipe.train.metric, recipe.objective.name) == ("number", "rmse", "mse")


def test_clusters_of_several_species_in_one_table(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        (i, f"im/x{i}.jpg", f"a{i // 3}" if i < 24 else "", "train" if i < 24 else "test", "ox" if i % 2 else "elk")
        for i in range(30)
    ]
    images(root, *[row[1] for row in rows])
    table(root / "metadata.csv", "image_id path identity split dataset", rows)  # type: ignore[arg-type]
    table(root / "sample_submission.csv", "image_id cluster", [(i, f"cluster_{i}") for i in range(24, 30)])
    recipe, _ = written(root)
    d = recipe.data
    assert (d.train_where, d.test_where) == ({"split": ["train"]}, {"split": ["test"]})
    assert (d.image_column, d.label_column, d.id_column, d.new_label) == ("path", "identity", "image_id", "new")
    assert recipe.retrieval.part_column == "dataset"
    assert "then: python scripts/discover.py" in capsys.readouterr().out


def test_nothing_to_train_on_is_one_sentence(root: Path) -> None:
    with pytest.raises(FlukeError, match="holds neither images nor tables"):
        prepare.main([str(root), "--out", str(root.parent / "r.yaml")])
    table(root / "train.csv", "image label", [("a.jpg", "x")])
    with pytest.raises(FlukeError, match=r"holds tables \(train.csv\) but no images"):
        prepare.main([str(root), "--out", str(root.parent / "r.yaml")])
    (root / "train.csv").unlink()
    images(root, "a.jpg", "b.jpg")
    with pytest.raises(FlukeError, match="no table names its images with labels, and they are in no class folders"):
        prepare.main([str(root), "--out", str(root.parent / "r.yaml")])
    (root.parent / "r.yaml").touch()
    with pytest.raises(FlukeError, match="exists; name another file with --out"):
        prepare.main([str(root), "--out", str(root.parent / "r.yaml")])


def test_grey_files_with_the_same_endings_are_channels(root: Path) -> None:
    for i in range(16):
        for colour in ("blue", "green", "red", "yellow"):
            path = root / ("train" if i < 12 else "test") / f"c{i:02}_{colour}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("L", (40, 40), i).save(path)
    table(root / "train.csv", "Id Target", [(f"c{i:02}", ["0", "1 2", "2", "0 1"][i % 4]) for i in range(12)])
    table(root / "sample_submission.csv", "Id Predicted", [(f"c{i:02}", 0) for i in range(12, 16)])
    data = written(root)[0].data
    assert data.channels == [f"{{name}}_{colour}.png" for colour in ("red", "green", "blue", "yellow")]
    assert (data.image_pattern, data.image_dir, data.test_dir, data.label_separator) == (None, "train", "test", " ")


def test_cells_that_are_names_of_images(root: Path) -> None:
    images(root, *[f"train_images/{i:02}.jpg" for i in range(12)], *[f"test_images/{i}.jpg" for i in range(50, 54)])
    table(root / "train.csv", "posting_id image label_group", [(f"train_{i}", f"{i:02}.jpg", 900 + i // 3) for i in range(12)])
    table(root / "test.csv", "posting_id image", [(f"test_{i}", f"{i}.jpg") for i in range(50, 54)])
    table(root / "sample_submission.csv", "posting_id matches", [(f"test_{i}", f"test_{i}") for i in range(50, 54)])
    recipe, text = written(root)
    assert (recipe.predict.submission, recipe.data.label_column, recipe.data.new_label) == ("matches", "label_group", "new")
    assert recipe.data.id_column == "posting_id"
    assert "names of images that show the same" in text
    images(root, "index/0/a.jpg")
    table(root / "sample_submission.csv", "id images", [(str(i), "") for i in range(50, 54)])
    (root / "test.csv").unlink()
    (root.parent / "recipe.yaml").unlink()
    recipe = written(root)[0]
    assert (recipe.predict.submission, recipe.predict.index, recipe.predict.topk) == ("images", "index", 100)


def test_labels_of_a_second_table_are_joined(root: Path) -> None:
    images(root, *[f"photos/{i:03}.jpg" for i in range(24)], *[f"test_photos/{i:03}.jpg" for i in range(900, 906)])
    table(root / "train.csv", "business_id labels", [(1000 + k, ["1 2", "3", "1 3 5", ""][k % 4]) for k in range(8)])
    table(root / "train_photo_to_biz.csv", "photo_id business_id", [(f"{i:03}", 1000 + i // 3) for i in range(24)])
    table(root / "test_photo_to_biz.csv", "photo_id business_id", [(f"{i:03}", f"b{i // 2}") for i in range(900, 906)])
    table(root / "sample_submission.csv", "business_id labels", [(f"b{i}", "1 2 3") for i in range(450, 453)])
    recipe, _ = written(root)
    d = recipe.data
    assert (d.train_csv, d.join_csv, d.join_key) == ("train_photo_to_biz.csv", "train.csv", "business_id")
    assert (d.label_column, d.label_separator, d.id_column, recipe.folds.group_column) == ("labels", " ", *["business_id"] * 2)


def test_features_and_labels_in_two_tables_with_sites(root: Path) -> None:
    for side, numbers in (("train", range(24)), ("test", range(50, 54))):
        images(root, *[f"{side}_features/Z{i}.jpg" for i in numbers])
        rows = [(f"Z{i}", f"{side}_features/Z{i}.jpg", f"S{i // 4}") for i in numbers]
        table(root / f"{side}_features.csv", "id filepath site", rows)
    table(root / "train_labels.csv", "id bird blank", [(f"Z{i}", i % 2 * 1.0, 1.0 - i % 2) for i in range(24)])
    table(root / "submission_format.csv", "id bird blank", [(f"Z{i}", 0.5, 0.5) for i in range(50, 54)])
    recipe, _ = written(root)
    assert recipe.data.label_columns == ["bird", "blank"]
    assert (recipe.data.join_csv, recipe.folds.group_column) == ("train_labels.csv", "site")


def test_json_of_other_keys_with_lists_of_labels(root: Path) -> None:
    images(root, *[f"{side}/{i}.jpg" for side in ("train", "test") for i in range(1, 17)])
    for side in ("train", "test"):
        content: dict[str, object] = {"images": [{"imageId": str(i), "url": "x"} for i in range(1, 17)]}
        if side == "train":
            content["annotations"] = [{"imageId": str(i), "labelId": [str(i % 4), "66"]} for i in range(1, 17)]
        (root / f"{side}.json").write_text(json.dumps(content))
    table(root / "sample_submission.csv", "image_id label_id", [(i, "66 2") for i in range(1, 17)])
    d = written(root)[0].data
    assert (d.image_column, d.label_column, d.label_separator, d.image_dir, d.test_dir) == (
        "imageId",
        "labelId",
        " ",
        "train",
        "test",
    )


def test_new_individuals_in_lists_and_numbers_in_several_columns(root: Path) -> None:
    images(root, *[f"train/{i:02}.jpg" for i in range(24)], *[f"test/t{i}.jpg" for i in range(4)])
    table(root / "train.csv", "image individual_id", [(f"{i:02}.jpg", f"w{i % 6}") for i in range(24)])
    table(root / "sample_submission.csv", "image predictions", [(f"t{i}.jpg", "w1 w2 new_individual") for i in range(4)])
    recipe, _ = written(root)
    assert (recipe.data.new_label, recipe.predict.submission, recipe.predict.topk) == ("new_individual", "topk", 3)
    table(root / "train.csv", "image x y", [(f"{i:02}.jpg", i * 1.5, i / 24) for i in range(24)])
    table(root / "sample_submission.csv", "image x y", [(f"t{i}.jpg", 1.0, 0.5) for i in range(4)])
    (root.parent / "recipe.yaml").unlink()
    recipe, _ = written(root)
    assert (recipe.data.task, recipe.data.number_columns, recipe.train.metric) == ("number", ["x", "y"], "rmse")


def test_class_folders_whose_sample_holds_probabilities(root: Path) -> None:
    images(root, *[f"{kind}/{i:02}.jpg" for kind in ("Cover", "JMiPOD", "UERD", "Test") for i in range(6)])
    table(root / "sample_submission.csv", "Id Label", [(f"{i:02}.jpg", 0) for i in range(6)])
    recipe, _ = written(root)
    assert recipe.data.class_map == {"Cover": "0", "JMiPOD": "1", "UERD": "1"}
    assert recipe.train.metric == "roc_auc"
    for i in range(6):
        (root / f"Cover/{i:02}.jpg").rename(root / f"Test/x{i}.jpg")
    (root / "Cover").rmdir()
    (root.parent / "recipe.yaml").unlink()
    assert "# class_map: {'JMiPOD': '1', 'UERD': '1'}  # the sample's cells are numbers" in written(root)[1]


def test_pixels_in_cells(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(root.parent / "cache"))
    pixels = np.random.default_rng(0).integers(0, 256, (16, 64))
    header = " ".join(f"pixel{i}" for i in range(64))
    table(root / "train.csv", f"label {header}", [(i % 3, *row) for i, row in enumerate(pixels[:12])])
    table(root / "test.csv", header, [tuple(row) for row in pixels[12:]])
    table(root / "sample_submission.csv", "ImageId Label", [(i + 1, 0) for i in range(4)])
    d = written(root)[0].data
    assert (d.pixel_columns, d.label_column, d.test_csv, d.size, d.channels) == (["pixel*"], "label", "test.csv", 32, 3)
    for name in ("train.csv", "test.csv", "sample_submission.csv"):
        (root / name).unlink()
    (root.parent / "recipe.yaml").unlink()
    rows = [(i % 3, "Training" if i < 12 else "PublicTest", " ".join(map(str, row))) for i, row in enumerate(pixels)]
    table(root / "faces.csv", "emotion Usage pixels", rows)
    d = written(root)[0].data
    assert (d.pixel_columns, d.label_column, d.test_where, d.channels) == (["pixels"], "emotion", {"Usage": ["PublicTest"]}, 1)
    (root / "faces.csv").unlink()
    (root.parent / "recipe.yaml").unlink()
    bands = [{"id": f"r{i}", "band_1": row.tolist(), "band_2": row.tolist()} for i, row in enumerate(pixels)]
    (root / "train.json").write_text(json.dumps([each | {"is_iceberg": i % 2} for i, each in enumerate(bands[:12])]))
    (root / "test.json").write_text(json.dumps(bands[12:]))
    table(root / "sample_submission.csv", "id is_iceberg", [(f"r{i}", 0.5) for i in range(12, 16)])
    recipe, _ = written(root)
    d = recipe.data
    assert (d.pixel_columns, d.label_column, d.image_column, d.channels) == (["band_1", "band_2"], "is_iceberg", "id", 2)
    assert recipe.train.metric == "roc_auc"


def test_images_of_one_name_below_a_common_folder(root: Path) -> None:
    images(root, *[f"data/{side}/x/{i}.jpg" for side in ("train", "test") for i in range(8)])
    table(root / "train.csv", "image label", [(i, "ab"[i % 2]) for i in range(8)])
    table(root / "sample_submission.csv", "image label", [(i, "a") for i in range(8)])
    d = written(root)[0].data
    assert (d.image_dir, d.test_dir) == ("data/train", "data/test")
    (root.parent / "recipe.yaml").unlink()
    table(root / "train.csv", "image label", [(f"train/x/{i}.jpg", "ab"[i % 2]) for i in range(8)])
    assert written(root)[0].data.image_dir == "data"


def test_other_tasks_than_labels_of_whole_images_are_refused(root: Path) -> None:
    images(root, *[f"train/ID_{i:02}.png" for i in range(8)], *[f"test/ID_{i:02}.png" for i in range(50, 53)])
    table(root / "train.csv", "ID Label", [(f"ID_{i:02}_{kind}", i % 2) for i in range(8) for kind in ("epidural", "any")])
    table(root / "sample_submission.csv", "image_id PredictionString", [(f"ID_{i:02}", "1.0 0 0 50 50") for i in range(50, 53)])
    with pytest.raises(FlukeError, match="column PredictionString, asks for boxes or masks; only labels of whole images"):
        prepare.main([str(root), "--out", str(root.parent / "recipe.yaml")])
    images(root, *[f"train/{kind}/ID_{i}.png" for kind in "ab" for i in range(8)])
    for path in (root / "train").glob("*.png"):
        path.unlink()
    recipe, text = written(root)
    assert (recipe.data.train_dir, recipe.data.sample_submission, recipe.predict.submission) == ("train", None, "label")
    assert "asks for boxes or masks" in text
