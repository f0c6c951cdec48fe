"""Whitening by the scatter within individuals, which a pretrained network's features need before they tell individuals apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.covariance import ledoit_wolf

from lib.retrieval.similarity import normalize


@dataclass(frozen=True)
class Whitening:
    """Features to unit vectors: what differs between photographs of one individual counts less."""

    mean: np.ndarray
    """(d,)"""
    matrix: np.ndarray
    """(d, d)"""

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return unit vectors (n, d) of features (n, d)."""
        return normalize(((features - self.mean) @ self.matrix).astype(np.float32))


def fit_whitening(features: np.ndarray, labels: np.ndarray) -> Whitening:
    """Fit the whitening to features (n, d) of individuals (n,) (within-class covariance normalization, Hatch et al. 2006).

    Features are standardised, and the covariance within individuals is shrunk as Ledoit and Wolf (2004) compute, because there are
    about as many photographs as features. Without an individual that has two photographs, features are standardised only.
    """
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-6
    names, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    centres = np.zeros((len(names), features.shape[1]))
    np.add.at(centres, inverse, features)
    residuals = ((features - (centres / counts[:, None])[inverse]) / spread)[counts[inverse] > 1]
    if not len(residuals):
        return Whitening(mean, np.diag(1 / spread))
    values, vectors = np.linalg.eigh(ledoit_wolf(residuals, assume_centered=True)[0])
    return Whitening(mean, vectors / np.sqrt(np.maximum(values, 1e-12)) / spread[:, None])
