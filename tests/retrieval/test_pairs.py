"""Scores of pairs against a loop over all pairs."""

import numpy as np
import pytest

from lib.metrics.verification import verify_pairs
from lib.retrieval.pairs import pair_scores
from tests.retrieval.conftest import made, unit


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_pairs_are_all_pairs_but_those_of_a_group_and_of_two_new_individuals(metric):
    x, rows = made(40, 8, 6)
    labels, groups = [*["new"] * 8, *rows.labels[8:]], np.arange(40) // 3
    same, scores = pair_scores(x, labels, metric, groups, "new")
    want = []
    for a in range(40):
        for b in range(a + 1, 40):
            if groups[a] != groups[b] and not labels[a] == labels[b] == "new":
                value = unit(x)[a] @ unit(x)[b] if metric == "cosine" else -((x[a] - x[b]) ** 2).sum()
                want.append((labels[a] == labels[b], value))
    np.testing.assert_array_equal(same, [s for s, _ in want])
    np.testing.assert_allclose(scores, [v for _, v in want], atol=1e-4)


def test_drawn_pairs_have_the_error_rate_of_all_pairs():
    x, rows = made(500, 8, 50)
    every, drawn = (verify_pairs(*pair_scores(x, rows.labels, "cosine", limit=limit)) for limit in (10**6, 8000))
    assert drawn.equal_error_rate == pytest.approx(every.equal_error_rate, abs=0.02)
    same, _ = pair_scores(x, rows.labels, "cosine", limit=8000)
    assert 0.2 < same.mean() < 0.8


def test_every_threshold_is_on_the_curve():
    """A share of false acceptances is looked up on it: points between two corners may not be left out."""
    same, scores = np.array([True, False] * 4), np.repeat([0.9, 0.8, 0.7, 0.6], 2)  # one of each kind at each score
    found = verify_pairs(same, scores)
    assert found.thresholds.tolist() == [np.inf, 0.9, 0.8, 0.7, 0.6]
    assert found.false_accept.tolist() == [0, 0.25, 0.5, 0.75, 1]
