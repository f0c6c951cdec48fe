"""Encounters as evidence: photographs whose looks speak against their encounter leave it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.special import logit

from lib.retrieval.discovery import Images
from lib.retrieval.individual_folds import IndividualFold
from lib.retrieval.pair_model import PairModel, fit_pairs, label_pairs, score_cosine

TRUST = 0.8
"""Probability that two photographs of one encounter show one individual, before their looks are known."""
MOST = 1500
"""Images, all pairs of which are looked at for the likelihood of any pair."""


def fit_looks(folds: Sequence[IndividualFold], seed: int = 0) -> PairModel | None:
    """Fit the log-odds of all pairs of images of individuals held out whole, not only of candidates, which are alike."""
    rng, few = np.random.default_rng(seed), []
    for fold in folds:
        drawn = rng.permutation(fold.held_out)[:MOST]
        few.append(replace(fold, held_out=np.sort(drawn)))
    return fit_pairs(label_pairs(few, score_cosine, with_known=False, count=MOST))


@dataclass(frozen=True)
class Doubted:
    """Images whose links were divided."""

    images: Images
    positions: np.ndarray
    """(m,) int64: images that left the larger part of their link."""


def divide_links(images: Images, looks: PairModel | None) -> Doubted:
    """Divide links whose photographs are less probably of one individual than not: TRUST, times what their looks say.

    Photographs of two views can't be compared, and stay together. The parts of a link come from average linkage of log-odds.
    """
    links, left = images.links.copy(), []
    order = np.argsort(links, kind="stable")
    _, starts, counts = np.unique(links[order], return_index=True, return_counts=True)
    fresh = int(links.max(initial=-1)) + 1
    for start, count in zip(starts[counts > 1], counts[counts > 1]):
        rows = order[start : start + count]
        if looks is None:
            break
        similar = images.embeddings[rows] @ images.embeddings[rows].T
        odds = looks.log_likelihood_ratio(similar.reshape(-1, 1)).reshape(similar.shape)
        view = images.views[rows]
        odds[(view[:, None] != view) & (view[:, None] > 0) & (view > 0)] = 0
        odds = odds[np.triu_indices(count, 1)] + logit(TRUST)
        if (odds > 0).all():
            continue
        highest = odds.max()
        parts = fcluster(linkage(highest - odds, "average"), highest, "distance")
        sizes = np.bincount(parts)
        for part in np.setdiff1d(parts, sizes.argmax()):
            links[rows[parts == part]] = fresh
            left += rows[parts == part].tolist()
            fresh += 1
    return Doubted(replace(images, links=links), np.array(sorted(left), np.int64))
