"""A gallery is asked: query embeddings become ranked names, as the recipe's retrieval section says."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from lib.config.recipe import Retrieval
from lib.errors import FlukeError
from lib.retrieval.gallery import Gallery
from lib.retrieval.ranking import Ranking, add_centres, expand_queries, rank_identities


class SearchResult(NamedTuple):
    """The identities of q queries, best first."""

    names: np.ndarray
    """(q, m) str, "" where there are no more."""
    scores: np.ndarray
    """(q, m) float32, higher is more alike, -inf where there are no more."""
    images: np.ndarray
    """(q, m) int64, row id in the gallery of each identity's nearest image, -1 where there is none."""


class ClassCentres(NamedTuple):
    """Class weight vectors of an ArcFace objective."""

    vectors: np.ndarray
    """(C * k, d) float32, those of a class beside each other."""
    classes: tuple[str, ...]
    """C names."""


def make_class_centres(vectors: np.ndarray, classes: tuple[str, ...], mirrored: bool, beside: bool) -> ClassCentres:
    """Centres of an objective's weights (C * k, d), which those of C `mirrored` individuals may follow. These are left out, or, for
    embeddings with the mirrored image's `beside` (predict.tta mirror), stand beside the others', each of k with each of k."""
    if not mirrored:
        return ClassCentres(vectors, classes)
    if not beside:
        return ClassCentres(vectors[: len(vectors) // 2], classes)
    plain, flipped = np.split(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), 2)
    k, d = len(plain) // len(classes), plain.shape[1]
    pairs = np.broadcast_arrays(plain.reshape(-1, k, 1, d), flipped.reshape(-1, 1, k, d))
    return ClassCentres(np.concatenate(pairs, axis=-1).reshape(-1, 2 * d), classes)


def search_identities(
    gallery: Gallery, queries: np.ndarray, r: Retrieval, model: str, m: int, centres: ClassCentres | None = None
) -> SearchResult:
    """The m best identities of each query (q, d). `model` is the fingerprint of the queries' network.

    Raises FlukeError for what the gallery refuses, and for class centres where they can't be used.
    """
    gallery.tune(r.search)
    asked = queries
    scores, ids = gallery.search(queries, r.neighbours, model)
    if r.expand:
        unit = queries / np.linalg.norm(queries, axis=1, keepdims=True)
        near = gallery.vectors(np.maximum(ids[:, : r.expand], gallery.ids.min()).ravel()).reshape(
            len(queries), -1, queries.shape[1]
        )
        queries = expand_queries(unit, np.where(ids[:, : r.expand] < 0, 0, scores[:, : r.expand]), near)
        scores, ids = gallery.search(queries, r.neighbours, model)
    class_list, of_row = np.unique(gallery.labels, return_inverse=True)
    rows = gallery.rows(ids)
    classes = np.where(rows >= 0, of_row[rows], -1)
    use_centres = centres is not None and r.centre_weight > 0
    ranking = rank_identities(scores, classes, r.neighbours if use_centres else m, r.method, r.n, r.temperature)
    if r.centre_weight > 0:
        if centres is None:
            raise FlukeError(
                "retrieval.centre_weight: no class centres here; train one network with arcface or cosface, or set it to 0."
            )
        unit = queries / np.linalg.norm(queries, axis=1, keepdims=True)
        vectors = centres.vectors / np.linalg.norm(centres.vectors, axis=1, keepdims=True)
        cosine = (unit @ vectors.T).reshape(len(queries), len(centres.classes), -1).max(axis=2)
        of_class = np.full((len(queries), len(class_list)), np.nan, np.float32)
        place = {name: i for i, name in enumerate(centres.classes)}
        have = [i for i, name in enumerate(class_list.tolist()) if name in place]
        of_class[:, have] = cosine[:, [place[class_list[i]] for i in have]]
        _estimate_missing_centres(of_class, ranking)
        ranking = add_centres(ranking, of_class, r.centre_weight, m)
    images = np.where(ranking.matches >= 0, np.take_along_axis(ids, np.maximum(ranking.matches, 0), 1), -1)
    found = SearchResult(ranking.names(class_list), ranking.scores, images)
    # The neighbours may all be of a few individuals with many images: those queries look further.
    short = np.flatnonzero((found.names[:, min(m, len(class_list)) - 1] == "") & (ids[:, -1] >= 0))
    if len(short) and r.neighbours < len(gallery.ids):
        further = search_identities(gallery, asked[short], replace(r, neighbours=2 * r.neighbours), model, m, centres)
        for mine, theirs in zip(found, further):
            mine[short] = theirs
    return found


def _estimate_missing_centres(of_class: np.ndarray, ranking: Ranking) -> None:
    """Fill what `of_class` (q, C) lacks, in place: a class that wasn't trained on has no centre, and its images' scores are on
    another scale (higher, so that it would come first). It gets what others with its score have, by least squares."""
    there = ranking.classes >= 0
    scores = np.repeat(np.where(there, ranking.scores, np.inf).min(axis=1)[:, None], of_class.shape[1], axis=1)
    at = there.nonzero()[0], ranking.classes[there]
    scores[at] = ranking.scores[there]
    lacking = np.isnan(of_class)
    x, y = scores[at][~lacking[at]], of_class[at][~lacking[at]]
    if not lacking.any() or not len(x):
        return
    x = x.astype(np.float64)
    slope = ((x - x.mean()) * (y - y.mean())).mean() / max(x.var(), 1e-12)
    of_class[lacking] = y.mean() + slope * (scores[lacking] - x.mean())
