"""Whether the test images are of the same kind as the labelled ones: a classifier that tells them apart, and how well it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm, rankdata

PCA_DIMENSIONS = 32
LEAST_IMAGES, LEAST_GROUPS = 25, 10
"""On each side, for a comparison."""
SHIFTED = 0.53
"""AUC that the whole interval must exceed for a shift: random halves get there at most once in 20 cases, other shops do
(grocery81: 0.56 to 0.61 by the frozen features of 1,000 images each)."""


@dataclass(frozen=True)
class Shift:
    """How well test images can be told from held-out ones."""

    auc: float
    """Area under the ROC curve of "is a test image", cross-validated: 0.5 where both are of the same kind, 1 at most."""
    interval: tuple[float, float]
    """Its 95% interval."""
    probabilities: np.ndarray
    """(n + m,) cross-validated probability of being a test image, of the n held-out images and then of the m test images."""

    @property
    def found(self) -> bool:
        """Whether the two surely differ, and by more than chance makes them."""
        return self.interval[0] > SHIFTED

    def summary(self) -> dict[str, Any]:
        """Return what metrics.json and cv.json hold."""
        return {"auc": self.auc, "interval": list(self.interval), "found": self.found}


def measure_shift(held_out: np.ndarray, test: np.ndarray, groups: np.ndarray | None = None) -> Shift | None:
    """Train a classifier of held-out and test images on their features, (n, D) and (m, D) float32, cross-validated in five folds.

    This is the classifier two-sample test (Lopez-Paz and Oquab 2017): a logistic regression on the first principal components. Rows
    of `groups` (n,), of held-out images, stay together. None for fewer than LEAST_IMAGES images or LEAST_GROUPS groups on a side.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    n, m = len(held_out), len(test)
    unit = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    if min(n, m) < LEAST_IMAGES or unit.max() + 1 < LEAST_GROUPS:
        return None
    features, is_test = np.concatenate([held_out, test]).astype(np.float64), np.repeat([0, 1], [n, m])
    units = np.concatenate([unit, unit.max() + 1 + np.arange(m)])
    dimensions = min(PCA_DIMENSIONS, features.shape[1], (n + m) // 5)
    model = make_pipeline(
        StandardScaler(), PCA(dimensions, random_state=0), StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced")
    )
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    found = cross_val_predict(model, features, is_test, cv=folds, groups=units, method="predict_proba")[:, 1]
    auc, error = _auc_and_error(found[:n], found[n:])
    half = norm.ppf(0.975) * error
    return Shift(auc, (float(max(0, auc - half)), float(min(1, auc + half))), found)


def _auc_and_error(negatives: np.ndarray, positives: np.ndarray) -> tuple[float, float]:
    """Return the area under the ROC curve of two samples of scores and its standard error (DeLong et al. 1988)."""
    n, m = len(negatives), len(positives)
    ranks = rankdata(np.concatenate([negatives, positives]))
    below_positive = (ranks[n:] - rankdata(positives)) / n
    above_negative = 1 - (ranks[:n] - rankdata(negatives)) / m
    return float(below_positive.mean()), float(np.sqrt(below_positive.var(ddof=1) / m + above_negative.var(ddof=1) / n))
