"""The pages of k-fold runs and ensembles: folds and members side by side, thresholds beside their labels."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lib.reports import ensemble_page, run_page
from lib.reports.class_results import HeldOutScores, class_results
from lib.reports.figures import training_curves
from lib.submission.decisions import Decisions
from lib.tables.table import Table
from lib.tables.target import ORDINAL, SEVERAL_LABELS
from scripts import ensemble, kfold
from tests.reports.test_html import ParsedPage, assert_self_contained


def test_members_are_listed_best_first_with_their_mean_disagreement() -> None:
    members = [
        {"run": "a", "score": 0.5, "interval": [0.4, 0.6], "weight": 0.2},
        {"run": "b", "score": 0.3, "interval": [0.2, 0.4], "weight": None},
        {"run": "c", "score": 0.9, "interval": [0.8, 1.0], "weight": 0.8},
    ]
    result = {"metric": "accuracy", "members": members, "disagreement": [[0, 0.1, 0.3], [0.1, 0, 0.5], [0.3, 0.5, 0]]}
    table = ensemble_page.members_table(result)
    assert table["run"].tolist() == ["c", "a", "b"]
    np.testing.assert_allclose(table["differs from the others"], [0.4, 0.2, 0.3])
    lower = ensemble_page.members_table(result | {"metric": "log_loss"} | {"members": members})
    assert lower["run"].tolist() == ["b", "a", "c"]  # a loss: the smallest is the best


def test_folds_show_the_metric_with_its_interval_first() -> None:
    folds = [{"fold": k, "metric": "accuracy", "accuracy": 0.5 + k, "interval": [0.1, 0.9], "loss": 2.0} for k in range(2)]
    table = run_page.folds_table({"metric": "accuracy", "folds": folds})
    assert table.columns.tolist() == ["fold", "accuracy", "from", "to", "loss"]
    assert table["accuracy"].tolist() == [0.5, 1.5]


def test_each_label_has_its_threshold() -> None:
    labels = [("x",), ("y",), ("x", "y"), ()]
    table = Table(np.arange(4), list("abcd"), [Path("no.png")] * 4, labels, ("x", "y"), None, SEVERAL_LABELS)
    logits = np.array([[2, -1], [-2, 1], [1, 1], [-1, -1]], np.float32)
    shown = class_results(HeldOutScores(table, logits, decisions=Decisions({"x": 0.3, "y": 0.7})))
    assert dict(zip(shown.tables["Labels"]["class"], shown.tables["Labels"]["threshold"])) == {"x": 0.3, "y": 0.7}
    assert "over 8 labels" in shown.figures["Calibration"].get_label()


def test_probabilities_are_calibrated_and_classes_judged_by_the_answers() -> None:
    names = list("abcd")
    table = Table(np.arange(4), names, [Path("no.png")] * 4, [("x",), ("x",), ("y",), ("y",)], ("x", "y"), None, ORDINAL)
    logits = np.array([[9, 0], [0, 9], [0, 9], [0, 9]], np.float32)
    shown = class_results(HeldOutScores(table, logits, decided=np.eye(2)[[0, 0, 1, 1]], calibrated=logits / 9))
    assert "calibration error 0.019." in shown.figures["Calibration"].get_label()  # 0.75 right, at 1 / (1 + exp(-1))
    assert shown.tables["Classes"].set_index("class")["recall"].tolist() == [1, 1]
    assert "accuracy 100.0%" in shown.figures["Confusion"].get_label()


def test_ordered_classes_have_their_cut_points() -> None:
    table = Table(np.arange(3), list("abc"), [Path("no.png")] * 3, [("8",), ("9",), ("10",)], ("8", "9", "10"), None, ORDINAL)
    shown = class_results(HeldOutScores(table, np.eye(3, dtype=np.float32), decisions=Decisions(cut_points=[0.4, 1.7])))
    assert shown.tables["Cut points"].to_numpy().tolist() == [["8", "9", 0.4], ["9", "10", 1.7]]


def test_an_early_stop_is_marked() -> None:
    history = [{"epoch": i, "train_loss": 1.0, "val_loss": 1.0, "lr": 1e-3, "accuracy": 0.5} for i in (1, 2, 3)]
    figure = training_curves(history, stopped=3)
    marks = [line for ax in figure.axes for line in ax.lines if line.get_label() == "stopped after epoch 3"]
    assert [line.get_xdata()[0] for line in marks] == [3] * 3
    assert "stopped after epoch 3" in figure.get_label()


def test_folds_and_ensembles_have_a_page(arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    for name in "ab":
        kfold.main(arguments(tmp_path / name, folds_n=2, train_epochs=1))
    ensemble.main(["--runs", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "both")])
    page = ParsedPage(tmp_path / "both" / "report.html")
    assert_self_contained(page)
    result = json.loads((tmp_path / "both" / "ensemble.json").read_text())
    assert f"{result['estimate']:.4f}" in page.text
    assert page.text.count(str(tmp_path / "a")) >= 2  # as a member and among the runs
    thumbnails = [attrs for tag, attrs in page.tags if tag == "img" and attrs["src"].startswith("data:image/jpeg")]
    assert thumbnails  # the mistakes' images, found by the recipe


@pytest.mark.usefixtures("no_report")
def test_folds_of_individuals_have_a_page(arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    argv = arguments(tmp_path / "cv", folds_n=2, train_epochs=1, objective_name="arcface", data_new_label="new")
    kfold.main([*argv, "--data.sample_submission", "null", "--kind", "embedding"])
    page = ParsedPage(tmp_path / "cv" / "report.html")
    assert_self_contained(page)
    result = json.loads((tmp_path / "cv" / "cv.json").read_text())
    assert f"mean {result['mean']:.4f}" in page.text
