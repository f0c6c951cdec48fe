"""Probabilities of answers against frequencies."""

import numpy as np
import pytest

from lib.retrieval.answer_model import fit_answer_model
from lib.retrieval.thresholds import LabelledScores


def draw(n, share, rng, individuals=200):
    """Return n queries of which `share` are new: best scores of 200 individuals, of which the first is the right one."""
    scores, known = rng.normal(0.3, 0.1, (n, individuals)), rng.random(n) >= share
    scores[known, 0] = rng.normal(0.6, 0.12, n)[known]
    order = np.argsort(-scores, axis=1)[:, :5]
    return LabelledScores(np.take_along_axis(scores, order, 1), (order == 0) & known[:, None], known)


def calibration_error(probability, right, bins=15):
    """Compute the calibration error of adaptive bins: as many answers in each."""
    parts = np.array_split(np.argsort(probability), bins)
    return sum(len(part) * abs(probability[part].mean() - right[part].mean()) for part in parts) / len(right)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_one_distribution_has_the_frequencies_of_another_share_of_new_individuals(share):
    rng = np.random.default_rng(0)
    model, test = fit_answer_model(draw(3000, 0.3, rng), share), draw(10_000, share, rng)
    names, new = model(test.scores)
    assert (names.sum(axis=1) + new <= 1 + 1e-9).all()
    every, right = np.column_stack([names, new]), np.column_stack([test.is_right, ~test.in_gallery])
    assert calibration_error(every.ravel(), right.ravel()) < 0.03
    best = every.argmax(axis=1)[:, None]
    assert calibration_error(every.max(axis=1), np.take_along_axis(right, best, 1)[:, 0]) < 0.03
    assert calibration_error(new, ~test.in_gallery) < 0.03


def test_names_that_are_missing_have_no_probability_and_a_share_is_needed_for_new():
    rng = np.random.default_rng(0)
    queries = draw(200, 0.0, rng)
    names, new = fit_answer_model(queries, None)(np.array([[0.6, -np.inf], [-np.inf, -np.inf]]))
    assert names[0, 1] == names[1, 0] == 0
    assert np.isnan(new).all()


def test_separable_answers_are_not_certain():
    scores = np.repeat([[0.9, 0.1], [0.2, 0.1]], 3, axis=0)
    right = np.zeros((6, 2), bool)
    right[:3, 0] = True
    names, new = fit_answer_model(LabelledScores(scores, right, np.arange(6) < 3), 0.5)(scores)
    assert 0.5 < names[0, 0] < 0.999
    assert 0.5 < new[5] < 0.999
