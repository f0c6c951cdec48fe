"""Individuals of a saved gallery are renamed, merged and split, and the changes undone."""

import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lib.errors import FlukeError
from lib.pipelines import gallery_files
from lib.retrieval.gallery import Gallery, open_gallery
from lib.retrieval.history import read_history
from scripts import catalogue, retrieve
from tests.scripts.test_catalogue import KNOWN, weights, write_catalogue

__all__ = ["weights"]


@pytest.fixture(scope="module")
def made(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("catalogue")
    options = write_catalogue(root, [*KNOWN * 4])
    retrieve.main(["--model", "resnet10t", "--weights", str(weights), *options, "--out", str(root / "out")])
    return root / "out" / "gallery"


def names(gallery: Gallery) -> dict[str, str]:
    return dict(zip(gallery.rows.names.tolist(), gallery.rows.labels.tolist()))


def test_a_catalogue_is_renamed_merged_split_and_all_is_undone(made: Path, tmp_path: Path, capsys) -> None:
    given, before = ["--gallery", str(made)], open_gallery(made)
    first = names(before)
    assert catalogue.main([*given, "--rename", "a", "Luna"]) == {"images": 32, "individuals": 8}
    renamed = names(open_gallery(made))
    assert renamed == {image: "Luna" if name == "a" else name for image, name in first.items()}
    assert open_gallery(made).about["open_set"]["threshold"] == pytest.approx(before.about["open_set"]["threshold"], abs=1e-6)
    assert catalogue.main([*given, "--merge", "Luna", "b", "c"]) == {"images": 32, "individuals": 6}
    merged = open_gallery(made)
    assert merged.about["validation"] != before.about["validation"]  # fitted again
    assert merged.about["classes"] == {"a": "Luna", "b": "", "c": ""}  # class centres of b and c stand for nobody
    images = [image for image, name in first.items() if name == "d"][:2]
    assert catalogue.main([*given, "--split", "Rex", *images]) == {"images": 32, "individuals": 7}
    assert {image for image, name in names(open_gallery(made)).items() if name == "Rex"} == set(images)
    query = str(made.parents[1] / "images" / images[0])
    retrieve.main([*given, "--queries", query, "--out", str(tmp_path)])
    assert "Luna" in set(pd.read_parquet(tmp_path / "ranks.parquet")["name"])
    assert retrieve.main([*given, "--remove", "e"]) == {"images": 28, "individuals": 6}
    assert [change.rows for change in read_history(made)] == [4, 12, 2, 4]
    for _ in range(4):
        catalogue.main([*given, "--undo"])
    assert "undid rename a to Luna" in capsys.readouterr().out
    after = open_gallery(made)
    assert names(after) == first
    assert after.about == before.about
    assert after.held_out is not None
    assert before.held_out is not None
    assert all(np.array_equal(a, b) for a, b in zip(after.held_out, before.held_out))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--rename Lun x", "has no individual Lun; give a name that it holds"),
        ("--rename a b", r"has an individual b already; --merge b a makes one"),
        ("--rename a new", "'new' can't be an individual's name"),
        ("--merge a", "is one individual; name two or more"),
        ("--merge a b zz", "has no individual zz"),
        ("--split x", "names no image"),
        ("--split x 1_00.png", r"has no image 1_00\.png; did you mean 1_0\d+\.png"),
        ("--split x 1_000.png 1_001.png", r"the images are of 2 individuals \(a, b\)"),
        ("--split x 1_000.png 1_008.png 1_016.png 1_024.png", "all images of a; --rename a x"),
        ("--undo", "no change is left to undo"),
        ("--undo --merge a b", "--merge, --undo: give one of"),
        ("", "no change: give one of"),
    ],
)
def test_bad_changes_are_refused(options: str, said: str, made: Path) -> None:
    before = (made / "gallery.json").read_bytes()
    with pytest.raises(FlukeError, match=said):
        catalogue.main(["--gallery", str(made), *options.split()])
    assert (made / "gallery.json").read_bytes() == before


def test_a_change_finds_how_the_networks_were_combined(made: Path, tmp_path: Path) -> None:
    assert gallery_files.combination(made) == "concat"
    (tmp_path / "gallery.json").write_text('{"about": {"combine": "mean"}}')
    assert gallery_files.combination(tmp_path) == "mean"


def test_errors_are_listed_with_the_command_that_mends_them(made: Path, tmp_path: Path) -> None:
    given = ["--gallery", str(made)]
    image = next(image for image, name in names(open_gallery(made)).items() if name == "h")
    catalogue.main([*given, "--move", "a", image])
    try:
        catalogue.main([*given, "--errors", "--out", str(tmp_path)])
        table = pd.read_csv(tmp_path / "errors.csv", keep_default_na=False)
        row = table[(table["kind"] == "photograph") & (table["images"] == image)].iloc[0]
        assert row["individual"] == "a"
        assert row.name < len(table) / 4
        assert table["probability"].is_monotonic_decreasing
        assert image in (tmp_path / "errors.html").read_text()
        catalogue.main(shlex.split(row["command"])[2:])
        assert names(open_gallery(made))[image] == row["other"]
    finally:
        while any(change.undoes is None for change in read_history(made)):
            try:
                catalogue.main([*given, "--undo"])
            except FlukeError:
                break


def test_sightings_are_a_column_of_the_gallery(weights: Path, tmp_path: Path) -> None:
    options = write_catalogue(tmp_path, [*"abcd" * 4])
    table = pd.read_csv(tmp_path / "train.csv").assign(sighting=[f"s{i // 8}{i % 4}" for i in range(16)])
    table[["image", "sighting"]].to_csv(tmp_path / "sightings.csv", index=False)
    given = ["--model", "resnet10t", "--weights", str(weights), *options, "--out", str(tmp_path / "out")]
    retrieve.main([*given, "--folds.group_csv", "sightings.csv", "--folds.group_column", "sighting"])
    gallery = open_gallery(tmp_path / "out" / "gallery")
    assert gallery.rows.details["sighting"].tolist() == table["sighting"].tolist()
    wrong = str(gallery.rows.names[0])
    catalogue.main(["--gallery", str(tmp_path / "out" / "gallery"), "--move", "b", wrong])
    catalogue.main(["--gallery", str(tmp_path / "out" / "gallery"), "--errors"])
    found = pd.read_csv(tmp_path / "out" / "gallery" / "errors" / "errors.csv")
    assert set(found[found["kind"] == "sighting"]["images"]) == {wrong, str(gallery.rows.names[4])}
