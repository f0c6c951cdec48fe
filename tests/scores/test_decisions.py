"""Temperature, offsets and thresholds, fitted on scores."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import f1_score, fbeta_score

from lib.errors import FlukeError
from lib.metrics.registry import METRICS
from lib.scores import decisions
from lib.scores.decisions import AdjustmentOptions
from lib.tables.target import ONE_LABEL, SEVERAL_LABELS
from tests.scores.synthetic import labels, members

accuracy = METRICS["accuracy"].function


def test_a_known_temperature_is_recovered():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(20000, 5)) * 2
    targets = (z + rng.gumbel(size=z.shape)).argmax(axis=1)  # drawn from softmax(z): calibrated
    assert decisions.fit_temperature(z * 3, targets, ONE_LABEL) == pytest.approx(3, rel=0.05)
    several = (rng.random(z.shape) < expit(z)).astype(int)
    assert decisions.fit_temperature(z / 2, several, SEVERAL_LABELS) == pytest.approx(0.5, rel=0.05)


def test_offsets_undo_a_bias_and_equal_a_grid_search():
    z, targets = members(n=1000, classes=3, skills=(1.0,), seed=2)
    for metric, score in (("accuracy", accuracy), ("macro_f1", METRICS["macro_f1"].function)):
        found = decisions.fit_offsets(z[0] + np.array([0, 1.5, 0]), targets, metric)
        tilted = score(z[0] + np.array([0, 1.5, 0]), targets)
        assert score(z[0] + np.array([0, 1.5, 0]) + found, targets) > tilted + 0.03
    two, targets = [m[:, :2] for m in z], (targets > 0).astype(int)
    grid = [np.array([o, 0]) for o in np.linspace(-4, 4, 81)]
    found = accuracy(two[0] + decisions.fit_offsets(two[0], targets, "accuracy"), targets)
    assert found == pytest.approx(max(accuracy(two[0] + o, targets) for o in grid), abs=0.002)


def test_too_many_classes_for_offsets_are_refused():
    with pytest.raises(FlukeError, match=r"--offsets: offsets are for at most 500 classes \(found 501\)"):
        decisions.fit_adjustment(np.zeros((4, 501), np.float32), np.arange(4), ONE_LABEL, AdjustmentOptions(offsets="accuracy"))


def test_thresholds_reach_the_best_f1_of_each_label():
    z, targets = labels(n=300)
    z, targets = np.round(z[1], 1), targets.copy()  # with ties
    targets[:, 3] = 0
    found = decisions.fit_thresholds(z, targets)
    assert found[3] == 0
    for c in (0, 1, 2, 4):
        tried = [f1_score(targets[:, c], z[:, c] >= t) for t in np.unique(z[:, c])]
        assert f1_score(targets[:, c], z[:, c] >= found[c]) == pytest.approx(max(tried))
    shifted = decisions.fit_adjustment(z, targets, SEVERAL_LABELS, AdjustmentOptions(temperature=True, thresholds=True))(z)
    used = np.delete(np.arange(5), 3)
    assert ((shifted >= 0) == (z >= found))[:, used].all()  # a decision at 1/2, whatever the temperature


@pytest.mark.parametrize("metric", ["micro_f1", "f2_samples"])
def test_joint_thresholds_are_not_improved_by_moving_one_of_them(metric: str) -> None:
    """Of the labels' quantiles that are tried, none is better for one label while the others stay."""
    z, targets = labels(n=400, skills=(0.6,))
    beta, average = METRICS[metric].beta, "micro" if metric == "micro_f1" else "samples"

    def score(thresholds: np.ndarray) -> float:
        return fbeta_score(targets, z[0] >= thresholds, beta=beta, average=average, zero_division=1)

    alone, found = decisions.fit_thresholds(z[0], targets), decisions.fit_thresholds(z[0], targets, metric)
    assert score(found) >= score(alone) + (0.005 if average == "samples" else 0)
    for label in range(targets.shape[1]):
        for tried in np.quantile(z[0][:, label], np.linspace(0.025, 0.975, 20)):
            moved = found.copy()
            moved[label] = tried
            assert score(moved) <= score(found) + 1e-3
