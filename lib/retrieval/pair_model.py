"""The log-odds that two images show one individual, by logistic regressions on pairs that no model has learnt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from lib.retrieval.discovery import Images
from lib.retrieval.individual_folds import IndividualFold

CANDIDATES = 20
"""Nearest images of each image that are its candidate pairs."""
SIZE_PENALTY = 0.4
"""What the log-odds of a merge lose with the logarithm of the smaller cluster's size (benchmarks/quality compares values)."""
Scores = Callable[[IndividualFold, np.ndarray], np.ndarray]
"""Features (p, f) of pairs (p, 2) of positions in a fold's images."""


@dataclass(frozen=True)
class LabelledPairs:
    """p candidate pairs of one fold and kind."""

    fold: int
    features: np.ndarray
    """(p, f)"""
    same: np.ndarray
    """(p,) bool"""
    weight: np.ndarray
    """(p,) the pairs of each individual together weigh 1."""


def find_candidates(images: Images, of: np.ndarray, among: np.ndarray, count: int = CANDIDATES) -> np.ndarray:
    """Return pairs (p, 2) of positions: each image of `of` with its nearest ones of `among` that can be compared with it.

    Not compared are images of one link or photograph and of two different views. A pair within both sets comes once.
    """
    pairs = []
    for block in np.array_split(of, max(1, len(of) // 500)):
        similar = images.embeddings[block] @ images.embeddings[among].T
        view, other = images.views[block][:, None], images.views[among][None]
        photograph = images.photographs[block][:, None]
        skip = (images.links[block][:, None] == images.links[among][None]) | ((view != other) & (view > 0) & (other > 0))
        skip |= (photograph >= 0) & (photograph == images.photographs[among][None])
        similar[skip] = -np.inf
        near = np.argsort(-similar, axis=1, kind="stable")[:, :count]
        found = np.isfinite(np.take_along_axis(similar, near, 1))
        pairs.append(np.stack([np.repeat(block, found.sum(axis=1)), among[near[found]]], axis=1))
    every = np.concatenate(pairs)
    return np.asarray(every[np.unique(np.sort(every, axis=1), axis=0, return_index=True)[1]])


def score_cosine(fold: IndividualFold, pairs: np.ndarray) -> np.ndarray:
    """Return the cosines of pairs (p, 2) as features (p, 1)."""
    embeddings = fold.images.embeddings
    return np.einsum("pd,pd->p", embeddings[pairs[:, 0]], embeddings[pairs[:, 1]])[:, None]


def label_pairs(folds: Sequence[IndividualFold], scores: Scores, with_known: bool, count: int = CANDIDATES) -> list[LabelledPairs]:
    """Return the candidate pairs of each fold: of individuals held out whole with each other, or (`with_known`) of unseen images of
    learnt individuals with the learnt ones."""
    found = []
    for number, fold in enumerate(folds):
        is_new = ~np.isin(fold.labels, fold.labels[fold.learnt])
        of = fold.held_out[is_new[fold.held_out] != with_known]
        among = fold.learnt if with_known else of
        if len(of) < 2 or not len(among):
            continue
        pairs = find_candidates(fold.images, of, among, count)
        if not len(pairs):
            continue
        owner, counts = np.unique(fold.labels[pairs[:, 0]], return_inverse=True, return_counts=True)[1:]
        same = fold.labels[pairs[:, 0]] == fold.labels[pairs[:, 1]]
        found.append(LabelledPairs(number, scores(fold, pairs), same, 1 / counts[owner]))
    return found


@dataclass(frozen=True)
class PairModel:
    """A logistic regression on f features of a pair."""

    weights: np.ndarray
    """(f,)"""
    intercept: float
    prior: float
    """Log-odds of the weighted share of matching pairs among those that it is fitted on."""

    def log_odds(self, features: np.ndarray) -> np.ndarray:
        """Return the log-odds (p,) that pairs (p, f) show one individual."""
        return np.asarray(features @ self.weights + self.intercept)

    def log_likelihood_ratio(self, features: np.ndarray) -> np.ndarray:
        """Return what the features (p, f) add to the log-odds, (p,), whatever the share of matching pairs."""
        return self.log_odds(features) - self.prior


def fit_pairs(pairs: Sequence[LabelledPairs]) -> PairModel | None:
    """Fit the log-odds of pairs; each individual has equal weight. None where all pairs match, or none does."""
    x, y, weight = _join(pairs)
    share = float((weight * y).sum() / weight.sum()) if len(y) else 0.0
    if not 0 < share < 1:
        return None
    spread = x.std(axis=0) + 1e-9  # the ridge is on standardized features
    model = LogisticRegression(C=10.0, max_iter=1000).fit(x / spread, y, sample_weight=weight * len(weight) / weight.sum())
    return PairModel(model.coef_[0] / spread, float(model.intercept_[0]), float(logit(share)))


def find_size_penalty(pairs: Sequence[LabelledPairs]) -> float:
    """Return SIZE_PENALTY as a cosine, by the slope of the log-odds of candidate pairs; 0 where these tell nothing."""
    model = fit_pairs(pairs)
    return 0.0 if model is None or model.weights[0] <= 0 else float(min(SIZE_PENALTY / model.weights[0], 0.1))


def measure_pairs(pairs: Sequence[LabelledPairs]) -> dict[str, float]:
    """Return how log-odds do on folds that they weren't fitted on: the log loss, that of a constant, and the slope of calibration,
    which is 1 where differences of log-odds are right; empty where it can't be known."""
    odds, constant = [], []
    for one in pairs:
        others = [other for other in pairs if other.fold != one.fold]
        model = fit_pairs(others) if others else None
        if model is None:
            return {}
        odds.append(model.log_odds(one.features))
        constant.append(np.full(len(one.same), expit(model.prior)))
    if not odds:
        return {}
    log_odds, (_, y, weight) = np.concatenate(odds), _join(pairs)
    if y.all() or not y.any():
        return {}
    slope = LogisticRegression(C=1e6).fit(log_odds[:, None], y, sample_weight=weight * len(weight) / weight.sum()).coef_[0, 0]
    return {
        "pair_log_loss": float(log_loss(y, expit(log_odds), sample_weight=weight)),
        "pair_log_loss_constant": float(log_loss(y, np.concatenate(constant), sample_weight=weight)),
        "pair_slope": float(slope),
    }


def _join(pairs: Sequence[LabelledPairs]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if not pairs:
        return np.empty((0, 1)), np.empty(0, bool), np.empty(0)
    return tuple(np.concatenate(part) for part in zip(*((one.features, one.same, one.weight) for one in pairs)))  # type: ignore[return-value]
