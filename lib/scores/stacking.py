"""Stacking: a classifier whose features are the scores of other models (Wolpert 1992)."""

from __future__ import annotations

from typing import Any

import numpy as np

from lib.errors import FlukeError
from lib.scores.averaging import Members
from lib.scores.out_of_fold import OutOfFold

MAX_CLASSES = 500  # a classifier of all classes has classes^2 * members weights
EPSILON = 1e-7  # least probability of a class, so that one mistake doesn't cost more than many right predictions gain


class StackedClassifier:
    """scikit-learn classifiers on the members' log-probabilities or log-odds, as the target arranges them.

    Calls: members -> logits (n, C) float32. Raises FlukeError for a classifier with more than 500 features per member.
    """

    weights = None

    def __init__(self, estimator: Any, data: OutOfFold) -> None:
        from sklearn.base import clone

        self.target, self.classes = data.target, data.members[0].shape[1]
        features = self.target.stack_features(data.members)
        if (per_member := features[0].shape[1] // len(data.members)) > MAX_CLASSES:
            raise FlukeError(f"--method: stacking is for at most {MAX_CLASSES} classes (found {per_member:,}); use greedy.")
        self.models: list[Any] = []
        """One per classifier: fitted, or the only outcome in the rows of the fit, (1,)."""
        for x, y in zip(features, self.target.stack_outcomes(data.targets)):
            outcomes = np.unique(y)
            self.models.append(outcomes if len(outcomes) < 2 else clone(estimator).fit(x, y))

    def __call__(self, members: Members) -> np.ndarray:
        predictions = [_predict(model, x) for model, x in zip(self.models, self.target.stack_features(members))]
        p = self.target.join_stack(predictions, self.classes)
        return self.target.to_logits(np.clip(p, EPSILON, 1 - EPSILON))


class StackedRegressor:
    """A scikit-learn regressor per output, on all members' numbers. Calls: members -> numbers (n, K) float32."""

    weights = None

    def __init__(self, estimator: Any, data: OutOfFold) -> None:
        from sklearn.base import clone

        self.target = data.target
        features, outcomes = self.target.stack_features(data.members), self.target.stack_outcomes(data.targets)
        self.models = [clone(estimator).fit(x, y) for x, y in zip(features, outcomes)]

    def __call__(self, members: Members) -> np.ndarray:
        found = [model.predict(x) for model, x in zip(self.models, self.target.stack_features(members))]
        return np.stack(found, axis=1).astype(np.float32)


def _predict(model: Any, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the K outcomes that a model distinguishes and their probabilities (n, K)."""
    if isinstance(model, np.ndarray):
        return model, np.ones((len(features), 1))
    return model.classes_, model.predict_proba(features)


def logistic_regression() -> Any:
    """Return a regularized logistic regression on standardized features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))


def gradient_boosting() -> Any:
    """Return a small gradient boosting classifier."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(
        max_iter=30, learning_rate=0.1, max_leaf_nodes=8, min_samples_leaf=10, early_stopping=False, random_state=0
    )


def ridge_regression() -> Any:
    """Return a ridge regression on standardized features, its penalty chosen by cross-validation."""
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 3, 6)))


def gradient_boosting_of_numbers() -> Any:
    """Return a small gradient boosting regressor."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    return HistGradientBoostingRegressor(
        max_iter=60, learning_rate=0.1, max_leaf_nodes=8, min_samples_leaf=10, early_stopping=False, random_state=0
    )


ESTIMATORS = {"linear": (logistic_regression, ridge_regression), "boosting": (gradient_boosting, gradient_boosting_of_numbers)}
"""By kind: the estimators for classes and for numbers."""
