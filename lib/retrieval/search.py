"""A gallery is asked: query embeddings become ranked names, as the recipe's retrieval section says."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from lib.config.recipe import Recipe, Retrieval
from lib.errors import FlukeError
from lib.retrieval.gallery import Gallery, build_gallery
from lib.retrieval.open_set import (
    NEW_SHARES,
    ThresholdCurve,
    crossfit_thresholds,
    estimate_new_share,
    fit_threshold,
    threshold_curve,
)
from lib.retrieval.ranking import Ranking, add_centres, expand_queries, mean_metrics, metrics_per_query, rank_identities


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
        queries = expand_queries(unit, np.where(ids[:, : r.expand] < 0, 0, scores[:, : r.expand]), near, r.expand_alpha)
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


class OpenSetEvaluation(NamedTuple):
    """What a labelled set of queries says of a gallery, and the threshold fitted on it."""

    metrics: dict[str, float]
    each: dict[str, np.ndarray]
    """What each query adds to them, as lib.identify.per_query says."""
    threshold: float | None
    """Score a name needs to stand before the new label; None without `data.new_label`, or when no stranger was held out."""
    share: float | None
    """Share of new individuals among the queries, assumed or estimated; None where no stranger was held out."""
    curve: ThresholdCurve | None
    answers: SearchResult
    right: np.ndarray
    """(q, m) bool: is it the query's individual."""
    known: np.ndarray
    """(q,) bool: is the query's individual in the gallery."""
    below: float | None
    """Share of the unlabelled queries whose best score is below the threshold; None without any."""


def evaluate_queries(
    gallery: Gallery,
    queries: np.ndarray,
    truth: np.ndarray,
    answers: SearchResult,
    threshold: float | np.ndarray | None,
    model: str,
    new_label: str | None,
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Metrics (lib.identify.evaluate) of answers to queries (q, d) whose individuals are `truth` (q,) str, and each query's part.

    Queries of `new_label` and of individuals that the gallery lacks are strangers. `threshold` is one, or (q,) one a query; without
    it the new label comes last.
    """
    images = Counter(gallery.labels.tolist())
    counts = np.array([images[name] for name in truth.tolist()])
    known = counts > 0
    rows = gallery.rows(gallery.search(queries[known], int(counts.max(initial=1)) or 1, model)[1])
    hits = (gallery.labels[rows] == truth[known, None]) & (rows >= 0)
    lowest = -np.inf if threshold is None else threshold
    each = metrics_per_query(truth, answers.names, answers.scores, known, lowest, new_label, hits, counts[known])
    return mean_metrics(each, answers.scores, known), each


def evaluate_open_set(
    embeddings: np.ndarray,
    labels: np.ndarray,
    asked: np.ndarray,
    recipe: Recipe,
    centres: ClassCentres | None = None,
    unlabelled: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> OpenSetEvaluation:
    """Ask who each of the rows `asked` (n,) bool is, among the other rows, all with embeddings (n, d) and labels (n,).

    Rows of `data.new_label` and of individuals without an image among the others are strangers. The threshold is the recipe's, or
    fitted on these queries for the share of strangers that retrieval.new_share says; to estimate that, `unlabelled` (t, d) are the
    queries to be answered (without them: half); individuals held out whole, who are strangers here but not to the gallery that will
    be asked, are taken off what is found. map@5 is for the queries as they are, each at a threshold that was fitted without it and
    its group (`groups` (n,)): see lib.stranger.crossfit_thresholds.
    """
    r, new_label = recipe.retrieval, recipe.data.new_label
    others, queries, truth = np.flatnonzero(~asked), embeddings[asked], labels[asked]
    gallery = build_gallery(
        embeddings[others], others, others.astype(str), labels[others], "validation", r.metric, r.factory, new_label
    )
    known = np.isin(truth, gallery.labels)
    answers = search_identities(gallery, queries, r, "validation", max(5, recipe.predict.topk), centres)
    right = answers.names == truth[:, None]
    threshold, share, curve, below = None, None, None, None
    judged: float | np.ndarray | None = None
    best = None if unlabelled is None else search_identities(gallery, unlabelled, r, "validation", 1, centres).scores[:, 0]
    if new_label is not None and r.threshold != "auto":
        judged = threshold = float(r.threshold)
    if new_label is not None and known.any() and not known.all():
        curve = threshold_curve(answers.scores, right, known, recipe.predict.topk)
        share = 0.5 if r.new_share == "estimate" else float(r.new_share)
        if r.new_share == "estimate" and best is not None:
            apart = float(np.mean(~np.isin(labels[labels != new_label], gallery.labels)))
            share = estimate_new_share(answers.scores[:, 0], known, best)
            share = float(np.clip((share - apart) / max(1 - apart, 1e-9), NEW_SHARES[0], NEW_SHARES[-1]))
        if threshold is None:
            fit = partial(fit_threshold, by=r.threshold_by, share=share, far=r.far)
            threshold, own = fit(curve), None if groups is None else groups[asked]
            judged = crossfit_thresholds(answers.scores, right, known, fit, recipe.predict.topk, own)
    if threshold is not None and best is not None:
        below = float(np.mean(best < threshold))
    found, each = evaluate_queries(gallery, queries, truth, answers, judged, "validation", new_label)
    return OpenSetEvaluation(found, each, threshold, share, curve, answers, right, known, below)
