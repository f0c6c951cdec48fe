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
from lib.retrieval.queries import Queries
from lib.retrieval.ranking import Ranking, append_ranking, expand_queries, rank_identities
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

    @classmethod
    def blank(cls, q: int, m: int, names: np.dtype) -> SearchResult:
        """Return a result without answers, to be filled with names of this dtype."""
        return cls(np.full((q, m), "", names), np.full((q, m), -np.inf, np.float32), np.full((q, m), -1, np.int64))

    def fill(self, rows: Ints, part: SearchResult) -> None:
        """Write the answers to the queries at positions `rows`, in place."""
        for values, new_values in zip(self, part):
            values[rows] = new_values

    @property
    def best_scores(self) -> np.ndarray:
        """The highest score of each query, (q,)."""
        return self.scores[:, 0]


def nearest_images(gallery: Gallery, queries: Queries, k: int) -> tuple[Floats, Ints, Ints]:
    """Return scores, row ids and positions in the gallery, (q, k) each, of the nearest images that aren't left out.

    -inf and -1 where there are fewer.
    """
    left_out, extra = queries.left_out, int(queries.hidden_counts().max(initial=0))
    scores, ids = gallery.search(queries.embeddings, k + extra, gallery.model)
    at = gallery.rows.positions(ids)
    if extra and left_out is not None:
        hidden = (left_out.of_row[at] == left_out.of_query[:, None]) & (at >= 0)
        scores, ids, at = np.where(hidden, -np.inf, scores).astype(np.float32), np.where(hidden, -1, ids), np.where(hidden, -1, at)
        order = np.argsort(hidden, axis=1, kind="stable")[:, :k]
        scores, ids = np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1)
        at = np.take_along_axis(at, order, 1)
    return scores, ids, at


def search_identities(
    gallery: Gallery, queries: Queries, r: Retrieval, topk: int, centres: ClassCentres | None = None
) -> SearchResult:
    """Return the `topk` best identities of each query alone, among images of all viewpoints.

    Queries are searched in blocks, so that the memory doesn't grow with their number. Raises FlukeError for class centres where
    there are none, and as `Gallery.search` and `FaissIndex.set_parameters` do.
    """
    if r.centre_weight > 0 and centres is None:
        raise FlukeError(
            "retrieval.centre_weight: no class centres here; train one network with arcface or cosface, or set it to 0."
        )
    gallery.index.set_parameters(r.search)
    search = _Search(gallery, *np.unique(gallery.rows.labels, return_inverse=True), r, topk, centres)
    width = len(search.class_list) if r.centre_weight > 0 else 0
    result = SearchResult.blank(len(queries), topk, search.class_list.dtype)
    for rows in blocks(np.maximum(r.neighbours + queries.hidden_counts(), width)):
        result.fill(rows, search.answer(queries.take(rows)))
    return result


def fit_centre_line(gallery: Gallery, queries: Queries, r: Retrieval, centres: ClassCentres) -> ClassCentres:
    """Return the centres with their line (`fit_line`), fitted on queries, of which a block is taken at most."""
    class_list, class_of_row = np.unique(gallery.rows.labels, return_inverse=True)
    part = queries.take(np.arange(len(queries))[: max(1, _CELLS // max(len(class_list), r.neighbours))])
    scores, _, at = nearest_images(gallery, part, r.neighbours)
    ranking = rank_identities(scores, np.where(at >= 0, class_of_row[at], -1), r.neighbours, r)
    return centres._replace(line=fit_line(centres.scores(part.embeddings, class_list), ranking))


def blocks(widths: Ints) -> list[Ints]:
    """Return the positions of rows in blocks of at most _CELLS values, for rows of `widths` (q,) values each."""
    order, found = np.argsort(widths, kind="stable"), []
    while len(order):
        size = max(1, int(np.searchsorted(widths[order] * np.arange(1, len(order) + 1), _CELLS, side="right")))
        found.append(order[:size])
        order = order[size:]
    return found


class _Search(NamedTuple):
    """What the search of each block of queries needs."""

    gallery: Gallery
    class_list: NDArray[np.str_]
    class_of_row: Ints
    r: Retrieval
    topk: int
    centres: ClassCentres | None

    def answer(self, queries: Queries) -> SearchResult:
        """Return the best identities of a block of queries."""
        r = self.r
        if r.expand:
            queries = _expand(self.gallery, queries, r.expand)
        scores, ids, classes = self._neighbours(queries, r.neighbours)
        scores = queries.rescore(scores, ids)
        if self.centres is None or r.centre_weight == 0:
            ranking = rank_identities(scores, classes, self.topk, r)
        else:
            ranking = rank_identities(scores, classes, r.neighbours, r)  # all identities among the neighbours
            centre_scores = self.centres.scores(queries.embeddings, self.class_list)
            estimate_missing_scores(centre_scores, ranking, self.centres.line)
            ranking = add_centres(ranking, centre_scores, r.centre_weight, self.topk)
        images = _images(ranking, ids)
        self._fill(queries, ranking, images, ids)
        return SearchResult(ranking.names(self.class_list), ranking.scores, images)

    def _neighbours(self, queries: Queries, k: int) -> tuple[Floats, Ints, Ints]:
        """Return scores, row ids and classes of the nearest images, (b, k) each."""
        scores, ids, at = nearest_images(self.gallery, queries, k)
        return scores, ids, np.where(at >= 0, self.class_of_row[at], -1)

    def _fill(self, queries: Queries, ranking: Ranking, images: Ints, ids: Ints) -> None:
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
                scores, more, classes = self._neighbours(queries.take(block), depth)
                deeper = rank_identities(scores, classes, self.topk, by_image)
                images[block] = append_ranking(ranking, images, block, deeper, _images(deeper, more))
                unfinished.append(block[(ranking.classes[block, last] < 0) & (more[:, -1] >= 0)])
            rows = np.concatenate(unfinished)


def _images(ranking: Ranking, ids: Ints) -> Ints:
    """Return the row ids (q, m) of each identity's nearest image, among neighbours `ids` (q, k)."""
    return np.where(ranking.matches >= 0, np.take_along_axis(ids, np.maximum(ranking.matches, 0), 1), -1)


def _expand(gallery: Gallery, queries: Queries, k: int) -> Queries:
    """Return the queries expanded by their `k` nearest images."""
    scores, ids, _ = nearest_images(gallery, queries, k)
    neighbours = gallery.embeddings(np.where(ids < 0, gallery.rows.ids[0], ids).ravel())
    neighbours = neighbours.reshape(*ids.shape, queries.embeddings.shape[1])
    expanded = expand_queries(normalize(queries.embeddings), scores, neighbours)  # -inf weighs nothing
    return replace(queries, embeddings=expanded)
