"""The comparison of test images with held-out ones."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from lib.scores.shift import _auc_and_error, measure_shift


def test_the_area_and_its_error_are_those_of_many_samples() -> None:
    """The error against the standard deviation over 300 samples, the area against scikit-learn's, with ties."""
    rng = np.random.default_rng(0)
    samples = [(rng.normal(0, 1, 60).round(1), rng.normal(1, 1, 40).round(1)) for _ in range(300)]
    found = np.array([_auc_and_error(*sample) for sample in samples])
    areas = [roc_auc_score(np.repeat([0, 1], [60, 40]), np.concatenate(sample)) for sample in samples]
    assert found[:, 0] == pytest.approx(areas)
    assert found[:, 1].mean() == pytest.approx(np.std(areas), rel=0.1)


def test_a_shift_is_found_and_chance_seldom_is() -> None:
    """A shift of one standard deviation in 5 of 60 features; random halves of one sample are called shifted at most once in 20."""
    rng = np.random.default_rng(0)
    held_out, test = rng.normal(size=(300, 60)), rng.normal(size=(200, 60))
    test[:, :5] += 1
    shift = measure_shift(held_out, test)
    assert shift is not None
    assert shift.found
    assert shift.interval[0] < shift.auc < shift.interval[1]
    by_shift = held_out[:, :5].sum(1), test[:, :5].sum(1)
    assert np.corrcoef(np.concatenate(by_shift), shift.probabilities)[0, 1] > 0.5
    halves = [measure_shift(*np.split(rng.normal(size=(120, 60)), 2)) for _ in range(20)]
    assert sum(half is None or half.found for half in halves) <= 1


def test_groups_that_stay_together_are_no_shift() -> None:
    """Ten bursts of twenty similar images on each side: their likeness says nothing of the test."""
    rng = np.random.default_rng(0)
    bursts = rng.normal(size=(20, 30)).repeat(20, axis=0) + 0.1 * rng.normal(size=(400, 30))
    groups = np.arange(20).repeat(20)
    grouped = measure_shift(bursts[:200], bursts[200:], groups[:200])
    assert grouped is not None
    assert grouped.auc < 0.8


def test_too_few_rows_say_nothing() -> None:
    rng = np.random.default_rng(0)
    assert measure_shift(rng.normal(size=(24, 5)), rng.normal(size=(100, 5))) is None
    assert measure_shift(rng.normal(size=(100, 5)), rng.normal(size=(100, 5)), np.arange(100) % 9) is None
