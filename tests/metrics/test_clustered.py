"""Intervals of clustered values: coverage in a simulation, and the exact binomial one where every cluster has one row."""

import numpy as np
import pytest
from scipy.stats import binomtest

from lib.metrics.clustered import clustered_interval, mixture_interval


def draw(rng, clusters, mean, correlation, sizes):
    """Return values and clusters: each cluster has a probability of its own, beta-distributed with this intraclass correlation."""
    spread = (1 - correlation) / correlation
    p = rng.beta(mean * spread, (1 - mean) * spread, clusters)
    cluster = np.repeat(np.arange(clusters), rng.choice(sizes, clusters))
    return (rng.random(len(cluster)) < p[cluster]).astype(float), cluster


@pytest.mark.parametrize("clusters", [4, 10, 20, 50])
@pytest.mark.parametrize("mean", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("sizes", [[5], [1, 2, 4, 10, 30]])
def test_at_least_92_percent_of_the_intervals_hold(clusters, mean, sizes):
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        low, high = clustered_interval(*draw(rng, clusters, mean, 0.4, sizes))
        held += low <= mean <= high
    assert held >= 0.92 * 400 - 2 * np.sqrt(0.08 * 0.92 * 400)


@pytest.mark.parametrize("hits", [0, 3, 49, 50])
def test_single_rows_have_about_the_exact_binomial_interval(hits):
    exact = binomtest(hits, 50).proportion_ci(method="exact")
    values = np.arange(50) < hits
    assert clustered_interval(values, np.arange(50)) == pytest.approx((exact.low, exact.high), abs=0.01)


def test_photographs_of_few_individuals_say_little():
    low, high = clustered_interval(np.ones(50), np.arange(50) % 5)
    assert (low, high) == pytest.approx((binomtest(5, 5).proportion_ci(method="exact").low, 1.0))
    assert clustered_interval(np.ones(9), np.zeros(9)) == (0, 1)


def test_a_mixture_keeps_the_interval_of_a_part_without_spread():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        known, new = (rng.random(30) < p for p in (0.6, 0.97))
        low, high = mixture_interval([(0.8, known.astype(float), np.arange(30)), (0.2, new.astype(float), np.arange(30))])
        held += low <= 0.8 * 0.6 + 0.2 * 0.97 <= high
    assert held >= 0.92 * 400
