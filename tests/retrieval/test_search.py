"""Searches with few neighbours, and with class centres."""

from typing import get_args, get_type_hints

import numpy as np
import pytest

from lib.config.recipe import Retrieval
from lib.retrieval import search
from lib.retrieval.class_centres import ClassCentres
from lib.retrieval.gallery import build_gallery
from lib.retrieval.queries import Queries
from lib.retrieval.ranking import METHODS
from lib.retrieval.rows import GalleryRows, LeftOut
from lib.retrieval.search import fit_centre_line, search_identities
from lib.retrieval.similarity import SIMILARITIES
from lib.retrieval.thresholds import RULES
from tests.retrieval.conftest import made, unit


def test_every_choice_of_the_recipe_has_an_entry():
    fields = get_type_hints(Retrieval)
    for field, registry in (("metric", SIMILARITIES), ("method", METHODS), ("threshold_by", RULES)):
        assert set(get_args(fields[field])) == set(registry)


def test_lists_are_full_though_all_neighbours_are_of_one_individual():
    rng = np.random.default_rng(0)
    labels = np.repeat([*"abcdef"], 50)
    images = (np.eye(6)[np.repeat(np.arange(6), 50)] + 0.1 * rng.normal(size=(300, 6))).astype(np.float32)
    gallery = build_gallery(images, GalleryRows(np.arange(300), labels, labels), "m")
    queries = (np.eye(6) + 0.1 * rng.normal(size=(6, 6))).astype(np.float32)
    found = search_identities(gallery, Queries(queries), Retrieval(neighbours=10), 5)
    exact = search_identities(gallery, Queries(queries), Retrieval(neighbours=300), 5)
    assert (found.names == exact.names).all()
    assert (found.names != "").all()
    assert np.allclose(found.scores[:, 0], exact.scores[:, 0])
    assert (found.images == exact.images).all()


def test_individuals_without_centre_are_not_favoured():
    """Individuals held out with all images have images in the gallery, but no class centre; cosines to centres are smaller."""
    rng = np.random.default_rng(0)
    looks = np.eye(8)[:4]
    labels = np.repeat([*"abcd"], 5)
    images, queries = (looks.repeat(n, axis=0) + 0.1 * rng.normal(size=(4 * n, 8)) for n in (5, 10))
    for side in (images, queries):
        side[:, 4] += 1  # all animals look somewhat alike
    gallery = build_gallery(images, GalleryRows(np.arange(20), labels, labels), "m")
    centres = ClassCentres(looks[:3].astype(np.float32), ("a", "b", "c"))
    for weight in (0.0, 0.3, 0.6):
        r, asked = Retrieval(centre_weight=weight), queries.astype(np.float32)
        fitted = fit_centre_line(gallery, Queries(asked), r, centres)
        found = search_identities(gallery, Queries(asked), r, 4, fitted)
        assert (found.names[:, 0] == np.repeat([*"abcd"], 10)).all()
        alone = search_identities(gallery, Queries(asked[:1]), r, 4, fitted)
        assert alone.scores[0] == pytest.approx(found.scores[0], abs=1e-6)  # whoever else is asked
        assert np.mean(found.names[:30, 1] == "d") < 0.7  # of the others' queries; a third would be even, all if d were favoured


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_centres_have_their_share_of_a_score(weight):
    """The nearest image is a's, the nearest centre b's."""
    gallery = build_gallery(unit_at([0, 40]), GalleryRows(np.arange(2), [*"01"], [*"ab"]), "m")
    centres = ClassCentres(unit_at([90, 20]), ("a", "b"), (0.0, 1.0))
    found = search_identities(gallery, Queries(unit_at([10])), Retrieval(centre_weight=weight), 3, centres)
    scores = {"a": (10, 80), "b": (30, 10)}  # degrees to the image and to the centre
    expected = {name: (1 - weight) * np.cos(np.deg2rad(i)) + weight * np.cos(np.deg2rad(c)) for name, (i, c) in scores.items()}
    assert dict(zip(found.names[0].tolist()[:2], found.scores[0].tolist())) == pytest.approx(expected, abs=1e-6)
    assert found.names[0, 2] == ""
    assert found.images[0, 2] == -1  # no third individual


@pytest.mark.parametrize("method", ["best", "mean_n", "vote"])
def test_scores_do_not_depend_on_the_length_of_the_list(method):
    """A longer list needs more neighbours, which mustn't raise the votes of the names that are there."""
    rng = np.random.default_rng(0)
    labels = np.repeat([*"abcdefgh"], 40)
    images = (np.eye(8)[np.repeat(np.arange(8), 40)] + 0.3 * rng.normal(size=(320, 8))).astype(np.float32)
    gallery = build_gallery(images, GalleryRows(np.arange(320), labels, labels), "m")
    queries = rng.normal(size=(20, 8)).astype(np.float32)
    short, long = (search_identities(gallery, Queries(queries), Retrieval(neighbours=10, method=method), m) for m in (2, 8))
    assert (short.names == long.names[:, :2]).all()
    assert (short.scores == long.scores[:, :2]).all()
    assert (np.sort(long.names, axis=1) == [*"abcdefgh"]).all()
    assert (np.diff(long.scores, axis=1) <= 0).all()


def test_query_expansion_changes_the_answers_of_a_query_between_individuals():
    gallery = build_gallery(unit_at([0, 10, 20, 45.5]), GalleryRows(np.arange(4), [*"0123"], [*"aaab"]), "m")
    asked = unit_at([33])
    assert search_identities(gallery, Queries(asked), Retrieval(), 1).names[0, 0] == "b"
    assert search_identities(gallery, Queries(asked), Retrieval(expand=3), 1).names[0, 0] == "a"


def test_a_querys_length_changes_nothing_also_where_it_is_expanded():
    x, rows = made(60, 8, 12)
    gallery, asked = build_gallery(x, rows, "m"), x[:10] + 0.5 * np.random.default_rng(1).normal(size=(10, 8)).astype(np.float32)
    for r in (Retrieval(), Retrieval(expand=3), Retrieval(expand=100)):  # of more images than there are, too
        found, scaled = (search_identities(gallery, Queries(factor * asked), r, 5) for factor in (1, 20))
        assert (found.names == scaled.names).all()
        assert found.scores == pytest.approx(scaled.scores, abs=1e-5)
        assert np.isfinite(found.scores).all()


def test_names_beyond_the_neighbours_come_by_their_nearest_image():
    """By votes c, with two images, would be before b."""
    labels = np.array([*"aaabcc"])
    gallery = build_gallery(unit_at([0, 1, 2, 30, 31, 32]), GalleryRows(np.arange(6), labels, labels), "m")
    found = search_identities(gallery, Queries(unit_at([0])), Retrieval(neighbours=3, method="vote"), 3)
    assert found.names.tolist() == [["a", "b", "c"]]
    assert found.images.tolist() == [[0, 3, 4]]


def unit_at(degrees):
    """Return unit vectors at these angles."""
    radians = np.deg2rad(degrees)
    return np.column_stack([np.cos(radians), np.sin(radians)]).astype(np.float32)


def test_images_that_are_left_out_answer_nothing_and_blocks_change_nothing(monkeypatch):
    x, rows = made(300, 8, 20)
    gallery = build_gallery(x, rows, "m")
    code = np.unique(rows.labels, return_inverse=True)[1]
    of_row = np.where(np.arange(300) % 3 == 0, code, -2)
    found = search_identities(gallery, Queries(x, LeftOut(code, of_row)), Retrieval(), 5)
    scores = unit(x) @ unit(x).T
    scores[(of_row[None, :] == code[:, None])] = -9
    best = scores.argmax(axis=1)
    assert (found.images[:, 0] == rows.ids[best]).all()
    assert found.best_scores == pytest.approx(scores.max(axis=1), abs=1e-5)
    monkeypatch.setattr(search, "_CELLS", 500)
    again = search_identities(gallery, Queries(x, LeftOut(code, of_row)), Retrieval(), 5)
    assert all((a == b).all() for a, b in zip(found, again))


@pytest.mark.parametrize("method", ["best", "mean_n", "vote"])
def test_the_recipes_method_scores_the_individuals(method):
    x, rows = made(200, 8, 12)
    gallery, queries = build_gallery(x, rows, "m"), np.random.default_rng(1).normal(size=(10, 8)).astype(np.float32)
    found = search_identities(gallery, Queries(queries), Retrieval(method=method, n=4, neighbours=200), 12)
    scores = unit(queries) @ unit(x).T
    for q in range(10):
        values = {}
        for name in np.unique(rows.labels):
            own = np.sort(scores[q, rows.labels == name])[::-1]
            values[name] = {"best": own[0], "mean_n": own[:4].mean(), "vote": 0.07 * np.log(np.exp(own / 0.07).sum())}[method]
        want = sorted(values, key=values.get, reverse=True)
        assert found.names[q].tolist() == want
        assert found.scores[q] == pytest.approx([values[name] for name in want], abs=1e-4)
