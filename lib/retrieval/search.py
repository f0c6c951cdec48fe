"""Search: query embeddings become ranked identities of a gallery, by the settings of the recipe's retrieval section."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lib.config.recipe import Retrieval
from lib.errors import FlukeError
from lib.retrieval.class_centres import ClassCentres, add_centres, estimate_missing_scores, fit_line
from lib.retrieval.faiss_index import Ints
from lib.retrieval.gallery import Gallery
from lib.retrieval.local_search import LocalSearch
from lib.retrieval.ranking import Ranking, append_ranking, expand_queries, rank_identities
from lib.retrieval.rows import LeftOut
from lib.retrieval.similarity import Floats, normalize

_CELLS = 4_000_000  # scores held at a time, of neighbours or of classes


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


def nearest_images(
    gallery: Gallery, queries: np.ndarray, k: int, model: str, left_out: LeftOut | None = None
) -> tuple[Floats, Ints, Ints]:
    """Return scores, row ids and positions in the gallery, (q, k) each, of the nearest images that aren't left out.

    -inf and -1 where there are fewer.
    """
    extra = 0 if left_out is None else int(left_out.counts().max(initial=0))
    scores, ids = gallery.search(queries, k + extra, model)
    at = gallery.rows.positions(ids)
    if extra and left_out is not None:
        hidden = (left_out.of_row[at] == left_out.of_query[:, None]) & (at >= 0)
        scores, ids, at = np.where(hidden, -np.inf, scores).astype(np.float32), np.where(hidden, -1, ids), np.where(hidden, -1, at)
        order = np.argsort(hidden, axis=1, kind="stable")[:, :k]
        scores, ids = np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1)
        at = np.take_along_axis(at, order, 1)
    return scores, ids, at


def search_identities(
    gallery: Gallery,
    queries: np.ndarray,
    r: Retrieval,
    model: str,
    topk: int,
    centres: ClassCentres | None = None,
    left_out: LeftOut | None = None,
    local: tuple[LocalSearch, Ints] | None = None,
) -> SearchResult:
    """Return the `topk` best identities of each query (q, d). `model` is the fingerprint of the queries' network; `local`: local
    scores, and the position (q,) of each query there.

    Queries are searched in blocks, so that the memory doesn't grow with their number. Raises FlukeError for class centres where
    there are none, and as `Gallery.search` and `FaissIndex.set_parameters` do.
    """
    if r.centre_weight > 0 and centres is None:
        raise FlukeError(
            "retrieval.centre_weight: no class centres here; train one network with arcface or cosface, or set it to 0."
        )
    gallery.index.set_parameters(r.search)
    queries = np.asarray(queries)
    class_list, class_of_row = np.unique(gallery.rows.labels, return_inverse=True)
    extra = np.zeros(len(queries), np.int64) if left_out is None else left_out.counts()
    width = len(class_list) if r.centre_weight > 0 else 0
    result = SearchResult(
        np.full((len(queries), topk), "", class_list.dtype),
        np.full((len(queries), topk), -np.inf, np.float32),
        np.full((len(queries), topk), -1, np.int64),
    )
    for rows in blocks(np.maximum(r.neighbours + extra, width)):
        part = None if left_out is None else left_out.take(rows)
        matched = None if local is None else (local[0], local[1][rows])
        found = _Block(gallery, class_list, class_of_row, r, model, topk, part, matched).search(queries[rows], centres)
        for values, new_values in zip(result, found):
            values[rows] = new_values
    return result


def fit_centre_line(
    gallery: Gallery, queries: np.ndarray, r: Retrieval, model: str, centres: ClassCentres, left_out: LeftOut | None
) -> ClassCentres:
    """Return the centres with their line (`fit_line`), fitted on queries (q, d), of which a block is taken at most."""
    class_list, class_of_row = np.unique(gallery.rows.labels, return_inverse=True)
    rows = np.arange(len(queries))[: max(1, _CELLS // max(len(class_list), r.neighbours))]
    part = None if left_out is None else left_out.take(rows)
    scores, _, at = nearest_images(gallery, queries[rows], r.neighbours, model, part)
    ranking = rank_identities(scores, np.where(at >= 0, class_of_row[at], -1), r.neighbours, r)
    return centres._replace(line=fit_line(centres.scores(queries[rows], class_list), ranking))


def blocks(widths: Ints) -> list[Ints]:
    """Return the positions of rows in blocks of at most _CELLS values, for rows of `widths` (q,) values each."""
    order, found = np.argsort(widths, kind="stable"), []
    while len(order):
        size = max(1, int(np.searchsorted(widths[order] * np.arange(1, len(order) + 1), _CELLS, side="right")))
        found.append(order[:size])
        order = order[size:]
    return found


class _Block(NamedTuple):
    """What the search of a block of queries needs."""

    gallery: Gallery
    class_list: NDArray[np.str_]
    class_of_row: Ints
    r: Retrieval
    model: str
    topk: int
    left_out: LeftOut | None
    local: tuple[LocalSearch, Ints] | None

    def search(self, queries: np.ndarray, centres: ClassCentres | None) -> SearchResult:
        """Return the best identities of queries (b, d)."""
        r = self.r
        if r.expand:
            scores, ids, _ = nearest_images(self.gallery, queries, r.expand, self.model, self.left_out)
            queries = _expand(self.gallery, queries, scores, ids)
        scores, ids, classes = self._neighbours(queries, r.neighbours, self.left_out)
        if self.local is not None:
            scores = self.local[0].rescore(self.local[1], scores, ids)
        if centres is None or r.centre_weight == 0:
            ranking = rank_identities(scores, classes, self.topk, r)
        else:
            ranking = rank_identities(scores, classes, r.neighbours, r)  # all identities among the neighbours
            centre_scores = centres.scores(queries, self.class_list)
            estimate_missing_scores(centre_scores, ranking, centres.line)
            ranking = add_centres(ranking, centre_scores, r.centre_weight, self.topk)
        images = _images(ranking, ids)
        self._fill(queries, ranking, images, ids)
        return SearchResult(ranking.names(self.class_list), ranking.scores, images)

    def _neighbours(self, queries: np.ndarray, k: int, left_out: LeftOut | None) -> tuple[Floats, Ints, Ints]:
        """Return scores, row ids and classes of the nearest images, (b, k) each."""
        scores, ids, at = nearest_images(self.gallery, queries, k, self.model, left_out)
        return scores, ids, np.where(at >= 0, self.class_of_row[at], -1)

    def _fill(self, queries: np.ndarray, ranking: Ranking, images: Ints, ids: Ints) -> None:
        """Fill lists, in place, whose neighbours belong to too few individuals: by the nearest images of further ones.

        The scores of the individuals among the neighbours stay as they are, so that they don't depend on the length of the list.
        """
        depth, by_image = self.r.neighbours, replace(self.r, method="best")
        last = min(self.topk, len(self.class_list)) - 1
        rows = np.flatnonzero((ranking.classes[:, last] < 0) & (ids[:, -1] >= 0))
        while len(rows) and depth < len(self.gallery.rows):
            depth = min(2 * depth, len(self.gallery.rows))
            unfinished = []
            for block in np.array_split(rows, -(-len(rows) * depth // _CELLS)):
                left_out = None if self.left_out is None else self.left_out.take(block)
                scores, more, classes = self._neighbours(queries[block], depth, left_out)
                deeper = rank_identities(scores, classes, self.topk, by_image)
                images[block] = append_ranking(ranking, images, block, deeper, _images(deeper, more))
                unfinished.append(block[(ranking.classes[block, last] < 0) & (more[:, -1] >= 0)])
            rows = np.concatenate(unfinished)


def _images(ranking: Ranking, ids: Ints) -> Ints:
    """Return the row ids (q, m) of each identity's nearest image, among neighbours `ids` (q, k)."""
    return np.where(ranking.matches >= 0, np.take_along_axis(ids, np.maximum(ranking.matches, 0), 1), -1)


def _expand(gallery: Gallery, queries: np.ndarray, scores: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return queries (q, d) expanded by their neighbours with these scores and row ids (q, k), -1 for none."""
    neighbours = gallery.embeddings(np.where(ids < 0, gallery.rows.ids[0], ids).ravel())
    neighbours = neighbours.reshape(len(queries), -1, queries.shape[1])
    return expand_queries(normalize(queries), np.where(ids < 0, 0, scores), neighbours)
