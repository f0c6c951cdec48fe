"""Average linkage of images, with individuals that are known and photographs that belong together.

The mean cosine between two clusters is the product of the sums of their vectors over the product of their sizes, so that no matrix
of all pairs is needed: pairs come from the nearest neighbours of each image (UPGMA, Sokal and Michener 1958). A few thousand nodes
take all pairs, in a matrix, which is about fifty times as fast.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_array

from lib.retrieval.faiss_index import nearest_neighbours

DENSE = 4000
"""Nodes up to which all pairs are candidates, in three matrices (130 MB each)."""
NEIGHBOURS = 60
"""Nearest neighbours of each node that are candidates, of more nodes."""
KEPT = 3
"""The candidates that a cluster keeps, as a multiple of NEIGHBOURS."""
LOWEST = -0.5
"""Similarity down to which clusters are merged."""


@dataclass(frozen=True)
class Nodes:
    """n nodes to merge: images, photographs that belong together, or known individuals."""

    sums: np.ndarray
    """(n, v, d) float64: sum of the unit vectors of the node's images by view. Images of view 0 (unknown) are compared with all,
    those of another view (a flank) with images of the same one and of view 0."""
    sizes: np.ndarray
    """(n, v) numbers of images."""
    apart: list[set[int]]
    """n sets: nodes that share an element are different individuals, and never merged."""
    size_penalty: float = 0.0
    """What the similarity of two clusters loses with the logarithm of the smaller one's number of images: a wrong merge of two
    large clusters costs many pairs, one of a single image few."""

    added: csr_array | None = None
    """(n, n) symmetric: what is added to the sums of cosines between nodes."""

    def __len__(self) -> int:
        return len(self.sums)

    def copy(self) -> Nodes:
        """Return nodes that may be changed, in float64."""
        apart = [set(tags) for tags in self.apart]
        return replace(self, sums=self.sums.astype(np.float64), sizes=self.sizes.astype(np.float64), apart=apart)

    def absorb(self, i: int, j: int) -> None:
        """Add node j to node i."""
        self.sums[i] += self.sums[j]
        self.sizes[i] += self.sizes[j]
        self.apart[i] |= self.apart[j]

    def compare(self, others: Nodes) -> tuple[np.ndarray, np.ndarray]:
        """Return the sum of cosines of the images of each node with those of each other, (n, m), and the numbers of such pairs."""
        return _compare(self.sums, others.sums), _compare(self.sizes[..., None], others.sizes[..., None])


def _compare(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the products of all views of a (..., v, d) with the views of b (m, v, d) that are compared with them, (..., m)."""
    found = a.sum(axis=-2) @ b.sum(axis=1).T
    for view in range(1, b.shape[1]):
        found = found - a[..., view, :] @ (b[:, 1:].sum(axis=1) - b[:, view]).T
    return found


@dataclass(frozen=True)
class Merges:
    """The merges of n nodes, in the order in which they were made."""

    n: int
    pairs: np.ndarray
    """(m, 2) int64: a node of each of the two clusters."""
    similarities: np.ndarray
    """(m,) float64: mean cosine between the two clusters, less the penalty of their size."""

    def cut(self, threshold: float) -> np.ndarray:
        """Return the cluster of each node after the merges of at least `threshold`, (n,) int64 from 0."""
        return self.cuts(np.array([threshold]))[0]

    def cuts(self, thresholds: np.ndarray) -> np.ndarray:
        """Return the clusters of each node at each of t thresholds, (t, n) int64 from 0."""
        found, cluster, done = np.empty((len(thresholds), self.n), np.int64), np.arange(self.n), 0
        for at in np.argsort(-thresholds, kind="stable"):
            while done < len(self.pairs) and self.similarities[done] >= thresholds[at]:
                i, j = cluster[self.pairs[done]]
                cluster[cluster == j] = i
                done += 1
            found[at] = np.unique(cluster, return_inverse=True)[1]
        return found


def merge_nodes(nodes: Nodes) -> Merges:
    """Return the merges of nodes by average linkage, the most similar two clusters first.

    Clusters without a pair of images that can be compared, and clusters that share an element of `apart`, are never merged.
    """
    return _merge_all_pairs(nodes) if len(nodes) <= DENSE else _merge_neighbours(nodes)


def _mean(totals: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return mean cosines, -inf where no pair can be compared."""
    return np.where(counts > 0, totals / np.maximum(counts, 1), -np.inf)


def _merge_all_pairs(nodes: Nodes) -> Merges:
    """Merge by a matrix of all pairs, in which each row remembers its nearest cluster (Müllner 2011, generic algorithm)."""
    n = len(nodes)
    totals, counts = (part.astype(np.float64) for part in nodes.compare(nodes))
    if nodes.added is not None:
        totals += nodes.added.toarray()
    members: dict[int, list[int]] = {}
    for i, tags in enumerate(nodes.apart):
        for tag in tags:
            members.setdefault(tag, []).append(i)
    for rows in members.values():  # a sum with -inf stays -inf: what is apart from a node is apart from its cluster
        totals[np.ix_(rows, rows)] = -np.inf
    np.fill_diagonal(totals, -np.inf)
    sizes = nodes.sizes.sum(axis=1).astype(np.float64)
    means = _mean(totals, counts) - nodes.size_penalty * np.log(np.minimum(sizes[:, None], sizes))
    nearest, best, alive = means.argmax(axis=1), means.max(axis=1), np.ones(n, bool)
    pairs, similarities = [], []
    while (value := best.max()) >= LOWEST:
        i = int(best.argmax())
        i, j = sorted((i, int(nearest[i])))
        pairs.append((i, j))
        similarities.append(value)
        totals[i] += totals[j]
        counts[i] += counts[j]
        sizes[i] += sizes[j]
        alive[j], best[j] = False, -np.inf
        totals[i, ~alive] = totals[i, i] = -np.inf
        row = _mean(totals[i], counts[i]) - nodes.size_penalty * np.log(np.minimum(sizes[i], sizes))
        for matrix, values in ((totals, totals[i]), (counts, counts[i]), (means, row)):
            matrix[i], matrix[:, i] = values, values
        totals[:, j] = means[:, j] = -np.inf
        again = np.flatnonzero(alive & ((nearest == i) | (nearest == j)))
        nearer = alive & (row > best)
        nearest[nearer], best[nearer] = i, row[nearer]
        again = np.append(again, i)
        nearest[again], best[again] = means[again].argmax(axis=1), means[again].max(axis=1)
    return Merges(n, np.array(pairs, dtype=np.int64).reshape(-1, 2), np.array(similarities))


def _merge_neighbours(nodes: Nodes) -> Merges:
    """Merge by a heap of the nearest candidate of each cluster; two clusters whose members are no neighbours are never compared.

    An entry of the heap is at least what its cluster's nearest candidate is now: one whose candidate was merged is looked up again
    when it comes to the top, so that the pair that is merged is always the most similar one.
    """
    n, nodes = len(nodes), nodes.copy()
    candidates, added = _find_neighbours(nodes), _rows_of(nodes.added, n)
    owner, version = np.arange(n), np.zeros(n, np.int64)
    heap: list[tuple[float, int, int, int, int]] = []

    def push(i: int) -> None:
        """Put the pair of cluster i and its nearest candidate on the heap."""
        others = owner[candidates[i]]
        while (owner[others] != others).any():
            others = owner[others]
        others = np.unique(others)
        others = others[others != i]
        if nodes.apart[i]:
            others = others[[not nodes.apart[i] & nodes.apart[j] for j in others.tolist()]]
        totals = _compare(nodes.sums[i], nodes.sums[others])
        counts = _compare(nodes.sizes[i, :, None], nodes.sizes[others][..., None])
        if added[i]:
            totals = totals + [added[i].get(j, 0.0) for j in others.tolist()]
        sizes = np.minimum(nodes.sizes[i].sum(), nodes.sizes[others].sum(axis=1))
        values = _mean(totals, counts) - nodes.size_penalty * np.log(sizes)
        if len(others) > KEPT * NEIGHBOURS:
            nearest = np.argpartition(-values, KEPT * NEIGHBOURS)[: KEPT * NEIGHBOURS]
            others, values = others[nearest], values[nearest]
        candidates[i] = others
        if len(others) and (best := values.max()) >= LOWEST:
            j = int(others[values == best].min())
            heapq.heappush(heap, (-float(best), i, j, int(version[i]), int(version[j])))

    for i in range(n):
        push(i)
    pairs, similarities = [], []
    while heap:
        value, a, b, version_a, version_b = heapq.heappop(heap)
        if owner[a] != a or version[a] != version_a:
            continue
        if owner[b] != b or version[b] != version_b:
            push(a)
            continue
        i, j = sorted((a, b))
        pairs.append((i, j))
        similarities.append(-value)
        nodes.absorb(i, j)
        for other, value in added[j].items():
            added[i][other] = added[other][i] = added[i].get(other, 0.0) + value
        owner[j], version[i] = i, version[i] + 1
        candidates[i], candidates[j] = np.concatenate([candidates[i], candidates[j]]), candidates[j][:0]
        push(i)
    return Merges(n, np.array(pairs, dtype=np.int64).reshape(-1, 2), np.array(similarities))


def _find_neighbours(nodes: Nodes) -> list[np.ndarray]:
    """Return the candidates of each of n nodes, int32 arrays: its neighbours and those whose neighbour it is, by each view."""
    n, keys = len(nodes), []
    for view in range(nodes.sums.shape[1]):
        of_view = np.flatnonzero((nodes.sizes[:, [0, view]] > 0).any(axis=1))
        vectors = nodes.sums[of_view, 0].astype(np.float32)
        if view:
            vectors += nodes.sums[of_view, view].astype(np.float32)
        elif nodes.sums.shape[1] > 1:
            vectors = nodes.sums[of_view].sum(axis=1).astype(np.float32)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        near = of_view[nearest_neighbours(vectors, min(NEIGHBOURS + 1, len(of_view)))]
        keys.append((of_view[:, None] * n + near).ravel())
    if nodes.added is not None:
        rows, columns = nodes.added.nonzero()
        keys.append(rows.astype(np.int64) * n + columns)
    both = np.concatenate(keys)
    both = np.unique(np.concatenate([both, both % n * n + both // n]))
    first, second = both // n, (both % n).astype(np.int32)
    return np.split(second, np.searchsorted(first, np.arange(1, n)))


def _rows_of(matrix: csr_array | None, n: int) -> list[dict[int, float]]:
    """Return the values of each row by column; n empty rows without a matrix."""
    if matrix is None:
        return [{} for _ in range(n)]
    parts = zip(matrix.indptr[:-1], matrix.indptr[1:])
    return [dict(zip(matrix.indices[a:b].tolist(), matrix.data[a:b].tolist())) for a, b in parts]
