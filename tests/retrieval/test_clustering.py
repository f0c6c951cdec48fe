"""Average linkage with known individuals, views and images that are apart, against SciPy's."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.metrics import adjusted_rand_score

from lib.retrieval import clustering
from lib.retrieval.clustering import Nodes, merge_nodes


def unit(n: int, d: int, seed: int, groups: int = 8, noise: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(groups, size=n)
    vectors = rng.normal(size=(groups, d))[labels] + noise * rng.normal(size=(n, d))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), labels


def nodes(vectors: np.ndarray, views: np.ndarray | None = None, apart: list[set[int]] | None = None) -> Nodes:
    """A node for each image."""
    n, views = len(vectors), np.zeros(len(vectors), int) if views is None else views
    sums, sizes = np.zeros((n, views.max() + 1, vectors.shape[1])), np.zeros((n, views.max() + 1))
    sums[np.arange(n), views], sizes[np.arange(n), views] = vectors, 1
    return Nodes(sums, sizes, apart or [set() for _ in range(n)])


@pytest.fixture(params=["all pairs", "neighbours"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of merging; as many neighbours as there are nodes."""
    if request.param == "neighbours":
        monkeypatch.setattr(clustering, "DENSE", 0)
        monkeypatch.setattr(clustering, "NEIGHBOURS", 1000)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_clusters_are_those_of_scipy(threshold: float) -> None:
    vectors, _ = unit(150, 6, 0)
    expected = fcluster(linkage(vectors, "average", metric="cosine"), 1 - threshold, "distance")
    assert adjusted_rand_score(expected, merge_nodes(nodes(vectors)).cut(threshold)) == 1.0


def test_cuts_are_the_cuts_at_each_threshold() -> None:
    merges = merge_nodes(nodes(unit(60, 6, 0)[0]))
    for threshold, clusters in zip((0.7, 0.2, 0.5), merges.cuts(np.array([0.7, 0.2, 0.5]))):
        assert clusters.tolist() == merges.cut(threshold).tolist()


def test_few_neighbours_give_nearly_the_clusters_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, labels = unit(600, 16, 1, groups=60, noise=0.3)
    complete = merge_nodes(nodes(vectors)).cut(0.6)
    monkeypatch.setattr(clustering, "DENSE", 10)
    monkeypatch.setattr(clustering, "NEIGHBOURS", 20)
    sparse = merge_nodes(nodes(vectors)).cut(0.6)
    assert adjusted_rand_score(complete, sparse) > 0.98
    assert adjusted_rand_score(labels, sparse) > 0.9


@pytest.mark.usefixtures("way")
def test_known_individuals_are_never_merged_and_count_by_their_images() -> None:
    """Two known individuals alike, and an image between them: it joins the nearer mean."""
    a, b = np.array([1.0, 0.0]), np.array([0.8, 0.6])
    image = np.array([0.96, 0.28])
    merges = merge_nodes(Nodes(np.stack([3 * a, 2 * b, image])[:, None], np.array([[3], [2], [1]]), [{-1}, {-1}, set()]))
    assert merges.pairs.tolist() == [[0, 2]]  # cosine 0.96 with a, 0.936 with b
    assert merges.similarities == pytest.approx([0.96])
    assert merges.cut(0.5).tolist() == [0, 1, 0]
    assert merges.cut(0.97).tolist() == [0, 1, 2]


@pytest.mark.usefixtures("way")
def test_images_apart_stay_apart_through_others() -> None:
    """Images 0 and 1 of one photograph are equal, and so are 2 and 3."""
    vectors = np.array([[1.0, 0], [1, 0], [1, 0], [1, 0]])
    clusters = merge_nodes(nodes(vectors, apart=[{7}, {7}, set(), set()])).cut(0.5)
    assert clusters[0] != clusters[1]
    assert len(set(clusters)) == 2


@pytest.mark.usefixtures("way")
def test_two_flanks_are_compared_through_images_of_the_same_flank_only() -> None:
    """Equal vectors: left, right, and a node with both flanks, whose right one differs."""
    vectors, views = np.array([[1.0, 0], [1, 0]]), np.array([1, 2])
    assert len(merge_nodes(nodes(vectors, views)).pairs) == 0
    both = Nodes(
        np.array([[[0.0, 0], [1, 0], [0, 0]], [[0, 0], [0, 0], [1, 0]], [[0, 0], [1, 0], [0, 1]]]),
        np.array([[0, 1, 0], [0, 0, 1], [0, 1, 1]]),
        [set()] * 3,
    )
    merges = merge_nodes(both)
    assert merges.similarities[0] == pytest.approx(1.0)  # left with left; right with right is 0
    assert merges.cut(0.5).tolist() == [0, 1, 0]
    unknown = merge_nodes(nodes(np.array([[1.0, 0], [1, 0]]), np.array([0, 2])))
    assert unknown.similarities == pytest.approx([1.0])


@pytest.mark.usefixtures("way")
def test_the_smaller_cluster_decides_what_a_merge_costs() -> None:
    """Two clusters of four equal images, at a cosine of 0.6: the penalty is that of four images; an image alone pays nothing."""
    a, b = np.array([1.0, 0]), np.array([0.6, 0.8])
    vectors = np.array([a] * 4 + [b] * 4)
    merges = merge_nodes(replace(nodes(vectors), size_penalty=0.1))
    assert merges.similarities[-1] == pytest.approx(0.6 - 0.1 * np.log(4))
    assert merges.similarities[:2] == pytest.approx([1.0, 1.0])
    alone = merge_nodes(replace(nodes(vectors[:5]), size_penalty=0.1))
    assert alone.similarities[-1] == pytest.approx(0.6)
