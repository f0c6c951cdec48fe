"""x"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from lib.config.recipe import Recipe
from lib.metrics.verification import Verification, verify_pairs
from lib.retrieval.evaluation import OpenSetEvaluation
from lib.retrieval.open_set import Logistic, fit_probability, pair_scores
from lib.retrieval.ranking import replace_missing


class OpenSet(NamedTuple):
    """What validation teaches about answers to other queries."""

    threshold: float | None
    share: float | None
    right: Logistic
    """Probability that a name is right, from its score."""
    new: Logistic | None
    """Probability that a query's individual is new, from minus the best score."""
    metrics: dict[str, float]
    validations: Sequence[OpenSetEvaluation]


class PairVerification(NamedTuple):
    """Is A the same as B?"""

    roc: Verification
    same: Logistic
    """Probability of the same individual from a score, if it was even before."""


def fit_open_set(validations: Sequence[OpenSetEvaluation], k: int) -> OpenSet:
    """Threshold and probabilities from one validation, or from those of several runs that held out different rows, whose thresholds
    and metrics are averaged. Probabilities are for queries of which the estimated or assumed share is new, not validation's."""
    thresholds = [v.threshold for v in validations if v.threshold is not None]
    shares = [v.share for v in validations if v.share is not None]
    share = float(np.mean(shares)) if shares else None
    scores = np.concatenate([v.answers.scores[:, :k] for v in validations])
    right, known = np.concatenate([v.right[:, :k] for v in validations]), np.concatenate([v.known for v in validations])
    there = np.isfinite(scores)
    prior = None if share is None else (1 - share) * float(right[known][there[known]].mean())
    new = None if share is None else fit_probability(-replace_missing(scores[:, 0]), ~known, share)
    return OpenSet(
        float(np.mean(thresholds)) if thresholds else None,
        share,
        fit_probability(scores[there], right[there], prior),
        new,
        {str(name): float(value) for name, value in pd.DataFrame([v.metrics for v in validations]).mean().items()},
        validations,
    )


def verify_held_out_pairs(
    embeddings: np.ndarray, labels: np.ndarray, groups: np.ndarray | None, recipe: Recipe
) -> PairVerification | None:
    """Is A the same as B, for pairs of held-out images (n, d), which the network hasn't seen; those of one sighting don't count.

    None where they make no pair of the same individual, or none of different ones.
    """
    same, scores = pair_scores(embeddings, labels, recipe.retrieval.metric, groups, recipe.data.new_label)
    if not len(same) or same.all() or not same.any():
        return None
    return PairVerification(verify_pairs(same, scores), fit_probability(scores, same, 0.5))
