"""Heads on frozen features, by scikit-learn: how well a backbone's features tell the classes apart before anything is trained.

Every head is fitted on features (n, D) and their encoded targets, and returns logits (m, C) float32 of other features (`Target`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler, normalize

from lib.tables.target import Target

Predict = Callable[[np.ndarray], np.ndarray]
"""Features (m, D) to logits (m, C)."""
Layer = tuple[np.ndarray, np.ndarray]
"""Weights (D, C) and biases (C,) of a linear layer on features as they are."""
LEAST_PROBABILITY = 1e-6
"""Of a class that the fitted rows lack."""
NEIGHBOURS = 15
SCALE = 20.0
"""Of cosines, as logits."""
STRENGTH = 0.01
"""C of the logistic regression on standardised features: backbones have more features than contests have images of a class."""


def logistic_layer(features: np.ndarray, targets: np.ndarray, classes: int) -> Layer:
    """Fit a multinomial logistic regression on standardised features or, for several labels (n, C), one per label.

    A class that the targets lack, and a label that all of them have or lack, is improbable everywhere.
    """
    scaler = StandardScaler().fit(features)
    scaled = scaler.transform(features)
    weights, biases = np.zeros((features.shape[1], classes)), np.full(classes, np.log(LEAST_PROBABILITY))

    def fit(labels: np.ndarray) -> Any:
        return LogisticRegression(C=STRENGTH, max_iter=500, tol=1e-3).fit(scaled, labels)

    if targets.ndim == 1:
        fitted, known = fit(targets), np.unique(targets)
        found, intercepts = fitted.coef_, fitted.intercept_
        if len(known) == 2:  # one row, the logit of the second class
            found, intercepts = np.concatenate([-found, found]) / 2, np.concatenate([-intercepts, intercepts]) / 2
        weights[:, known], biases[known] = found.T, intercepts
    else:
        for label in range(classes):
            if 0 < targets[:, label].sum() < len(targets):
                one = fit(targets[:, label] > 0.5)
                weights[:, label], biases[label] = one.coef_[0], one.intercept_[0]
    return _unscaled(scaler, weights, biases)


def ridge_layer(features: np.ndarray, targets: np.ndarray, classes: int) -> Layer:
    """Fit a ridge regression of numbers (n, K) on standardised features, its strength by leave-one-out."""
    scaler = StandardScaler().fit(features)
    model = RidgeCV(alphas=np.logspace(0, 5, 11)).fit(scaler.transform(features), targets)
    return _unscaled(scaler, np.reshape(model.coef_, (-1, features.shape[1])).T, np.atleast_1d(model.intercept_))


def _unscaled(scaler: StandardScaler, weights: np.ndarray, biases: np.ndarray) -> Layer:
    """Return the layer for features as they are of one for standardised features."""
    weights = weights / scaler.scale_[:, None]
    return weights, biases - scaler.mean_ @ weights


def fit_logistic(features: np.ndarray, targets: np.ndarray, classes: int) -> Predict:
    """Predict log-probabilities, at least LEAST_PROBABILITY, or logits of several labels by `logistic_layer`."""
    weights, biases = logistic_layer(features, targets, classes)
    if targets.ndim == 2:
        return lambda others: others @ weights + biases
    return lambda others: np.maximum(log_softmax(others @ weights + biases, axis=1), np.log(LEAST_PROBABILITY))


def fit_ridge(features: np.ndarray, targets: np.ndarray, classes: int) -> Predict:
    """Predict numbers by `ridge_layer`."""
    weights, biases = ridge_layer(features, targets, classes)
    return lambda others: others @ weights + biases


def fit_neighbours(features: np.ndarray, targets: np.ndarray, classes: int) -> Predict:
    """Let the nearest images by cosine vote, each by exp(SCALE * cosine)."""
    one_hot = np.eye(classes)[targets] if targets.ndim == 1 else targets
    index = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(features))).fit(normalize(features))

    def predict(others: np.ndarray) -> np.ndarray:
        distances, nearest = index.kneighbors(normalize(others))
        votes = np.exp(-SCALE / 2 * distances**2)  # |a - b|^2 = 2 - 2 cos
        share = (votes[:, :, None] * one_hot[nearest]).sum(axis=1) / votes.sum(axis=1, keepdims=True)
        share = np.clip(share, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
        return np.log(share) if targets.ndim == 1 else np.log(share / (1 - share))

    return predict


def fit_means(features: np.ndarray, targets: np.ndarray, classes: int) -> Predict:
    """Compare with the mean direction of each class: an ArcFace head that was never trained."""
    scaler = StandardScaler().fit(features)
    unit = normalize(scaler.transform(features))
    means = np.zeros((classes, features.shape[1]))
    np.add.at(means, targets, unit)
    means = normalize(means)
    return lambda others: SCALE * normalize(scaler.transform(others)) @ means.T


HEADS: dict[str, tuple[Callable[[np.ndarray, np.ndarray, int], Predict], Callable[[Target], bool]]] = {
    "logistic": (fit_logistic, lambda target: not target.numeric),
    "neighbours": (fit_neighbours, lambda target: not target.numeric),
    "means": (fit_means, lambda target: not target.numeric and not target.several),
    "ridge": (fit_ridge, lambda target: target.numeric),
}
"""Name of a head: how it is fitted, and for which targets."""

LAYERS = {"logistic": logistic_layer, "ridge": ridge_layer}
"""Heads that are a linear layer."""


def heads_for(target: Target) -> list[str]:
    """Return the names of the heads for a target."""
    return [name for name, (_, takes) in HEADS.items() if takes(target)]


def cross_fit(name: str, features: np.ndarray, targets: np.ndarray, classes: int, fold: np.ndarray) -> np.ndarray:
    """Return out-of-fold logits (n, C) float32: the head of each row is fitted on the other folds, `fold` (n,)."""
    logits: np.ndarray | None = None
    for number in np.unique(fold):
        held_out = fold == number
        found = HEADS[name][0](features[~held_out], targets[~held_out], classes)(features[held_out])
        if logits is None:
            logits = np.zeros((len(features), found.shape[1]), np.float32)
        logits[held_out] = found
    assert logits is not None
    return logits
