"""Individuals of a saved gallery are renamed, merged and split, and the changes undone."""

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
    assert open_gallery(made).about["validation"] != before.about["validation"]  # fitted again
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
