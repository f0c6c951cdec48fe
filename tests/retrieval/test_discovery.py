"""Known and new individuals: grouped by a threshold of pseudo-tests, named, counted."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.cluster import pair_confusion_matrix

from lib.retrieval.cluster_names import name_clusters
from lib.retrieval.discovery import Images, Known, find_places, group_images
from lib.retrieval.individual_folds import IndividualFold, fold_frozen, split_individuals
from lib.retrieval.pseudo_tests import THRESHOLDS, fit, is_right, make_pseudo_tests, pair_scores
from lib.retrieval.whitening import fit_whitening


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
    number, number_learnt = (np.array([int(label[1:]) for label in side]) for side in (labels, learnt_labels))
    every, names = np.concatenate([learnt, unseen]), np.concatenate([learnt_labels, labels])
    in_fit = np.flatnonzero(number < 45) + len(learnt)
    fold = IndividualFold(Images.of(every), names, np.flatnonzero(number_learnt < 30), in_fit)
    fitted = fit(make_pseudo_tests([fold]))
    known = Known.of(Images.of(every).take(fold.learnt), names[fold.learnt])
    in_test = (number < 30) | (number >= 45)
    images, truth = Images.of(population(60, 5, 2)[0][in_test]), labels[in_test]
    grouping = group_images(images, known)
    scores = [adjusted_rand_score(truth, clusters) for clusters in grouping.cuts(THRESHOLDS)]
    clusters, individual = grouping.cut(fitted.threshold)
    assert adjusted_rand_score(truth, clusters) > 0.9 * max(scores)
    named = individual >= 0
    assert np.mean(known.names[individual[named]] == truth[named]) > 0.9
    assert fitted.metrics["adjusted_rand"] <= fitted.metrics["best_adjusted_rand"]
    middle, low, high = fitted.count.estimate(len(np.unique(clusters)))
    assert low <= 45 <= high
    assert low < middle < high
    p = fitted.probability(find_places(images, grouping, clusters, individual).margin(fitted.threshold))
    right = is_right(truth, clusters, individual, known)
    assert right[p >= 0.95].mean() > 0.9
    assert p[right].mean() >= right.mean() - 0.05


def test_each_individual_is_new_once_and_unseen_encounters_are_never_learnt() -> None:
    labels, encounters = np.repeat(np.arange(9), 6).astype(str), np.repeat(np.arange(27), 2)
    folds = split_individuals(labels, encounters)
    new = [set(labels[held_out]) - set(labels[learnt]) for learnt, held_out in folds]
    assert sorted(name for names in new for name in names) == sorted(set(labels))
    for learnt, held_out in folds:
        assert sorted([*learnt, *held_out]) == list(range(54))
        assert not set(encounters[learnt]) & set(encounters[held_out])
        assert {np.sum(labels[held_out] == name) for name in set(labels[learnt])} == {2}  # 1 of 3 encounters


def test_whitening_takes_away_what_differs_within_individuals() -> None:
    """Background in the first 8 directions, ten times as strong as the individual in the others."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(40), 6).astype(str)
    features = np.concatenate([10 * rng.normal(size=(240, 8)), rng.normal(size=(40, 8)).repeat(6, axis=0)], axis=1)
    features += 0.3 * rng.normal(size=(240, 16))
    whitening = fit_whitening(features[:120], labels[:120])
    new, truth = whitening(features[120:]), labels[120:]
    assert np.linalg.norm(new, axis=1) == pytest.approx(1)
    before = features[120:] / np.linalg.norm(features[120:], axis=1, keepdims=True)

    def nearest_is_right(vectors: np.ndarray) -> float:
        similarity = vectors @ vectors.T - 2 * np.eye(len(vectors))
        return float(np.mean(truth[similarity.argmax(axis=1)] == truth))

    assert nearest_is_right(before) < 0.5
    assert nearest_is_right(new) > 0.95
    alone = fit_whitening(features, np.arange(240).astype(str))(features)  # no individual twice: standardised only
    assert np.isfinite(alone).all()


def test_frozen_features_are_grouped_by_folds_of_individuals() -> None:
    vectors, labels = population(30, 8, 3, noise=0.5)
    folds = [fold for fold, _ in fold_frozen(Images.of(vectors), labels)]
    fitted = fit(make_pseudo_tests(folds))
    assert fitted.metrics["adjusted_rand"] > 0.9 * fitted.metrics["best_adjusted_rand"] > 0.6
    assert {"adjusted_rand_10%_new", "adjusted_rand_40%_new", "adjusted_rand_80%_new"} <= set(fitted.metrics)


def test_a_part_with_few_individuals_leans_on_the_others_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 60 individuals a part trusts its own regret, of 6 the pooled one, whose minimum is elsewhere."""
    monkeypatch.setattr("lib.retrieval.pseudo_tests.KEPT", (1.0,))
    pooled = (THRESHOLDS - 0.9) ** 2
    few, many = (
        make_pseudo_tests([fold for fold, _ in fold_frozen(Images.of(v), n)])
        for v, n in (population(6, 6, 4), population(60, 6, 4))
    )
    own = fit(many).threshold
    assert own < fit(many, pooled).threshold < fit(few, pooled).threshold
    assert fit(many, pooled).threshold - own < 0.1


def test_linked_photographs_are_of_one_individual() -> None:
    vectors, labels = population(10, 4, 3, noise=2.0)
    known = Known.of(Images.of(vectors[:0]), labels[:0])
    links = np.unique(labels, return_inverse=True)[1] * 2 + np.arange(40) % 2
    clusters, _ = group_images(Images.of(vectors, links), known).cut(0.99)
    assert all(len(set(clusters[links == link])) == 1 for link in np.unique(links))


def test_pair_scores_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels, clusters = rng.integers(5, size=50).astype(str), rng.integers(7, size=50)
    (_, false), (missed, true) = pair_confusion_matrix(labels, clusters)
    assert pair_scores(labels, clusters) == pytest.approx((true / (true + false), true / (true + missed)))


def test_a_name_is_right_where_it_is_the_individuals_and_a_known_one_is_not_new() -> None:
    known = Known(np.array(["a", "b"]), np.eye(2)[:, None], np.ones((2, 1)))
    labels = np.array(["a", "b", "c", "c", "b"])
    clusters, individual = np.array([0, 0, 1, 1, 1]), np.array([0, 0, -1, -1, -1])
    assert is_right(labels, clusters, individual, known).tolist() == [True, False, True, True, False]


def test_new_individuals_keep_their_names_when_photographs_are_added() -> None:
    """10% more photographs, whose names come first."""
    rng = np.random.default_rng(0)
    clusters, known = np.repeat(np.arange(100), 5), np.array(["k"])
    images, new = [f"m{i:03}.jpg" for i in range(500)], np.full(500, -1)
    before = dict(zip(images, name_clusters(images, clusters, new, known, "all")))
    assert len(set(before.values())) == 100
    added, places = [f"a{i:03}.jpg" for i in range(50)], rng.integers(100, size=50)
    order = rng.permutation(550)
    more = np.concatenate([clusters, places])[order]
    all_images = [[*images, *added][i] for i in order]
    after = dict(zip(all_images, name_clusters(all_images, more + 3, np.full(550, -1), known, "all", before)))
    assert all(after[image] == before[image] for image in images)
    assert len(set(after.values())) == 100
    without = dict(zip(all_images, name_clusters(all_images, more, np.full(550, -1), known, "all")))
    assert sum(without[image] != before[image] for image in images) > 25  # what the earlier names are for


def test_a_split_cluster_gives_its_name_to_the_larger_half_alone() -> None:
    images, before = ["a", "b", "c", "d", "e"], dict.fromkeys("abcde", "new_a")
    names = name_clusters(images, np.array([0, 1, 1, 1, 0]), np.array([-1] * 5), np.array(["k"]), "all", before)
    assert names == ["new_a_2", "new_a", "new_a", "new_a", "new_a_2"]
