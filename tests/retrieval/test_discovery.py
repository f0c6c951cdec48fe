"""Known and new individuals: threshold, names, probabilities."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.cluster import pair_confusion_matrix

from lib.retrieval.discovery import THRESHOLDS, Images, Known, fit, group_images, is_right, make_pseudo_tests, margin, pair_scores


def population(individuals: int, images: int, seed: int, noise: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors (n, 32) and names of individuals."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(individuals, 32))
    labels = np.repeat(np.arange(individuals), images)
    vectors = centres[labels] + noise * rng.normal(size=(len(labels), 32))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.array([f"i{label:02}" for label in labels])


def test_a_threshold_fitted_on_held_out_individuals_is_near_the_best_one() -> None:
    """30 known individuals; 15 others and unseen images of the known are held out; the test has 15 further ones."""
    learnt, learnt_labels = population(60, 6, 0)
    unseen, labels = population(60, 5, 1)
    number = np.array([int(label[1:]) for label in labels])
    known = Known.of(learnt[np.repeat(np.arange(60), 6) < 30], learnt_labels[np.repeat(np.arange(60), 6) < 30])
    in_fit = number < 45
    fitted = fit(make_pseudo_tests(Images(unseen[in_fit], np.arange(in_fit.sum())), labels[in_fit], known))
    in_test = (number < 30) | (number >= 45)
    more, _ = population(60, 5, 2)
    grouping = group_images(Images(more[in_test], np.arange(in_test.sum())), known)
    scores = [adjusted_rand_score(labels[in_test], grouping.cut(threshold)[0]) for threshold in THRESHOLDS]
    clusters, individual = grouping.cut(fitted.threshold)
    assert adjusted_rand_score(labels[in_test], clusters) > 0.9 * max(scores)
    named = individual >= 0
    assert np.mean(known.names[individual[named]] == labels[in_test][named]) > 0.9
    assert fitted.metrics["adjusted_rand"] <= fitted.metrics["best_adjusted_rand"]
    low, high = fitted.count_ratio[1:]
    assert low <= 45 / len(np.unique(clusters)) * 1.3
    assert high >= 45 / len(np.unique(clusters)) / 1.3
    assert fitted.probability is not None
    images = Images(more[in_test], np.arange(in_test.sum()))
    p = fitted.probability.predict_proba(margin(images, clusters, individual, known, fitted.threshold)[:, None])[:, 1]
    right = is_right(labels[in_test], clusters, individual, known)
    assert right[p >= 0.95].mean() > 0.9
    assert p[right].mean() >= right.mean() - 0.05


def test_linked_photographs_are_of_one_individual() -> None:
    vectors, labels = population(10, 4, 3, noise=2.0)
    known = Known.of(vectors[:0], labels[:0])
    links = np.unique(labels, return_inverse=True)[1] * 2 + np.arange(40) % 2
    clusters, _ = group_images(Images(vectors, links), known).cut(0.99)
    assert all(len(set(clusters[links == link])) == 1 for link in np.unique(links))


def test_pair_scores_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels, clusters = rng.integers(5, size=50).astype(str), rng.integers(7, size=50)
    (_, false), (missed, true) = pair_confusion_matrix(labels, clusters)
    assert pair_scores(labels, clusters) == pytest.approx((true / (true + false), true / (true + missed)))


def test_a_name_is_right_where_it_is_the_individuals_and_a_known_one_is_not_new() -> None:
    known = Known(np.array(["a", "b"]), np.eye(2), np.ones(2))
    labels = np.array(["a", "b", "c", "c", "b"])
    clusters, individual = np.array([0, 0, 1, 1, 1]), np.array([0, 0, -1, -1, -1])
    assert is_right(labels, clusters, individual, known).tolist() == [True, False, True, True, False]
