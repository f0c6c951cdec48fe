"""Metrics of ranked identities and of ranked gallery images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lib.metrics.resampling import Array


def reciprocal_ranks(truth: Sequence[str], ranked: Sequence[Sequence[str]], k: int = 5) -> NDArray[np.float64]:
    """Compute each row's average precision at k where one label is right, (n,) float64: 1 / its first rank, or 0.

    The mean over rows is MAP@k as the whale contests compute it: a label counts once, and a wrong one that is repeated takes a rank
    each time. Lists may be shorter than k.
    """
    tops = [list(row[:k]) for row in ranked]
    return np.array([1 / (1 + top.index(label)) if label in top else 0.0 for label, top in zip(truth, tops, strict=True)])


def open_set_accuracies(truth: Array, right: Array, known: Array) -> dict[str, float]:
    """Compute the balanced accuracies of known and of new individuals, and their geometric mean (AnimalCLEF 2025).

    truth (q,) individuals, right (q,) bool, known (q,) bool. {} where either kind is missing.
    """
    if known.all() or not known.any():
        return {}
    accuracies = []
    for side in (known, ~known):
        individual = np.unique(truth[side], return_inverse=True)[1]
        accuracies.append(float((np.bincount(individual, weights=right[side]) / np.bincount(individual)).mean()))
    both = float(np.sqrt(accuracies[0] * accuracies[1]))
    return {"known_accuracy": accuracies[0], "new_accuracy": accuracies[1], "open_set_accuracy": both}


def map_at_r(hits: Array, relevant: Array) -> NDArray[np.float64]:
    """Compute the average precision at R of each query (Musgrave et al. 2020), (m,) float64; the mean over queries is mAP@R.

    hits (n, k) bool: whether the i-th nearest gallery image, best first, shows the query's individual. relevant (n,) int, R: how
    many such images the gallery holds, at most k. Leaves out queries without any.
    """
    hits, relevant = hits[relevant > 0], relevant[relevant > 0]
    ranks = np.arange(1, hits.shape[1] + 1)
    hits = hits & (ranks <= relevant[:, None])
    return (hits * np.cumsum(hits, axis=1) / ranks).sum(axis=1) / relevant
