"""Cosines and local scores of pairs together: fitted and answered by the same functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from lib.retrieval.individual_folds import IndividualFold
from lib.retrieval.pair_model import LabelledPairs, fit_pairs, label_pairs, measure_pairs, score_cosine

LEAST_SLOPE = 1.0
"""Weight of a cosine in the log-odds, at least, by which a local score is expressed as a cosine."""


@dataclass(frozen=True)
class LocalScores:
    """Local scores of p pairs of n images; other pairs have none."""

    pairs: np.ndarray
    """(p, 2) int64, the smaller position first; each pair once."""
    values: np.ndarray
    """(p,)"""

    def find(self, pairs: np.ndarray) -> np.ndarray:
        """Return the local scores of pairs (m, 2), in any order, (m,); NaN where there is none."""
        if not len(self.pairs):
            return np.full(len(pairs), np.nan)
        width = int(max(self.pairs.max(), pairs.max(initial=0))) + 1
        known, wanted = (side.min(axis=1) * width + side.max(axis=1) for side in (self.pairs, pairs))
        order = np.argsort(known)
        at = order[np.searchsorted(known, wanted, sorter=order).clip(max=len(known) - 1)]
        return np.where(known[at] == wanted, self.values[at], np.nan)


@dataclass(frozen=True)
class Fusion:
    """What a local score adds to a cosine."""

    ratio: float
    """Weight of a local score by that of a cosine; 0 where local scores add nothing."""
    expected: tuple[float, float]
    """Local score to expect at cosine 0, and how it grows with the cosine: a pair without a local score has this one."""
    metrics: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return the values that `from_json` reads."""
        return {"ratio": self.ratio, "expected": list(self.expected)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Fusion:
        """Return what `to_json` wrote. Raises KeyError or TypeError for something else."""
        start, growth = values["expected"]
        return cls(values["ratio"], (start, growth), {})

    def describe(self) -> str:
        """Return how much local scores count, in words."""
        return f"weigh {self.ratio:.3f} of a cosine" if self.ratio else "add nothing, and get no weight"

    def score_pairs(self, cosines: np.ndarray, local: np.ndarray) -> np.ndarray:
        """Return the similarities (p,) of pairs, as cosines: the only place where the two are put together."""
        start, growth = self.expected
        surprise = np.where(np.isnan(local), 0.0, local - start - growth * cosines)
        return np.asarray(cosines + self.ratio * surprise)

    def additions(self, embeddings: np.ndarray, scores: LocalScores, elements: np.ndarray, k: int, n: int) -> csr_array | None:
        """Return what local scores add to the sums of cosines between elements, (n, n) symmetric; None where they add nothing.

        embeddings (m, d) of the first m images that `scores` is of; elements (m,) int64: that of each, -1 for none. Pairs of two
        of the first k elements (known individuals), and pairs within an element, add nothing.
        """
        if self.ratio == 0:
            return None
        among = (scores.pairs < len(elements)).all(axis=1)  # folds are of labelled images, the first ones, alone
        pairs, values = scores.pairs[among], scores.values[among]
        a, b = elements[pairs].T
        kept = (a >= 0) & (b >= 0) & ((a >= k) | (b >= k)) & (a != b)
        pairs, values = pairs[kept], values[kept]
        cosines = np.einsum("pd,pd->p", embeddings[pairs[:, 0]], embeddings[pairs[:, 1]])
        added = self.score_pairs(cosines, values) - cosines
        both = csr_array((added, (a[kept], b[kept])), shape=(n, n))
        return csr_array(both + both.T)


def fit_fusion(folds: Sequence[IndividualFold], scores: LocalScores, count: int) -> Fusion:
    """Fit the fusion on candidate pairs of individuals held out whole that have a local score; positions are those of the folds.

    A regularised logistic regression on both. Local scores get no weight unless they lower the log loss in each fold, on
    individuals that they weren't fitted on.
    """

    def both(fold: IndividualFold, pairs: np.ndarray) -> np.ndarray:
        return np.column_stack([score_cosine(fold, pairs), scores.find(pairs)])

    return fuse_pairs(label_pairs(folds, both, with_known=False, count=count))


def fuse_pairs(found: Sequence[LabelledPairs]) -> Fusion:
    """Fit the fusion on labelled pairs with two features, cosine and local score; NaN local scores are left out."""
    every = [_keep(pairs, ~np.isnan(pairs.features[:, 1])) for pairs in found]
    every = [pairs for pairs in every if len(pairs.same)]
    alone = [replace(pairs, features=pairs.features[:, :1]) for pairs in every]
    model, measured = fit_pairs(every), measure_pairs(every)
    metrics = {"local_pair_log_loss": measured.get("pair_log_loss", np.nan)}
    metrics["cosine_pair_log_loss"] = measure_pairs(alone).get("pair_log_loss", np.nan)
    if model is None or not measured or model.weights[1] <= 0 or not _gains_in_each_fold(every, alone):
        return Fusion(0.0, (0.0, 0.0), metrics)
    features = np.concatenate([pairs.features for pairs in every])
    growth, start = np.polyfit(features[:, 0], features[:, 1], 1)
    ratio = float(model.weights[1] / max(model.weights[0], LEAST_SLOPE))
    return Fusion(ratio, (float(start), float(growth)), metrics)


def _keep(pairs: LabelledPairs, kept: np.ndarray) -> LabelledPairs:
    return replace(pairs, features=pairs.features[kept], same=pairs.same[kept], weight=pairs.weight[kept])


def _gains_in_each_fold(every: Sequence[LabelledPairs], alone: Sequence[LabelledPairs]) -> bool:
    """Return whether both scores have a lower log loss than cosines alone in each fold, by models of the other folds."""
    gains = []
    for fold in {pairs.fold for pairs in every}:
        losses = []
        for found in (every, alone):
            others, one = [p for p in found if p.fold != fold], [p for p in found if p.fold == fold]
            model = fit_pairs(others) if others else None
            if model is None:
                return False
            odds = np.concatenate([model.log_odds(p.features) for p in one])
            same, weight = (np.concatenate([getattr(p, name) for p in one]) for name in ("same", "weight"))
            losses.append(float((weight * np.logaddexp(0, np.where(same, -odds, odds))).sum() / weight.sum()))
        gains.append(losses[1] - losses[0])
    return bool(gains) and min(gains) > 0
