"""From neighbours to names: gallery images become ranked identities, and the new label takes the place its threshold gives it.

Everything here is a function of numpy arrays. Identities are positions in a class list (`np.unique(gallery.labels)`), -1 for none;
scores are higher for more alike, whatever the metric. How the threshold is found is stranger.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lib.errors import FlukeError

Method = Literal["best", "mean_n", "vote"]


class Ranking(NamedTuple):
    """Identities of each query, best first, equal scores by class; a query with fewer than the others is filled up at the end."""

    classes: NDArray[np.int64]
    """(q, m) positions in the class list, -1 where filled up."""
    scores: NDArray[np.float32]
    """(q, m) higher is more alike, -inf where filled up."""
    matches: NDArray[np.int64]
    """(q, m) which column of the neighbours is the identity's nearest image, -1 for none."""

    def names(self, class_list: NDArray[np.str_]) -> NDArray[np.str_]:
        """The names (q, m) in a class list (C,), "" where filled up."""
        return np.where(self.classes >= 0, class_list[self.classes], "")


def rank_identities(
    scores: NDArray[Any], classes: NDArray[Any], topk: int, method: Method = "best", n: int = 3, temperature: float = 0.07
) -> Ranking:
    """Identities ranked by their images among the neighbours.

    scores (q, k) of the neighbours in any order, classes (q, k) whose images they are (-1: no neighbour). An identity's score is
    best: that of its nearest image; mean_n: the mean of its nearest n, or of as many as are there (so that one image suffices);
    vote: temperature * log(sum(exp(score / temperature))), the weighted vote of Wu et al. 2018 in units of a score, in which a
    second near image adds a little. Raises FlukeError for topk < 1.
    """
    if topk < 1:
        raise FlukeError(f"topk {topk}: a query is answered with at least 1 name.")
    columns = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    there = classes >= 0
    query, column, who, score = there.nonzero()[0], columns[there], classes[there], scores[there].astype(np.float64)
    order = np.lexsort((column, -score, who, query))
    query, column, who, score = query[order], column[order], who[order], score[order]
    first = np.flatnonzero(np.diff(query, prepend=-1) | np.diff(who, prepend=-1))
    count = np.diff(first, append=len(score))
    value = score[first]
    if method == "mean_n":
        nearest = np.arange(len(score)) - np.repeat(first, count) < n
        value = np.add.reduceat(np.where(nearest, score, 0), first) / np.minimum(count, n) if len(first) else value
    elif method == "vote":
        votes = np.exp((score - np.repeat(value, count)) / temperature)
        value = value + temperature * np.log(np.add.reduceat(votes, first)) if len(first) else value
    query, column, who, value = query[first], column[first], who[first], value.astype(np.float32)  # ties are ties as reported
    order = np.lexsort((who, -value, query))
    place = np.arange(len(query)) - np.searchsorted(query, query)  # `query` is sorted already: only its runs are permuted
    kept = place < topk
    at, order = (query[kept], place[kept]), order[kept]
    ranking = Ranking(
        np.full((len(scores), topk), -1, np.int64),
        np.full((len(scores), topk), -np.inf, np.float32),
        np.full((len(scores), topk), -1, np.int64),
    )
    ranking.classes[at], ranking.scores[at], ranking.matches[at] = who[order], value[order], column[order]
    return ranking


def add_centres(ranking: Ranking, centre_scores: NDArray[Any], weight: float, topk: int) -> Ranking:
    """Blend neighbours with class centres: (1 - weight) * score + weight * centre score, for every class, best `topk` kept.

    The winners of happywhale 2022 combined ArcFace's logits with nearest neighbours so. centre_scores (q, C): cosine similarity of
    each query to each class's weight vector (of several sub-centres the largest), NaN for a class without one, which keeps its
    neighbours' score. `ranking`: of cosine scores, with all identities among the neighbours; one that isn't among them counts as
    the last that is, which is more than it can have, so that neighbours don't bury what the centres find.
    """
    q, n_classes = centre_scores.shape
    there = ranking.classes >= 0
    lowest = ranking.scores.min(axis=1, where=there, initial=np.inf)
    blended = np.repeat(np.where(np.isfinite(lowest), lowest, -1)[:, None], n_classes, axis=1).astype(np.float32)
    matches = np.full((q, n_classes), -1, np.int64)
    at = there.nonzero()[0], ranking.classes[there]
    blended[at], matches[at] = ranking.scores[there], ranking.matches[there]
    blended += np.float32(weight) * np.where(np.isnan(centre_scores), 0, centre_scores - blended)
    order = np.argsort(-blended, axis=1, kind="stable")[:, :topk]
    return Ranking(order, np.take_along_axis(blended, order, 1), np.take_along_axis(matches, order, 1))


def expand_queries(
    queries: NDArray[Any], scores: NDArray[Any], neighbours: NDArray[Any], alpha: float = 3.0
) -> NDArray[np.float32]:
    """Queries (q, d) moved towards their nearest neighbours, normalised: alpha query expansion (Radenovic et al. 2018).

    queries normalised, neighbours (q, k, d) normalised, scores (q, k) their cosine similarity: q + sum of max(score, 0)^alpha * x.
    """
    weights = np.clip(scores, 0, None) ** alpha
    expanded = queries + np.einsum("qk,qkd->qd", weights, neighbours)
    return (expanded / np.linalg.norm(expanded, axis=1, keepdims=True)).astype(np.float32)


def rank_with_new(
    identities: Sequence[Sequence[str]] | NDArray[Any], scores: ArrayLike, threshold: ArrayLike, new_label: str | None, k: int = 5
) -> list[list[str]]:
    """Up to k names a query: those that score the threshold or more, the new label, then the others. No name twice.

    identities (q, m) names, best first, scores (q, m); what scores -inf isn't there; threshold () or, one a query, (q,). The new
    label stands even after the last name if there is room, for a wrong name there costs nothing. With new_label None the names
    alone.
    """
    lists = []
    values_of = np.asarray(scores, np.float64)  # a threshold between two float32 scores must not be rounded to one of them
    for names, values, lowest in zip(identities, values_of, np.broadcast_to(threshold, len(values_of)), strict=True):
        above = [str(name) for name, value in zip(names, values) if value >= lowest and value > -np.inf]
        below = [str(name) for name, value in zip(names, values) if -np.inf < value < lowest]
        new = [] if new_label is None else [new_label]
        lists.append(list(dict.fromkeys(above + new + below))[:k])
    return lists


def replace_missing(scores: NDArray[Any]) -> NDArray[np.float64]:
    """Best scores (q,) in which -inf, an approximate index having found nobody, stands one below the lowest."""
    there = scores[np.isfinite(scores)]
    return np.where(np.isfinite(scores), scores, (there.min() if len(there) else 0.0) - 1).astype(np.float64)
