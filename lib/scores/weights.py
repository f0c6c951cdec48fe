"""Weights (M,) of M models, fitted on out-of-fold scores: by score, by log-loss, by greedy selection."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize

from lib.errors import FlukeError
from lib.metrics.registry import METRICS
from lib.scores.out_of_fold import OutOfFold

EPSILON = 1e-7  # added to each probability, so that one mistake doesn't cost more than many right predictions gain
_SUM_TO_ONE = {"type": "eq", "fun": lambda weights: weights.sum() - 1}


def score_weights(data: OutOfFold) -> np.ndarray:
    """Return weights in proportion to each member's score, or to 1 / score for a metric where lower is better.

    A negative score gets no weight. Raises FlukeError where no score is above 0.
    """
    metric = METRICS[data.metric]
    scores = np.array([metric.function(m, data.targets) for m in data.members])
    scores = np.maximum(scores, 0) if metric.higher_is_better else 1 / np.maximum(scores, EPSILON)
    if not scores.sum() > 0:
        raise FlukeError(f"--method weighted: no run has a {data.metric} above 0 on the out-of-fold rows; use another --method.")
    return scores / scores.sum()


def simplex_weights(data: OutOfFold) -> np.ndarray:
    """Return the weights, none negative, of the mean of probabilities with the least log-loss. The problem is convex.

    Of numbers: of the mean of numbers with the least squared error, in standard deviations.
    """
    if data.target.numeric:
        return _least_squares_weights(data)
    # (M, n): all that the loss of a mean depends on
    true = np.exp([data.target.log_likelihood(m, data.targets) for m in data.members])

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = weights @ true + EPSILON
        return float(-np.log(mixed).mean()), -(true / mixed).mean(axis=1)

    count = len(data.members)
    equal = np.full(count, 1 / count)
    found = minimize(loss, equal, jac=True, method="SLSQP", bounds=[(0, 1)] * count, constraints=_SUM_TO_ONE)
    weights = np.where(found.x < 1e-3, 0, found.x)
    return weights / weights.sum()


def _least_squares_weights(data: OutOfFold) -> np.ndarray:
    std = data.targets.std(axis=0)
    std = np.where(std > 0, std, 1)
    errors = np.stack([((m - data.targets) / std).ravel() for m in data.members]).astype(np.float64)
    products = errors @ errors.T / errors.shape[1]  # the squared error of weights w is w' products w
    count = len(data.members)
    found = minimize(
        lambda w: (w @ products @ w, 2 * products @ w),
        np.full(count, 1 / count),
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * count,
        constraints=_SUM_TO_ONE,
        options={"ftol": 1e-12},
    )
    weights = np.where(found.x < 1e-3, 0, found.x)
    return weights / weights.sum()


def greedy_weights(data: OutOfFold) -> np.ndarray:
    """Return weights by forward selection with replacement (Caruana et al. 2004), starting with the best member.

    Two departures, because on 1,500 rows plain selection gave useless members a sixth of the weight. Selection ends at the first
    step that gains nothing, and only members with a weight in `simplex_weights` take part. On the rows of the fit the result never
    scores below the best member.
    """
    members, target = data.members, data.target
    scores = [data.score(m) for m in members]
    best = int(np.argmax(scores))
    useful = {int(i) for i in np.flatnonzero(simplex_weights(data))} | {best}
    p = {i: target.probabilities(members[i]) for i in sorted(useful)}
    counts = np.zeros(len(members))
    counts[best] = 1
    total, reached = p[best].copy(), scores[best]
    while counts.sum() < 10 * len(members):
        k = counts.sum() + 1
        tried = {i: data.score(target.to_logits((total + p[i]) / k)) for i in p}
        step = max(tried, key=lambda i: tried[i])
        if tried[step] <= reached:
            break
        counts[step] += 1
        total, reached = total + p[step], tried[step]
    return counts / counts.sum()
