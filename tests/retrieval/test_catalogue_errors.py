"""Errors planted in a catalogue are found, and what is right isn't accused."""

import numpy as np
import pytest

from lib.retrieval.catalogue_errors import EXPECTED, _block_scores, _own_scores, _Space, error_probabilities, find_errors
from tests.retrieval.conftest import unit as unit_vectors


def catalogue(seed=0, individuals=40, images=6, noise=0.9, d=24):
    rng = np.random.default_rng(seed)
    code = np.repeat(np.arange(individuals), images)
    x = rng.normal(size=(individuals, d))[code] + noise * rng.normal(size=(len(code), d))
    return x.astype(np.float32), np.array([f"w_{i:02}" for i in code]), np.array([f"s{i // 2}" for i in range(len(code))])


def of_kind(found, *kinds):
    return [each for each in found if each.kind in kinds]


def test_photographs_under_a_wrong_name_come_first_and_their_own_individual_is_named():
    x, labels, _ = catalogue(noise=0.7)
    wrong = np.random.default_rng(3).permutation(len(labels))[:12]
    swapped = labels.copy()
    swapped[wrong] = np.roll(labels[wrong], 1)
    wrong = np.flatnonzero(swapped != labels)
    found = of_kind(find_errors(x, swapped), "photograph")
    first = found[: len(labels) // 10]
    assert np.isin(wrong, [each.images[0] for each in first]).mean() > 0.9
    assert np.mean([each.other == labels[each.images[0]] for each in first if each.images[0] in wrong]) > 0.8
    assert sum(each.probability for each in found) == pytest.approx(len(wrong), abs=0.5 * len(wrong))
    assert [each.probability for each in found] == sorted((each.probability for each in found), reverse=True)


def test_one_animal_under_two_names():
    x, labels, _ = catalogue()
    doubled = labels.copy()
    doubled[np.flatnonzero(labels == "w_07")[:2]] = "w_99"
    first = of_kind(find_errors(x, doubled), "two names")[0]
    assert (first.individual, first.other) == ("w_99", "w_07")  # the smaller one gets the other's name
    assert [doubled[i] for i in first.images] == ["w_99", "w_99"]
    assert first.probability > 0.5


def test_two_animals_under_one_name():
    x, labels, _ = catalogue()
    joined = np.where(labels == "w_08", "w_07", labels)
    first = of_kind(find_errors(x, joined), "two animals")[0]
    assert first.individual == "w_07"
    assert len({labels[i] for i in first.images}) == 1
    assert len(first.images) == 6
    assert first.probability > 4 * EXPECTED


def test_a_right_catalogue_is_hardly_accused():
    x, labels, sightings = catalogue()
    assert sum(each.probability > 0.5 for each in find_errors(x, labels, sightings)) <= 2


def test_a_sighting_under_two_names_is_an_error_of_one_of_its_photographs():
    x, labels, sightings = catalogue(noise=3)  # photographs alone tell little
    swapped = labels.copy()
    swapped[[0, 100]] = labels[[100, 0]]
    found = of_kind(find_errors(x, swapped, sightings), "sighting")
    assert sorted(each.images[0] for each in found) == [0, 1, 100, 101]
    assert {each.images[0]: each.other for each in found}[0] == "w_00"
    for pair in ((0, 1), (100, 101)):
        assert sum(each.probability for each in found if each.images[0] in pair) == pytest.approx(1, abs=1e-6)
    many = labels.copy()
    many[::4] = np.roll(labels[::4], 1)
    assert not of_kind(find_errors(x, many, sightings), "sighting")  # so many show that sightings hold several animals


def test_probabilities_are_those_of_a_mixture():
    """By Bayes' rule from two normal distributions, whose odds are exponential in the score."""
    rng = np.random.default_rng(0)
    right, wrong = rng.normal(3, 1, 19_000), rng.normal(0, 1, 1000)
    probability = error_probabilities(np.concatenate([right, wrong]), rng.normal(0, 1, 20_000))
    assert probability.sum() == pytest.approx(EXPECTED * 20_000, rel=0.3)
    likely = probability > 0.5
    assert (np.arange(20_000)[likely] >= 19_000).mean() > 0.6


@pytest.mark.parametrize("labels", [["a"], ["a", "a"], ["a", "b"], ["a", "a", "b"], ["a", "b", "c"], [*"aabbcc"], [*"aaaab"]])
def test_small_catalogues_are_no_fault(labels):
    x = np.random.default_rng(0).normal(size=(len(labels), 3)).astype(np.float32)
    for each in find_errors(x, np.array(labels), np.array(["s"] * len(labels))):
        assert 0 <= each.probability <= 1


def test_scores_are_means_over_the_other_images_of_each_individual():
    """Against plain loops: each similarity in standard deviations above the mean of either image's similarities."""
    rng = np.random.default_rng(0)
    code, unit = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 2, 3, 4])
    space = _Space(unit_vectors(rng.normal(size=(6, 3))).astype(np.float32), rng.normal(size=6), rng.uniform(1, 2, 6))

    def mean(i, among):
        similar = [(space.vectors[i] @ space.vectors[j], j) for j in among]
        scaled = [((s - space.mean[i]) / space.deviation[i] + (s - space.mean[j]) / space.deviation[j]) for s, j in similar]
        return np.mean(scaled) / np.sqrt(2) if scaled else np.nan

    others = [[mean(i, [j for j in range(6) if j != i and code[j] == c]) for c in range(3)] for i in range(6)]
    apart = [mean(i, [j for j in range(6) if code[j] == code[i] and unit[j] != unit[i]]) for i in range(6)]
    rows = np.array([4, 0, 5, 2])
    found = _block_scores(space, code, np.bincount(code), rows)
    np.testing.assert_allclose(np.where(np.isfinite(found), found, np.nan), np.array(others)[rows], atol=1e-5)
    np.testing.assert_allclose(_own_scores(space, code, unit, rows), np.array(apart)[rows], atol=1e-5)
