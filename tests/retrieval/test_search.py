"""Searches with few neighbours, and with class centres."""

from typing import get_args, get_type_hints

import numpy as np

from lib.config.recipe import Retrieval
from lib.retrieval.class_centres import ClassCentres
from lib.retrieval.gallery import GalleryRows, build_gallery
from lib.retrieval.ranking import METHODS
from lib.retrieval.search import search_identities
from lib.retrieval.similarity import SIMILARITIES
from lib.retrieval.thresholds import RULES


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
    found = search_identities(gallery, queries, Retrieval(neighbours=10), "m", 5)
    exact = search_identities(gallery, queries, Retrieval(neighbours=300), "m", 5)
    assert (found.names == exact.names).all()
    assert (found.names != "").all()
    assert np.allclose(found.scores, exact.scores)
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
        found = search_identities(gallery, queries.astype(np.float32), Retrieval(centre_weight=weight), "m", 4, centres)
        assert (found.names[:, 0] == np.repeat([*"abcd"], 10)).all()
        assert np.mean(found.names[:30, 1] == "d") < 0.7  # of the others' queries; a third would be even, all if d were favoured
