"""Rows for training only, through the real scripts: trained on in every fold and in final models, never scored."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lib.errors import FlukeError
from lib.scores.score_file import load_scores
from scripts import kfold, train_classifier
from tests.conftest import paint

pytestmark = pytest.mark.usefixtures("no_report")


@pytest.fixture
def extra(contest: Path, tmp_path: Path) -> Path:
    """A copy of the tiny contest with 10 extra rows, one of a class that it lacks."""
    root = tmp_path / "contest"
    shutil.copytree(contest, root)
    names = paint(root / "more", ["ant", "bee", "cat"] * 3 + ["dog"], 7)
    pd.DataFrame({"image": names, "label": ["ant", "bee", "cat"] * 3 + ["dog"]}).to_csv(root / "more.csv", index=False)
    return root


def test_extra_rows_are_trained_on_and_never_scored(
    extra: Path, arguments: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    fields = {"data_root": extra, "data_extra_csv": "more.csv", "data_extra_dir": "more", "train_epochs": 1}
    argv = arguments(tmp_path / "run", **fields)
    train_classifier.main(argv)
    said = capsys.readouterr().out
    assert "extra: 9 rows of" in said
    assert "1 of 10 rows are left out because they have a label that" in said
    split = pd.read_csv(tmp_path / "run/split.csv")
    assert (split.side == "train").sum() == 36 + 9
    assert not split.image[split.side == "held out"].str.startswith("more/").any()
    argv = arguments(tmp_path / "cv", folds_n=2, **fields)
    kfold.main([*argv, "--final"])
    assert len(pd.read_csv(tmp_path / "cv/folds.csv")) == len(load_scores(tmp_path / "cv/oof.npz").rows) == 48
    for k in (0, 1):
        sides = pd.read_csv(tmp_path / f"cv/fold{k}/split.csv").side.value_counts()
        assert (sides["train"], sides["held out"]) == (24 + 9, 24)
    assert json.loads((tmp_path / "cv/final/final.json").read_text())["rows"] == 48 + 9
    assert np.isfinite(load_scores(tmp_path / "cv/final/scores_test.npz").logits).all()


def test_extra_rows_are_refused_where_they_would_be_held_out(extra: Path, arguments: Callable, tmp_path: Path) -> None:
    name = pd.read_csv(extra / "train.csv").image[0]
    shutil.copy(extra / "images" / name, extra / "more" / "same.png")
    pd.DataFrame({"image": ["same.png"], "label": ["bee"]}).to_csv(extra / "more.csv", index=False)
    fields = {"data_root": extra, "data_extra_csv": "more.csv", "data_extra_dir": "more", "train_epochs": 1}
    with pytest.raises(FlukeError, match=f"1 images of .*more.csv are the same files as .*'more/same.png' = '{name}'"):
        train_classifier.main(arguments(tmp_path / "run", **fields))
