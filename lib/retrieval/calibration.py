"""Calibration: probabilities from scores, and the share of new individuals that they imply."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from lib.errors import FlukeError

NEW_SHARES = np.linspace(0.0025, 0.9975, 200)
"""Shares of new individuals, equally probable before the queries are seen."""


class Logistic(NamedTuple):
    """A probability from a score: 1 / (1 + exp(-(slope * score + intercept))). Two plain numbers."""

    slope: float
    intercept: float

    def __call__(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Return probabilities of the shape of `scores`; 0 for -inf."""
        return expit(self.slope * np.asarray(scores, np.float64) + self.intercept)


def fit_probability(scores: ArrayLike, is_right: ArrayLike, prior: float | None = None) -> Logistic:
    """Fit the probability that an answer with this score is right (Platt 1999).

    scores (n,) finite, is_right (n,) bool. prior: re-weight right and wrong answers as if this share were right; None: as they are.
    The targets are Platt's, (n+ + 1) / (n+ + 2) and 1 / (n- + 2), so that separable or one-sided data give finite numbers. Raises
    FlukeError without scores, and for scores that aren't finite.
    """
    scores, is_right = np.asarray(scores, np.float64), np.asarray(is_right, bool)
    if not len(scores) or not np.isfinite(scores).all():
        raise FlukeError(f"A probability needs at least one score, all of them finite ({len(scores)} found); hold out more rows.")
    n_right, n_wrong = is_right.sum(), (~is_right).sum()
    target = np.where(is_right, (n_right + 1) / (n_right + 2), 1 / (n_wrong + 2))
    weight = np.ones(len(scores))
    if prior is not None and n_right and n_wrong:
        weight = np.where(is_right, prior / n_right, (1 - prior) / n_wrong) * len(scores)
    middle, spread = scores.mean(), scores.std() or 1.0
    scaled = np.tile((scores - middle) / spread, 2)[:, None]
    model = LogisticRegression(C=1e6, tol=1e-8, max_iter=1000)
    model.fit(scaled, np.repeat([1, 0], len(scores)), sample_weight=np.concatenate([weight * target, weight * (1 - target)]))
    slope = float(model.coef_[0, 0] / spread)
    return Logistic(slope, float(model.intercept_[0] - slope * middle))


def estimate_new_share(scores: ArrayLike, in_gallery: ArrayLike, unlabelled: ArrayLike) -> float:
    """Estimate the share of new individuals among unlabelled queries from their best scores (prior shift, Saerens et al. 2002).

    scores (q,) best score of each validation query, in_gallery (q,) bool, unlabelled (t,) best scores of the queries to answer.
    Validation gives the odds that a score belongs to a new individual. The share that makes the unlabelled scores most likely would
    be the maximum of their likelihood, but where known and new hardly differ that maximum is anywhere. So this is the posterior
    mean over all shares: MAP@k is linear in the share, hence its threshold maximizes expected MAP@k. A query for which an
    approximate index found no image (-inf) counts as one of the lowest score of validation.
    """
    fitted, asked = np.asarray(scores, np.float64), np.asarray(unlabelled, np.float64)
    lowest = fitted[np.isfinite(fitted)].min(initial=np.inf)
    if not np.isfinite(lowest):
        return 0.5
    is_new = fit_probability(-np.maximum(fitted, lowest), ~np.asarray(in_gallery, bool), 0.5)(-np.maximum(asked, lowest))
    likelihood = np.log(NEW_SHARES[:, None] * is_new + (1 - NEW_SHARES[:, None]) * (1 - is_new)).sum(axis=1)
    posterior = np.exp(likelihood - likelihood.max())
    return float(posterior @ NEW_SHARES / posterior.sum())
