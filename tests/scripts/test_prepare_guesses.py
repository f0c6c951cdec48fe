"""scripts/prepare.py: groups in the names of images, and columns that a sample abbreviates."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lib.scores.score_file import load_scores
from lib.tables.guesses import group_pattern
from lib.tables.loading import load_train
from scripts import train_classifier
from tests.scripts.test_prepare import images, table, written


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "contest").mkdir()
    return tmp_path / "contest"


def test_two_eyes_of_a_patient_are_a_group(root: Path) -> None:
    names = [f"{i}_{side}" for i in range(10, 18) for side in ("left", "right")]
    images(root, *[f"train/{name}.jpeg" for name in names], *[f"test/{i}_left.jpeg" for i in range(4)])
    table(root / "trainLabels.csv", "image level", [(name, i % 5) for i, name in enumerate(names)])
    table(root / "sampleSubmission.csv", "image level", [(f"{i}_left", 0) for i in range(4)])
    recipe, text = written(root)
    assert "10_left, 10_right are of one subject: they stay on one side of a split" in text
    groups = load_train(recipe.data, recipe.folds).groups
    assert groups is not None
    assert groups.tolist() == [name.split("_")[0] for name in names]


def test_other_endings_are_only_a_hint(root: Path) -> None:
    names = [f"scene{i}_{k}" for i in range(6) for k in range(3)]
    images(root, *[f"train/{name}.jpg" for name in names], "test/t.jpg")
    table(root / "train.csv", "image label", [(name, "ab"[i % 2]) for i, name in enumerate(names)])
    table(root / "sample_submission.csv", "image label", [("t", "a")])
    recipe, text = written(root)
    assert recipe.folds.group_pattern is None
    assert '# group_pattern: "([^/]+)[_-][0-9]+(\\\\.|$)"  # 6 beginnings of names recur, such as scene0_0, scene0_1' in text
    for same in (["train_1", "train_2", "train_3"] * 4, [f"a{i}" for i in range(9)], [f"Z{i}_1" for i in range(9)], []):
        assert group_pattern(same) is None


def test_columns_of_the_sample_are_the_beginnings_of_the_tables(
    root: Path, arguments: Callable[..., list[str]], no_report: None, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    images(root, *[f"train_images/{i}.jpeg" for i in range(20)], *[f"test_images/{i}.jpeg" for i in range(50, 54)])
    header = "id X4_sd X4_mean X11_mean X11_sd"
    table(root / "train.csv", header, [(i, *rng.normal(3, 1, 4).round(3)) for i in range(20)])
    table(root / "test.csv", "id", [(i,) for i in range(50, 54)])
    table(root / "sample_submission.csv", "id X11 X4", [(i, 0.5, 0.5) for i in range(50, 54)])
    recipe, text = written(root)
    assert recipe.data.number_columns == ["X11_mean", "X4_mean"]
    assert "the sample's columns (X11, X4) are their beginnings" in text
    own = arguments(root.parent / "run", train_epochs=1, folds_holdout=6)
    kept = [i for i in range(0, len(own), 2) if own[i] not in ("--data.root", "--data.image_dir", "--data.sample_submission")]
    train_classifier.main(["--cfg", str(root.parent / "recipe.yaml"), *(part for i in kept for part in own[i : i + 2])])
    assert "the predicted numbers, X11_mean in X11, X4_mean in X4" in capsys.readouterr().out
    given, scores = pd.read_csv(root.parent / "run/submission.csv"), load_scores(root.parent / "run/scores_test.npz")
    assert given.columns.tolist() == ["id", "X11", "X4"]
    np.testing.assert_allclose(given[["X11", "X4"]], scores.logits[:, [scores.classes.index(f"{c}_mean") for c in ("X11", "X4")]])
