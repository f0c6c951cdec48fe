"""Ranking: the nearest gallery images become ranked identities, and the new label is placed by its threshold.

Everything here is a function of numpy arrays. Identities are positions in a class list (`Gallery.identities`), -1 for none; scores
are higher for more similar embeddings, whatever the metric. thresholds.py fits the threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lib.config.recipe import Retrieval
from lib.errors import FlukeError
from lib.retrieval.similarity import normalize


class Ranking(NamedTuple):
    """The m best identities of each query, best first, equal scores by class; a query with fewer is padded at the end."""

    classes: NDArray[np.int64]
    """(q, m) positions in the class list, -1 where padded."""
    scores: NDArray[np.float32]
    """(q, m) higher is more similar, -inf where padded."""
    matches: NDArray[np.int64]
    """(q, m) column of the identity's nearest image among the neighbours, -1 for none."""

    def names(self, class_list: NDArray[np.str_]) -> NDArray[np.str_]:
        """Return the names (q, m) from a class list (C,), "" where padded."""
        return np.where(self.classes >= 0, class_list[self.classes], "")


class _Images(NamedTuple):
    """Scores (n,) of neighbours, best first within each of g pairs of a query and an identity, whose images are consecutive."""

    scores: NDArray[np.float64]
    first: NDArray[np.int64]
    """(g,) position of each pair's best score."""
    sizes: NDArray[np.int64]
    """(g,) number of each pair's images."""


def _best(images: _Images, r: Retrieval) -> NDArray[np.float64]:
    """Return the score of the nearest image."""
    return images.scores[images.first]


def _mean_of_nearest(images: _Images, r: Retrieval) -> NDArray[np.float64]:
    """Return the mean score of the nearest r.n images, or of all where there are fewer, so that one image suffices."""
    nearest = np.arange(len(images.scores)) - np.repeat(images.first, images.sizes) < r.n
    return np.add.reduceat(np.where(nearest, images.scores, 0), images.first) / np.minimum(images.sizes, r.n)


def _vote(images: _Images, r: Retrieval) -> NDArray[np.float64]:
    """Return r.temperature * log(sum(exp(score / r.temperature))): the weighted vote of Wu et al. 2018 in units of a score, in
    which a second near image adds a little."""
    best = images.scores[images.first]
    votes = np.exp((images.scores - np.repeat(best, images.sizes)) / r.temperature)
    return best + r.temperature * np.log(np.add.reduceat(votes, images.first))


METHODS: dict[str, Callable[[_Images, Retrieval], NDArray[np.float64]]] = {"best": _best, "mean_n": _mean_of_nearest, "vote": _vote}
"""retrieval.method: how the scores of an identity's images become its score, (g,)."""


def rank_identities(scores: NDArray[Any], classes: NDArray[Any], topk: int, r: Retrieval) -> Ranking:
    """Rank identities by the scores of their images among the neighbours, combined by retrieval.method.

    scores (q, k) of the neighbours in any order, classes (q, k) their identities (-1: no neighbour). Raises FlukeError for
    topk < 1.
    """
    if topk < 1:
        raise FlukeError(f"topk {topk}: a query gets at least 1 name; set it to 1 or more.")
    found = classes >= 0
    query, column = found.nonzero()
    identity, score = classes[found], scores[found].astype(np.float64)
    order = np.lexsort((column, -score, identity, query))
    query, column, identity, score = query[order], column[order], identity[order], score[order]
    first = np.flatnonzero(np.diff(query, prepend=-1) | np.diff(identity, prepend=-1))
    value = METHODS[r.method](_Images(score, first, np.diff(first, append=len(score))), r) if len(first) else score
    query, column, identity = query[first], column[first], identity[first]
    value = value.astype(np.float32)  # before sorting, so that ties are ties of the scores that are reported
    order = np.lexsort((identity, -value, query))
    rank = np.arange(len(query)) - np.searchsorted(query, query)  # `query` is sorted already: only its parts are permuted
    kept = rank < topk
    at, order = (query[kept], rank[kept]), order[kept]
    ranking = Ranking(
        np.full((len(scores), topk), -1, np.int64),
        np.full((len(scores), topk), -np.inf, np.float32),
        np.full((len(scores), topk), -1, np.int64),
    )
    ranking.classes[at], ranking.scores[at], ranking.matches[at] = identity[order], value[order], column[order]
    return ranking


def append_ranking(
    ranking: Ranking, images: NDArray[np.int64], rows: NDArray[np.int64], deeper: Ranking, deeper_images: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Append identities of `deeper` (b, m), a search further down, to `rows` (b,) of a ranking, in place, after its own.

    Each score is limited to the last one before. `images` (q, m) and `deeper_images` (b, m) are the row ids of the nearest images;
    returns those of `rows` after the change.
    """
    m = ranking.classes.shape[1]
    own = ranking.classes[rows]
    repeated = (deeper.classes[:, :, None] == own[:, None, :]).any(axis=2)
    missing = np.concatenate([own < 0, repeated | (deeper.classes < 0)], axis=1)
    order = np.argsort(missing, axis=1, kind="stable")[:, :m]

    def joined(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
        return np.take_along_axis(np.concatenate([first, second], axis=1), order, 1)

    empty = np.take_along_axis(missing, order, 1)
    scores = np.minimum.accumulate(joined(ranking.scores[rows], deeper.scores), axis=1)
    found = np.where(empty, -1, joined(images[rows], deeper_images))
    ranking.classes[rows] = np.where(empty, -1, joined(own, deeper.classes))
    ranking.scores[rows] = np.where(empty, -np.inf, scores)
    return found


def expand_queries(
    queries: NDArray[Any], scores: NDArray[Any], neighbours: NDArray[Any], alpha: float = 3.0
) -> NDArray[np.float32]:
    """Return queries (q, d) moved towards their nearest neighbours: alpha query expansion (Radenovic et al. 2018).

    queries and neighbours (q, k, d) are normalized, scores (q, k) are their cosine similarities. Each query becomes the normalized
    sum of itself and max(score, 0)^alpha * neighbour.
    """
    weights = np.clip(scores, 0, None) ** alpha
    return normalize(queries + np.einsum("qk,qkd->qd", weights, neighbours)).astype(np.float32)


def rank_with_new(
    identities: Sequence[Sequence[str]] | NDArray[Any], scores: ArrayLike, threshold: ArrayLike, new_label: str | None, k: int = 5
) -> list[list[str]]:
    """Return up to k names per query: those with at least the threshold's score, the new label, then the others, each name once.

    identities (q, m) names, best first, scores (q, m), -inf where padded; threshold is one value, or (q,) values. The new label
    follows the last name too if there is room, because a wrong name there costs nothing. Without a new label: the names alone.
    """
    lists = []
    scores_of = np.asarray(scores, np.float64)  # a threshold between two float32 scores must not be rounded to one of them
    for names, values, lowest in zip(identities, scores_of, np.broadcast_to(threshold, len(scores_of)), strict=True):
        above = [str(name) for name, value in zip(names, values) if value >= lowest and value > -np.inf]
        below = [str(name) for name, value in zip(names, values) if -np.inf < value < lowest]
        new = [] if new_label is None else [new_label]
        lists.append(list(dict.fromkeys(above + new + below))[:k])
    return lists


def replace_missing(scores: NDArray[Any]) -> NDArray[np.float64]:
    """Return best scores (q,) with -inf, where an approximate index found no image, replaced by 1 below the lowest."""
    finite = np.isfinite(scores)
    return np.where(finite, scores, (scores[finite].min() if finite.any() else 0.0) - 1).astype(np.float64)
