"""Local scores in a search: one function gives held-out queries and further ones theirs, within the gallery that answers."""

from dataclasses import replace

import numpy as np
import pytest

from lib.config.recipe import Recipe, Retrieval
from lib.retrieval.encounter_search import search_encounters
from lib.retrieval.evaluation import evaluate_search, search_held_out
from lib.retrieval.gallery import Gallery, build_gallery
from lib.retrieval.held_out import hold_out_catalogue
from lib.retrieval.local_fusion import Fusion
from lib.retrieval.local_search import LocalSearch
from lib.retrieval.open_set import OpenSet, fit_open_set
from lib.retrieval.queries import Queries
from lib.retrieval.rows import GalleryRows, LeftOut
from lib.retrieval.similarity import normalize
from tests.retrieval.test_discovery import population


@pytest.fixture(scope="module")
def gallery() -> Gallery:
    vectors, labels = population(30, 5, 8, noise=1.2)
    side = np.array(["left", "right"])[np.arange(len(labels)) % 2]
    rows = GalleryRows(100 + np.arange(len(labels)), labels, labels, details={"side": side})
    return build_gallery(vectors, rows, "m")


def test_a_candidate_gets_the_score_of_the_fusion_and_others_their_cosine(gallery: Gallery) -> None:
    asked = normalize(np.random.default_rng(3).normal(size=(7, 32)))
    viewpoints = np.array(["left", "right", "", "left", "right", "", "left"])
    hidden = LeftOut(np.arange(7), np.arange(len(gallery.rows)) % 9)
    fusion, r = Fusion(0.3, (0.5, 0.2), {}), Retrieval(orientation_column="side", neighbours=40)
    calls = []

    def match(queries: np.ndarray, ids: np.ndarray) -> np.ndarray:
        calls.extend(zip(queries.tolist(), ids.tolist()))
        return np.sin(queries * 31.0 + ids)

    local = LocalSearch(match, 6, fusion)
    found = search_encounters(gallery, Queries(asked, hidden, None, viewpoints, local), r, 3)
    cosines = asked @ gallery.embeddings(gallery.rows.ids).T
    for q in range(len(asked)):
        seen = (gallery.rows.details["side"] == viewpoints[q]) | (viewpoints[q] == "")
        allowed = np.flatnonzero(seen & (hidden.of_row != q))
        nearest = allowed[np.argsort(-cosines[q, allowed])]
        first, ids = nearest[:6], gallery.rows.ids[nearest[:6]]
        assert {id for query, id in calls if query == q} == set(ids.tolist())  # of these alone
        scores = cosines[q].copy()
        scores[first] += 0.3 * (np.sin(q * 31.0 + ids) - 0.5 - 0.2 * scores[first])
        best: dict[str, float] = {}
        for row in nearest[:40]:
            best[gallery.rows.labels[row]] = max(scores[row], best.get(gallery.rows.labels[row], -9))
        expected = sorted(best.items(), key=lambda item: -item[1])[:3]
        assert found.names[q].tolist() == [name for name, _ in expected]
        assert found.scores[q] == pytest.approx([score for _, score in expected], abs=1e-5)


@pytest.mark.parametrize("says", ["nothing", "something"])
def test_held_out_queries_fit_what_answers_further_ones(gallery: Gallery, says: str) -> None:
    """A held-out query that is asked again, without the images that were hidden from it, gets its score again."""
    recipe = replace(Recipe(), data=replace(Recipe().data, new_label="new"))
    held_out = hold_out_catalogue(gallery.embeddings(gallery.rows.ids), gallery.rows, None)
    noise, calls = np.random.default_rng(0).normal(size=(len(gallery.rows),) * 2), []

    def match(queries: np.ndarray, ids: np.ndarray) -> np.ndarray:
        at = gallery.rows.positions(ids)
        calls.append(len(ids))
        return noise[queries, at] + 2.0 * (says == "something") * (gallery.rows.labels[at] == held_out.labels[queries])

    searched = search_held_out(held_out, gallery, recipe, None, LocalSearch(match, 20))
    assert searched.fusion is not None
    assert len(calls) == 1  # each pair once
    plain = search_held_out(held_out, gallery, recipe)
    assert plain.fusion is None
    if says == "nothing":
        assert searched.fusion.ratio == 0
        assert (searched.result.scores == plain.result.scores).all()
    else:
        assert searched.fusion.ratio > 0
        known = searched.queries.in_gallery
        assert searched.queries.is_right[known, 0].mean() > plain.queries.is_right[known, 0].mean() + 0.1
    open_set = fit_open_set([evaluate_search(searched, gallery, recipe)], recipe)
    stored = OpenSet.from_json(open_set.to_json())
    local = LocalSearch(match, 20, stored.fusion)
    again = search_encounters(gallery, replace(searched.asked, local=local), recipe.retrieval, 5)
    assert (again.names == searched.result.names).all()
    assert again.scores == pytest.approx(searched.result.scores)
    assert len(calls) == (1 if says == "nothing" else 2)  # scores without weight aren't computed
