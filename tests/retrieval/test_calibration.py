"""Calibrated probabilities against frequencies."""

import numpy as np
import pytest
from scipy.optimize import minimize

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
    for prior in (0.2, 0.5, 0.9):  # Bayes: the odds at each score times the odds of the prior over those of the scores
        shift = np.log(prior / (1 - prior) * (~right).sum() / right.sum())
        assert fit_probability(scores, right, prior).intercept == pytest.approx(fit.intercept + shift, abs=0.15)


@pytest.mark.parametrize("right", [[True, True, False, False], [True] * 4, [False] * 4])
def test_a_probability_of_separable_or_one_sided_answers_is_not_certain(right):
    fit = fit_probability([0.9, 0.8, 0.2, 0.1], right)
    assert np.isfinite(fit).all()
    assert ((fit([0.1, 0.9]) > 0.1) & (fit([0.1, 0.9]) < 0.9)).all()


def test_the_curve_is_the_one_that_maximizes_the_likelihood_of_platts_targets():
    rng = np.random.default_rng(3)
    scores = rng.normal(0.5, 0.2, 12)
    right = scores + rng.normal(0, 0.2, 12) > 0.5
    n_right, n_wrong = right.sum(), (~right).sum()
    target = np.where(right, (n_right + 1) / (n_right + 2), 1 / (n_wrong + 2))

    def loss(line: np.ndarray) -> float:
        z = line[0] * scores + line[1]
        return float(np.sum(np.logaddexp(0, z) - target * z))

    best = minimize(loss, np.zeros(2), method="BFGS", options={"gtol": 1e-9}).x
    fit = fit_probability(scores, right)
    assert [fit.slope, fit.intercept] == pytest.approx(best.tolist(), rel=1e-3)
