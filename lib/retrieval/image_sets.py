"""Images as answers: the images most similar to a query, and the threshold from which on they count as showing the same."""

from __future__ import annotations

from typing import NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from lib.metrics.clustered import clustered_interval
from lib.retrieval.similarity import SIMILARITIES, Floats, Ints, Metric, normalize

THRESHOLDS = 500
"""Thresholds that are tried, at quantiles of the scores."""


class ImageSets(NamedTuple):
    """The threshold of similarity with the best sets on held-out images, and what it reaches there."""

    threshold: float
    f1: float
    """Mean over images of the F1 of the given set against all images of its individual, itself included in both."""
    interval: tuple[float, float]
    """95%, individuals drawn whole."""
    images: int
    """Held-out images that were asked of each other."""


def nearest(queries: NDArray[np.floating], candidates: NDArray[np.floating], k: int, metric: Metric) -> tuple[Floats, Ints]:
    """Return scores and positions, (q, k) each, best first, of the candidates (n, d) most similar to queries (q, d)."""
    similarity = SIMILARITIES[metric]
    vectors = [np.ascontiguousarray(normalize(v) if similarity.normalized else v, np.float32) for v in (queries, candidates)]
    distances, at = faiss.knn(vectors[0], vectors[1], min(k, len(candidates)), metric=faiss.METRIC_L2)
    return similarity.from_squared_distance(distances).astype(np.float32), at


def fit_image_sets(embeddings: NDArray[np.floating], labels: NDArray[np.str_], k: int, metric: Metric) -> ImageSets:
    """Return the threshold with the best mean F1 of sets, for images (n, d) of individuals (n,) asked of each other.

    Each image belongs to its own set, whatever the threshold; `k` others are looked at. A threshold lies between two scores.
    """
    scores, at = nearest(embeddings, embeddings, k + 1, metric)
    own = at == np.arange(len(at))[:, None]
    scores = np.where(own, np.inf, scores)
    order = np.argsort(-scores, axis=1, kind="stable")
    scores, at = np.take_along_axis(scores, order, 1), np.take_along_axis(at, order, 1)
    hits = np.cumsum(labels[at] == labels[:, None], axis=1)
    individual, size = np.unique(labels, return_inverse=True, return_counts=True)[1:]
    sizes = size[individual]
    others = np.unique(scores[np.isfinite(scores)])
    tried = others[np.unique(np.linspace(0, len(others) - 1, min(THRESHOLDS, len(others))).astype(int))] if len(others) else others

    def values(threshold: float) -> NDArray[np.float64]:
        given = np.maximum((scores >= threshold).sum(1), 1)
        right = hits[np.arange(len(hits)), given - 1]
        return 2 * right / (given + sizes)

    means = [float(values(threshold).mean()) for threshold in tried] + [float(values(np.inf).mean())]
    best = int(np.argmax(means))
    # Halfway to the next lower score, because new scores fall between those seen; above all scores, no other image is given.
    below = others[others < tried[best]] if best < len(tried) else others[-1:]
    if best == len(tried):
        threshold = float(np.nextafter(others[-1], np.inf)) if len(others) else 1.0
    else:
        threshold = float((tried[best] + below[-1]) / 2) if len(below) else float(tried[best])
    found = values(threshold)
    return ImageSets(threshold, float(found.mean()), clustered_interval(found, labels), len(labels))
