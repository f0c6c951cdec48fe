"""Folds of individuals: what a model has learnt, and what it is asked as if it were a test."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lib.retrieval.discovery import Images
from lib.retrieval.whitening import Whitening, fit_whitening

FOLDS = 3
UNSEEN = 0.4
"""Share of a learnt individual's encounters that the model never sees."""


@dataclass(frozen=True)
class IndividualFold:
    """A model's embeddings of n labelled images, some of which it hasn't learnt."""

    images: Images
    labels: np.ndarray
    """(n,) str"""
    learnt: np.ndarray
    """(l,) int64 positions"""
    held_out: np.ndarray
    """(h,) int64 positions: of individuals without a learnt image, and unseen encounters of the others."""

    def take_part(self, is_in_part: np.ndarray) -> IndividualFold:
        """Return the fold with the learnt and held-out images of a part, (n,) bool."""
        return replace(self, learnt=self.learnt[is_in_part[self.learnt]], held_out=self.held_out[is_in_part[self.held_out]])


def split_individuals(labels: np.ndarray, encounters: np.ndarray, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the positions of the learnt and of the held-out images, int64, in each of FOLDS folds of individuals.

    labels (n,) individuals, encounters (n,). Each individual is held out whole in one fold; in the others UNSEEN of its encounters
    are, except for the last one.
    """
    rng = np.random.default_rng(seed)
    names = rng.permutation(np.unique(labels))
    found = []
    for fold in range(FOLDS):
        held_out = np.isin(labels, names[fold::FOLDS])
        for name in np.setdiff1d(names, names[fold::FOLDS]):
            own = labels == name
            met = rng.permutation(np.unique(encounters[own]))
            held_out |= own & np.isin(encounters, met[: min(round(UNSEEN * len(met)), len(met) - 1)])
        found.append((np.flatnonzero(~held_out), np.flatnonzero(held_out)))
    return found


def fold_frozen(features: Images, labels: np.ndarray, seed: int = 0) -> list[tuple[IndividualFold, Whitening]]:
    """Return folds of features (n, d) that no training has changed, each with a whitening fitted to what it has learnt."""
    folds = []
    for learnt, held_out in split_individuals(labels, features.links, seed):
        whitening = fit_whitening(features.embeddings[learnt], labels[learnt])
        images = replace(features, embeddings=whitening(features.embeddings))
        folds.append((IndividualFold(images, labels, learnt, held_out), whitening))
    return folds
