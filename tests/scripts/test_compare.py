"""scripts/compare.py: scores, paired differences and differing fields of runs."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score

from lib.errors import FlukeError
from lib.pipelines.compare import difference, minutes_of_training
from lib.run_folder import RunFolder
from lib.scores.score_file import Scores, load_scores, save_scores
from lib.tables.target import ONE_LABEL
from scripts import compare, train_classifier


def test_runs_are_compared_on_the_rows_that_both_held_out(
    arguments: Callable[..., list[str]], tmp_path: Path, no_report: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, fields in {"a": {}, "b": {"optim_lr": 0.01}}.items():
        train_classifier.main(arguments(tmp_path / name, folds_holdout=20, train_epochs=1, **fields))
    scores = load_scores(tmp_path / "a" / "scores_val.npz")
    rng, targets = np.random.default_rng(0), scores.target.encode(scores.labels or [], scores.classes, "a")
    for name, wrong in (("a", 2), ("b", 12)):
        scores.logits = np.eye(4, dtype=np.float32)[targets] + 0.01 * rng.random((20, 4), np.float32)
        scores.logits[:wrong] = np.roll(scores.logits[:wrong], 1, axis=1)
        save_scores(tmp_path / name / "scores_val.npz", scores)
    table = compare.main(
        [str(tmp_path / "b"), str(tmp_path / "a"), str(tmp_path), "--out", str(tmp_path / "c"), "--metric", "accuracy"]
    )
    assert [Path(run).name for run in table["run"]] == ["a", "b"]
    assert table["accuracy"].tolist() == pytest.approx([0.9, 0.4])
    assert table["accuracy"][1] == accuracy_score(targets, scores.logits.argmax(1))
    assert table["gain"][1] == pytest.approx(-0.5)
    assert table["gain_low"][1] < -0.5 < table["gain_high"][1] < 0
    assert (table["differs"][1], table["common_rows"][1]) == ("yes", 20)
    assert table["optim.lr"].tolist() == ["0.001", "0.01"]
    assert not {"data.workers", "train.epochs"} & set(table.columns)
    assert pd.read_csv(tmp_path / "c" / "compare.csv")["run"].tolist() == table["run"].tolist()
    assert "Runs by accuracy" in (tmp_path / "c" / "compare.html").read_text()
    assert "optim.lr" in capsys.readouterr().out
    by_loss = compare.main([str(tmp_path / "b"), str(tmp_path / "a"), "--metric", "log_loss"])
    assert [Path(run).name for run in by_loss["run"]] == ["a", "b"]  # the lower, the better
    assert by_loss["log_loss"][0] < by_loss["log_loss"][1]


def test_minutes_are_those_of_all_folds(tmp_path: Path) -> None:
    for fold, seconds in enumerate(([30.0, 60.0], [90.0])):
        folder = RunFolder(str(tmp_path)).fold(fold)
        folder.path.mkdir()
        folder.history.write_text("".join(json.dumps({"epoch": 1, "seconds": each}) + "\n" for each in seconds))
        folder.recipe.write_text("")
    assert minutes_of_training(RunFolder(str(tmp_path))) == 3


def test_fewer_than_two_runs_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FlukeError, match="0 of 1 names are runs"):
        compare.main([str(tmp_path)])


def test_runs_that_differ_in_the_seed_alone_are_rarely_called_different() -> None:
    """40 pairs of simulated runs whose seeds move the score of all rows, too, by about as much as a sample of 600 rows does.

    Without the allowance for seeds four pairs are called different (benchmarks/seed_pairs.py has real runs).
    """
    classes, called = tuple("0123456789"), []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        targets = rng.integers(10, size=600)
        right = np.eye(10)[targets]
        shared, rows, runs = rng.normal(0, 1.5, (600, 10)) + 4 * right, np.arange(600), []
        for _ in range(2):
            logits = shared + rng.normal(0, 1, (600, 10)) + rng.normal(0, 0.12) * right
            labels, names = [(classes[target],) for target in targets], [str(row) for row in rows]
            runs.append(Scores(rows, names, classes, logits.astype(np.float32), labels, ONE_LABEL, {}))
        called.append(difference(*runs, "accuracy", "a", "b")["differs"])
    assert called.count("yes") <= 2
    better = replace(runs[0], logits=(shared + 2 * right).astype(np.float32))
    assert difference(better, runs[1], "accuracy", "a", "b")["differs"] == "yes"
    assert difference(runs[1], better, "accuracy", "a", "b")["differs"] == "yes"  # better on the rows that both held out
