"""A gallery without training: a pretrained network, a table or folders of a catalogue."""

import json
from pathlib import Path

import pandas as pd
import pytest
import timm
import torch

from lib.config.command_line import load_recipe
from lib.errors import FlukeError
from lib.retrieval.gallery import open_gallery
from scripts import retrieve
from tests.conftest import paint

KNOWN, NEW = "abcdefgh", "yz"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet10t.pth"
    torch.save(timm.create_model("resnet10t").state_dict(), path)
    return path


def write_catalogue(root: Path, labels: list[str]) -> list[str]:
    """Paint a catalogue, and return the options that name it."""
    names = paint(root / "images", labels, 1)
    site = ["A" if label in "abcd" else "B" for label in labels]
    pd.DataFrame({"image": names, "label": labels, "site": site}).to_csv(root / "train.csv", index=False)
    return ["--data.root", str(root), "--data.image_dir", "images", "--data.size", "32"]


def test_a_catalogue_becomes_a_gallery_that_answers(weights: Path, tmp_path: Path) -> None:
    options = write_catalogue(tmp_path, [*KNOWN * 5])
    truth = [*KNOWN * 2, *NEW * 4]
    pd.DataFrame({"image": paint(tmp_path / "images", truth, 2), "label": truth}).to_csv(tmp_path / "truth.csv", index=False)
    given = ["--model", "resnet10t", "--weights", str(weights), *options, "--out", str(tmp_path / "out")]
    metrics = retrieve.main([*given, "--evaluate", str(tmp_path / "truth.csv")])
    assert metrics["recall@1"] > 0.6  # hues are told apart by any network
    gallery = open_gallery(tmp_path / "out" / "gallery")
    assert len(gallery.rows) == 40
    assert gallery.about["open_set"]["threshold"] is not None
    photograph = str(tmp_path / "images" / pd.read_csv(tmp_path / "truth.csv")["image"][0])
    retrieve.main(["--gallery", str(tmp_path / "out" / "gallery"), "--queries", photograph])
    ranks = tmp_path / "out" / "gallery" / "answers" / "ranks.parquet"
    assert set(pd.read_parquet(ranks)["name"]) <= {*KNOWN, "new"}
    there = ["--gallery", str(tmp_path / "out" / "gallery"), "--queries", photograph]
    retrieve.main([*there, "--where", "site == 'A'"])
    assert set(pd.read_parquet(ranks)["name"]) <= {*"abcd", "new"}
    with pytest.raises(FlukeError, match="--where: narrows a saved gallery"):
        retrieve.main(["--where", "site == 'A'"])


def test_a_catalogue_with_one_photograph_of_each_individual_has_a_threshold(weights: Path, tmp_path: Path, capsys) -> None:
    options = write_catalogue(tmp_path, [*"abcdefghijklmnopqrst"])
    given = ["--model", "resnet10t", "--weights", str(weights), *options, "--out", str(tmp_path / "out")]
    for far in (0.1, 0.5):
        assert retrieve.main([*given, "--retrieval.far", str(far)]) == {}
        assert "no individual was sighted twice" in capsys.readouterr().out
        gallery = open_gallery(tmp_path / "out" / "gallery")
        best = gallery.search(gallery.embeddings(gallery.rows.ids), 2, gallery.model)[0][:, 1]  # the first is the image itself
        accepted = (best >= gallery.about["open_set"]["threshold"]).mean()
        assert accepted == pytest.approx(far, abs=0.101)  # animals come in pairs of equal scores
    json.dumps(gallery.about, allow_nan=False)


def test_a_model_is_not_mixed_with_a_run(tmp_path: Path) -> None:
    with pytest.raises(FlukeError, match="--model: builds a gallery"):
        retrieve.main(["--model", "resnet10t", "--gallery", str(tmp_path)])


def test_photographs_of_an_encounter_are_asked_together(weights: Path, tmp_path: Path, capsys) -> None:
    options = write_catalogue(tmp_path, [*KNOWN * 4])
    table = pd.read_csv(tmp_path / "train.csv").assign(sighting=[f"s{i // 16}{i % 8}" for i in range(32)])
    table.to_csv(tmp_path / "train.csv", index=False)
    given = ["--model", "resnet10t", "--weights", str(weights), *options, "--out", str(tmp_path / "out")]
    retrieve.main([*given, "--folds.group_column", "sighting", "--retrieval.encounter_column", "sighting"])
    held_out = open_gallery(tmp_path / "out" / "gallery").held_out
    assert held_out is not None
    assert held_out.sightings is not None
    assert held_out.sightings.tolist() == table["sighting"].tolist()
    new = paint(tmp_path / "images", [*"aab"], 2)
    asked = pd.DataFrame({"image": [*new, table["image"][0]], "sighting": ["x", "x", "", "s00"]})
    asked.to_csv(tmp_path / "asked.csv", index=False)
    there = ["--gallery", str(tmp_path / "out" / "gallery"), "--image_dir", str(tmp_path / "images")]
    capsys.readouterr()
    retrieve.main([*there, "--queries", str(tmp_path / "asked.csv"), "--topk", "8", "--retrieval.neighbours", "32"])
    assert "queries: 4 in 3 encounters" in (out := capsys.readouterr().out)
    assert "1 of the queries are images of the gallery, or of encounters in it" in out
    found = pd.read_parquet(tmp_path / "out" / "gallery" / "answers" / "ranks.parquet")
    assert found["encounter"].unique().tolist() == ["x", "", "s00"]
    first, second = (found[found["query"] == name][["name", "score", "image"]].to_numpy().tolist() for name in new[:2])
    assert first == second
    hidden = table["image"][table["sighting"] == "s00"].tolist()
    assert not set(found["image"][found["query"] == table["image"][0]]) & set(hidden)
    with pytest.raises(FlukeError, match=r"asked.csv: has no column 'sightin' .*; did you mean sighting"):
        retrieve.main([*there, "--queries", str(tmp_path / "asked.csv"), "--retrieval.encounter_column", "sightin"])


def test_flanks_are_compared_with_their_like(weights: Path, tmp_path: Path, capsys) -> None:
    options = write_catalogue(tmp_path, [*KNOWN * 4])
    table = pd.read_csv(tmp_path / "train.csv").assign(flank=["left" if i < 16 else "right" for i in range(32)])
    table.to_csv(tmp_path / "train.csv", index=False)
    given = ["--model", "resnet10t", "--weights", str(weights), *options, "--out", str(tmp_path / "out")]
    retrieve.main([*given, "--retrieval.orientation_column", "flank"])
    assert load_recipe(tmp_path / "out" / "network" / "recipe.yaml").data.size == 32  # as asked, not the network's own
    held_out = open_gallery(tmp_path / "out" / "gallery").held_out
    assert held_out is not None
    assert held_out.viewpoints is not None
    assert held_out.viewpoints.tolist() == table["flank"].tolist()
    new = paint(tmp_path / "images", [*"ab"], 2)
    pd.DataFrame({"image": new, "flank": ["left", ""]}).to_csv(tmp_path / "asked.csv", index=False)
    there = ["--gallery", str(tmp_path / "out" / "gallery"), "--image_dir", str(tmp_path / "images")]
    retrieve.main([*there, "--queries", str(tmp_path / "asked.csv")])
    assert "the viewpoint of 1 queries is unknown" in capsys.readouterr().out
    found = pd.read_parquet(tmp_path / "out" / "gallery" / "answers" / "ranks.parquet")
    assert set(found["image"][found["query"] == new[0]].dropna()) <= set(table["image"][:16])
    with pytest.raises(FlukeError, match=r"train.csv: has no column 'side' \(retrieval.orientation_column\)"):
        retrieve.main([*given[:-1], str(tmp_path / "other"), "--retrieval.orientation_column", "side"])


def test_answers_are_written_for_other_programs(weights: Path, tmp_path: Path) -> None:
    options = write_catalogue(tmp_path, [*"abcd" * 4])
    given = ["--model", "resnet10t", "--weights", str(weights), *options, "--out", str(tmp_path / "out")]
    new = paint(tmp_path / "new", [*"ab"], 2)
    pd.DataFrame({"mediaID": ["m"], "filePath": [f"cam/{new[0]}"]}).to_csv(tmp_path / "media.csv", index=False)
    pd.DataFrame({"observationID": ["o"], "mediaID": ["m"]}).to_csv(tmp_path / "observations.csv", index=False)
    retrieve.main(
        [*given, "--queries", str(tmp_path / "new"), "--captures", "--camtrap", str(tmp_path), "--retrieval.threshold", "-2.0"]
    )
    ranks = pd.read_parquet(tmp_path / "out" / "ranks.parquet")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "out" / "ranks.csv"), ranks, check_dtype=False)
    first = ranks[ranks["rank"] == 1].set_index("query")["name"]
    captures = pd.read_csv(tmp_path / "out" / "captures.csv", index_col="encounter")
    assert captures.shape == (18, 4)  # each photograph alone is an encounter
    assert captures.loc[new[0], first[new[0]]] == 1
    assert (captures.sum(axis=1) == 1).all()
    assert pd.read_csv(tmp_path / "out" / "observations.csv")["individualID"].tolist() == [first[new[0]]]
