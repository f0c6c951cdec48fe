"""What --estimate says, and what a run's log says of the time that is left."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lib.config.recipe import Recipe, Train
from lib.errors import FlukeError
from lib.pipelines import estimate
from lib.training import loop
from lib.training.time_budget import TimeBudget, describe_duration
from scripts import kfold, train_classifier, train_embedding


@pytest.fixture(autouse=True)
def young_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this process had begun with the script."""
    monkeypatch.setattr(estimate, "_age_of_process", lambda: 3.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each training batch takes 2 s, and 5 while the backbone learns, an epoch 1 s besides; an image 0.1 s in a validation."""
    seconds = {True: 2.0, False: 5.0}
    monkeypatch.setattr(estimate, "_time_batches", lambda trainer, n: (seconds[trainer.backbone_frozen], 1.0))
    monkeypatch.setattr(loop.Trainer, "save", lambda trainer: None)
    monkeypatch.setattr(estimate, "_time_validation", lambda trainer, tables: 0.1)


def without_out(arguments: list[str]) -> list[str]:
    return [*arguments[2:], "--estimate"]


def test_estimate_counts_batches_validations_and_predictions(
    arguments: Callable, tmp_path: Path, clock: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    fields = {"train_epochs": 5, "train_validate_every": 2, "optim_freeze_epochs": 2, "train_patience": 3}
    found = train_classifier.main(without_out(arguments(tmp_path, **fields)))
    # 48 rows, 12 held out, 8 a batch: 4 batches; epochs 2, 4 and 5 are validated; 13 test images.
    assert found["training_seconds"] == pytest.approx(4 * (2 * 2 + 3 * 5) + 5, abs=0.1)
    assert found["prediction_seconds"] == pytest.approx(0.1 * (3 * 12 + 13))
    assert found["seconds"] - found["training_seconds"] - found["prediction_seconds"] > 3 + estimate.REPORT_SECONDS  # and tables
    assert found["images_per_second"] == pytest.approx(8 * 4 * 5 / found["training_seconds"])
    assert found["gpu_memory_gb"] is None
    assert 0.05 < found["memory_gb"] < 20
    printed = capsys.readouterr().out
    assert re.search(
        r"estimate: \S+ (s|min) for 5 epochs: 81 s training \(2 images/s\), 5 s validations and predictions, \d+ s the", printed
    )
    assert "train.patience 3 may end it earlier" in printed
    assert list((tmp_path / "runs").iterdir()) == []  # nothing is left


def test_estimate_of_folds_and_of_models_of_all_rows(
    arguments: Callable, tmp_path: Path, clock: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = kfold.main([*without_out(arguments(tmp_path, train_epochs=2, folds_n=4)), "--final", "--seeds", "0", "1"])
    # 36 rows a fold, 4 whole batches of 8; twice 48 rows, 4/3 as many batches, for two models of all rows.
    assert found["training_seconds"] == pytest.approx((4 + 2 * 4 / 3) * 2 * (4 * 5 + 1), abs=0.1)
    assert found["prediction_seconds"] == pytest.approx(0.1 * 4 * (2 * 12 + 13))
    some = kfold.main([*without_out(arguments(tmp_path, train_epochs=2, folds_n=4)), "--only", "1", "3"])
    assert some["training_seconds"] == pytest.approx(2 * 2 * (4 * 5 + 1), abs=0.1)


def test_estimate_times_real_batches(arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(estimate, "SECONDS", 0.2)
    found = train_embedding.main(without_out(arguments(tmp_path, data_sample_submission="null", objective_name="arcface")))
    assert 0 < found["training_seconds"] < found["seconds"] < 60
    assert found["prediction_seconds"] > 0


def test_disk_is_what_a_run_takes(arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fields = {"train_epochs": 3, "train_ema": 0.9, "optim_name": "adamw"}
    monkeypatch.setattr(estimate, "SECONDS", 0.2)
    found = train_classifier.main(without_out(arguments(tmp_path, **fields)))
    run = tmp_path / "run"
    train_classifier.main(arguments(run, **fields))
    weights = (run / "best/model.safetensors").stat().st_size
    states = sum(path.stat().st_size for path in (run / "last").rglob("*") if path.is_file())
    assert found["disk_gb"] * 1e9 == pytest.approx(weights + states * 3 / 2, rel=0.1)  # one more while one is replaced


def test_estimate_writes_no_run(arguments: Callable, tmp_path: Path) -> None:
    with pytest.raises(FlukeError, match="--estimate: writes no run; leave out --out and --resume"):
        train_classifier.main([*arguments(tmp_path / "run"), "--estimate"])
    assert not (tmp_path / "run").exists()


def test_the_log_says_what_is_left(arguments: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    train_classifier.main(arguments(tmp_path / "run", train_epochs=2, train_batch_size=2))
    first, last = re.findall(r"^epoch \d/2 .*", capsys.readouterr().out, re.M)
    assert re.search(r"  \d+ s left of the run$", first)
    assert "left" not in last


def test_time_left_is_that_of_batches_validations_and_predictions() -> None:
    budget = TimeBudget(None, num_validation=100, images_to_predict=50)
    assert budget.seconds_left(10, 1) is None  # nothing measured
    budget.measure_steps(seconds=30, batches=10, images=80)
    assert budget.seconds_left(4, 2) == pytest.approx(4 * 3 + 30 / 80 * (2 * 100 + 50))
    budget.measure_validation(seconds=10, images=100)
    budget.measure_steps(seconds=60, batches=10, images=80)  # another epoch is slower; images are known from the validation
    assert budget.seconds_left(4, 2) == pytest.approx(4 * 6 + 0.1 * (2 * 100 + 50))


@pytest.mark.parametrize(("seconds", "words"), [(0, "0 s"), (89, "89 s"), (91, "2 min"), (3540, "59 min"), (7500, "2 h 05 min")])
def test_durations_in_words(seconds: float, words: str) -> None:
    assert describe_duration(seconds) == words


@pytest.mark.parametrize(("minutes", "too_short"), [(None, False), (1.4, True), (1.6, False)])
def test_a_limit_that_ends_the_job_before_is_said(minutes: float | None, too_short: bool) -> None:
    found = estimate.Estimate(90.0, 60.0, 10.0, 20.0, 1.0, None, 0.1)
    recipe = Recipe(train=Train(max_minutes=minutes))
    assert ("ends it before" in estimate.describe_estimate(found, recipe, 1, 0)) == too_short
