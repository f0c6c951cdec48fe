"""recipes/kinds: each loads, fits its target, and reads the files that its comments describe."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from lib.config import command_line
from lib.config.recipe import Recipe
from lib.submission.choice import check_sample
from lib.tables.extra import load_extra
from lib.tables.image_path import files_of
from lib.tables.loading import load_test, load_train
from lib.tables.sample import load_sample
from lib.tables.target import recipe_target
from lib.training.tasks import check_task

ROOT = Path(__file__).parents[2]
FILES = {path.stem: path for path in sorted((ROOT / "recipes/kinds").glob("*.yaml"))}


def images(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (9, 9)).save(folder / name)


def tables(root: Path, **texts: str) -> None:
    """Write tables, {name: header and rows}, whose cells are separated by ";" here and a comma there."""
    for name, text in texts.items():
        (root / f"{name}.csv").write_text(text.replace(";", ",").replace(" / ", "\n") + "\n")


def one_label(root: Path) -> None:
    images(root, "train_images/a.jpg", "train_images/b.jpg", "test_images/c.jpg")
    tables(root, train="image_id;label / a;x / b;y", sample_submission="image_id;label / c.jpg;x")


def two_classes(root: Path) -> None:
    images(root, "train/a.jpg", "train/b.jpg", "test/c.jpg")
    tables(root, train="isic_id;target / a;0 / b;1", train_metadata="isic_id;patient_id;sex / b;P1;f / a;P2;m")
    tables(root, test="isic_id / c", sample_submission="isic_id;target / c;0")


def one_hot(root: Path) -> None:
    images(root, *[f"images/{name}.jpg" for name in "abcd"])
    tables(root, train="image_id;healthy;rust;scab / a;1;0;0 / b;0;1;0 / c;0;0;1")
    tables(root, sample_submission="image_id;healthy;rust;scab / d;0.3;0.3;0.4")


def long_form(root: Path) -> None:
    images(root, "train/ID_1.png", "train/ID_2.png", "test/ID_3.png")
    kinds = ("epidural", "subdural", "any")
    tables(root, train=" / ".join(["ID;Label", *[f"ID_{i}_{kind};{i - 1}" for i in (1, 2) for kind in kinds]]))
    tables(root, sample_submission=" / ".join(["ID;Label", *[f"ID_3_{kind};0.5" for kind in kinds]]))


def several_labels(root: Path) -> None:
    images(root, "train_images/a.jpg", "train_images/b.jpg", "test_images/c.jpg")
    tables(root, train="image;labels / a.jpg;rust scab / b.jpg;rust", sample_submission="image;labels / c.jpg;rust")


def ordinal(root: Path) -> None:
    images(root, "train_images/10_left.png", "train_images/10_right.png", "train_images/11_left.png", "test_images/12_left.png")
    tables(root, train="id_code;diagnosis / 10_left;0 / 10_right;4 / 11_left;2", test="id_code / 12_left")
    tables(root, sample_submission="id_code;diagnosis / 12_left;0")


def number(root: Path) -> None:
    images(root, "train/a.jpg", "train/b.jpg", "test/c.jpg")
    tables(root, train="Id;Pawpularity / a;63 / b;17", test="Id / c", sample_submission="Id;Pawpularity / c;41.5")


def class_folders(root: Path) -> None:
    images(root, "train/oak/1.jpg", "train/Oak tree/2.jpg", "train/maple/3.jpg", "train/unsorted/4.jpg", "test/5.jpg")
    tables(root, sample_submission="file;species / 5.jpg;oak")


def names_with_labels(root: Path) -> None:
    images(root, "train/cat.1.jpg", "train/dog.2.jpg", "test/1.jpg")
    tables(root, sample_submission="id;label / 1;0.5")


def coco(root: Path) -> None:
    images(root, "train/a.jpg", "train/b.jpg", "test/c.jpg")
    records = [{"id": i, "file_name": f"{name}.jpg", "seq_id": f"s{i}"} for i, name in enumerate("ab")]
    annotations = [{"id": i, "image_id": i, "category_id": 7 + i} for i in range(2)]
    (root / "train.json").write_text(json.dumps({"images": records, "annotations": annotations, "categories": []}))
    (root / "test.json").write_text(json.dumps({"images": [{"id": "9ad", "file_name": "c.jpg"}]}))
    tables(root, sample_submission="Id;Category / 9ad;7")


def one_table(root: Path) -> None:
    images(root, *[f"images/{i}.jpg" for i in range(3)])
    rows = " / ".join(f"images/{i}.jpg;{label};s{i};{split}" for i, (label, split) in enumerate(["xt", "yt", "_q"]))
    tables(root, labels="path;label;site;split / " + rows.replace(";t", ";train").replace("_;s2;q", ";s2;test"))


def several_images_per_row(root: Path) -> None:
    images(
        root, "train_images/a-1.jpg", "train_images/a-2.jpg", "train_images/b-1.jpg", "test_images/c-1.jpg", "test_images/c-2.jpg"
    )
    tables(root, train="PetID;AdoptionSpeed / a;0 / b;1", test="PetID / c", sample_submission="PetID;AdoptionSpeed / c;0")


def channels(root: Path) -> None:
    for name in ("train/a", "train/b", "test/c"):
        images(root, *[f"{name}_{colour}.png" for colour in ("red", "green", "blue", "yellow")])
    tables(root, train="Id;Target / a;16 0 / b;0", sample_submission="Id;Predicted / c;0")


def extra_rows(root: Path) -> None:
    images(root, "images/a.png", "images/b.png", "images/c.png", "external/d.png")
    tables(root, train="image;label / a.png;x / b.png;y", pseudo="image;label / d.png;x", sample_submission="image;label / c.png;x")


def individuals(root: Path) -> None:
    images(root, "train/a.jpg", "train/b.jpg", "train/c.jpg", "test/d.jpg")
    tables(root, train="Image;Id / a.jpg;w_1 / b.jpg;w_2 / c.jpg;new_whale", sample_submission="Image;Id / d.jpg;new_whale w_1")


def clusters(root: Path) -> None:
    images(root, "images/a.jpg", "images/b.jpg", "images/c.jpg")
    rows = "1;lynx_1;images/a.jpg;Lynx;database / 2;lynx_2;images/b.jpg;Lynx;database / 3;;images/c.jpg;Lynx;query"
    tables(root, metadata=f"image_id;identity;path;dataset;split / {rows}", sample_submission="image_id;cluster / 3;cluster_0")


def matches(root: Path) -> None:
    images(root, "train_images/a.jpg", "train_images/b.jpg", "test_images/c.jpg")
    tables(
        root, train="posting_id;image;label_group / train_1;a.jpg;900 / train_2;b.jpg;901", test="posting_id;image / test_3;c.jpg"
    )
    tables(root, sample_submission="posting_id;matches / test_3;test_3")


def pixels(root: Path) -> None:
    header = ";".join(f"pixel{i}" for i in range(4))
    tables(root, train=f"label;{header} / 3;0;9;200;3 / 7;1;2;3;255", test=f"{header} / 5;5;5;5")
    tables(root, sample_submission="ImageId;Label / 1;0")


MAKERS: dict[str, Callable[[Path], None]] = {
    make.__name__: make
    for make in (one_label, two_classes, one_hot, several_labels, ordinal, number, class_folders, names_with_labels, coco)
}
MAKERS |= {
    make.__name__: make
    for make in (one_table, several_images_per_row, channels, extra_rows, individuals, clusters, matches, pixels, long_form)
}


def load(name: str, root: Path) -> tuple[Recipe, bool]:
    """Return the recipe with its files in `root`, and whether it is for train_embedding."""
    text = FILES[name].read_text()
    argv = ["--cfg", str(FILES[name]), "--data.root", str(root)]
    return command_line.parse(command_line.make_parser(""), argv).recipe, "train_embedding" in text


@pytest.mark.parametrize("name", FILES)
def test_a_recipe_reads_the_files_that_it_describes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    MAKERS[name](tmp_path)
    recipe, embedding = load(name, tmp_path)
    target = recipe_target(recipe.data.label_separator, embedding, recipe.data.task)
    check_task(recipe, target)
    train = load_train(recipe.data, recipe.folds)
    extra = load_extra(recipe.data, recipe.folds, train)
    assert (extra is not None) == (name == "extra_rows")
    test = load_test(recipe.data, train.classes, target)
    assert test is not None
    assert len(test) == (2 if name == "several_images_per_row" else 1)
    assert (train.groups is not None) == (recipe.folds != Recipe().folds or name == "several_images_per_row")
    assert all(len(files_of(path)) == (4 if name == "channels" else 1) for path in train.paths)
    if not embedding:
        sample = load_sample(recipe, test.answers, train.classes)
        assert sample is not None
        said = check_sample(sample, recipe.predict, test.answers, train.classes, target, recipe.train.metric)
        assert "hold something else" not in said or name == "pixels", said  # its sample holds 0 for any digit


def test_every_kind_is_made_commented_and_linked() -> None:
    assert set(MAKERS) == set(FILES)
    page = (ROOT / "docs/contests.md").read_text()
    for name, path in FILES.items():
        lines = path.read_text().splitlines()
        assert lines[0] == "# yaml-language-server: $schema=../schema.json"
        assert f"../recipes/kinds/{name}.yaml" in page
        assert f"--cfg recipes/kinds/{name}.yaml" in lines[2]
        assert len(lines) < 30
