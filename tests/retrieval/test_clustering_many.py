"""Merging by candidates: each merge is the most similar pair, whatever was merged before, and clusters keep few candidates."""

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.metrics import adjusted_rand_score

from lib.retrieval import clustering
from lib.retrieval.clustering import Nodes, merge_nodes


def draw(n: int, groups: int, seed: int) -> tuple[Nodes, np.ndarray]:
    """Nodes of one image each, of `groups` individuals."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(groups, size=n)
    vectors = rng.normal(size=(groups, 16))[labels] + 0.4 * rng.normal(size=(n, 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Nodes(vectors[:, None], np.ones((n, 1)), [set() for _ in range(n)]), labels


@pytest.mark.parametrize("seed", range(5))
def test_merges_by_candidates_are_those_of_scipy_in_its_order(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, _ = draw(120, 15, seed)
    monkeypatch.setattr(clustering, "DENSE", 0)
    monkeypatch.setattr(clustering, "NEIGHBOURS", 120)
    heights = linkage(nodes.sums[:, 0], "average", metric="cosine")[:, 2]
    merges = merge_nodes(nodes)
    found = merges.similarities
    assert found == pytest.approx((1 - heights)[: len(found)])
    assert len(found) > 110


def test_clusters_that_keep_few_candidates_are_nearly_those_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, _ = draw(800, 60, 1)
    expected = fcluster(linkage(nodes.sums[:, 0], "average", metric="cosine"), 0.5, "distance")
    monkeypatch.setattr(clustering, "DENSE", 0)
    monkeypatch.setattr(clustering, "NEIGHBOURS", 15)
    monkeypatch.setattr(clustering, "KEPT", 2)  # of the candidates of both, which are up to 60 and more
    found = merge_nodes(nodes).cut(0.5)
    assert adjusted_rand_score(expected, found) > 0.99


def test_individuals_of_one_photograph_stay_apart_by_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, _ = draw(200, 10, 2)
    monkeypatch.setattr(clustering, "DENSE", 0)
    for i in range(0, 200, 2):
        nodes.apart[i].add(i)
        nodes.apart[i + 1].add(i)
    found = merge_nodes(nodes).cut(0.3)
    assert (found[::2] != found[1::2]).all()
