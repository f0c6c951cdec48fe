"""What is known of images before they are compared: encounters, photographs, decisions; what a person is asked."""

from dataclasses import replace

import numpy as np
import pytest

from lib.retrieval.discovery import Decisions, Images, Known, group_images
from lib.retrieval.encounters import divide_links, fit_looks
from lib.retrieval.individual_folds import fold_frozen
from lib.retrieval.links import chain, join_elements
from lib.retrieval.merge_probability import describe_merges, find_right_merges, fit_merge_probability, measure_merges
from lib.retrieval.pair_model import find_candidates, fit_pairs, label_pairs, measure_pairs, score_cosine
from lib.retrieval.pseudo_tests import make_pseudo_tests
from lib.retrieval.review_pairs import choose_pairs
from tests.retrieval.test_discovery import population


def nobody(d: int = 32) -> Known:
    return Known.of(Images.of(np.empty((0, d))), np.empty(0, str))


def test_elements_are_joined_unless_they_are_apart() -> None:
    joined = join_elements(5, [(0, 1), (1, 2), (3, 4)], [{7}, set(), {7}, set(), set()])
    assert joined.node.tolist() == [0, 0, 1, 2, 2]
    assert joined.contradictions == [(1, 2)]
    assert joined.apart == [{7}, {7}, set()]
    assert sorted(map(sorted, chain(np.array([3, 1, 3, 3])))) == [[0, 2], [2, 3]]


def test_decisions_come_before_encounters_and_looks() -> None:
    vectors, labels = population(3, 4, 0, noise=0.1)
    known = Known.of(Images.of(vectors[:4]), labels[:4])  # element 0; images are elements 1 to 8
    images = Images.of(vectors[4:], links=np.array([0, 0, 1, 2, 3, 4, 5, 6]))
    decisions = Decisions(same=[(0, 8)], different=[(1, 2), (3, 4)])
    grouping = group_images(images, known, decisions)
    clusters, individual = grouping.cut(0.8)
    assert individual[7] == 0  # said to be the known one
    assert clusters[0] != clusters[1]  # of one encounter
    assert clusters[2] != clusters[3]  # alike
    assert grouping.contradictions == [(1, 2)]


def test_a_photograph_that_looks_otherwise_leaves_its_encounter() -> None:
    vectors, labels = population(40, 8, 1, noise=0.4)
    encounters = np.arange(320) // 4
    folds = [fold for fold, _ in fold_frozen(Images.of(vectors, encounters), labels)]
    looks = fit_looks(folds)
    wrong = encounters.copy()
    wrong[[5, 205]] = encounters[[205, 5]]  # exchanged between two animals
    images = replace(folds[0].images, links=wrong)
    doubted = divide_links(images, looks)
    assert {5, 205} <= set(doubted.positions.tolist())
    assert len(doubted.positions) < 10
    assert len(set(doubted.images.links[4:8])) == 2
    two_flanks = replace(images, views=np.where(np.isin(np.arange(320), [5, 205]), 1, 2))
    assert not {5, 205} & set(divide_links(two_flanks, looks).positions.tolist())  # looks can't tell
    assert (divide_links(images, None).images.links == wrong).all()


def test_candidates_are_the_nearest_comparable_images_of_other_encounters() -> None:
    vectors = np.array([[1.0, 0], [0.99, 0.14], [0.9, 0.43], [0.5, 0.87]])
    images = replace(Images.of(vectors, links=np.array([0, 0, 1, 2])), views=np.array([1, 1, 2, 0]))
    pairs = find_candidates(images, np.arange(4), np.arange(4), 2)
    assert sorted(map(tuple, np.sort(pairs, axis=1).tolist())) == [(0, 3), (1, 3), (2, 3)]


def test_log_odds_of_pairs_are_calibrated_on_other_individuals() -> None:
    vectors, labels = population(60, 8, 2, noise=1.2)
    folds = [fold for fold, _ in fold_frozen(Images.of(vectors), labels)]
    pairs = label_pairs(folds, score_cosine, with_known=False)
    measured = measure_pairs(pairs)
    assert measured["pair_log_loss"] < measured["pair_log_loss_constant"]
    assert 0.8 < measured["pair_slope"] < 1.25
    assert sum(pair.weight.sum() for pair in pairs) == pytest.approx(60)  # each individual, held out whole once, weighs 1
    model = fit_pairs(pairs)
    assert model is not None
    assert model.weights[0] > 0
    assert measure_pairs([]) == {}


def test_sure_merges_are_right() -> None:
    vectors, labels = population(45, 8, 3, noise=1.1)
    tests = make_pseudo_tests([fold for fold, _ in fold_frozen(Images.of(vectors), labels)])
    model, metrics = measure_merges([(test.fold, test.grouping, test.labels) for test in tests])
    assert metrics["merge_precision"] > 0.9
    assert 0.1 < metrics["merge_coverage"] <= 1
    merges = describe_merges(tests[0].grouping)
    higher = merges + np.array([0.1, 0, 0])
    assert (model(higher) > model(merges)).all()
    right = find_right_merges(tests[0].grouping, tests[0].labels)
    assert right[:5].all()  # the most similar
    assert not right[-1]
    assert fit_merge_probability(merges, np.ones(len(merges), bool))(merges[:2]).tolist() == pytest.approx([1, 1], abs=0.02)


def test_a_person_is_asked_about_the_merges_that_matter() -> None:
    """Two large clusters whose merge is unsure come before single images."""
    rng = np.random.default_rng(0)
    centres = np.array([[1.0, 0, 0], [0.6, 0.8, 0], [0, 0, 1.0]])
    vectors = centres[np.repeat([0, 1, 2], [10, 10, 2])] + 0.05 * rng.normal(size=(22, 3))
    images = Images.of(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    grouping = group_images(images, nobody(3))
    merges = describe_merges(grouping)
    model = fit_merge_probability(merges, merges[:, 0] > 0.62)
    pairs = choose_pairs(grouping, images, Images.of(np.empty((0, 3))), np.empty(0, int), 0.5, model, 3)
    assert pairs[0].effect == max(pair.effect for pair in pairs)
    assert {pairs[0].first // 10, pairs[0].second // 10} == {0, 1}
    assert pairs[0].sizes == (10, 10)
    assert pairs[0].merged
    moved = pairs[0].moved(np.arange(22) + 100, np.empty(0, int))
    assert (moved.first, moved.second) == (pairs[0].first + 100, pairs[0].second + 100)
