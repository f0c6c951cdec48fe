"""Average linkage with known individuals, against SciPy's."""

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.metrics import adjusted_rand_score

from lib.retrieval import clustering
from lib.retrieval.clustering import merge_nodes


def unit(n: int, d: int, seed: int, groups: int = 8, noise: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(groups, size=n)
    vectors = rng.normal(size=(groups, d))[labels] + noise * rng.normal(size=(n, d))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), labels


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_clusters_are_those_of_scipy(threshold: float) -> None:
    vectors, _ = unit(150, 6, 0)
    merges = merge_nodes(vectors, np.ones(150), np.zeros(150, bool))
    expected = fcluster(linkage(vectors, "average", metric="cosine"), 1 - threshold, "distance")
    assert adjusted_rand_score(expected, merges.cut(threshold)) == 1.0


def test_few_neighbours_give_nearly_the_clusters_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, labels = unit(600, 16, 1, groups=60, noise=0.3)
    complete = merge_nodes(vectors, np.ones(600), np.zeros(600, bool)).cut(0.6)
    monkeypatch.setattr(clustering, "COMPLETE", 10)
    monkeypatch.setattr(clustering, "NEIGHBOURS", 20)
    sparse = merge_nodes(vectors, np.ones(600), np.zeros(600, bool)).cut(0.6)
    assert adjusted_rand_score(complete, sparse) > 0.98
    assert adjusted_rand_score(labels, sparse) > 0.9


def test_known_individuals_are_never_merged_and_count_by_their_images() -> None:
    """Two known individuals alike, and an image between them and a third one: it joins the nearer mean."""
    a, b = np.array([1.0, 0.0]), np.array([0.8, 0.6])
    image = np.array([0.96, 0.28])
    merges = merge_nodes(np.stack([3 * a, 2 * b, image]), np.array([3, 2, 1]), np.array([True, True, False]))
    assert merges.pairs.tolist() == [[0, 2]]  # cosine 0.96 with a, 0.936 with b
    assert merges.similarities == pytest.approx([0.96])
    assert merges.cut(0.5).tolist() == [0, 1, 0]
    assert merges.cut(0.97).tolist() == [0, 1, 2]
