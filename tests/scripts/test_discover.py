"""scripts/discover.py on individuals of two kinds in one table."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from sklearn.metrics import adjusted_rand_score

from lib.errors import FlukeError
from scripts import bundle, catalogue, discover, retrieve, run_bundle, train_embedding
from tests.conftest import paint

KNOWN, STRANGERS = [f"{kind}{i}" for kind in ("ox", "elk") for i in range(8)], ["ox98", "ox99", "elk98", "elk99"]


@pytest.fixture(autouse=True)
def few_pseudo_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A third of them, for speed."""
    monkeypatch.setattr("lib.retrieval.pseudo_tests.KEPT", (1.0,))


@pytest.fixture(scope="module")
def herd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """metadata.csv with a split column, two kinds in it, and ids that are not the images' names."""
    root = tmp_path_factory.mktemp("herd")
    train, test = KNOWN * 8, [*KNOWN * 2, *STRANGERS * 6]
    rows = [(name, label, "train") for name, label in zip(paint(root, train, 1), train)]
    rows += [(name, label, "test") for name, label in zip(paint(root, test, 2), test)]
    table = pd.DataFrame(rows, columns=["path", "truth", "split"])
    table["image_id"] = np.random.default_rng(0).permutation(len(table))
    table["identity"] = table["truth"].where(table["split"] == "train", "")
    table["kind"] = table["truth"].str.replace(r"\d+", "", regex=True)
    number = table.groupby(["split", "truth"]).cumcount() // 2  # two photographs of an animal are an encounter
    table["met"] = table["split"] + table["truth"] + number.astype(str)
    table.to_csv(root / "metadata.csv", index=False)
    table[["path", "met"]].to_csv(root / "encounters.csv", index=False)
    asked = table[table["split"] == "test"]
    pd.DataFrame({"image_id": asked["image_id"][::-1], "cluster": "cluster_0"}).to_csv(root / "sample.csv", index=False)
    return root


@pytest.fixture(scope="module")
def run(herd: Path, arguments: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "herd"
    fields = {"data_root": herd, "data_image_dir": ".", "data_sample_submission": "sample.csv", "data_train_csv": "metadata.csv"}
    fields |= {"data_image_column": "path", "data_label_column": "identity", "data_id_column": "image_id"}
    fields |= {"data_train_where": "{split: train}", "data_test_where": "{split: test}", "data_new_label": "new"}
    fields |= {"objective_name": "arcface", "objective_scale": 16, "data_augment": "[]", "optim_lr": 0.01, "train_epochs": 6}
    train_embedding.main(arguments(out, **fields, folds_unknown=0.4, retrieval_part_column="kind"))
    return out


def test_every_image_has_a_cluster_in_the_samples_form(run: Path, herd: Path) -> None:
    result = discover.main(["--run", str(run)])
    folder, table = run / "discovery", pd.read_csv(herd / "metadata.csv", dtype=str).set_index("image_id")
    given, sample = (pd.read_csv(path, dtype=str) for path in (folder / "submission.csv", herd / "sample.csv"))
    assert given.columns.tolist() == ["image_id", "cluster"]
    assert given["image_id"].tolist() == sample["image_id"].tolist()
    asked = table.loc[given["image_id"]]
    assert (asked["kind"].groupby(given["cluster"].to_numpy()).nunique() == 1).all()
    found = adjusted_rand_score(asked["truth"], given["cluster"])
    chance = np.mean(
        [adjusted_rand_score(asked["truth"], np.random.default_rng(i).permutation(given["cluster"])) for i in range(20)]
    )
    assert found > chance + 0.1
    clusters = pd.read_csv(folder / "clusters.csv", dtype={"image": str, "cluster": str}).set_index("image")
    assert clusters.loc[asked["path"], "cluster"].tolist() == given["cluster"].tolist()
    named = clusters[clusters["known"] == 1]
    assert set(named["cluster"]) <= set(table["identity"].dropna())
    assert not set(clusters[clusters["known"] == 0]["cluster"]) & set(table["identity"].dropna())
    assert set(result["parts"]) == {"ox", "elk"}
    assert json.loads((folder / "metrics.json").read_text()) == result
    for values in result["parts"].values():
        low, high = values["individuals_interval"]
        assert low <= values["individuals"] <= high
        assert values["adjusted_rand"] <= values["best_adjusted_rand"]
    assert "images, right with probability" in (folder / "discovery.html").read_text()


def test_photographs_of_one_encounter_are_one_individual(run: Path, herd: Path, tmp_path: Path) -> None:
    discover.main(["--run", str(run), "--retrieval.encounters", "encounters.csv", "--out", str(tmp_path / "linked")])
    clusters = pd.read_csv(tmp_path / "linked" / "clusters.csv", dtype=str).set_index("image")["cluster"]
    met = pd.read_csv(herd / "encounters.csv", dtype=str).set_index("path")["met"].loc[clusters.index]
    left = (
        pd.read_csv(tmp_path / "linked" / "contradictions.csv")["first"]
        if (tmp_path / "linked" / "contradictions.csv").exists()
        else []
    )
    together = clusters.drop(left).groupby(met.drop(left)).nunique()
    assert (together == 1).all()
    assert len(left) < 6


def test_a_missing_part_column_is_one_sentence(run: Path) -> None:
    with pytest.raises(FlukeError, match=r"no column 'species' \(retrieval.part_column\)"):
        discover.main(["--run", str(run), "--retrieval.part_column", "species"])


@pytest.fixture(scope="module")
def frozen(herd: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of a pretrained network on the herd, in a folder of its own, with the left and right side of each animal."""
    torch.manual_seed(0)
    weights = tmp_path_factory.mktemp("weights") / "resnet10t.pth"
    torch.save(timm.create_model("resnet10t").state_dict(), weights)
    table = pd.read_csv(herd / "metadata.csv", dtype=str)
    table["side"] = np.where(np.arange(len(table)) % 3 == 0, "left", "right")
    table.to_csv(herd / "sides.csv", index=False)
    fields = {"root": herd, "train_csv": "sides.csv", "image_column": "path", "label_column": "identity", "id_column": "image_id"}
    fields |= {"train_where": "{split: train}", "test_where": "{split: test}", "sample_submission": "sample.csv", "size": 32}
    options = [text for name, value in fields.items() for text in (f"--data.{name}", str(value))]
    return ["--model", "resnet10t", "--weights", str(weights), *options]


def test_a_pretrained_network_groups_without_training(frozen: list[str], herd: Path, tmp_path: Path) -> None:
    result = discover.main([*frozen, "--out", str(tmp_path / "a"), "--retrieval.part_column", "kind"])
    table = pd.read_csv(herd / "metadata.csv", dtype=str).set_index("path")
    clusters = pd.read_csv(tmp_path / "a" / "clusters.csv", dtype={"cluster": str}).set_index("image")
    truth = table.loc[clusters.index, "truth"]
    assert adjusted_rand_score(truth, clusters["cluster"]) > 0.3  # hues are told apart by any network
    assert {values["threshold_of"] for values in result["parts"].values()} == {"this part and the others"}
    assert (tmp_path / "a" / "submission.csv").exists()
    again = discover.main([*frozen, "--out", str(tmp_path / "a"), "--retrieval.part_column", "kind"])
    assert again == result
    assert (pd.read_csv(tmp_path / "a" / "clusters.csv").set_index("image")["cluster"] == clusters["cluster"]).all()


def test_a_part_without_labels_uses_the_threshold_of_all(frozen: list[str], tmp_path: Path) -> None:
    where = ["--data.train_where", "{split: train, kind: ox}", "--retrieval.part_column", "kind"]
    result = discover.main([*frozen, *where, "--out", str(tmp_path / "a")])
    assert {part: values["threshold_of"] for part, values in result["parts"].items()} == {"elk": "all parts", "ox": "this part"}
    assert result["parts"]["elk"]["threshold"] == result["parts"]["ox"]["threshold"]
    assert result["parts"]["elk"]["known_individuals"] == 0


def test_sides_are_joined_by_names_and_encounters_only(frozen: list[str], herd: Path, tmp_path: Path) -> None:
    sides = pd.read_csv(herd / "sides.csv", dtype=str).set_index("path")["side"]
    result = discover.main([*frozen, "--retrieval.orientation_column", "side", "--out", str(tmp_path / "a")])
    clusters = pd.read_csv(tmp_path / "a" / "clusters.csv", dtype={"cluster": str}).set_index("image")
    new = clusters[clusters["known"] == 0]
    assert (sides.loc[new.index].groupby(new["cluster"]).nunique() == 1).all()
    for side in ("left", "right"):
        of_side = clusters[sides.loc[clusters.index] == side]
        assert result["parts"]["all"][f"clusters_{side}"] == of_side["cluster"].nunique()


def test_animals_of_one_photograph_are_different_ones(frozen: list[str], herd: Path, tmp_path: Path) -> None:
    clusters = lambda folder: pd.read_csv(tmp_path / folder / "clusters.csv", dtype=str).set_index("image")["cluster"]  # noqa: E731
    discover.main([*frozen, "--out", str(tmp_path / "a")])
    largest = clusters("a").value_counts().index[0]
    together = clusters("a").index[clusters("a") == largest][:2]
    images = pd.read_csv(herd / "metadata.csv", dtype=str)["path"]
    photograph = [together[0] if image in together else f"p{i}" for i, image in enumerate(images)]
    pd.DataFrame({"image": images, "photograph": photograph}).to_csv(herd / "photographs.csv", index=False)
    discover.main([*frozen, "--retrieval.photographs", "photographs.csv", "--out", str(tmp_path / "b")])
    assert clusters("b")[together[0]] != clusters("b")[together[1]]


def test_a_model_takes_the_place_of_a_run(tmp_path: Path) -> None:
    with pytest.raises(FlukeError, match="--model: takes the place of --run"):
        discover.main(["--model", "resnet18", "--run", str(tmp_path)])
    with pytest.raises(FlukeError, match="--weights: are those of --model"):
        discover.main(["--weights", "a.pth"])


def test_decisions_of_a_person_are_followed(frozen: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "a"
    discover.main([*frozen, "--out", str(folder)])
    before = pd.read_csv(folder / "clusters.csv", dtype=str).set_index("image")
    assert "One individual, or two?" in (folder / "review.html").read_text()
    largest = before["cluster"].value_counts().index[:2]
    (a, b), (c, *_) = (before.index[before["cluster"] == name][:2] for name in largest)
    decided = pd.DataFrame({"first": [a, a, c], "second": [b, c, b], "answer": ["different", "same", "unsure"]})
    decided.to_csv(tmp_path / "decisions.csv", index=False)
    discover.main([*frozen, "--out", str(folder), "--apply", str(tmp_path / "decisions.csv")])
    after = pd.read_csv(folder / "clusters.csv", dtype=str).set_index("image")["cluster"]
    assert after[a] == after[c] != after[b]
    decided.assign(answer="maybe").to_csv(tmp_path / "decisions.csv", index=False)
    with pytest.raises(FlukeError, match="line 2: no answer 'maybe'"):
        discover.main([*frozen, "--out", str(folder), "--apply", str(tmp_path / "decisions.csv")])
    decided.assign(first="nowhere.jpg").to_csv(tmp_path / "decisions.csv", index=False)
    with pytest.raises(FlukeError, match=r"1 images are neither asked nor labelled: 'nowhere.jpg'"):
        discover.main([*frozen, "--out", str(folder), "--apply", str(tmp_path / "decisions.csv")])


def test_a_bundle_answers_with_clusters(run: Path, herd: Path, tmp_path: Path) -> None:
    """The notebook of a contest without internet groups the hidden images as discover.py does."""
    discover.main(["--run", str(run), "--out", str(tmp_path / "here")])
    bundle.main(["--runs", str(run), "--out", str(tmp_path / "bundle"), "--wheels"])
    moved = tmp_path / "input"
    shutil.copytree(herd, moved)
    answered = ["--bundle", str(tmp_path / "bundle"), "--data", str(moved), "--out", str(tmp_path / "submission.csv")]
    assert run_bundle.main(answered)["runs"] == [run.name]
    assert (tmp_path / "submission.csv").read_bytes() == (tmp_path / "here" / "submission.csv").read_bytes()


def test_clusters_become_a_change_of_the_catalogue(run: Path, herd: Path, tmp_path: Path) -> None:
    """New individuals join the gallery under the names that they got, in one change that can be undone."""
    retrieve.main(["--run", str(run), "--out", str(tmp_path / "asked")])
    discover.main(["--run", str(run), "--out", str(tmp_path / "found")])
    gallery, table = str(tmp_path / "asked" / "gallery"), tmp_path / "found" / "clusters.csv"
    before = catalogue.main(["--gallery", gallery, "--errors", "--out", str(tmp_path / "errors")])["images"]
    columns = ["--data.image_column", "image", "--data.label_column", "cluster", "--data.id_column", "null"]
    more = retrieve.main(["--run", str(run), "--gallery", gallery, "--add", str(table), "--image_dir", str(herd), *columns])
    clusters = pd.read_csv(table, dtype=str)
    assert more == {"images": before + len(clusters), "individuals": len({*KNOWN, *clusters["cluster"]})}
    assert catalogue.main(["--gallery", gallery, "--undo"])["images"] == before
