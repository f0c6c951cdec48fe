"""scripts/discover.py on individuals of two kinds in one table."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score

from lib.errors import FlukeError
from scripts import discover, train_embedding
from tests.conftest import paint

KNOWN, STRANGERS = [f"{kind}{i}" for kind in ("ox", "elk") for i in range(8)], ["ox98", "ox99", "elk98", "elk99"]


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
    table["met"] = [f"e{i // 2}" if split == "test" else f"t{i}" for i, split in enumerate(table["split"])]
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
    per_encounter = clusters.groupby([met, pd.read_csv(herd / "metadata.csv").set_index("path")["kind"].loc[clusters.index]])
    assert (per_encounter.nunique() == 1).all()


def test_a_missing_part_column_is_one_sentence(run: Path) -> None:
    with pytest.raises(FlukeError, match=r"no column 'species' \(retrieval.part_column\)"):
        discover.main(["--run", str(run), "--retrieval.part_column", "species"])
