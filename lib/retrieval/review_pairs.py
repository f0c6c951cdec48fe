"""Merges that a person should look at: those whose answer would change most pairs of images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lib.retrieval.discovery import Grouping, Images
from lib.retrieval.merge_probability import MergeProbability, describe_merges


@dataclass(frozen=True)
class ReviewPair:
    """An image of each of two clusters that were merged, or nearly were."""

    first: int
    """Position of an image; labelled images count from -1 downwards."""
    second: int
    merged: bool
    probability: float
    """That both clusters are one individual."""
    sizes: tuple[int, int]
    """Images of the two clusters, those of the known individual included."""
    effect: float
    """Pairs of images that change when a person answers, on average."""

    def moved(self, rows: np.ndarray, labelled: np.ndarray) -> ReviewPair:
        """Return the pair with positions in a larger table, of which `rows` and `labelled` are a part."""
        first, second = (int(rows[i]) if i >= 0 else -1 - int(labelled[-1 - i]) for i in (self.first, self.second))
        return replace(self, first=first, second=second)


def choose_pairs(
    grouping: Grouping,
    images: Images,
    labelled: Images,
    individual: np.ndarray,
    threshold: float,
    probability: MergeProbability,
    count: int,
) -> list[ReviewPair]:
    """Return the `count` pairs with the largest effect, the largest first; individual (l,): that of each labelled image."""
    merges = grouping.merges
    k = len(grouping.known.names)
    members: list[list[int]] = [[] for _ in range(merges.n)]
    for i, node in enumerate(grouping.node_of_image.tolist()):
        members[node].append(i)
    of_node = {node: members[node] for node in range(merges.n)}
    sizes = np.array([len(own) for own in members], float)
    sizes[:k] += 1  # a known individual's photographs are one answer more
    chances, is_merged = probability(describe_merges(grouping)), merges.similarities >= threshold
    effects = []
    for at, (i, j) in enumerate(merges.pairs.tolist()):
        wrong = 1 - chances[at] if is_merged[at] else chances[at]
        effects.append(wrong * sizes[i] * sizes[j])
        sizes[i] += sizes[j]
    chosen = set(np.argsort(-np.array(effects), kind="stable")[:count].tolist())
    found = []
    for at, (i, j) in enumerate(merges.pairs.tolist()):
        if at in chosen:
            one, other = (_elements(of_node[node], node, individual if node < k else None) for node in (i, j))
            best, both = _most_similar(one, other, images, labelled), (len(one), len(other))
            found.append(ReviewPair(*best, bool(is_merged[at]), float(chances[at]), both, float(effects[at])))
        of_node[i] = of_node[i] + of_node[j]
    return sorted(found, key=lambda pair: -pair.effect)


def _elements(members: list[int], node: int, individual: np.ndarray | None) -> list[int]:
    """Return a cluster's images, and those of its known individual as negative numbers."""
    return members + ([] if individual is None else (-1 - np.flatnonzero(individual == node)).tolist())


def _most_similar(first: list[int], second: list[int], images: Images, labelled: Images) -> tuple[int, int]:
    """Return the most similar two images of two clusters that can be compared."""

    def take(elements: list[int], values: np.ndarray, of_labelled: np.ndarray) -> np.ndarray:
        return np.array([values[e] if e >= 0 else of_labelled[-1 - e] for e in elements])

    a, b = (take(side, images.embeddings, labelled.embeddings) for side in (first, second))
    view, other = (take(side, images.views, labelled.views) for side in (first, second))
    similar = a @ b.T
    similar[(view[:, None] != other) & (view[:, None] > 0) & (other > 0)] = -2
    i, j = np.unravel_index(similar.argmax(), similar.shape)
    return first[i], second[j]
