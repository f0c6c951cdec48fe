"""A contest's metric through a run: the best epoch, the submission, folds and ensembles follow it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, softmax
from sklearn import metrics as sk

from lib.errors import FlukeError
from lib.scores.score_file import Scores, load_scores
from scripts import ensemble, kfold, train_classifier
from tests.conftest import paint

Arguments = Callable[..., list[str]]
pytestmark = pytest.mark.usefixtures("no_report")


@pytest.fixture(scope="module")
def two_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 training images of tumours, few of them malignant, and 10 of a test; the sample's cells are all 0."""
    root = tmp_path_factory.mktemp("tumours")
    labels = (["benign"] * 3 + ["malignant"]) * 10
    names, test = paint(root / "images", labels, 1), paint(root / "images", labels[:10], 2)
    pd.DataFrame({"image": names, "label": labels}).to_csv(root / "train.csv", index=False)
    pd.DataFrame({"image": test, "target": 0}).to_csv(root / "sample_submission.csv", index=False)
    return root


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 training images with several labels, some with none, and 10 of a test."""
    root, rng = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)
    names, test = paint(root / "images", list("ab") * 30, 1), paint(root / "images", list("ab") * 5, 2)
    labels = [" ".join(np.array(["x", "y", "z"])[rng.random(3) < [0.6 if i % 2 else 0.1, 0.3, 0.15]]) for i in range(60)]
    pd.DataFrame({"image": names, "label": labels}).to_csv(root / "train.csv", index=False)
    pd.DataFrame({"image": test, "label": "x y"}).to_csv(root / "sample_submission.csv", index=False)
    return root


def truth_of(scores: Scores) -> np.ndarray:
    return np.array([scores.classes.index(label) for (label,) in scores.labels or []])


@pytest.mark.parametrize(("metric", "best"), [("log_loss", np.argmin), ("brier", np.argmin), ("roc_auc", np.argmax)])
def test_the_best_epoch_and_the_submission_follow_the_metric(
    metric: str, best: Callable, two_classes: Path, arguments: Arguments, tmp_path: Path
) -> None:
    found = train_classifier.main(
        arguments(tmp_path / "run", data_root=two_classes, train_metric=metric, train_epochs=4, optim_lr=0.01)
    )
    history = [json.loads(line)[metric] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert found["best_epoch"] == 1 + int(best(history))
    val, test = (load_scores(tmp_path / "run" / f"scores_{side}.npz") for side in ("val", "test"))
    p = softmax(val.logits.astype(float), axis=1)[:, 1]
    expected = {"log_loss": sk.log_loss, "brier": sk.brier_score_loss, "roc_auc": sk.roc_auc_score}[metric](truth_of(val), p)
    assert found[metric] == pytest.approx(expected)
    assert found["interval"][0] <= found[metric] <= found["interval"][1]
    given = pd.read_csv(tmp_path / "run" / "submission.csv")["target"]
    temperature = json.loads((tmp_path / "run" / "calibration.json").read_text())["temperature"]
    assert given.to_numpy() == pytest.approx(softmax(test.logits.astype(float) / temperature, axis=1)[:, 1], rel=1e-5)
    assert "the probability of 'malignant'" in (tmp_path / "run" / "log.txt").read_text()


def test_the_positive_class_is_the_second_of_the_order(two_classes: Path, arguments: Arguments, tmp_path: Path) -> None:
    changes = {"data_order": "[malignant, benign]", "train_metric": "average_precision"}
    found = train_classifier.main(arguments(tmp_path / "run", data_root=two_classes, **changes))
    val = load_scores(tmp_path / "run" / "scores_val.npz")
    assert val.classes == ("malignant", "benign")
    assert found["average_precision"] == pytest.approx(sk.average_precision_score(truth_of(val), softmax(val.logits, axis=1)[:, 1]))
    assert "the probability of 'benign'" in (tmp_path / "run" / "log.txt").read_text()
    with pytest.raises(FlukeError, match="data.order: has to name each class of .* once .missing or unknown: 'benign', 'good'"):
        train_classifier.main(arguments(tmp_path / "other", data_root=two_classes, data_order="[malignant, good]"))


def test_label_sets_are_scored_as_they_are_handed_in(sets: Path, arguments: Arguments, tmp_path: Path) -> None:
    """The score of folds is that of thresholds fitted on the other folds, and the best label where none is over its threshold."""
    changes = {"data_label_separator": " ", "objective_name": "bce", "train_metric": "f2_samples", "folds_n": 3}
    runs = [str(tmp_path / f"run{seed}") for seed in (0, 1)]
    for seed, run in enumerate(runs):
        found = kfold.main(arguments(Path(run), data_root=sets, **changes, train_seed=seed))
    oof, folds = load_scores(tmp_path / "run1" / "oof.npz"), pd.read_csv(tmp_path / "run1" / "folds.csv")["fold"].to_numpy()
    true = np.array([[name in row for name in oof.classes] for row in oof.labels or []])

    def score(given: np.ndarray) -> float:
        return float(sk.fbeta_score(true, given, beta=2, average="samples", zero_division=1))

    chosen = json.loads((tmp_path / "run1" / "thresholds.json").read_text())
    fitted = expit(oof.logits.astype(float)) >= np.array([chosen[name] for name in oof.classes]) - 1e-9
    assert found["pooled_metric"] == "f2_samples"
    assert found["pooled"] <= score(fitted) + 0.1  # fitted on all rows it is higher, but for rows without a label
    plain = np.array([score(fit >= 0) for fit in [oof.logits]])[0]
    assert found["pooled"] != pytest.approx(plain)
    for k in range(3):
        fold = json.loads((tmp_path / "run1" / f"fold{k}" / "metrics.json").read_text())
        assert 0 < fold["f2_samples"] <= 1
    assert len(folds) == 60
    both = ensemble.main(["--runs", *runs, "--method", "mean", "--out", str(tmp_path / "both")])
    assert both["metric"] == "f2_samples"
    assert both["thresholds"] is True
    cells = pd.read_csv(tmp_path / "both" / "submission.csv", keep_default_na=False)["label"]
    test = load_scores(tmp_path / "both" / "scores_test.npz")  # the thresholds are in these
    given = [[name for name, z in zip(test.classes, row) if z >= 0] for row in test.logits]
    assert all(cell.split() == names or not names for cell, names in zip(cells, given))


def test_a_metric_that_does_not_fit_is_refused_before_any_table_is_read(arguments: Arguments, tmp_path: Path) -> None:
    with pytest.raises(FlukeError, match="Unknown metric 'auc'; did you mean roc_auc"):
        train_classifier.main(arguments(tmp_path / "run", data_root=tmp_path / "nowhere", train_metric="auc"))
    with pytest.raises(FlukeError, match="Metric auroc doesn't fit one label per image; did you mean roc_auc"):
        train_classifier.main(arguments(tmp_path / "run", data_root=tmp_path / "nowhere", train_metric="auroc"))
