"""Numbers and ordered classes end to end: train, folds, ensemble, predict, submissions, resume, the page."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn import metrics as sk

from lib.errors import FlukeError
from lib.scores.cut_points import cut_at
from lib.scores.score_file import load_scores
from scripts import ensemble, kfold, predict, train_classifier

Arguments = Callable[..., list[str]]


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images whose brightness is a number, far from 0, of which the last 12 are the test; grades 8 to 11 of the same."""
    root, rng = tmp_path_factory.mktemp("numbers"), np.random.default_rng(0)
    (root / "images").mkdir()
    values = rng.uniform(0, 1, 60)
    for i, value in enumerate(values):
        pixels = np.clip(40 + 170 * value + rng.normal(0, 10, (24, 24, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{i:02}.png")
    table = pd.DataFrame(
        {"image": [f"{i:02}" for i in range(60)], "age": (1000 + 50 * values).round(2), "dark": (1 - values).round(3)}
    )
    table["grade"] = 8 + np.minimum((4 * values).astype(int), 3)
    table[:48].to_csv(root / "train.csv", index=False)
    table[48:].to_csv(root / "truth.csv", index=False)
    for column, sample in (("age", 0), ("grade", 8)):
        table[48:][["image"]].assign(**{column: sample}).to_csv(root / f"sample_{column}.csv", index=False)
    table[48:][["image"]].assign(dark=0, age=0).to_csv(root / "sample_both.csv", index=False)
    return root


NUMBER = {"data_task": "number", "data_label_column": "age", "data_sample_submission": "sample_age.csv", "objective_name": "mse"}
GRADE = {"data_task": "ordinal", "data_label_column": "grade", "data_sample_submission": "sample_grade.csv"}


def fields(root: Path, **more: object) -> dict[str, object]:
    return {"data_root": root, "optim_lr": 3e-3, "train_epochs": 6, "data_augment": "[]", **more}


@pytest.mark.parametrize("loss", ["mse", "l1", "huber", "binned"])
def test_a_number_is_learnt_and_written_in_its_own_units(numbers: Path, arguments: Arguments, tmp_path: Path, loss: str) -> None:
    found = train_classifier.main(
        arguments(tmp_path / "run", **fields(numbers, **NUMBER | {"objective_name": loss}, train_epochs=12))
    )
    truth, given = pd.read_csv(numbers / "truth.csv"), pd.read_csv(tmp_path / "run" / "submission.csv")
    assert found["metric"] == "rmse"
    assert found["r2"] > 0.5
    assert sk.r2_score(truth["age"], given["age"]) > 0.5
    val = load_scores(tmp_path / "run" / "scores_val.npz")
    true = np.array([[float(label) for label in row] for row in val.labels or []])
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(true, val.logits), rel=1e-5)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(true, val.logits), rel=1e-5)
    assert found["interval"][0] <= found["rmse"] <= found["interval"][1]
    history = [json.loads(line)["rmse"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert found["best_epoch"] == 1 + int(np.argmin(history))
    assert "Largest errors" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_folds_ensemble_and_prediction_of_several_numbers(numbers: Path, arguments: Arguments, tmp_path: Path) -> None:
    both = {**NUMBER, "data_number_columns": "[age, dark]", "data_sample_submission": "sample_both.csv", "folds_n": 3}
    runs = []
    for seed in (0, 1):
        runs.append(str(tmp_path / f"run{seed}"))
        result = kfold.main(arguments(tmp_path / f"run{seed}", **fields(numbers, **both, train_seed=seed)))
    oof = load_scores(tmp_path / "run1" / "oof.npz")
    true = np.array([[float(label) for label in row] for row in oof.labels or []])
    assert oof.classes == ("age", "dark")
    assert result["pooled"] == pytest.approx(sk.root_mean_squared_error(true, oof.logits), rel=1e-5)
    of_fold = pd.read_csv(tmp_path / "run1" / "folds.csv")["fold"]
    means = pd.read_csv(numbers / "train.csv")["age"].groupby(of_fold).mean()
    assert means.max() - means.min() < 5  # of 50: stratified by quantile
    for method in ("mean", "optimal", "greedy", "stack_lr", "stack_gb"):
        found = ensemble.main(["--runs", *runs, "--method", method, "--out", str(tmp_path / method)])
        assert found["metric"] == "rmse"
        tested = load_scores(tmp_path / method / "scores_test.npz")
        given = pd.read_csv(tmp_path / method / "submission.csv")
        assert list(given.columns) == ["image", "dark", "age"]
        np.testing.assert_allclose(given[["age", "dark"]], tested.logits, rtol=1e-6)
    mean, weighted = (json.loads((tmp_path / m / "ensemble.json").read_text()) for m in ("mean", "optimal"))
    assert weighted["fitted_score"] <= min(mean["score"], *(member["score"] for member in weighted["members"])) + 0.05
    with pytest.raises(FlukeError, match="--method vote: doesn't fit numbers; methods for them are mean, greedy"):
        ensemble.main(["--runs", *runs, "--method", "vote", "--out", str(tmp_path / "vote")])
    found = predict.main(["--run", runs[0], "--table", str(numbers / "truth.csv"), "--out", str(tmp_path / "predict")])
    again = load_scores(tmp_path / "predict" / "scores_test.npz")
    np.testing.assert_allclose(again.logits, load_scores(tmp_path / "run0" / "scores_test.npz").logits, rtol=1e-6)
    truth = pd.read_csv(numbers / "truth.csv")[["age", "dark"]]
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(truth, again.logits), rel=1e-5)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "cumulative"])
def test_grades_are_ordered_as_numbers_and_cut_for_kappa(numbers: Path, arguments: Arguments, tmp_path: Path, loss: str) -> None:
    argv = arguments(tmp_path / "run", **fields(numbers, **GRADE, objective_name=loss, train_epochs=12))
    found = train_classifier.main(argv)
    assert json.loads((tmp_path / "run" / "classes.json").read_text()) == ["8", "9", "10", "11"]
    assert found["metric"] == "quadratic_kappa"
    truth, given = pd.read_csv(numbers / "truth.csv"), pd.read_csv(tmp_path / "run" / "submission.csv")
    assert sk.cohen_kappa_score(truth["grade"], given["grade"], weights="quadratic") > 0.5
    cuts = np.array(json.loads((tmp_path / "run" / "cut_points.json").read_text()))
    test = load_scores(tmp_path / "run" / "scores_test.npz")
    assert given["grade"].tolist() == [int(test.classes[c]) for c in cut_at(test.logits, cuts).argmax(axis=1)]
    predict.main(["--run", str(tmp_path / "run"), "--out", str(tmp_path / "again")])
    assert (tmp_path / "again" / "submission.csv").read_bytes() == (tmp_path / "run" / "submission.csv").read_bytes()
    assert "place of the cut" in (tmp_path / "run" / "report.html").read_text()


def test_cut_points_of_folds_and_ensembles_are_fitted_out_of_fold(numbers: Path, arguments: Arguments, tmp_path: Path) -> None:
    runs = [str(tmp_path / "mse"), str(tmp_path / "softmax")]
    for run, loss in zip(runs, ("mse", "cross_entropy")):
        result = kfold.main(arguments(Path(run), **fields(numbers, **GRADE, objective_name=loss, folds_n=3)))
        oof = load_scores(Path(run) / "oof.npz")
        truth = np.array([oof.classes.index(label) for (label,) in oof.labels or []])
        fitted = cut_at(oof.logits, np.array(json.loads((Path(run) / "cut_points.json").read_text()))).argmax(axis=1)
        assert result["pooled"] <= sk.cohen_kappa_score(truth, fitted, weights="quadratic") + 1e-9
    found = ensemble.main(["--runs", *runs, "--method", "mean_prob", "--out", str(tmp_path / "both")])
    assert found["metric"] == "quadratic_kappa"
    assert len(found["fitted"]["cut_points"]) == 3
    test, given = load_scores(tmp_path / "both" / "scores_test.npz"), pd.read_csv(tmp_path / "both" / "submission.csv")
    assert given["grade"].tolist() == [int(test.classes[c]) for c in test.logits.argmax(axis=1)]


@pytest.mark.usefixtures("no_report")
def test_a_stopped_run_of_numbers_goes_on_with_the_same_numbers(
    numbers: Path, arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_classifier.main(arguments(tmp_path / "whole", **fields(numbers, **NUMBER, train_epochs=2)))
    with monkeypatch.context() as broken:

        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        broken.setattr("lib.pipelines.train.predict_splits", stop)
        with pytest.raises(KeyboardInterrupt):
            train_classifier.main(arguments(tmp_path / "part", **fields(numbers, **NUMBER, train_epochs=2)))
    resumed = train_classifier.main([*arguments(tmp_path / "part", **fields(numbers, **NUMBER, train_epochs=2)), "--resume"])
    assert resumed == whole


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"objective_name": "cross_entropy"},
            "objective.name cross_entropy is not for numbers in train_classifier; it takes mse, l1, huber",
        ),
        (
            {"data_label_column": "image", "data_image_column": "image", "train_metric": "accuracy"},
            "Metric accuracy doesn't fit numbers",
        ),
        ({"data_label_separator": " "}, "data.task number is for one label per image"),
        ({"data_number_columns": "[age, height]"}, "no column 'height'"),
        ({"train_sampler": "weighted"}, "are for classes"),
        ({"predict_submission": "label"}, "predict.submission label is for labels"),
    ],
)
def test_what_does_not_fit_numbers_is_refused(
    numbers: Path, arguments: Arguments, tmp_path: Path, changes: dict[str, object], says: str
) -> None:
    with pytest.raises(FlukeError, match=says):
        train_classifier.main(arguments(tmp_path / "run", **fields(numbers, **NUMBER | changes)))
