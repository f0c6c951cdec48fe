"""The probability that two clusters which average linkage merges are one individual, from merges in pseudo-tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from lib.retrieval.discovery import Grouping

SURE = 0.95
"""Probability from which on a merge counts as sure in the metrics."""


def describe_merges(grouping: Grouping) -> np.ndarray:
    """Return what the probability of each merge depends on, (m, 3): mean cosine, logarithms of the smaller and larger cluster's
    numbers of images."""
    sizes, found = grouping.nodes.sizes.sum(axis=1).astype(float), []
    for (i, j), similarity in zip(grouping.merges.pairs.tolist(), grouping.merges.similarities.tolist()):
        found.append((similarity, *np.log(sorted((sizes[i], sizes[j])))))
        sizes[i] += sizes[j]
    return np.array(found).reshape(-1, 3)


def find_right_merges(grouping: Grouping, labels: np.ndarray) -> np.ndarray:
    """Return whether the two clusters of each merge are of one individual, (m,) bool: most images of both are, or its name says so.

    labels (n,): the true individuals of the images.
    """
    counts: list[Counter[str]] = [Counter() for _ in range(grouping.merges.n)]
    for node, label in zip(grouping.node_of_image.tolist(), labels.tolist()):
        counts[node][label] += 1
    names = dict(enumerate(grouping.known.names.tolist()))
    right = []
    for i, j in grouping.merges.pairs.tolist():
        of_i, of_j = (names.get(node) or counts[node].most_common(1)[0][0] for node in (i, j))
        right.append(of_i == of_j)
        counts[i] += counts[j]
        if j in names:
            names[i] = names[j]
    return np.array(right, bool)


@dataclass(frozen=True)
class MergeProbability:
    """A logistic regression on `describe_merges`; where all merges are right, or all wrong, their share."""

    model: Pipeline | None
    share: float

    def __call__(self, merges: np.ndarray) -> np.ndarray:
        """Return the probability of each merge (m, 3), (m,)."""
        if self.model is None or not len(merges):
            return np.full(len(merges), self.share)
        return np.asarray(self.model.predict_proba(merges)[:, 1])


def fit_merge_probability(merges: np.ndarray, right: np.ndarray) -> MergeProbability:
    """Fit the probability of merges (m, 3) that are right (m,) bool."""
    share = float((right.sum() + 1) / (len(right) + 2))
    if right.all() or not right.any():
        return MergeProbability(None, share)
    return MergeProbability(make_pipeline(StandardScaler(), LogisticRegression()).fit(merges, right), share)


def measure_merges(groupings: Sequence[tuple[int, Grouping, np.ndarray]]) -> tuple[MergeProbability, dict[str, float]]:
    """Return the probability of merges of groupings, with their fold and true individuals (n,), and how it does on other folds.

    merge_precision: right merges among those of SURE or more, NaN without one. merge_coverage: sure ones among the right merges.
    """
    found = [(fold, describe_merges(grouping), find_right_merges(grouping, labels)) for fold, grouping, labels in groupings]
    folds = np.concatenate([np.full(len(right), fold) for fold, _, right in found])
    merges, right = np.concatenate([part for _, part, _ in found]), np.concatenate([part for _, _, part in found])
    probability = np.empty(len(right))
    for fold in np.unique(folds):
        others = folds != fold if (folds != fold).any() else folds == fold
        probability[folds == fold] = fit_merge_probability(merges[others], right[others])(merges[folds == fold])
    sure = probability >= SURE
    metrics = {"merge_precision": float(right[sure].mean()) if sure.any() else np.nan}
    metrics["merge_coverage"] = float(sure[right].mean()) if right.any() else np.nan
    return fit_merge_probability(merges, right), metrics
