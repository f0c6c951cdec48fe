"""Photographs of one sighting are judged together, by the other sightings of their individual."""

import numpy as np
import pytest

from lib.retrieval.catalogue_errors import _fit_space, _group, _own_scores, find_errors


def catalogue(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Individuals with three sightings of two photographs, which are alike by the light and the place more than by the animal."""
    individual, sighting = np.repeat(np.arange(60), 6), np.repeat(np.arange(180), 2)
    animals, lights = rng.normal(size=(60, 40)), rng.normal(size=(180, 40))
    vectors = 0.8 * animals[individual] + 1.3 * lights[sighting] + 0.4 * rng.normal(size=(360, 40))
    return vectors.astype(np.float32), np.char.add("w", individual.astype(str)), np.char.add("s", sighting.astype(str))


def test_a_sighting_under_a_wrong_name_is_found_though_its_photographs_agree() -> None:
    shares = {True: [], False: []}
    for seed in range(3):
        rng = np.random.default_rng(seed)
        vectors, labels, sightings = catalogue(rng)
        moved = rng.permutation(180)[:9]
        wrong = labels.copy()
        for one, other in zip(moved, np.roll(moved, 1)):
            wrong[sightings == f"s{one}"] = labels[sightings == f"s{other}"][0]
        errors = np.flatnonzero(wrong != labels)
        for known in (True, False):
            found = [each for each in find_errors(vectors, wrong, sightings if known else None) if each.kind == "photograph"]
            first = [each.images[0] for each in found[:36]]
            shares[known].append(np.isin(errors, first).mean())
            sure = {each.images[0]: each.probability for each in found}
            if known:  # as one: both photographs, or neither
                assert all(sure[2 * one] == pytest.approx(sure[2 * one + 1]) for one in range(180))
    assert np.mean(shares[True]) > 0.75 > np.mean(shares[False])


def test_own_scores_leave_the_sighting_out() -> None:
    rng = np.random.default_rng(1)
    vectors, labels, sightings = catalogue(rng)
    vectors, labels, sightings = vectors[:50], labels[:50], np.where(np.arange(50) % 7 == 0, "", sightings[:50])
    sightings[40:48] = "one"  # two individuals of one sighting; w8 has another one
    code = np.unique(labels, return_inverse=True)[1]
    unit = _group(code, sightings)
    space = _fit_space(vectors, code, code != 0)
    found = _own_scores(space, code, unit, np.arange(50))
    similar = space.vectors.astype(float) @ space.vectors.T
    for i in range(50):
        mates = (labels == labels[i]) & (np.arange(50) != i) & ((sightings != sightings[i]) | (sightings == ""))
        both = ((similar[i] - space.mean[i]) / space.deviation[i] + (similar[i] - space.mean) / space.deviation) / np.sqrt(2)
        expected = both[mates].mean() if mates.any() else np.nan
        assert found[i] == pytest.approx(expected, abs=1e-4, nan_ok=True)
    assert (_group(code, None) == np.arange(50)).all()
