"""Metrics of ranked identities and of ranked gallery images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lib.metrics.resampling import Array


def reciprocal_ranks(truth: Sequence[str], ranked: Sequence[Sequence[str]], k: int = 5) -> NDArray[np.float64]:
    """Each row's average precision at k where one label is right, (n,) float64: 1 / place of its first mention, or 0. Their mean is
    MAP@k as the whale contests compute it.

    As in the whale contests a label counts once, and a wrong one that is repeated takes a place each time. Lists may be short.
    """
    tops = [list(row[:k]) for row in ranked]
    return np.array([1 / (1 + top.index(label)) if label in top else 0.0 for label, top in zip(truth, tops, strict=True)])


def map_at_r(hits: Array, relevant: Array) -> NDArray[np.float64]:
    """Average precision at R of each query (Musgrave et al. 2020), (m,) float64; their mean is mAP@R.

    `hits` (n, k) bool: is the i-th nearest gallery image, best first, one of the query's individual; `relevant` (n,) int, R: how
    many such images the gallery holds, k at most. Queries without any are left out.
    """
    hits, relevant = hits[relevant > 0], relevant[relevant > 0]
    places = np.arange(1, hits.shape[1] + 1)
    hits = hits & (places <= relevant[:, None])
    return (hits * np.cumsum(hits, axis=1) / places).sum(axis=1) / relevant
