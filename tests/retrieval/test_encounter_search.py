"""Photographs of one encounter are asked together, and don't answer each other."""

from dataclasses import replace

import numpy as np
import pytest

from lib.config.recipe import Data, Recipe, Retrieval
from lib.errors import FlukeError
from lib.pipelines.encounters import count_encounters, match_encounters
from lib.retrieval.encounter_search import pool_encounters, search_encounters
from lib.retrieval.evaluation import evaluate_open_set
from lib.retrieval.gallery import build_gallery
from lib.retrieval.held_out import HeldOut, ValidationSet, hold_out_catalogue
from lib.retrieval.queries import Queries
from lib.retrieval.rows import GalleryRows, LeftOut
from lib.retrieval.search import SearchResult
from tests.retrieval.conftest import made, unit


def test_scores_of_an_encounter_are_means_over_its_photographs():
    found = SearchResult(
        np.array([["a", "b", "c"], ["b", "d", ""], ["c", "a", "b"]]),
        np.array([[0.9, 0.8, 0.5], [0.7, 0.2, -np.inf], [0.6, 0.5, 0.4]], np.float32),
        np.array([[1, 2, 3], [4, 5, -1], [6, 7, 8]]),
    )
    pooled = pool_encounters(found, np.array(["e", "e", ""]), 4)
    assert pooled.names[0].tolist() == pooled.names[1].tolist() == ["b", "a", "c", "d"]
    np.testing.assert_allclose(pooled.scores[0], [0.75, 0.55, 0.35, 0.35], atol=1e-6)  # a is below d in the second: 0.2
    assert pooled.images[0].tolist() == [2, 1, 3, 5]  # of the photograph that it is most like
    assert pooled.names[2].tolist() == ["c", "a", "b", ""]
    np.testing.assert_array_equal(pooled.scores[2, :3], found.scores[2])


def test_photographs_alone_keep_their_answers():
    x, rows = made()
    gallery = build_gallery(x[:300], rows.take(slice(300)), "m")
    alone = search_encounters(gallery, Queries(x[300:]), Retrieval(), 6)
    for encounters in (np.full(100, ""), np.arange(100).astype(str)):
        for one, other in zip(alone, search_encounters(gallery, Queries(x[300:], encounters=encounters), Retrieval(), 6)):
            np.testing.assert_array_equal(one, other)


def test_more_names_than_are_asked_for_are_pooled():
    """The individual that is second in each photograph is the answer, also where one name is asked for."""
    x = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    gallery = build_gallery(x, GalleryRows(np.arange(3), ["a.jpg", "b.jpg", "c.jpg"], ["a", "b", "c"]), "m")
    queries = Queries(np.array([[0.7, 0.6, 0.0], [0.0, 0.6, 0.7]], np.float32), encounters=np.array(["e", "e"]))
    found = search_encounters(gallery, queries, Retrieval(), 1)
    assert found.names.tolist() == [["b"], ["b"]]
    np.testing.assert_allclose(found.scores, 0.6 / np.hypot(0.7, 0.6), atol=1e-6)


def noisy(encounter_column, seed=0):
    """Return the validation of 40 individuals in sightings of 4 noisy photographs, half of them held out."""
    rng = np.random.default_rng(seed)
    code = np.repeat(np.arange(40), 8)
    sighting = np.repeat(np.arange(80), 4)
    x = (rng.normal(size=(40, 16))[code] + 1.6 * rng.normal(size=(320, 16))).astype(np.float32)
    is_query = (sighting % 2 == 1) | (code >= 30)
    rows = ValidationSet(x, np.array([f"w_{i}" for i in code]), is_query, sighting)
    retrieval = replace(Retrieval(), encounter_column=encounter_column)
    return evaluate_open_set(rows, Recipe(data=Data(new_label="new"), retrieval=retrieval))


def test_asked_together_they_are_found_more_often_and_the_threshold_is_for_that():
    alone, together = noisy(None), noisy("encounter")
    assert together.metrics["recall@1"] > alone.metrics["recall@1"] + 0.1
    best = together.result.best_scores.reshape(-1, 4)
    assert (best == best[:, :1]).all()
    assert together.curve is not None
    assert together.curve.thresholds.max() < alone.curve.thresholds.max()


def test_sightings_are_kept_with_the_held_out_queries(tmp_path):
    x, rows = made(n=12, classes=3)
    queries = hold_out_catalogue(x, rows, np.arange(12) // 2)
    queries.save(tmp_path / "a.npz")
    assert HeldOut.load(tmp_path / "a.npz").sightings.tolist() == [str(i // 2) for i in range(12)]
    hold_out_catalogue(x, rows, None).save(tmp_path / "b.npz")
    assert HeldOut.load(tmp_path / "b.npz").sightings is None


def test_gallery_images_of_the_encounter_dont_answer():
    files, rows = np.array([0, 1, 2, 3]), np.array([2, -2, -2, -2, -2])  # the first image of the gallery is the third query
    encounters, known = np.array(["e", "", "f", "f"]), np.array(["", "e", "g", "", "f"])
    of_query, of_row = match_encounters(files, rows, encounters, known)
    hidden = of_query[:, None] == of_row
    assert hidden.astype(int).tolist() == [[0, 1, 0, 0, 0], [0, 0, 0, 0, 0], [1, 0, 0, 0, 1], [1, 0, 0, 0, 1]]


def test_a_copy_in_the_gallery_is_of_the_encounter():
    of_query, of_row = match_encounters(np.array([0, 1]), np.array([0, -2]), np.array(["e", "e"]), np.array(["", ""]))
    assert (of_query[:, None] == of_row).astype(int).tolist() == [[1, 0], [1, 0]]


@pytest.mark.parametrize(("encounters", "count"), [(["a", "a", "", ""], 3), (["", ""], 2), (["a", "b"], 2)])
def test_encounters_are_counted(encounters, count):
    assert count_encounters(np.array(encounters)) == count


def test_left_is_compared_with_left():
    """What other flanks look like doesn't matter: the answers are those of a gallery of the flank alone."""
    x, rows = made()
    side = np.where(np.arange(400) % 3 == 0, "left", "right")
    side = side.astype("<U7")
    side[:15], side[15:30] = "", "Unknown"
    rows = GalleryRows(rows.ids, rows.names, rows.labels, details={"flank": side})
    gallery, r = build_gallery(x[:300], rows.take(slice(300)), "m"), replace(Retrieval(), orientation_column="flank")
    found = search_encounters(gallery, Queries(x[300:], viewpoints=side[300:]), r, 5)
    for value in ("left", "right"):
        seen = np.isin(side[:300], [value, "", "Unknown"])
        alone = search_encounters(
            build_gallery(x[:300][seen], rows.take(slice(300)).take(seen), "m"), Queries(x[300:]), Retrieval(), 5
        )
        asked = side[300:] == value
        np.testing.assert_array_equal(found.names[asked], alone.names[asked])
        np.testing.assert_array_equal(found.images[asked], alone.images[asked])
        np.testing.assert_allclose(found.scores[asked], alone.scores[asked], atol=1e-6)
    everything = search_encounters(gallery, Queries(x[300:], viewpoints=np.full(100, "")), r, 5)
    for one, other in zip(everything, search_encounters(gallery, Queries(x[300:]), Retrieval(), 5)):
        np.testing.assert_array_equal(one, other)
    assert (
        search_encounters(gallery, Queries(x[300:], viewpoints=np.full(100, "top")), r, 5).scores > -np.inf
    ).any()  # of unknown flank
    with pytest.raises(FlukeError, match="the gallery has no column 'flanc'; did you mean flank"):
        search_encounters(gallery, Queries(x[300:], viewpoints=side[300:]), replace(r, orientation_column="flanc"), 5)


def test_images_that_are_left_out_are_so_among_those_of_a_flank():
    x, rows = made(80, classes=6)
    side = np.where(np.arange(80) % 2 == 0, "left", "right")
    rows = GalleryRows(rows.ids, rows.names, rows.labels, details={"flank": side})
    gallery, r = build_gallery(x, rows, "m"), replace(Retrieval(), orientation_column="flank", method="best")
    found = search_encounters(gallery, Queries(x, LeftOut(np.arange(80), np.arange(80)), viewpoints=side), r, 1)
    cosines = unit(x) @ unit(x).T
    cosines[(side[:, None] != side) | np.eye(80, dtype=bool)] = -1
    np.testing.assert_array_equal(found.images[:, 0], rows.ids[cosines.argmax(axis=1)])


def test_a_flank_is_searched_exactly_whatever_the_gallerys_index():
    x, rows = made(200, classes=10)
    rows = GalleryRows(rows.ids, rows.names, rows.labels, details={"flank": np.where(np.arange(200) % 2 == 0, "left", "right")})
    asked, r = Queries(x[:9], viewpoints=np.full(9, "left")), replace(Retrieval(), orientation_column="flank")
    exact = search_encounters(build_gallery(x, rows, "m"), asked, r, 5)
    cells = search_encounters(build_gallery(x, rows, "m", factory="IVF4,Flat"), asked, replace(r, search={"nprobe": 1}), 5)
    np.testing.assert_array_equal(cells.names, exact.names)
