"""Pairs of images of the same and of different individuals: their scores, ROC and the probability of a match."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lib.config.recipe import Recipe
from lib.metrics.verification import Verification, verify_pairs
from lib.retrieval.calibration import Logistic, fit_probability
from lib.retrieval.similarity import SIMILARITIES, Metric, check_embeddings

_BLOCK = 65536  # pairs scored at a time


class PairVerification(NamedTuple):
    """Verification of held-out pairs: whether two images show the same individual."""

    roc: Verification
    probability_same: Logistic
    """Probability of the same individual from a score, if same and different are equally probable beforehand."""

    def to_json(self) -> dict[str, Any]:
        """Return the `verification` entry of threshold.json."""
        rates = {"equal_error_rate": self.roc.equal_error_rate, "threshold": self.roc.equal_error_threshold}
        return {"auroc": self.roc.auroc, **rates, "probability": self.probability_same._asdict()}


def verify_held_out_pairs(
    embeddings: np.ndarray, labels: np.ndarray, groups: np.ndarray | None, recipe: Recipe
) -> PairVerification | None:
    """Verify the pairs of held-out images, embeddings (n, d), which the network hasn't seen, without those of one group.

    Returns None where the images make no pair of the same individual, or none of different ones.
    """
    same, scores = pair_scores(embeddings, labels, recipe.retrieval.metric, groups, recipe.data.new_label)
    if not len(same) or same.all() or not same.any():
        return None
    return PairVerification(verify_pairs(same, scores), fit_probability(scores, same, 0.5))


def pair_scores(
    embeddings: ArrayLike,
    labels: ArrayLike,
    metric: Metric,
    groups: ArrayLike | None = None,
    new_label: str | None = None,
    limit: int = 1_000_000,
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Return whether pairs of rows have the same label, (p,) bool, and their scores (p,) float32.

    embeddings (n, d), labels (n,). All pairs, or about `limit` drawn ones, half same and half different if there are enough. Pairs
    within a group (a sighting) are left out because they are easier than any pair of a query and a gallery image. Pairs of two new
    individuals are left out because it is unknown whether they are the same.
    """
    vectors = check_embeddings(embeddings, "pairs", metric)
    labels = np.asarray(labels, np.str_)
    n = len(labels)
    a, b = np.triu_indices(n, 1) if n * (n - 1) // 2 <= limit else _draw_pairs(labels, limit // 2)
    same = labels[a] == labels[b]
    usable = ~(same & (labels[a] == new_label)) if new_label is not None else np.ones(len(a), bool)
    if groups is not None:
        groups = np.asarray(groups)
        usable &= groups[a] != groups[b]
    a, b, same = a[usable], b[usable], same[usable]
    scores = np.empty(len(a), np.float32)
    for start in range(0, len(a), _BLOCK):
        block = slice(start, start + _BLOCK)
        scores[block] = SIMILARITIES[metric].of_pairs(vectors[a[block]], vectors[b[block]])
    return same, scores


def _draw_pairs(labels: NDArray[np.str_], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw up to `count` pairs of rows with the same label and about `count` with different ones, seeded."""
    rng = np.random.default_rng(0)
    by_label = np.argsort(labels, kind="stable")
    steps = range(1, np.unique(labels, return_counts=True)[1].max())
    shifted = [(by_label[:-step], by_label[step:]) for step in steps]
    same = [(a[equal], b[equal]) for a, b in shifted if (equal := labels[a] == labels[b]).any()]
    a, b = (np.concatenate(rows) for rows in zip(*same)) if same else np.empty((2, 0), int)
    kept = rng.permutation(len(a))[:count]
    different = rng.integers(len(labels), size=(2, count))
    different = different[:, labels[different[0]] != labels[different[1]]]
    return np.concatenate([a[kept], different[0]]), np.concatenate([b[kept], different[1]])
