"""scripts/prepare.py: the recipe that it writes loads the tables as a person would."""

import json
import os
import shutil
import sys
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


# --- downloads --------------------------------------------------------------------------------------------------------------------

CLIENT = """#!{python}
import shutil, sys
from pathlib import Path
assert sys.argv[1:5] == ["competitions", "download", "leaves", "-p"], sys.argv
if Path({archive!r}).exists():
    shutil.copy({archive!r}, sys.argv[5])
else:
    print("Downloading 12%", end="\\r", file=sys.stderr)
    print("403 - Forbidden - You must accept this competition's rules")
    sys.exit(1)
"""


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of the archive that an executable `kaggle` hands out, once it is there."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "kaggle").write_text(CLIENT.format(python=sys.executable, archive=str(tmp_path / "server/leaves.zip")))
    (bin_ / "kaggle").chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "server/leaves.zip"


def test_a_contest_is_downloaded_unpacked_and_described(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = tmp_path / "files"
    images(files, *[f"train/{i}.png" for i in range(8)], *[f"test/{i}.png" for i in range(8, 10)])
    shutil.make_archive(str(files / "train"), "zip", files, "train")  # an archive within the archive
    shutil.make_archive(str(files / "test"), "gztar", files, "test")
    shutil.rmtree(files / "train")
    shutil.rmtree(files / "test")
    table(files / "train.csv", "image label", [(f"{i}.png", "ab"[i % 2]) for i in range(8)])
    table(files / "sample_submission.csv", "image label", [(f"{i}.png", "a") for i in range(8, 10)])
    shutil.make_archive(str(archive.with_suffix("")), "zip", files)
    for _ in range(2):
        text = prepare.main([str(tmp_path / "leaves"), "--kaggle", "leaves", "--out", str(tmp_path / "recipe.yaml")])
        assert 'image_dir: "train"' in text
        left = {path.name for path in (tmp_path / "leaves").iterdir()}
        assert left == {"train", "test", "train.csv", "sample_submission.csv"}
        (tmp_path / "recipe.yaml").unlink()
        archive.unlink(missing_ok=True)  # the second time nothing is downloaded
    assert "has files already; nothing is downloaded" in capsys.readouterr().out


def test_what_the_client_says_and_a_damaged_archive_are_sentences(archive: Path, tmp_path: Path) -> None:
    command = [str(tmp_path / "leaves"), "--kaggle", "leaves", "--out", str(tmp_path / "recipe.yaml")]
    with pytest.raises(
        FlukeError, match="Kaggle's client says: 403 - Forbidden - You must accept this competition's rules; the comm"
    ):
        prepare.main(command)
    archive.parent.mkdir()
    archive.write_bytes(b"PK cut short")
    with pytest.raises(FlukeError, match=r"leaves.zip: can't be unpacked .*; delete it to download it again"):
        prepare.main(command)
    assert (tmp_path / "leaves/leaves.zip").exists()
