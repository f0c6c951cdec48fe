"""Averages of models with given weights, by hand."""

import numpy as np
import pytest
from scipy.special import expit, softmax

from lib.scores import averaging
from lib.tables.target import ONE_LABEL, SEVERAL_LABELS

P = np.array([[0.7, 0.2, 0.1]]), np.array([[0.1, 0.6, 0.3]]), np.array([[0.5, 0.1, 0.4]])
LOGITS = [np.log(p).astype(np.float32) for p in P]
THIRDS = np.full(3, 1 / 3)


def test_averages_by_hand():
    p = {name: softmax(average(LOGITS, THIRDS, ONE_LABEL), axis=1)[0] for name, average in averaging.AVERAGES.items()}
    np.testing.assert_allclose(p["mean_prob"], [1.3 / 3, 0.9 / 3, 0.8 / 3], rtol=1e-5)
    product = np.array([0.7 * 0.1 * 0.5, 0.2 * 0.6 * 0.1, 0.1 * 0.3 * 0.4]) ** (1 / 3)
    np.testing.assert_allclose(p["geometric"], product / product.sum(), rtol=1e-5)
    np.testing.assert_allclose(p["mean"], p["geometric"], rtol=1e-5)  # softmax: the same up to a constant per row
    np.testing.assert_allclose(p["rank"], np.array([3 + 1 + 3, 2 + 3 + 1, 1 + 2 + 2]) / 18, rtol=1e-5)
    np.testing.assert_allclose(p["vote"], 0.999 * np.array([2, 1, 0]) / 3 + 0.001 * p["mean_prob"], rtol=1e-4)


@pytest.mark.parametrize("name", ["mean_prob", "vote", "geometric"])
def test_averages_keep_the_order_of_extreme_probabilities(name):
    """Lists and average precision need the order of classes with 1e-12 of the probability and of rows with 1 - 1e-10."""
    sure = np.linspace(40, 0, 20, dtype=np.float32)[None]
    assert (np.diff(averaging.AVERAGES[name]([sure, sure], np.full(2, 0.5), ONE_LABEL)) < 0).all()
    label = np.linspace(-30, 30, 20, dtype=np.float32)[:, None]
    if name != "vote":
        assert (np.diff(averaging.AVERAGES[name]([label, label], np.full(2, 0.5), SEVERAL_LABELS), axis=0) > 0).all()


def test_weights_count_and_the_mean_probability_breaks_ties_of_votes():
    weights = np.array([0.5, 0.5, 0])
    p = softmax(averaging.mean_probabilities(LOGITS, weights, ONE_LABEL), axis=1)[0]
    np.testing.assert_allclose(p, [0.4, 0.4, 0.2], rtol=1e-5)
    tie = [np.log(np.array([[0.6, 0.3, 0.1]])), np.log(np.array([[0.1, 0.8, 0.1]]))]
    assert np.argsort(-averaging.majority_vote(tie, np.array([0.5, 0.5]), ONE_LABEL))[0].tolist() == [1, 0, 2]


def test_averages_of_several_labels_by_hand():
    a, b = np.array([[0.9, 0.4], [0.2, 0.3]]), np.array([[0.4, 0.45], [0.1, 0.8]])
    both, halves = [np.log(p / (1 - p)) for p in (a, b)], np.array([0.5, 0.5])
    p = {name: expit(average(both, halves, SEVERAL_LABELS)) for name, average in averaging.AVERAGES.items()}
    np.testing.assert_allclose(p["mean_prob"], (a + b) / 2, rtol=1e-5)
    np.testing.assert_allclose(p["geometric"], np.sqrt(a * b), rtol=1e-5)
    np.testing.assert_allclose(p["rank"], np.array([[2, 1.5], [1, 1.5]]) / 3, rtol=1e-5)  # of the rows within a label
    assert (p["vote"] >= 0.5).tolist() == [[True, False], [False, True]]  # one of two votes: by the mean probability


def test_a_specialist_divides_the_probability_that_the_first_model_gives_its_classes():
    first, specialist = np.log(np.array([[0.1, 0.3, 0.2, 0.4]])), np.log(np.array([[0.9, 0.1]])) + 5
    p = softmax(ONE_LABEL.extend(first, specialist, np.array([2, 1])), axis=1)
    np.testing.assert_allclose(p, [[0.1, 0.05, 0.45, 0.4]], rtol=1e-5)
    sure = np.log(np.array([[0.98, 0.01, 0.005, 0.005]]))  # an image of another class: the specialist can't overrule
    assert ONE_LABEL.extend(sure, specialist, np.array([2, 1])).argmax() == 0
    np.testing.assert_allclose(SEVERAL_LABELS.extend(first, specialist, np.array([2, 1]))[0, [2, 1]], specialist[0], rtol=1e-6)
