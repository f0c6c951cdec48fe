"""Photographs of individuals for training only: learnt, neither held out nor searched among."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from safetensors import safe_open

from lib.scores.score_file import load_scores
from scripts import retrieve, train_embedding
from tests.conftest import paint

pytestmark = pytest.mark.usefixtures("no_report")


def test_extra_photographs_are_learnt_but_are_no_answers(
    contest: Path, arguments: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, run = tmp_path / "contest", tmp_path / "run"
    shutil.copytree(contest, root)
    labels = ["ant", "bee", "cat", "dog", "01", "new"] * 3
    pd.DataFrame({"image": paint(root / "more", labels, 7), "label": labels}).to_csv(root / "more.csv", index=False)
    fields = {"data_root": root, "data_extra_csv": "more.csv", "data_extra_dir": "more", "data_new_label": "new"}
    train_embedding.main(arguments(run, **fields, train_epochs=1, objective_name="arcface", folds_unknown=0.25))
    said = capsys.readouterr().out
    assert "3 rows of 'new' are left out (data.new_rows)" in said
    assert "extra: 12 rows of" in said
    assert "3 are left out because their individuals are held out as unknown" in said
    table, split = pd.read_csv(root / "train.csv"), pd.read_csv(run / "split.csv")
    learnt = split.image[split.side == "train"]
    own = table[table.image.isin(learnt)]
    (unknown,) = set(table.label) - set(own.label)
    more = pd.read_csv(root / "more.csv")
    assert set(learnt) - set(own.image) == {f"more/{row.image}" for row in more.itertuples() if row.label not in (unknown, "new")}
    with safe_open(run / "best/model.safetensors", "pt") as file:
        assert "dog" in str(file.metadata())
    scores = load_scores(run / "scores_val.npz")
    assert sorted(scores.names) == sorted(table.image)  # the gallery and the queries of a validation are the table's
    retrieve.main(["--run", str(run)])
    assert set(pd.read_csv(run / "retrieval/submission.csv").label.str.split().explode()) <= set(table.label) | {"new"}
