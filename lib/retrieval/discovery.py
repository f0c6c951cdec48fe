"""Group photographs into individuals, known or new: nodes, a threshold fitted on held-out individuals, names.

The threshold is fitted on pseudo-tests: held-out photographs of known individuals and of individuals that the network has never
seen, in several shares, clustered as the real ones are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

from lib.retrieval.clustering import Merges, merge_nodes

NEW_SHARES = (0.1, 0.4, 0.8)
"""Shares of photographs of new individuals in the pseudo-tests."""
REPEATS = 3
THRESHOLDS = np.round(np.arange(0.0, 1.0001, 0.01), 2)


@dataclass(frozen=True)
class Images:
    """n images to group."""

    embeddings: np.ndarray
    """(n, d) unit vectors."""
    links: np.ndarray
    """(n,) int64: images of one number are of one individual (an encounter)."""

    def take(self, index: np.ndarray) -> Images:
        return Images(self.embeddings[index], self.links[index])


@dataclass(frozen=True)
class Known:
    """The named individuals that images may belong to."""

    names: np.ndarray
    """(k,) str"""
    sums: np.ndarray
    """(k, d): sum of the unit vectors of their images."""
    sizes: np.ndarray
    """(k,) numbers of images."""

    @staticmethod
    def of(embeddings: np.ndarray, labels: np.ndarray) -> Known:
        """Return the individuals of labelled embeddings (n, d), (n,)."""
        names, inverse = np.unique(labels, return_inverse=True)
        sums = np.zeros((len(names), embeddings.shape[1]))
        np.add.at(sums, inverse, embeddings)
        return Known(names, sums, np.bincount(inverse, minlength=len(names)))


@dataclass(frozen=True)
class Grouping:
    """The merges of n images with each other and with the known individuals."""

    merges: Merges
    node_of_image: np.ndarray
    """(n,) int64"""
    known: Known

    def cut(self, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the cluster of each image, (n,) int64, and its known individual, (n,) int64, -1 for a new one."""
        clusters = self.merges.cut(threshold)
        k = len(self.known.names)
        individual = np.full(clusters.max(initial=0) + 1, -1)
        individual[clusters[:k]] = np.arange(k)
        of_image = clusters[self.node_of_image]
        return of_image, individual[of_image]


def group_images(images: Images, known: Known) -> Grouping:
    """Return the merges of images and known individuals by average linkage; two known individuals are never merged."""
    k, (links, node) = len(known.names), np.unique(images.links, return_inverse=True)
    sums = np.zeros((k + len(links), images.embeddings.shape[1]))
    sizes = np.concatenate([known.sizes, np.bincount(node, minlength=len(links))])
    sums[:k] = known.sums
    np.add.at(sums, k + node, images.embeddings)
    return Grouping(merge_nodes(sums, sizes, np.arange(len(sums)) < k), k + node, known)


# --- the threshold ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PseudoTest:
    """Held-out images grouped as the test is, with their true individuals."""

    grouping: Grouping
    labels: np.ndarray
    """(n,) str"""
    images: Images
    scores: np.ndarray
    """(THRESHOLDS,) adjusted Rand index at each threshold."""
    counts: np.ndarray
    """(THRESHOLDS,) number of clusters at each threshold."""


def make_pseudo_tests(images: Images, labels: np.ndarray, known: Known, seed: int = 0) -> list[PseudoTest]:
    """Return groupings of samples of held-out images: with NEW_SHARES of new individuals, REPEATS each.

    Without new individuals among `labels` (n,), or without known ones, the samples are of one kind. Each has 70% of the
    individuals.
    """
    rng, is_new = np.random.default_rng(seed), ~np.isin(labels, known.names)
    shares: tuple[float, ...] = NEW_SHARES
    if is_new.all() or not is_new.any():
        shares = (float(is_new.all()),)
    found = []
    for share in shares:
        for _ in range(REPEATS):
            names = np.unique(labels)
            drawn = np.isin(labels, rng.choice(names, max(2, round(0.7 * len(names))), replace=False))
            new, old = (rng.permutation(np.flatnonzero(drawn & kind)) for kind in (is_new, ~is_new))
            if 0 < share < 1:  # thin the side that is too large
                total = min(len(new) / share, len(old) / (1 - share))
                new, old = new[: max(1, round(total * share))], old[: max(1, round(total * (1 - share)))]
            rows = np.sort(np.concatenate([new, old]))
            if len(rows) < 4:
                continue
            part = images.take(rows)
            grouping = group_images(part, known)
            clusters = [grouping.cut(threshold)[0] for threshold in THRESHOLDS]
            scores = np.array([adjusted_rand_score(labels[rows], cluster) for cluster in clusters])
            counts = np.array([len(np.unique(cluster)) for cluster in clusters])
            found.append(PseudoTest(grouping, labels[rows], part, scores, counts))
    return found


def fit_threshold(tests: list[PseudoTest]) -> float:
    """Return the threshold of the least mean regret (best adjusted Rand index less the one there); the highest of equals."""
    regret = np.mean([test.scores.max() - test.scores for test in tests], axis=0)
    best = np.flatnonzero(regret <= regret.min() + 1e-9)
    return float(THRESHOLDS[best[-1]])


@dataclass(frozen=True)
class Fit:
    """A threshold with what the pseudo-tests say of it."""

    threshold: float
    metrics: dict[str, float]
    """Means over the pseudo-tests at the threshold, and of the best threshold of each (`best_adjusted_rand`)."""
    count_ratio: tuple[float, float, float]
    """True individuals over found clusters: mean, lowest and highest of the pseudo-tests."""
    probability: LogisticRegression | None
    """That an image is in the right cluster, from its margin; None where all are right or all wrong."""


def fit(tests: list[PseudoTest]) -> Fit:
    """Return the threshold of the pseudo-tests, their metrics at it, and the calibration of an image's margin."""
    threshold = fit_threshold(tests)
    at = int(np.argmin(np.abs(THRESHOLDS - threshold)))
    rows, margins, right, ratios = [], [], [], []
    for test in tests:
        clusters, individual = test.grouping.cut(threshold)
        precision, recall = pair_scores(test.labels, clusters)
        rows.append(
            {
                "adjusted_rand": test.scores[at],
                "best_adjusted_rand": test.scores.max(),
                "adjusted_mutual_information": adjusted_mutual_info_score(test.labels, clusters),
                "pair_precision": precision,
                "pair_recall": recall,
            }
        )
        margins.append(margin(test.images, clusters, individual, test.grouping.known, threshold))
        right.append(is_right(test.labels, clusters, individual, test.grouping.known))
        ratios.append(len(np.unique(test.labels)) / test.counts[at])
    x, y = np.concatenate(margins)[:, None], np.concatenate(right)
    model = LogisticRegression().fit(x, y) if 0 < y.mean() < 1 else None
    metrics = {name: float(np.nanmean([row[name] for row in rows])) for name in rows[0]}
    return Fit(threshold, metrics, (float(np.mean(ratios)), min(ratios), max(ratios)), model)


def is_right(labels: np.ndarray, clusters: np.ndarray, individual: np.ndarray, known: Known) -> np.ndarray:
    """Return whether each image is called by its name, or in a cluster of which most images are of its individual, (n,) bool."""
    right = np.zeros(len(labels), bool)
    for cluster in np.unique(clusters):
        rows = np.flatnonzero(clusters == cluster)
        names, counts = np.unique(labels[rows], return_counts=True)
        name = known.names[individual[rows[0]]] if individual[rows[0]] >= 0 else names[counts.argmax()]
        right[rows] = labels[rows] == name
        if individual[rows[0]] < 0:
            right[rows] &= ~np.isin(labels[rows], known.names)  # a known individual was called new
    return right


def pair_scores(labels: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    """Return the precision and the recall of pairs of images in one cluster, NaN without a pair."""

    def pairs(values: np.ndarray) -> float:
        counts = np.unique(values, return_counts=True)[1].astype(float)
        return float((counts * (counts - 1) / 2).sum())

    both = pairs(np.array([f"{label}\0{cluster}" for label, cluster in zip(labels, clusters)]))
    given, true = pairs(clusters), pairs(labels)
    return both / given if given else np.nan, both / true if true else np.nan


def margin(images: Images, clusters: np.ndarray, individual: np.ndarray, known: Known, threshold: float) -> np.ndarray:
    """Return how far each image is from being grouped otherwise, (n,): mean cosine with the rest of its cluster, or for an image
    alone the threshold, less the larger of the threshold and its mean cosine with the nearest other cluster."""
    n, k = clusters.max(initial=-1) + 1, len(known.names)
    sums, sizes = np.zeros((n + k, images.embeddings.shape[1])), np.zeros(n + k)
    np.add.at(sums, clusters, images.embeddings)
    np.add.at(sizes, clusters, 1)
    used = np.unique(individual[individual >= 0])
    for i in used:
        cluster = clusters[np.flatnonzero(individual == i)[0]]
        sums[cluster] += known.sums[i]
        sizes[cluster] += known.sizes[i]
    rest = np.setdiff1d(np.arange(k), used)
    sums[n + rest], sizes[n + rest] = known.sums[rest], known.sizes[rest]
    found = np.empty(len(clusters))
    for block in np.array_split(np.arange(len(clusters)), max(1, len(clusters) // 1000)):
        similar = images.embeddings[block] @ sums.T / np.maximum(sizes, 1)
        similar[:, sizes == 0] = -1
        own = similar[np.arange(len(block)), clusters[block]] * sizes[clusters[block]]
        alone = sizes[clusters[block]] == 1
        inside = np.where(alone, threshold, (own - 1) / np.maximum(sizes[clusters[block]] - 1, 1))
        similar[np.arange(len(block)), clusters[block]] = -1
        found[block] = inside - np.maximum(np.where(alone, -1, threshold), similar.max(axis=1))
    return found
