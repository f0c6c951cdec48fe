"""Fitted combinations and their evaluation on rows that they were not fitted on."""

import numpy as np
import pytest

from lib.errors import FlukeError
from lib.metrics.registry import METRICS
from lib.scores import decisions
from lib.scores.combination import fit_combination
from lib.scores.decisions import AdjustmentOptions
from lib.scores.evaluation import evaluate_combination
from lib.scores.out_of_fold import crossfit, inner_folds
from tests.scores.synthetic import labels, members, out_of_fold

accuracy = METRICS["accuracy"].function


@pytest.mark.parametrize("method", ["stack_lr", "stack_gb", "greedy", "weighted"])
def test_on_pure_noise_the_out_of_fold_score_is_chance(method):
    """Members are noise: on the rows of the fit they score above 1/4, out of fold they don't."""
    rng = np.random.default_rng(1)
    noise, targets = [rng.normal(size=(600, 4)).astype(np.float32) for _ in range(4)], np.arange(600) % 4
    options = AdjustmentOptions(offsets="accuracy" if method == "greedy" else None)
    found = evaluate_combination(method, out_of_fold(noise, targets), options)
    assert found.report["score"] == accuracy(found.logits, targets)
    assert found.report["score"] < 0.25 + 1.96 * np.sqrt(0.25 * 0.75 / 600)
    if method != "weighted":
        assert accuracy(found.combination(noise), targets) > found.report["score"] + 0.02


def test_adjustments_of_a_stack_are_fitted_on_other_rows():
    """On noise a stack is overconfident on its training rows; the temperature must come from other rows."""
    rng = np.random.default_rng(2)
    noise, targets = [rng.normal(size=(300, 3)).astype(np.float32)], np.arange(300) % 3
    fitted = fit_combination("stack_gb", out_of_fold(noise, targets), AdjustmentOptions(temperature=True))
    assert fitted.adjust.temperature > 3


def test_adjustments_of_a_stack_are_fitted_on_other_groups():
    """Images of a sighting are alike, and its label is random: split by row, the stack would seem to be right."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 6)
    targets = rng.integers(0, 4, 60)[groups]
    z = [(rng.normal(size=(60, 4))[groups] + 0.1 * rng.normal(size=(360, 4))).astype(np.float32) for _ in range(3)]
    folds = inner_folds(targets, groups=groups)
    options = AdjustmentOptions(temperature=True)
    temperature = {}
    for how, own in (("rows", inner_folds(targets)), ("groups", folds)):
        temperature[how] = fit_combination("stack_gb", out_of_fold(z, targets, folds=own), options).adjust.temperature
    assert temperature["rows"] < 1.5 < 4 < temperature["groups"]
    scores = [
        evaluate_combination("stack_gb", out_of_fold(z, targets, "log_loss", of, groups), options).report["score"]
        for of in (folds, folds % 2)  # of two folds one is left to fit on: it is split again, by groups
    ]
    assert max(scores) < np.log(4) + 0.1


def test_a_fit_on_one_group_can_not_be_evaluated():
    z, targets = members(n=20)
    data = out_of_fold(z, targets, groups=np.zeros(20, int))
    for method, also in (("greedy", {}), ("stack_lr", {}), ("mean", {"temperature": True})):
        with pytest.raises(FlukeError, match=r"takes 2 folds or groups \(found 1\)"):
            evaluate_combination(method, data, AdjustmentOptions(**also))


def test_a_lower_log_loss_is_a_positive_gain():
    z, targets = members()
    report = evaluate_combination("optimal", out_of_fold(z, targets, "log_loss"), AdjustmentOptions()).report
    least = min(member["score"] for member in report["members"])
    assert report["gain"] == pytest.approx(least - report["score"])
    assert 0 < report["gain_interval"][0] < report["gain"] < report["gain_interval"][1]


def test_a_class_with_one_row_and_a_label_without_positives_are_evaluated():
    z, targets = members(n=200, classes=4)
    targets[targets == 0] = 1
    targets[7] = 0
    for method, offsets in (("stack_lr", "macro_f1"), ("stack_gb", None), ("greedy", "macro_f1")):
        report = evaluate_combination(method, out_of_fold(z, targets, "macro_f1"), AdjustmentOptions(offsets=offsets)).report
        assert np.isfinite(report["score"])
    many, several = labels(n=200)
    several[:, 2] = 0
    for method in ("stack_lr", "optimal"):
        report = evaluate_combination(method, out_of_fold(many, several, "macro_map"), AdjustmentOptions(thresholds=True)).report
        assert np.isfinite(report["score"])


@pytest.mark.parametrize("metric", ["micro_f1", "samples_f1"])
def test_thresholds_are_fitted_for_metrics_of_all_labels_together(metric):
    """Rare labels that are noise: the best F1 of each is to give it always, which lowers the F1 of all labels together."""
    rng = np.random.default_rng(0)
    targets = (rng.random((400, 8)) < np.geomspace(0.5, 0.02, 8)).astype(int)
    z = rng.normal(size=(400, 8)) + np.where(np.arange(8) < 3, 2.5, 0) * targets
    measure = METRICS[metric].function
    separate = measure(z - decisions.fit_thresholds(z, targets), targets)
    joint = measure(z - decisions.fit_thresholds(z, targets, metric), targets)
    assert joint > separate + 0.05
    report = evaluate_combination("mean", out_of_fold([z], targets, metric), AdjustmentOptions(thresholds=True)).report
    assert report["fitted_score"] == pytest.approx(joint, abs=1e-6)
    assert report["score"] > separate


def test_inner_folds_are_stratified_and_reproducible():
    targets = np.repeat(np.arange(4), [2, 5, 10, 103])
    folds = inner_folds(targets)
    for c in range(4):
        counts = np.bincount(folds[targets == c], minlength=5)
        assert counts.max() - counts.min() <= 1
    assert (inner_folds(targets) == folds).all()
    assert not (inner_folds(targets, seed=1) == folds).all()


def test_crossfit_fits_without_the_rows_that_it_predicts():
    z = [np.arange(10, dtype=np.float32)[:, None]]
    folds = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 2])
    seen = []

    def fit_on(rows):
        seen.append(set(rows))
        return lambda held: held[0] * 0 + len(seen)

    out = crossfit(fit_on, z, folds)
    for k in range(3):
        assert seen[k] == set(np.flatnonzero(folds != k))
        assert (out[folds == k] == k + 1).all()


def test_equal_averages_are_the_plain_means() -> None:
    z, targets = members(n=50)
    mean = fit_combination("mean", out_of_fold(z, targets), AdjustmentOptions())(z)
    assert mean == pytest.approx(np.mean(z, axis=0), abs=1e-5)


@pytest.mark.parametrize("method", ["greedy", "optimal"])
def test_an_overconfident_member_counts_by_what_it_knows(method: str) -> None:
    """Two members of equal skill, one with logits five times too large: calibrated, they weigh alike."""
    z, targets = members(n=3000, skills=(1.2, 1.2))
    found = fit_combination(method, out_of_fold([z[0], 5 * z[1]], targets, metric="log_loss"), AdjustmentOptions())
    assert found.method.weights == pytest.approx([0.5, 0.5], abs=0.12)
    assert found.method.temperatures[1] == pytest.approx(5 * found.method.temperatures[0], rel=0.15)
