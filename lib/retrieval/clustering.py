"""Average linkage of images, with individuals that are known and photographs that belong together.

The mean cosine between two clusters is the product of the sums of their vectors over the product of their sizes, so that no matrix
of all pairs is needed: pairs come from the nearest neighbours of each image (UPGMA, Sokal and Michener 1958).
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from lib.retrieval.faiss_index import nearest_neighbours

COMPLETE = 1500
"""Nodes up to which all pairs are candidates."""
NEIGHBOURS = 60
"""Nearest neighbours of each node that are candidates, of more nodes."""


@dataclass(frozen=True)
class Merges:
    """The merges of n nodes, in the order in which they were made."""

    n: int
    pairs: np.ndarray
    """(m, 2) int64: a node of each of the two clusters."""
    similarities: np.ndarray
    """(m,) float64: mean cosine between the two clusters."""

    def cut(self, threshold: float) -> np.ndarray:
        """Return the cluster of each node after the merges of at least `threshold`, (n,) int64 from 0."""
        parent = np.arange(self.n)

        def root(node: int) -> int:
            while parent[node] != node:
                parent[node] = parent[parent[node]]
                node = parent[node]
            return node

        low = np.flatnonzero(self.similarities < threshold)
        for a, b in self.pairs[: low[0] if len(low) else len(self.pairs)].tolist():
            one, other = sorted((root(a), root(b)))
            parent[other] = one
        return np.unique([root(node) for node in range(self.n)], return_inverse=True)[1]


def merge_nodes(sums: np.ndarray, sizes: np.ndarray, is_known: np.ndarray) -> Merges:
    """Return the merges of nodes by average linkage, the most similar two clusters first, down to a mean cosine of 0.

    A node is an image, photographs that belong together, or a known individual: `sums` (n, d) adds up its unit vectors, `sizes`
    (n,) counts them. Clusters that both hold a node that `is_known` (n,) bool are never merged.
    """
    n = len(sums)
    sums, sizes, known = sums.astype(np.float64).copy(), sizes.astype(np.float64).copy(), is_known.copy()
    neighbours: list[set[int]] = [set() for _ in range(n)]
    means = (sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)).astype(np.float32)
    k = n - 1 if n <= COMPLETE else NEIGHBOURS
    for i, near in enumerate(nearest_neighbours(means, min(k + 1, n))):
        for j in near.tolist():
            if i != j:
                neighbours[i].add(j)
                neighbours[j].add(i)
    heap: list[tuple[float, int, int, int, int]] = []
    version = np.zeros(n, np.int64)

    def push(i: int, others: list[int]) -> None:
        """Put the pairs of cluster i with others on the heap."""
        others = [j for j in others if not (known[i] and known[j])]
        values = (sums[others] @ sums[i]) / (sizes[others] * sizes[i])
        for j, value in zip(others, values.tolist()):
            if value > 0:
                heapq.heappush(heap, (-value, min(i, j), max(i, j), int(version[min(i, j)]), int(version[max(i, j)])))

    for i in range(n):
        push(i, [j for j in neighbours[i] if j > i])
    pairs, similarities = [], []
    alive = np.ones(n, bool)
    while heap:
        value, i, j, version_i, version_j = heapq.heappop(heap)
        if not (alive[i] and alive[j] and version[i] == version_i and version[j] == version_j):
            continue
        pairs.append((i, j))
        similarities.append(-value)
        sums[i] += sums[j]
        sizes[i] += sizes[j]
        known[i] |= known[j]
        alive[j], version[i] = False, version[i] + 1
        joined = {other for other in neighbours[i] | neighbours[j] if alive[other] and other != i}
        for other in joined:
            neighbours[other].discard(j)
            neighbours[other].add(i)
        neighbours[i], neighbours[j] = joined, set()
        push(i, list(joined))
    return Merges(n, np.array(pairs, dtype=np.int64).reshape(-1, 2), np.array(similarities))
