"""The open-set model: everything that validation teaches about answers to further queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lib.config.recipe import Recipe
from lib.retrieval.calibration import Logistic, fit_probability
from lib.retrieval.evaluation import OpenSetEvaluation
from lib.retrieval.ranking import replace_missing
from lib.retrieval.thresholds import fit_threshold

MANY = 50
"""Queries from which on a share of them is estimated."""


@dataclass(frozen=True)
class OpenSet:
    """Threshold, share of new individuals and calibrations, made by `fit_open_set`."""

    threshold: float | None
    """Score that a name needs to precede the new label; None without `data.new_label`, or when no new individual was held out."""
    new_share: float | None
    """Share of new individuals among the queries; None where no new individual was held out."""
    name_probability: Logistic
    """Probability that a name is right, from its score; NaN where no known individual was asked for."""
    new_probability: Logistic | None
    """Probability that a query's individual is new, from minus its best score."""

    @property
    def lowest_score(self) -> float:
        """The threshold, -inf without one: the new label comes last."""
        return -np.inf if self.threshold is None else self.threshold

    def to_json(self) -> dict[str, Any]:
        """Return the values under their names in threshold.json."""
        new = None if self.new_probability is None else self.new_probability._asdict()
        values = {"threshold": self.threshold, "share": self.new_share}
        return {**values, "probability": self.name_probability._asdict(), "probability_new": new}


def fit_open_set(
    evaluations: Sequence[OpenSetEvaluation], recipe: Recipe, concatenated_scores: np.ndarray | None = None
) -> OpenSet:
    """Fit threshold and calibrations on one evaluation, or on several of runs that held out different rows.

    Thresholds and shares of several are averaged. The probabilities are for queries of which the share is new, not validation's.
    concatenated_scores (t,): best scores of at least MANY queries to answer, where the embeddings of several runs are concatenated.
    """
    k = recipe.predict.topk
    fitted = [(e, threshold) for e in evaluations if (threshold := _fit_threshold(e, recipe)) is not None]
    threshold = float(np.mean([value for _, value in fitted])) if fitted else None
    rejected = [float(np.mean(e.unlabelled_scores < value)) for e, value in fitted if e.unlabelled_scores is not None]
    if (
        concatenated_scores is not None
        and len(concatenated_scores) >= MANY
        and len(rejected) > 1
        and recipe.retrieval.threshold == "auto"
    ):
        # The mean of the runs' cosines reaches less high than each of them. So the share of queries that the runs reject in the
        # mean carries over, not their thresholds. Each run rejects among all individuals, also those that it held out whole.
        threshold = float(np.quantile(concatenated_scores, np.mean(rejected)))
    shares = [e.new_share for e in evaluations if e.new_share is not None]
    share = float(np.mean(shares)) if shares else None
    scores = np.concatenate([e.queries.scores[:, :k] for e in evaluations])
    is_right = np.concatenate([e.queries.is_right[:, :k] for e in evaluations])
    known = np.concatenate([e.queries.in_gallery for e in evaluations])
    found = np.isfinite(scores)
    prior = None if share is None else (1 - share) * float(is_right[known][found[known]].mean())
    name_probability = fit_probability(scores[found], is_right[found], prior) if known.any() else Logistic(np.nan, np.nan)
    new_probability = None if share is None else fit_probability(-replace_missing(scores[:, 0]), ~known, share)
    return OpenSet(threshold, share, name_probability, new_probability)


def _fit_threshold(evaluation: OpenSetEvaluation, recipe: Recipe) -> float | None:
    """Return the recipe's threshold, or the one fitted on the evaluation's curve; None without a new label or a curve."""
    r = recipe.retrieval
    if recipe.data.new_label is None:
        return None
    if r.threshold != "auto":
        return float(r.threshold)
    if not evaluation.queries.in_gallery.any():  # a catalogue with one photograph of each: how alike are strangers?
        return float(np.quantile(replace_missing(evaluation.queries.scores[:, 0]), 1 - r.far))
    if evaluation.curve is None or evaluation.new_share is None:
        return None
    return fit_threshold(evaluation.curve, r.threshold_by, evaluation.new_share, r.far)
