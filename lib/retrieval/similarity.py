"""Similarity measures of embeddings, and the check that embeddings pass before they are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import faiss
import numpy as np
from numpy.typing import ArrayLike, NDArray

from lib.errors import FlukeError, first_few

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Metric = Literal["cosine", "l2"]


@dataclass(frozen=True)
class Similarity:
    """Everything that depends on `retrieval.metric`. A score is higher for more similar embeddings."""

    unit: str
    """Name of a score in messages and figures."""
    normalized: bool
    """Whether embeddings are scaled to length 1 before they are compared."""
    from_squared_distance: Callable[[NDArray[Any]], NDArray[Any]]
    """Convert squared Euclidean distances, which the index returns, to scores."""
    of_pairs: Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]
    """Compute the scores (p,) of p pairs from two arrays (p, d)."""


SIMILARITIES: dict[str, Similarity] = {
    "cosine": Similarity("cosine similarity", True, lambda distance: 1 - distance / 2, lambda a, b: np.einsum("pd,pd->p", a, b)),
    "l2": Similarity("minus squared distance", False, np.negative, lambda a, b: -np.square(a - b).sum(axis=1)),
}


def normalize(vectors: NDArray[Any]) -> NDArray[Any]:
    """Scale vectors (n, d) to length 1."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def check_embeddings(
    values: ArrayLike, what: str, metric: Metric, dimension: int | None = None, count: int | None = None
) -> Floats:
    """Return embeddings as float32 (n, d), C-contiguous, scaled to length 1 where the metric needs it; `values` stay unchanged.

    Raises FlukeError for another shape than (count, dimension), and for NaN or infinity. `what` names the rows in messages.
    """
    vectors = np.ascontiguousarray(values, np.float32)
    if vectors.ndim != 2 or (dimension is not None and vectors.shape[1] != dimension):
        raise FlukeError(f"{what}: embeddings of shape {vectors.shape}; expected (rows, {dimension or 'dimension'}).")
    if count is not None and len(vectors) != count:
        raise FlukeError(f"{what}: {len(vectors)} embeddings for {count} row ids; expected one per row.")
    if (bad := np.flatnonzero(~np.isfinite(vectors).all(axis=1))).size:
        raise FlukeError(
            f"{what}: {bad.size} of {len(vectors)} embeddings hold NaN or infinity (rows counted from 0: {first_few(bad)}); "
            "train again with a lower optim.lr, or embed the images again."
        )
    if SIMILARITIES[metric].normalized:
        vectors = vectors.copy()
        faiss.normalize_L2(vectors)
    return vectors
