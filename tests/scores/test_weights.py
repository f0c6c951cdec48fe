"""Weights fitted on out-of-fold scores."""

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.metrics import log_loss

from lib.metrics.registry import METRICS
from lib.scores.combination import METHODS, fit_combination
from lib.scores.decisions import AdjustmentOptions
from lib.scores.out_of_fold import OutOfFold
from lib.scores.weights import greedy_weights, simplex_weights
from lib.tables.target import REGRESSION
from tests.scores.synthetic import labels, members, out_of_fold

accuracy = METRICS["accuracy"].function


@pytest.mark.parametrize("sharpness", [1, 4])  # 4: overconfident, so that mixing in noise lowers the log-loss
@pytest.mark.parametrize("method", ["greedy", "optimal"])
def test_useless_and_harmful_members_get_no_weight(method, sharpness):
    for seed in range(8):
        z, targets = members(n=600, seed=seed)
        rng = np.random.default_rng(100 + seed)
        useless = rng.normal(size=z[0].shape).astype(np.float32)
        harmful = z[0][rng.permutation(len(targets))] * 2  # confident, about another row
        mixed = [sharpness * m for m in [useless, *z, harmful]]
        weights = METHODS[method].fit(out_of_fold(mixed, targets)).weights
        assert weights.sum() == pytest.approx(1)
        assert weights[[0, 4]].tolist() == [0, 0]
        assert (weights > 0).sum() >= 2


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "map@5"])
def test_greedy_never_scores_below_the_best_member(metric):
    score = METRICS[metric].function
    for seed in range(10):
        z, targets = members(n=200, skills=(1.4, 0.3, 1.0, 0.1), seed=seed)
        fitted = fit_combination("greedy", out_of_fold(z, targets, metric), AdjustmentOptions())
        assert score(fitted(z), targets) >= max(score(m, targets) for m in z)
    z, targets = labels()
    score = METRICS["macro_map"].function
    fitted = fit_combination("greedy", out_of_fold(z, targets, "macro_map"), AdjustmentOptions())
    assert score(fitted(z), targets) >= max(score(m, targets) for m in z)


def test_greedy_takes_the_steps_of_a_plain_search():
    z, targets = members(n=1000, skills=(1.2, 1.2, 1.1), seed=3)
    counts, reached = [0, 0, 0], max(accuracy(m, targets) for m in z)
    counts[int(np.argmax([accuracy(m, targets) for m in z]))] = 1
    while True:
        tried = []
        for i in range(3):
            bag = [softmax(z[m], axis=1) for m in range(3) for _ in range(counts[m] + (m == i))]
            tried.append(float((np.mean(bag, axis=0).argmax(axis=1) == targets).mean()))
        if max(tried) <= reached:
            break
        reached = max(tried)
        counts[int(np.argmax(tried))] += 1
    assert sum(counts) > 2
    found = greedy_weights(out_of_fold(z, targets))
    np.testing.assert_allclose(found, np.array(counts) / sum(counts))


def test_optimal_weights_are_the_best_of_a_grid():
    z, targets = members(n=800, skills=(1.2, 1.0, 0.3), seed=1)
    p = [softmax(m, axis=1).astype(np.float64) for m in z]
    grid = [(a, b, 1 - a - b) for a in np.linspace(0, 1, 41) for b in np.linspace(0, 1 - a, 41)]

    def loss(weights):
        return -np.log(sum(w * q for w, q in zip(weights, p))[np.arange(800), targets]).mean()

    weights = simplex_weights(out_of_fold(z, targets))
    assert weights.min() >= 0
    assert loss(weights) <= min(map(loss, grid)) + 1e-5
    many, several = labels()
    w = simplex_weights(out_of_fold(many, several, "macro_map"))
    losses = [log_loss(several.ravel(), (a * expit(many[0]) + (1 - a) * expit(many[1])).ravel()) for a in np.linspace(0, 1, 101)]
    assert w[0] == pytest.approx(np.argmin(losses) / 100, abs=0.02)


def test_votes_are_weighted_by_score_and_by_the_inverse_of_a_loss():
    z, targets = members()
    scores = np.array([accuracy(m, targets) for m in z])
    np.testing.assert_allclose(METHODS["weighted"].fit(out_of_fold(z, targets)).weights, scores / scores.sum())
    losses = np.array([METRICS["log_loss"].function(m, targets) for m in z])
    np.testing.assert_allclose(
        METHODS["weighted"].fit(out_of_fold(z, targets, "log_loss")).weights, 1 / losses / (1 / losses).sum()
    )


def test_weights_for_numbers_are_the_best_of_a_grid_and_never_negative() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(400, 1)).astype(np.float32)
    z = [truth + noise * rng.normal(size=(400, 1)).astype(np.float32) for noise in (0.3, 0.4, 3.0)]
    data = OutOfFold(list("abc"), z, REGRESSION, truth, "rmse", np.arange(400) % 5)
    weights = simplex_weights(data)
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1)
    error = lambda w: float(((np.tensordot(w, np.stack(z), 1) - truth) ** 2).mean())  # noqa: E731
    grid = [np.array([a, b, 1 - a - b]) for a in np.linspace(0, 1, 101) for b in np.linspace(0, 1 - a, 101)]
    assert error(weights) <= min(map(error, grid)) + 1e-6
