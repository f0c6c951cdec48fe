"""The number of individuals behind a number of clusters, as pseudo-tests say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lib.retrieval.discovery import Grouping

HALVES = 10
"""Random halves of the individuals of each pseudo-test."""
Z = 1.96


@dataclass(frozen=True)
class CountRatio:
    """How numbers of clusters compare with numbers of individuals and of images."""

    ratio: float
    """Individuals per cluster, the geometric mean over the pseudo-tests."""
    spread: float
    """Standard deviation of the logarithm of this ratio, over the pseudo-tests or over halves of their individuals."""
    images_per_cluster: tuple[float, float]
    """Lowest and highest: over the pseudo-tests, and for clusters with as many images as the labelled individuals have."""

    def estimate(self, clusters: int) -> tuple[float, float, float]:
        """Return the number of individuals behind `clusters`, with the ends of its 95% interval."""
        middle, factor = clusters * self.ratio, float(np.exp(Z * self.spread))
        return middle, middle / factor, middle * factor

    def expected_clusters(self, images: int) -> tuple[int, int]:
        """Return the lowest and the highest number of clusters of `images` that the pseudo-tests let expect."""
        low, high = self.images_per_cluster
        return math.floor(images / high), max(math.ceil(images / low), 1)


def fit_count(tests: Sequence[tuple[Grouping, np.ndarray]], threshold: float, images: float, seed: int = 0) -> CountRatio:
    """Return the ratio of individuals to clusters in groupings with their true individuals (n,), cut at `threshold`.

    images: of a labelled individual, on average, of which a pseudo-test holds a part.

    The spread is the larger of that over the pseudo-tests and of that over halves of a test's individuals (delete-half jackknife,
    Shao and Wu 1989). A bootstrap would draw an individual twice, whose photographs then are in one cluster.
    """
    rng, ratios, halves, sizes = np.random.default_rng(seed), [], [], []
    for grouping, labels in tests:
        clusters = grouping.cut(threshold)[0]
        names = np.unique(labels)
        ratios.append(np.log(len(names) / len(np.unique(clusters))))
        sizes.append(len(labels) / len(np.unique(clusters)))
        of_halves = [0.0]
        for _ in range(HALVES if len(names) > 1 else 0):
            chosen = rng.choice(names, len(names) // 2, replace=False)
            of_halves.append(float(np.log(len(chosen) / len(np.unique(clusters[np.isin(labels, chosen)])))))
        halves.append(np.std(of_halves[1:] or of_halves))
    return CountRatio(
        float(np.exp(np.mean(ratios))),
        float(max(np.std(ratios), np.mean(halves))),
        (min(sizes), max(*sizes, images * float(np.exp(np.max(ratios))))),
    )
