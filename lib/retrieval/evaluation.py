"""Evaluation of a retrieval on queries whose identities are known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import roc_auc_score

from lib.config.recipe import Recipe
from lib.metrics.retrieval import map_at_r, reciprocal_ranks
from lib.retrieval.gallery import Gallery, build_gallery
from lib.retrieval.open_set import (
    NEW_SHARES,
    ThresholdCurve,
    crossfit_thresholds,
    estimate_new_share,
    fit_threshold,
    threshold_curve,
)
from lib.retrieval.ranking import rank_with_new, replace_missing
from lib.retrieval.search import ClassCentres, SearchResult, search_identities


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


def metrics_per_query(
    truth: Sequence[str] | NDArray[Any],
    identities: NDArray[Any],
    scores: NDArray[Any],
    known: NDArray[np.bool_],
    threshold: ArrayLike,
    new_label: str | None,
    hits: NDArray[np.bool_] | None = None,
    relevant: NDArray[Any] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """What each labelled query adds to metrics of retrieval, under their names in lib.metrics: (q,) values whose mean is the
    metric, NaN for a query that it leaves out.

    truth (q,), identities (q, m >= 5) and scores (q, m) best first, known (q,) is the query's individual in the gallery? If not,
    the new label is the right answer. map@5 with the new label where the threshold places it; recall@1 and recall@5 over
    known queries, without the new label; map@r from `hits` and `relevant` of the known ones (see lib.metrics.map_at_r), where the
    neighbours reach as far as the largest class.
    """
    answers = [name if there else new_label or "" for name, there in zip(truth, known)]
    right = identities == np.asarray(truth, np.str_)[:, None]
    values = {"map@5": reciprocal_ranks(answers, rank_with_new(identities, scores, threshold, new_label), 5)}
    for k in (1, 5):
        values[f"recall@{k}"] = np.where(known, right[:, :k].any(axis=1), np.nan)
    if hits is not None and relevant is not None:
        values["map@r"] = np.full(len(right), np.nan)
        values["map@r"][known] = map_at_r(hits, relevant)
    return values


def mean_metrics(each: dict[str, NDArray[np.float64]], scores: NDArray[Any], known: NDArray[np.bool_]) -> dict[str, float]:
    """Metrics of labelled queries: the means of `metrics_per_query`'s values, and auroc, known against new by the best of scores
    (q, m).
    What the queries don't define is left out."""
    values = {name: float(np.nanmean(of_each)) for name, of_each in each.items() if not np.isnan(of_each).all()}
    if known.any() and not known.all():
        values["auroc"] = float(roc_auc_score(known, replace_missing(scores[:, 0])))
    return values
