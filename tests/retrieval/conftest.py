"""Made-up embeddings for the tests of retrieval."""

import faiss
import numpy as np
import pytest

from lib.retrieval.rows import GalleryRows


@pytest.fixture(autouse=True)
def one_thread():
    faiss.omp_set_num_threads(1)


def unit(x):
    """Return rows scaled to length 1."""
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def made(n=400, d=16, classes=60, seed=0):
    """Return embeddings around class centres, and their rows, whose ids have gaps."""
    rng = np.random.default_rng(seed)
    of = rng.integers(classes, size=n)
    x = (rng.normal(size=(classes, d))[of] + 0.5 * rng.normal(size=(n, d))).astype(np.float32)
    return x, GalleryRows(np.arange(n) * 7 + 3, [f"{i}.jpg" for i in range(n)], [f"w_{i:02}" for i in of])
