"""Runs begun by version 0.1.0, before the files moved into packages, go on: resume, predict, retrieve and combine.

tests/data/older_runs holds a classifier, an embedding run and a k-fold run as that version left them in the middle, and in
expected/ what the same version made of them afterwards.
"""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lib.scores.score_file import load_scores
from scripts import ensemble, kfold, predict, retrieve, train_classifier, train_embedding
from tests.conftest import paint

RUNS = Path(__file__).parents[1] / "data" / "older_runs"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs beside the contest that they were trained on; their recipes name it relative to the current folder."""
    root = tmp_path_factory.mktemp("older")
    contest = root / "contest"
    labels, people = ["ant", "bee", "cat", "bee"] * 6, [c for c in "abcdef" for _ in range(4)] + ["new"] * 2
    names, test = paint(contest / "images", labels, 1), paint(contest / "images", ["ant", "bee", "cat"] * 2, 2)
    pd.DataFrame({"image": names, "label": labels}).to_csv(contest / "train.csv", index=False)
    pd.DataFrame({"image": test[::-1], "label": ["ant"] * 6}).to_csv(contest / "sample_submission.csv", index=False)
    names, test = paint(contest / "images", people, 3), paint(contest / "images", list("abcxyz"), 4)
    pd.DataFrame({"image": names, "label": people}).to_csv(contest / "people.csv", index=False)
    pd.DataFrame({"image": test, "label": ["new a b c d"] * 6}).to_csv(contest / "people_sample.csv", index=False)
    for run in ("classifier", "embedding", "folds"):
        shutil.copytree(RUNS / run, root / run)
    return root


def same_scores(found: Path, expected: str) -> None:
    """Another processor may change the last bits, no more."""
    before, after = load_scores(RUNS / "expected" / expected), load_scores(found)
    assert (after.names, after.classes, after.labels) == (before.names, before.classes, before.labels)
    assert np.array_equal(after.rows, before.rows)
    np.testing.assert_allclose(after.logits, before.logits, atol=2e-3)  # a step of training on another CPU


def go_on(script: object, run: str, *more: str) -> None:
    recipe = ["--cfg", f"{run}/recipe.yaml", "--out", run, "--resume"]
    script.main([*recipe, *more])  # type: ignore[attr-defined]


def test_a_classifier_resumes_and_predicts(folder: Path, monkeypatch: pytest.MonkeyPatch, no_report: None) -> None:
    monkeypatch.chdir(folder)
    go_on(train_classifier, "classifier", "--train.epochs", "3")
    same_scores(folder / "classifier" / "scores_test.npz", "classifier_scores_test.npz")
    predict.main(["--run", "classifier", "--out", "predicted"])
    same_scores(folder / "predicted" / "scores_test.npz", "predicted_scores_test.npz")


def test_an_embedding_resumes_and_retrieves(folder: Path, monkeypatch: pytest.MonkeyPatch, no_report: None) -> None:
    monkeypatch.chdir(folder)
    go_on(train_embedding, "embedding", "--train.epochs", "3")
    # map@5 is of another mixture of known and new queries since 0.2, so that another epoch may be the best: not the same vectors
    before = load_scores(RUNS / "expected" / "embedding_scores_val.npz")
    after = load_scores(folder / "embedding" / "scores_val.npz")
    assert (after.names, after.labels, after.logits.shape) == (before.names, before.labels, before.logits.shape)
    retrieve.main(["--run", "embedding", "--topk", "3"])
    found, expected = (
        pd.read_csv(path)
        for path in (folder / "embedding" / "retrieval" / "submission.csv", RUNS / "expected" / "retrieval_submission.csv")
    )
    assert found["image"].tolist() == expected["image"].tolist()
    for names in found["label"].str.split():
        assert len(set(names)) == 3
        assert set(names) <= {*"abcdef", "new"}


def test_folds_are_finished_and_combined(folder: Path, monkeypatch: pytest.MonkeyPatch, no_report: None) -> None:
    monkeypatch.chdir(folder)
    go_on(kfold, "folds")
    same_scores(folder / "folds" / "oof.npz", "folds_oof.npz")
    ensemble.main(["--runs", "folds", "folds", "--method", "mean", "--out", "ensemble"])
    same_scores(folder / "ensemble" / "scores_test.npz", "ensemble_scores_test.npz")
