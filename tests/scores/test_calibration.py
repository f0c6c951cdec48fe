"""The temperature of one run."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, log_softmax, softmax

from lib.errors import FlukeError
from lib.metrics.registry import METRICS
from lib.run_folder import RunFolder
from lib.scores.alignment import encode_targets
from lib.scores.calibration import fit_calibration
from lib.scores.score_file import load_scores
from lib.submission.decisions import PLAIN, fit_decisions, read_decisions
from lib.tables.table import Table
from lib.tables.target import ONE_LABEL, SEVERAL_LABELS
from scripts import ensemble, kfold, predict, train_classifier


def test_images_of_a_group_are_calibrated_by_other_groups(tmp_path: Path) -> None:
    logits, targets = draw(300, 4)
    groups, labels = np.repeat(np.arange(60), 5).astype(str), [("abcd"[target],) for target in targets]
    names = [str(i) for i in range(300)]
    table = Table(np.arange(300), names, [Path("no.png")] * 300, labels, tuple("abcd"), groups, ONE_LABEL)
    fitted = fit_decisions(table, ONE_LABEL, 5 * logits, "accuracy", RunFolder(str(tmp_path)))
    assert fitted.calibration is not None
    assert fitted.calibrated is not None
    assert fitted.decisions.temperature == fitted.calibration.temperature == pytest.approx(5, rel=0.3)
    temperature = (5 * logits / fitted.calibrated).reshape(60, 20)
    assert temperature == pytest.approx(np.broadcast_to(temperature[:, :1], (60, 20)), rel=1e-4)
    assert len(np.unique(temperature[:, 0].round(3))) == 5


def draw(n: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return calibrated logits (n, classes) and targets (n,) drawn from their probabilities."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, classes))
    targets = np.array([rng.choice(classes, p=p) for p in softmax(logits, axis=1)])
    return logits.astype(np.float32), targets


@pytest.mark.parametrize("true", [0.4, 1.0, 2.5])
def test_the_temperature_that_spoiled_the_probabilities_is_found(true: float) -> None:
    logits, targets = draw(3000, 6)
    found, _ = fit_calibration(logits * np.float32(true), targets, ONE_LABEL)
    assert found.temperature == pytest.approx(true, rel=0.1)
    assert found.ece_calibrated is not None
    assert found.ece_calibrated < 0.03
    expected = -log_softmax(logits.astype(float) * true, axis=1)[np.arange(3000), targets].mean()
    assert found.log_loss == pytest.approx(expected, rel=1e-5)
    assert found.log_loss_calibrated <= found.log_loss


def test_several_labels() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(-1, 2, (1500, 5)).astype(np.float32)
    targets = (rng.random(logits.shape) < expit(logits)).astype(np.float32)
    found, _ = fit_calibration(3 * logits, targets, SEVERAL_LABELS)
    assert found.temperature == pytest.approx(3, rel=0.1)
    assert found.ece is None


@pytest.mark.parametrize("seed", range(8))
def test_a_temperature_that_does_not_help_other_rows_is_not_used(seed: int) -> None:
    logits, targets = draw(30, 4, seed)
    found, _ = fit_calibration(logits, targets, ONE_LABEL)
    assert found.log_loss_calibrated <= found.log_loss
    assert (found.temperature == 1) == (found.log_loss_calibrated == found.log_loss)


@pytest.mark.parametrize("rows", [15, 60, 200])
def test_calibrated_logits_seldom_get_another_temperature(rows: int) -> None:
    fitted = [fit_calibration(*draw(rows, 5, seed), ONE_LABEL)[0].temperature for seed in range(30)]
    assert sum(temperature != 1 for temperature in fitted) <= 3


def test_groups_are_left_out_whole() -> None:
    """Copies of a row say nothing new: cross-fitting by row would fit to the row itself."""
    logits, targets = draw(12, 4)
    copies = np.repeat(np.arange(12), 50)
    grouped, _ = fit_calibration(logits[copies], targets[copies], ONE_LABEL, copies.astype(str))
    alone, _ = fit_calibration(logits[copies], targets[copies], ONE_LABEL)
    assert grouped.log_loss_calibrated >= alone.log_loss_calibrated


@pytest.fixture
def sample(contest: Path, tmp_path: Path) -> Path:
    """A sample submission that asks for a probability of each class."""
    table = pd.read_csv(contest / "sample_submission.csv", dtype=str)[["image"]]
    for name in ("01", "ant", "bee", "cat"):
        table[name] = "0.25"
    table.to_csv(tmp_path / "sample.csv", index=False)
    return tmp_path / "sample.csv"


def test_submitted_probabilities_are_calibrated_and_saved_scores_are_not(
    arguments: Callable, sample: Path, tmp_path: Path, no_report: None
) -> None:
    run = tmp_path / "run"
    result = train_classifier.main(arguments(run, data_test_csv="sample_submission.csv", data_sample_submission=sample))
    fitted = json.loads((run / "calibration.json").read_text())
    (run / "calibration.json").write_text(json.dumps(fitted | {"temperature": 2.5}))  # one that is surely not 1
    predict.main(["--run", str(run), "--out", str(tmp_path / "again")])
    for folder, temperature in ((run, fitted["temperature"]), (tmp_path / "again", 2.5)):
        scores = load_scores(folder / "scores_test.npz")
        written = pd.read_csv(folder / "submission.csv", dtype={"image": str}).set_index("image").loc[scores.names]
        expected = softmax(scores.logits.astype(float) / temperature, axis=1)
        assert written[list(scores.classes)].to_numpy() == pytest.approx(expected, abs=1e-6)
    assert np.array_equal(load_scores(run / "scores_test.npz").logits, load_scores(tmp_path / "again/scores_test.npz").logits)
    assert result["temperature"] == fitted["temperature"]
    assert result["log_loss_calibrated"] <= result["log_loss"] + 1e-6


def test_probabilities_of_folds_final_models_and_ensembles_are_calibrated_on_rows_out_of_fold(
    arguments: Callable, sample: Path, tmp_path: Path, no_report: None
) -> None:
    # Labels smoothed by a half: logits that are surely too close to each other.
    fields = {"data_test_csv": "sample_submission.csv", "data_sample_submission": sample}
    fields |= {"folds_n": 2, "objective_label_smoothing": 0.5, "optim_lr": 0.01, "train_epochs": 4}
    cv = tmp_path / "cv"
    result = kfold.main([*arguments(cv, **fields), "--final"])
    oof = load_scores(cv / "oof.npz")
    expected, _ = fit_calibration(oof.logits, encode_targets(oof, "cv"), ONE_LABEL)
    assert expected.temperature < 0.95
    assert result["calibration"] == pytest.approx(expected.numbers())
    predict.main(["--run", str(cv), "--out", str(tmp_path / "again")])
    combined = ensemble.main(["--runs", str(cv), "--method", "mean", "--out", str(tmp_path / "both")])
    assert combined["calibration"] == pytest.approx(expected.numbers())
    for folder in (cv, cv / "final", tmp_path / "again", tmp_path / "both"):
        scores = load_scores(folder / "scores_test.npz")
        written = pd.read_csv(folder / "submission.csv", dtype={"image": str}).set_index("image").loc[scores.names]
        probabilities = softmax(scores.logits.astype(float) / expected.temperature, axis=1)
        assert written[list(scores.classes)].to_numpy() == pytest.approx(probabilities, abs=1e-6)


def test_calibrated_logits_are_divided_by_a_temperature_fitted_without_their_fold() -> None:
    logits, targets = draw(400, 4)
    found, calibrated = fit_calibration(3 * logits, targets, ONE_LABEL)
    ratios = (3 * logits / calibrated)[:, 0]
    assert len(np.unique(ratios.round(4))) == 5  # one temperature per fold
    assert ratios.min() < found.temperature < ratios.max()
    error = METRICS["ece"].function(calibrated, targets)
    assert found.ece_calibrated == pytest.approx(error)


@pytest.mark.parametrize("content", ["{}", '{"temperature": -1}', '{"temperature": "warm"}', "[1]"])
def test_a_damaged_temperature_is_one_sentence(content: str, tmp_path: Path) -> None:
    (tmp_path / "calibration.json").write_text(content)
    with pytest.raises(FlukeError, match=r"calibration.json: temperature: expected a positive number"):
        read_decisions(RunFolder(tmp_path), ("a", "b"), ONE_LABEL)


def test_a_run_without_a_temperature_predicts_as_it_did(tmp_path: Path) -> None:
    assert read_decisions(RunFolder(tmp_path), ("a", "b"), ONE_LABEL) == PLAIN
    assert read_decisions(None, ("a", "b"), ONE_LABEL) == PLAIN
