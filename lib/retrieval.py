"""A gallery is asked: query embeddings become ranked names, as the recipe's retrieval section says."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lib.config import Recipe, Retrieval
from lib.files import FlukeError
from lib.identify import add_centres, evaluate, expand_queries, rank_identities, rerank
from lib.index import Gallery, build
from lib.stranger import Curve, estimate_share, fit_threshold, threshold_curve


class Answers(NamedTuple):
    """The identities of q queries, best first."""

    names: np.ndarray
    """(q, m) str, "" where there are no more."""
    scores: np.ndarray
    """(q, m) float32, higher is more alike, -inf where there are no more."""
    images: np.ndarray
    """(q, m) int64, row id in the gallery of each identity's nearest image, -1 where there is none."""


class Centres(NamedTuple):
    """Class weight vectors of an ArcFace objective."""

    vectors: np.ndarray
    """(C * k, d) float32, those of a class beside each other."""
    classes: tuple[str, ...]
    """C names."""


def answer(gallery: Gallery, queries: np.ndarray, r: Retrieval, model: str, m: int, centres: Centres | None = None) -> Answers:
    """The m best identities of each query (q, d). `model` is the fingerprint of the queries' network.

    Raises FlukeError for what the gallery refuses, and for class centres where they can't be used.
    """
    gallery.tune(r.search)
    scores, ids = gallery.search(queries, r.neighbours, model)
    if r.expand:
        unit = queries / np.linalg.norm(queries, axis=1, keepdims=True)
        near = gallery.vectors(np.maximum(ids[:, : r.expand], gallery.ids.min()).ravel()).reshape(len(queries), -1, queries.shape[1])
        queries = expand_queries(unit, np.where(ids[:, : r.expand] < 0, 0, scores[:, : r.expand]), near, r.expand_alpha)
        scores, ids = gallery.search(queries, r.neighbours, model)
    if r.rerank:
        unit = queries / np.linalg.norm(queries, axis=1, keepdims=True)
        scores = rerank(unit, gallery.vectors(gallery.ids), r.rerank, r.rerank_weight)
        ids = np.broadcast_to(gallery.ids, scores.shape)
    class_list, of_row = np.unique(gallery.labels, return_inverse=True)
    rows = gallery.rows(ids)
    classes = np.where(rows >= 0, of_row[rows], -1)
    use_centres = centres is not None and r.centre_weight > 0
    ranking = rank_identities(scores, classes, r.neighbours if use_centres else m, r.method, r.n, r.temperature)
    if r.centre_weight > 0:
        if centres is None:
            raise FlukeError("retrieval.centre_weight: this network has no class centres; train it with arcface or cosface, or set it to 0.")
        unit = queries / np.linalg.norm(queries, axis=1, keepdims=True)
        vectors = centres.vectors / np.linalg.norm(centres.vectors, axis=1, keepdims=True)
        cosine = (unit @ vectors.T).reshape(len(queries), len(centres.classes), -1).max(axis=2)
        of_class = np.full((len(queries), len(class_list)), np.nan, np.float32)
        place = {name: i for i, name in enumerate(centres.classes)}
        have = [i for i, name in enumerate(class_list.tolist()) if name in place]
        of_class[:, have] = cosine[:, [place[class_list[i]] for i in have]]
        ranking = add_centres(ranking, of_class, r.centre_weight, m)
    images = np.where(ranking.matches >= 0, np.take_along_axis(ids, np.maximum(ranking.matches, 0), 1), -1)
    return Answers(ranking.names(class_list), ranking.scores, images)


class Validation(NamedTuple):
    """What a labelled set of queries says of a gallery, and the threshold fitted on it."""

    metrics: dict[str, float]
    threshold: float | None
    """Score a name needs to stand before the new label; None without `data.new_label`, or when no stranger was held out."""
    curve: Curve | None
    answers: Answers
    right: np.ndarray
    """(q, m) bool: is it the query's individual."""
    known: np.ndarray
    """(q,) bool: is the query's individual in the gallery."""


def validate(
    embeddings: np.ndarray,
    labels: np.ndarray,
    asked: np.ndarray,
    recipe: Recipe,
    centres: Centres | None = None,
    unlabelled: np.ndarray | None = None,
) -> Validation:
    """Ask who each of the rows `asked` (n,) bool is, among the other rows, all with embeddings (n, d) and labels (n,).

    Rows of `data.new_label` and of individuals without an image among the others are strangers. The threshold is the recipe's, or fitted
    on these queries for the share of strangers that retrieval.new_share says; to estimate that, `unlabelled` (t, d) are the queries to
    be answered (without them: half). map@5 is given at that threshold, for the queries as they are.
    """
    r, new_label = recipe.retrieval, recipe.data.new_label
    others, queries = np.flatnonzero(~asked), embeddings[asked]
    gallery = build(embeddings[others], others, others.astype(str), labels[others], "validation", r.metric, r.factory, new_label)
    truth, m = labels[asked], max(5, recipe.predict.topk)
    known = np.isin(truth, labels[others]) & (truth != (new_label or ""))
    answers = answer(gallery, queries, r, "validation", m, centres)
    right = answers.names == truth[:, None]
    threshold, curve = None, None
    if new_label is not None and known.any() and not known.all():
        curve = threshold_curve(answers.scores, right, known, recipe.predict.topk)
        if r.threshold != "auto":
            threshold = float(r.threshold)
        else:
            share = 0.5 if r.new_share == "estimate" else float(r.new_share)
            if r.new_share == "estimate" and unlabelled is not None:
                best = answer(gallery, unlabelled, r, "validation", 1, centres).scores[:, 0]
                share = estimate_share(answers.scores[:, 0], known, best)
            threshold = fit_threshold(curve, r.threshold_by, share, r.far)
    counts = np.array([(labels[others] == name).sum() for name in truth])
    width = max(1, min(int(counts.max(initial=1)), len(others)))
    _, ids = gallery.search(queries, width, "validation")
    hits = labels[np.maximum(ids, 0)] == truth[:, None]
    lowest = -np.inf if threshold is None else threshold
    found = evaluate(truth, answers.names, answers.scores, known, lowest, new_label, hits[known] & (ids[known] >= 0), counts[known])
    return Validation(found, threshold, curve, answers, right, known)
