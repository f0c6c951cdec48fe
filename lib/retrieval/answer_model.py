"""One calibrated distribution per query, over its names, "new" and any other known individual."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp

from lib.errors import FlukeError
from lib.retrieval.thresholds import LabelledScores

Floats = NDArray[np.float64]

_PRIOR = 3.0  # standard deviation of the parameters, in units of standardized scores: finite for separable answers


class AnswerModel(NamedTuple):
    """A conditional logit model (McFadden 1974) of a query's right answer: a name's utility grows with its score, its rank and, for
    the first name, its margin over the second; "new" and "another individual" have one utility each."""

    middle: float
    spread: float
    score: float
    rank: float
    margin: float
    new: float | None
    """None: no new individual was held out, so "new" has no probability."""
    other: float

    def __call__(self, scores: NDArray[np.floating]) -> tuple[Floats, Floats]:
        """Return the probability of each name, of scores (q, m) best first, -inf for none, and that of "new", (q,).

        A row sums to at most 1; the rest belongs to individuals that aren't listed. NaN for "new" where it isn't known.
        """
        features = _features((np.asarray(scores, np.float64) - self.middle) / self.spread)
        new = -np.inf if self.new is None else self.new
        log = _log_probabilities(features, np.array([self.score, self.rank, self.margin, new, self.other]))
        return np.exp(log[:, :-2]), np.full(len(log), np.nan) if self.new is None else np.exp(log[:, -2])


def fit_answer_model(queries: LabelledScores, share: float | None) -> AnswerModel:
    """Fit the model to labelled queries by maximum likelihood, weighted as if `share` of them were new individuals.

    Raises FlukeError without any score.
    """
    scores = np.asarray(queries.scores, np.float64)
    found = scores[np.isfinite(scores)]
    if not found.size:
        raise FlukeError("A probability needs at least one score; hold out more rows.")
    middle, spread = float(found.mean()), float(found.std() or 1.0)
    features, known = _features((scores - middle) / spread), np.asarray(queries.in_gallery, bool)
    listed = queries.is_right & known[:, None]
    m = scores.shape[1]
    weight = known.astype(float) if known.any() else np.ones(len(known))
    both = share is not None and queries.both_kinds
    if share is not None and both:
        weight = np.where(known, (1 - share) / known.mean(), share / (~known).mean())
    unknown = m if both else m + 1
    right = np.where(~known, unknown, np.where(listed.any(axis=1), listed.argmax(axis=1), m + 1))
    hidden = 0.0 if both else -np.inf  # added to the utility of "new"

    def loss(parameters: Floats) -> tuple[float, Floats]:
        log = _log_probabilities(features, parameters + np.array([0, 0, 0, hidden, 0]))
        probability = np.exp(log)
        rows = np.arange(len(right))
        residual = probability * weight[:, None]
        residual[rows, right] -= weight
        value = -(weight * np.where(weight > 0, log[rows, right], 0)).sum() + (parameters**2).sum() / (2 * _PRIOR**2)
        gradient = [np.nansum(residual[:, :-2] * part) for part in features]
        return value, np.array([*gradient, residual[:, -2].sum(), residual[:, -1].sum()]) + parameters / _PRIOR**2

    score, rank, margin, new, other = minimize(loss, np.array([1.0, 0, 0, 0, 0]), jac=True, method="L-BFGS-B").x.tolist()
    return AnswerModel(middle, spread, score, rank, margin, new if both else None, other)


def crossfit_answers(
    queries: LabelledScores, share: float | None, clusters: NDArray[np.generic]
) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the probabilities of each query's names and "new" (q, m + 1), by a model that was fitted without its cluster, and
    whether each is right. "new" is 0 where it isn't known."""
    part = np.unique(clusters, return_inverse=True)[1] % 5
    right = np.column_stack([queries.is_right, ~queries.in_gallery])
    probability = np.zeros(right.shape)
    for number in np.unique(part):
        others = queries.take(part != number) if (part != number).any() else queries
        names, new = fit_answer_model(others, share)(queries.scores[part == number])
        probability[part == number] = np.column_stack([names, np.nan_to_num(new)])
    return probability, right


def _features(scores: Floats) -> tuple[Floats, Floats, Floats]:
    """Return score, log of the rank, and margin of each name, (q, m) each, from standardized scores; NaN scores for no name."""
    q, m = scores.shape
    values = np.where(np.isfinite(scores), scores, np.nan)
    margin = np.zeros((q, m))
    if m > 1:
        margin[:, 0] = np.nan_to_num(values[:, 0] - values[:, 1])
    return values, np.broadcast_to(np.log(np.arange(1, m + 1)), (q, m)), margin


def _log_probabilities(features: tuple[Floats, Floats, Floats], parameters: Floats) -> Floats:
    """Return the log-probabilities (q, m + 2) of the names, "new" and others."""
    utility = sum(part * parameter for part, parameter in zip(features, parameters[:3]))
    assert isinstance(utility, np.ndarray)
    rest = np.broadcast_to(parameters[3:], (len(utility), 2))
    every = np.concatenate([np.where(np.isnan(utility), -np.inf, utility), rest], axis=1)
    return every - logsumexp(every, axis=1, keepdims=True)
