"""Fitting a combination of models (weights, a stack) on out-of-fold scores, and judging honestly what it is worth.

`members` are M arrays (n, C) of logits of the same rows and classes; `targets` is (n,) int64 classes, or (n, C) 0 and 1 for several
labels per image. What a fitted combination is worth, `crossfit` says: each row is scored by one fitted without it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

from lib.scores.averaging import Members
from lib.scores.decisions import ScoreFunction
from lib.tables.target import Target, target_of

EPSILON = 1e-7  # what a fitted combination gives a class at least: one mistake must not cost more than many right answers gain
_SUM_TO_ONE = {"type": "eq", "fun": lambda weights: weights.sum() - 1}


# --- fitted weights ---------------------------------------------------------------------------------------------------------------


def simplex_weights(members: Members, targets: np.ndarray) -> np.ndarray:
    """Weights (M,), none negative, sum 1, of the mean of probabilities with the least log-loss. Convex: there is one answer."""
    target = target_of(targets)
    true = np.exp([target.log_likelihood(m, targets) for m in members])  # (M, n): all that the loss of a mean depends on

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = weights @ true + EPSILON
        return float(-np.log(mixed).mean()), -(true / mixed).mean(axis=1)

    equal = np.full(len(members), 1 / len(members))
    found = minimize(loss, equal, jac=True, method="SLSQP", bounds=[(0, 1)] * len(members), constraints=_SUM_TO_ONE)
    weights = np.where(found.x < 1e-3, 0, found.x)
    return weights / weights.sum()


def greedy_weights(members: Members, targets: np.ndarray, score: ScoreFunction, target: Target) -> np.ndarray:
    """Weights (M,) by selection with replacement (Caruana et al. 2004): from the best member on, the one that helps the mean most.

    Two departures, for on 1,500 rows plain selection gave useless members a sixth of the weight: it ends at the first step that
    gains nothing, and only members that `simplex_weights` gives any weight take part. On these rows it never scores below the best
    member; what it is worth on others, `evaluate_combination` says.
    """
    alone = [score(m, targets) for m in members]
    best = int(np.argmax(alone))
    useful = {int(i) for i in np.flatnonzero(simplex_weights(members, targets))} | {best}
    p = {i: target.probabilities(members[i]) for i in sorted(useful)}
    counts = np.zeros(len(members))
    counts[best] = 1
    total, reached = p[best].copy(), alone[best]
    while counts.sum() < 10 * len(members):
        k = counts.sum() + 1
        scores = {i: score(target.to_logits((total + p[i]) / k), targets) for i in p}
        step = max(scores, key=lambda i: scores[i])
        if scores[step] <= reached:
            break
        counts[step] += 1
        total, reached = total + p[step], scores[step]
    return counts / counts.sum()


# --- stacking ---------------------------------------------------------------------------------------------------------------------


class StackedClassifier:
    """A scikit-learn classifier on the members' log-odds (Wolpert 1992): members -> logits (n, C) float32.

    One label per image: one classifier on all M * C log-probabilities. Several: one a label, on the M log-odds of that label.
    """

    def __init__(self, estimator: Any, members: Members, targets: np.ndarray, target: Target) -> None:
        from sklearn.base import clone

        self.target, self.width = target, members[0].shape[1]
        self.models: list[Any] = []
        for c in range(self.width if target.several else 1):
            y = targets[:, c] if target.several else targets
            constant = len(np.unique(y)) < 2
            self.models.append(int(y[0]) if constant else clone(estimator).fit(self._features(members, c), y))

    def _features(self, members: Members, c: int) -> np.ndarray:
        if self.target.several:
            return np.stack([m[:, c] for m in members], axis=1)
        return np.concatenate([log_softmax(m, axis=1) for m in members], axis=1)

    def __call__(self, members: Members) -> np.ndarray:
        p = np.zeros((len(members[0]), self.width))
        for c, model in enumerate(self.models):
            if isinstance(model, int):  # one outcome only in the rows that it was fitted on
                p[:, c if self.target.several else model] = model if self.target.several else 1
            elif self.target.several:
                p[:, c] = model.predict_proba(self._features(members, c))[:, 1]
            else:
                p[:, model.classes_] = model.predict_proba(self._features(members, c))
        return self.target.to_logits(np.clip(p, EPSILON, 1 - EPSILON))


def _logistic_regression() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))


def _gradient_boosting() -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(
        max_iter=30, learning_rate=0.1, max_leaf_nodes=8, min_samples_leaf=10, early_stopping=False, random_state=0
    )
