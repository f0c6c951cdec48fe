"""Search: query embeddings become ranked identities of a gallery, by the settings of the recipe's retrieval section."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lib.config.recipe import Retrieval
from lib.errors import FlukeError
from lib.retrieval.class_centres import ClassCentres, add_centres, estimate_missing_scores
from lib.retrieval.gallery import Gallery
from lib.retrieval.ranking import expand_queries, rank_identities
from lib.retrieval.similarity import normalize


class SearchResult(NamedTuple):
    """The m best identities of q queries, best first."""

    names: np.ndarray
    """(q, m) str, "" where there are no more."""
    scores: np.ndarray
    """(q, m) float32, higher is more similar, -inf where there are no more."""
    images: np.ndarray
    """(q, m) int64, row id in the gallery of each identity's nearest image, -1 where there is none."""

    @property
    def best_scores(self) -> np.ndarray:
        """The highest score of each query, (q,)."""
        return self.scores[:, 0]


def search_identities(
    gallery: Gallery,
    queries: np.ndarray,
    r: Retrieval,
    model: str,
    topk: int,
    centres: ClassCentres | None = None,
    own: np.ndarray | None = None,
) -> SearchResult:
    """Return the `topk` best identities of each query (q, d). `model` is the fingerprint of the queries' network.

    `own` (q,) is the row id of a query that is itself in the gallery, -1 for others: it doesn't find itself. Raises FlukeError for
    class centres where there are none, and as `Gallery.search` and `FaissIndex.set_parameters` do.
    """
    if r.centre_weight > 0 and centres is None:
        raise FlukeError(
            "retrieval.centre_weight: no class centres here; train one network with arcface or cosface, or set it to 0."
        )
    gallery.index.set_parameters(r.search)
    own = np.full(len(queries), -1) if own is None else own
    result, incomplete = _search_neighbours(gallery, queries, r, model, topk, centres, own)
    # The neighbours may belong to few individuals with many images: those queries are searched again with more neighbours.
    rows = np.flatnonzero(incomplete)
    while len(rows) and r.neighbours < len(gallery.rows):
        r = replace(r, neighbours=2 * r.neighbours)
        further, incomplete = _search_neighbours(gallery, queries[rows], r, model, topk, centres, own[rows])
        for values, new_values in zip(result, further):
            values[rows] = new_values
        rows = rows[incomplete]
    return result


def _search_neighbours(
    gallery: Gallery, queries: np.ndarray, r: Retrieval, model: str, topk: int, centres: ClassCentres | None, own: np.ndarray
) -> tuple[SearchResult, NDArray[np.bool_]]:
    """Rank the identities among r.neighbours images per query; also return which queries (q,) more neighbours would complete."""
    scores, ids = gallery.search(queries, r.neighbours, model)
    if r.expand:
        scores, ids = without_own(scores, ids, own)
        queries = _expand(gallery, queries, scores[:, : r.expand], ids[:, : r.expand])
        scores, ids = gallery.search(queries, r.neighbours, model)
    full = ids[:, -1] >= 0
    scores, ids = without_own(scores, ids, own)
    class_list, class_of_row = np.unique(gallery.rows.labels, return_inverse=True)
    rows = gallery.rows.positions(ids)
    classes = np.where(rows >= 0, class_of_row[rows], -1)
    if centres is None or r.centre_weight == 0:
        ranking = rank_identities(scores, classes, topk, r)
    else:
        centre_scores = centres.scores(queries, class_list)
        ranking = rank_identities(scores, classes, r.neighbours, r)  # all identities among the neighbours
        estimate_missing_scores(centre_scores, ranking)
        ranking = add_centres(ranking, centre_scores, r.centre_weight, topk)
    images = np.where(ranking.matches >= 0, np.take_along_axis(ids, np.maximum(ranking.matches, 0), 1), -1)
    result = SearchResult(ranking.names(class_list), ranking.scores, images)
    incomplete = (result.names[:, min(topk, len(class_list)) - 1] == "") & full
    return result, incomplete


def without_own(scores: np.ndarray, ids: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and row ids (q, k), best first, where the row `own` (q,) of a query is moved to the end as none."""
    found = (ids == own[:, None]) & (own[:, None] >= 0)
    order = np.argsort(found, axis=1, kind="stable")
    scores, ids = np.where(found, -np.inf, scores), np.where(found, -1, ids)
    return np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1)


def _expand(gallery: Gallery, queries: np.ndarray, scores: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return queries (q, d) expanded by their neighbours with these scores and row ids (q, k), -1 for none."""
    neighbours = gallery.embeddings(np.maximum(ids, gallery.rows.ids.min()).ravel())
    neighbours = neighbours.reshape(len(queries), -1, queries.shape[1])
    return expand_queries(normalize(queries), np.where(ids < 0, 0, scores), neighbours)
