"""Images, known individuals, and their groups by average linkage; how sure each image's place is."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import csr_array

from lib.retrieval.clustering import Merges, Nodes, merge_nodes
from lib.retrieval.links import Pair, chain, join_elements

KNOWN, DECIDED = -1, -2
"""Elements of Nodes.apart: the one that all known individuals share, and those of decided pairs, from there down."""


@dataclass(frozen=True)
class Images:
    """n images to group."""

    embeddings: np.ndarray
    """(n, d) unit vectors."""
    links: np.ndarray
    """(n,) int64: images of one number are of one individual (an encounter)."""
    views: np.ndarray
    """(n,) int64: images of two different views above 0 (flanks) aren't compared."""
    photographs: np.ndarray
    """(n,) int64: images of one number are of different individuals; -1: no other image of the photograph is known."""

    @staticmethod
    def of(embeddings: np.ndarray, links: np.ndarray | None = None, views: np.ndarray | None = None) -> Images:
        """Return images (n, d) with what is known of them."""
        n = len(embeddings)
        links = np.arange(n) if links is None else links
        return Images(embeddings, links, np.zeros(n, np.int64) if views is None else views, np.full(n, -1))

    def take(self, index: np.ndarray) -> Images:
        """Return the images at positions `index`."""
        return Images(self.embeddings[index], self.links[index], self.views[index], self.photographs[index])


@dataclass(frozen=True)
class Known:
    """The named individuals that images may belong to."""

    names: np.ndarray
    """(k,) str"""
    sums: np.ndarray
    """(k, v, d): sum of the unit vectors of their images by view."""
    sizes: np.ndarray
    """(k, v) numbers of images."""

    @staticmethod
    def of(images: Images, labels: np.ndarray, views: int = 1) -> Known:
        """Return the individuals of labelled images, (n,), which have one of `views` views."""
        names, inverse = np.unique(labels, return_inverse=True)
        return Known(names, *sum_by_view(images, inverse, len(names), views))


def sum_by_view(images: Images, node: np.ndarray, n: int, views: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums (n, views, d) of the unit vectors of the images of n nodes, and their numbers (n, views)."""
    sums, sizes = np.zeros((n, views, images.embeddings.shape[1])), np.zeros((n, views))
    np.add.at(sums, (node, images.views), images.embeddings)
    np.add.at(sizes, (node, images.views), 1)
    return sums, sizes


@dataclass(frozen=True)
class Grouping:
    """The merges of n images with each other and with the known individuals."""

    merges: Merges
    nodes: Nodes
    """The known individuals, each with the images that a decision joined to it, then images or those of one link."""
    node_of_image: np.ndarray
    """(n,) int64"""
    known: Known
    contradictions: list[Pair] = field(default_factory=list)
    """Known individuals, from 0, and images after them, which should have been joined and weren't."""
    added: csr_array | None = None
    """(k + n, k + n) what is added to the sums of cosines between known individuals and images."""

    def cut(self, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the cluster of each image, (n,) int64, and its known individual, (n,) int64, -1 for a new one."""
        clusters = self.merges.cut(threshold)
        k = len(self.known.names)
        individual = np.full(clusters.max(initial=0) + 1, -1)
        individual[clusters[:k]] = np.arange(k)
        of_image = clusters[self.node_of_image]
        return of_image, individual[of_image]

    def cuts(self, thresholds: np.ndarray) -> np.ndarray:
        """Return the clusters of each image at t thresholds, (t, n) int64."""
        return self.merges.cuts(thresholds)[:, self.node_of_image]


@dataclass(frozen=True)
class Decisions:
    """What a person decided on pairs of elements: known individuals, from 0, then images."""

    same: list[Pair] = field(default_factory=list)
    different: list[Pair] = field(default_factory=list)


def group_images(
    images: Images, known: Known, decisions: Decisions | None = None, size_penalty: float = 0.0, added: csr_array | None = None
) -> Grouping:
    """Return the merges of images and known individuals by average linkage; two known individuals are never merged.

    Decisions are believed before links; a pair that contradicts what is believed before it isn't joined. added: what is added to
    the sums of cosines between elements, (k + n, k + n), known individuals first.
    """
    k, n, views = len(known.names), len(images.links), known.sums.shape[1]
    apart: list[set[int]] = [{KNOWN} for _ in range(k)] + [{number} - {-1} for number in images.photographs.tolist()]
    decided = decisions or Decisions()
    for number, pair in enumerate(decided.different):
        for element in pair:
            apart[element].add(DECIDED - number)
    linked = [(k + i, k + j) for i, j in chain(images.links)]
    joined = join_elements(k + n, [*decided.same, *linked], apart)
    sums, sizes = sum_by_view(images, joined.node[k:], len(joined.apart), views)
    sums[joined.node[:k]] += known.sums
    sizes[joined.node[:k]] += known.sizes
    of_nodes = None if added is None else sum_elements(added, joined.node, joined.node, len(sums), len(sums))
    nodes = Nodes(sums, sizes, joined.apart, size_penalty, of_nodes)
    return Grouping(merge_nodes(nodes), nodes, joined.node[k:], known, joined.contradictions, added)


def sum_elements(values: csr_array, rows: np.ndarray, columns: np.ndarray, n: int, m: int) -> csr_array:
    """Return the sums (n, m) of values between elements, by the row and the column that each belongs to."""
    found = values.tocoo()
    return csr_array((found.data, (rows[found.row], columns[found.col])), shape=(n, m))


@dataclass(frozen=True)
class Places:
    """How similar n images are to their clusters and to the nearest others."""

    inside: np.ndarray
    """(n,) mean cosine with the rest of its cluster; NaN for an image alone."""
    outside: np.ndarray
    """(n,) mean cosine with the nearest other cluster or known individual; -1 without one."""
    nearest: np.ndarray = field(repr=False)
    """(n,) int64 the nearest other cluster; from the number of clusters on, a known individual without an image."""

    def margin(self, threshold: float) -> np.ndarray:
        """Return how far each image is from being grouped otherwise, (n,): its similarity to the rest of its cluster, or for an
        image alone the threshold, less the larger of the threshold and its similarity to the nearest other cluster."""
        alone = np.isnan(self.inside)
        return np.where(alone, threshold, self.inside) - np.maximum(np.where(alone, -1, threshold), self.outside)


def find_places(images: Images, grouping: Grouping, clusters: np.ndarray, individual: np.ndarray) -> Places:
    """Return how similar images are to the clusters (n,) from 0, whose known individuals are (n,), -1 for a new one."""
    known = grouping.known
    c, views = clusters.max(initial=-1) + 1, known.sums.shape[1]
    sums, sizes = sum_by_view(images, clusters, c, views)
    used, first = np.unique(individual, return_index=True)
    for i, at in zip(used[used >= 0], first[used >= 0]):
        sums[clusters[at]] += known.sums[i]
        sizes[clusters[at]] += known.sizes[i]
    rest = np.setdiff1d(np.arange(len(known.names)), used)
    n = c + len(rest)
    nodes = Nodes(np.concatenate([sums, known.sums[rest]]), np.concatenate([sizes, known.sizes[rest]]), [set()] * n)
    cluster_of_known = np.empty(len(known.names), np.int64)
    cluster_of_known[used[used >= 0]], cluster_of_known[rest] = clusters[first[used >= 0]], c + np.arange(len(rest))
    inside, outside, nearest = np.full(len(clusters), np.nan), np.full(len(clusters), -1.0), np.zeros(len(clusters), np.int64)
    for block in np.array_split(np.arange(len(clusters)), max(1, len(clusters) // 1000)):
        alone, counts = sum_by_view(images.take(block), np.arange(len(block)), len(block), views)
        queries = Nodes(alone, counts, [set()] * len(block))
        totals, numbers = queries.compare(nodes)
        row, own = np.arange(len(block)), clusters[block]
        if grouping.added is not None:
            of_block = grouping.added[len(known.names) + block]
            columns = np.concatenate([cluster_of_known, clusters])
            totals = totals + sum_elements(of_block, row, columns, len(block), n).toarray()
        others = numbers[row, own] - 1  # the image itself is one of its cluster
        inside[block] = np.where(others > 0, (totals[row, own] - 1) / np.maximum(others, 1), np.nan)
        means = np.where(numbers > 0, totals / np.maximum(numbers, 1), -1.0)
        means[row, own] = -1
        nearest[block], outside[block] = means.argmax(axis=1), means.max(axis=1)
    return Places(inside, outside, nearest)
