"""Rankings against loops."""

import numpy as np
import pytest

from lib.config.recipe import Retrieval
from lib.errors import FlukeError
from lib.retrieval.class_centres import add_centres
from lib.retrieval.ranking import expand_queries, rank_identities, rank_with_new
from tests.retrieval.conftest import unit


@pytest.mark.parametrize("method", ["best", "mean_n", "vote"])
def test_identities_are_ranked_as_a_loop_ranks_them(method):
    rng = np.random.default_rng(0)
    for _ in range(100):
        q, k, n_classes = rng.integers(1, 5), rng.integers(1, 12), rng.integers(1, 6)
        scores = rng.integers(0, 5, (q, k)) / 5.0  # with ties
        classes = rng.integers(-1, n_classes, (q, k))
        got = rank_identities(scores, classes, 4, Retrieval(method=method, n=2, temperature=0.1))
        for row in range(q):
            values = {}
            for identity in set(classes[row].tolist()) - {-1}:
                own = sorted(scores[row][classes[row] == identity], reverse=True)
                values[identity] = {
                    "best": own[0],
                    "mean_n": sum(own[:2]) / len(own[:2]),
                    "vote": 0.1 * np.log(sum(np.exp(s / 0.1) for s in own)),
                }[method]
            want = sorted(values, key=lambda identity: (-round(values[identity], 9), identity))[:4]
            padding = [-1] * (4 - len(want))
            assert got.classes[row].tolist() == want + padding
            np.testing.assert_allclose(got.scores[row][: len(want)], [values[identity] for identity in want], atol=1e-6)
            assert np.isneginf(got.scores[row][len(want) :]).all()
            for identity, column in zip(want, got.matches[row]):
                own = np.where(classes[row] == identity, scores[row], -9)
                assert column == own.argmax()
            assert (got.matches[row][len(want) :] == -1).all()


def test_names_of_a_ranking_are_empty_where_it_is_padded():
    ranking = rank_identities(np.array([[0.5, 0.4]]), np.array([[1, 1]]), 3, Retrieval())
    assert ranking.names(np.array(["a", "b"])).tolist() == [["b", "", ""]]


def test_class_centres_add_identities_that_no_neighbour_has():
    ranking = rank_identities(np.array([[0.8, 0.6]]), np.array([[0, 1]]), 4, Retrieval())
    centres = np.array([[0.1, 0.5, 0.95, np.nan]])  # class 3 has no centre and no neighbour
    got = add_centres(ranking, centres, 0.5, 4)
    assert got.classes.tolist() == [[2, 3, 1, 0]]
    np.testing.assert_allclose(got.scores, [[0.775, 0.6, 0.55, 0.45]], atol=1e-6)
    assert got.matches.tolist() == [[-1, -1, 1, 0]]
    same = add_centres(ranking, centres, 0.0, 2)
    assert same.classes.tolist() == [[0, 1]]
    assert add_centres(ranking, centres[:, :3], 1.0, 3).classes.tolist() == [[2, 1, 0]]


def test_query_expansion_is_the_papers_sum():
    rng = np.random.default_rng(0)
    queries, neighbours = unit(rng.normal(size=(4, 6))), rng.normal(size=(4, 3, 6))
    scores = rng.uniform(-1, 1, (4, 3))
    got = expand_queries(queries, scores, neighbours, 3.0)
    for row in range(4):
        want = queries[row] + sum(max(s, 0) ** 3 * x for s, x in zip(scores[row], neighbours[row]))
        np.testing.assert_allclose(got[row], want / np.linalg.norm(want), atol=1e-6)


def test_the_new_label_stands_where_its_threshold_places_it():
    names, scores = [["a", "b", "c", "d", "e"]], [[0.9, 0.7, 0.5, 0.3, 0.1]]
    assert rank_with_new(names, scores, 1.0, "new") == [["new", "a", "b", "c", "d"]]
    assert rank_with_new(names, scores, 0.7, "new") == [["a", "b", "new", "c", "d"]]
    assert rank_with_new(names, scores, 0.2, "new") == [["a", "b", "c", "d", "new"]]
    assert rank_with_new(names, scores, 0.0, "new") == [["a", "b", "c", "d", "e"]]
    assert rank_with_new(names, scores, 0.6, None, k=3) == [["a", "b", "c"]]
    assert rank_with_new([["a", "a", "new", "b"]], [[0.9, 0.8, 0.4, 0.3]], 0.5, "new") == [["a", "new", "b"]]
    assert rank_with_new([["a", ""]], [[0.9, -np.inf]], 0.5, "new") == [["a", "new"]]
    close = np.nextafter(np.float32([[0.5, 0.25]]), np.float32([[1.0, 1.0]]))  # the odd one of two neighbours: halves round away
    close[0, 1] = 0.5
    assert rank_with_new([["a", "b"]], close, float(close[0].astype(float).mean()), "new") == [["a", "new", "b"]]


def test_a_ranking_has_at_least_one_name():
    with pytest.raises(FlukeError, match="topk 0"):
        rank_identities(np.ones((1, 1)), np.ones((1, 1), int), 0, Retrieval())
