"""Calibrated probabilities against frequencies."""

import numpy as np
import pytest

from lib.retrieval.calibration import fit_probability


def test_a_probability_is_the_frequency():
    rng = np.random.default_rng(0)
    scores = rng.normal(0.4, 0.1, 40_000)
    right = rng.random(40_000) < 1 / (1 + np.exp(-(20 * scores - 9)))
    fit = fit_probability(scores, right)
    assert fit.slope == pytest.approx(20, rel=0.05)
    assert fit.intercept == pytest.approx(-9, rel=0.05)
    for low in (0.3, 0.4, 0.5):
        near = (scores >= low) & (scores < low + 0.05)
        assert fit(scores[near]).mean() == pytest.approx(right[near].mean(), abs=0.02)
    assert fit(-np.inf) == 0
    even = fit_probability(scores, right, prior=0.5)  # the odds at each score times wrong / right
    shift = np.log((~right).sum() / right.sum())
    assert even.intercept == pytest.approx(fit.intercept + shift, abs=0.15)


@pytest.mark.parametrize("right", [[True, True, False, False], [True] * 4, [False] * 4])
def test_a_probability_of_separable_or_one_sided_answers_is_not_certain(right):
    fit = fit_probability([0.9, 0.8, 0.2, 0.1], right)
    assert np.isfinite(fit).all()
    assert ((fit([0.1, 0.9]) > 0.1) & (fit([0.1, 0.9]) < 0.9)).all()
