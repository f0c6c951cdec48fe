"""Evaluation: metrics of a search for labelled queries, and the validation of embeddings on held-out rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import roc_auc_score

from lib.config.recipe import Recipe, Retrieval
from lib.metrics.intervals import share_interval
from lib.metrics.retrieval import map_at_r, open_set_accuracies, reciprocal_ranks
from lib.retrieval.calibration import NEW_SHARES, estimate_new_share
from lib.retrieval.class_centres import ClassCentres
from lib.retrieval.gallery import Gallery, GalleryRows, build_gallery
from lib.retrieval.ranking import rank_with_new, replace_missing
from lib.retrieval.search import SearchResult, search_identities, without_own
from lib.retrieval.thresholds import LabelledScores, ThresholdCurve, crossfit_thresholds, fit_threshold, threshold_curve

BLOCK = 20_000_000
"""Neighbours, of all queries of a block, that are searched at a time."""


class ValidationSet(NamedTuple):
    """n labelled rows, some of which are queries among the others."""

    embeddings: np.ndarray
    """(n, d)"""
    labels: np.ndarray
    """(n,) str"""
    is_query: np.ndarray
    """(n,) bool"""
    groups: np.ndarray | None
    """(n,) sightings; None: every row is a group."""


class OpenSetEvaluation(NamedTuple):
    """The search for q held-out queries, and its metrics."""

    metrics: dict[str, float]
    per_query: dict[str, np.ndarray]
    """Contribution of each query to the metrics, as `metrics_per_query` returns it."""
    result: SearchResult
    queries: LabelledScores
    """The result's scores, with what is right."""
    curve: ThresholdCurve | None
    """None without `data.new_label`, and where known or new individuals are missing among the queries."""
    new_share: float | None
    """Share of new individuals among the queries to answer, assumed or estimated; None without a curve."""
    unlabelled_scores: np.ndarray | None
    """(t,) best scores of the queries to answer among all rows, queries included; None without any."""
    weights: np.ndarray
    """(q,) weight of each query in map@k: known and new individuals count as `new_share` says; 1 without it."""
    individuals: np.ndarray
    """(q,) whose queries depend on each other: the individual, or the sighting or the query itself where it has no name."""


def query_interval(found: OpenSetEvaluation, metric: str) -> tuple[float, float]:
    """Return the 95% interval of a metric that is a mean over queries; individuals, not photographs, are drawn."""
    weights = found.weights if metric.startswith("map@") else None
    return share_interval(found.per_query[metric], found.individuals, weights)


def evaluate_open_set(
    rows: ValidationSet, recipe: Recipe, centres: ClassCentres | None = None, unlabelled: np.ndarray | None = None
) -> OpenSetEvaluation:
    """Search the identity of each query of `rows` among the other rows.

    Queries of `data.new_label`, and of individuals without an image among the others, are new individuals. `unlabelled` (t, d) are
    the queries to answer, from which the share of new individuals is estimated. map@5 is for queries of which that share is new, as
    the threshold is; `map@5_known` and `map@5_new` are its parts. Each query is judged at the recipe's threshold, or at one fitted
    without its individual (see `crossfit_thresholds`). The threshold maximizes MAP@`predict.topk`, which is reported too.
    """
    r, new_label, model = recipe.retrieval, recipe.data.new_label, "validation"
    others = np.flatnonzero(~rows.is_query)
    gallery_rows = GalleryRows(others, others.astype(str), rows.labels[others])
    gallery = build_gallery(rows.embeddings[others], gallery_rows, model, r.metric, r.factory, new_label)
    embeddings, truth = rows.embeddings[rows.is_query], rows.labels[rows.is_query]
    k = recipe.predict.topk
    result = search_identities(gallery, embeddings, r, model, max(5, k), centres)
    queries = LabelledScores(result.scores, result.names == truth[:, None], np.isin(truth, gallery.rows.labels))
    within: np.ndarray | None = None
    unlabelled_scores: np.ndarray | None = None
    if unlabelled is not None:
        whole = GalleryRows(np.arange(len(rows.labels)), np.arange(len(rows.labels)).astype(str), rows.labels)
        everyone = build_gallery(rows.embeddings, whole, model, r.metric, r.factory, new_label)
        within, unlabelled_scores = (
            search_identities(each, unlabelled, r, model, max(5, k), centres).best_scores for each in (gallery, everyone)
        )
    individuals = _individuals(rows, new_label)
    curve, new_share = None, None
    threshold: float | np.ndarray | None = None
    if new_label is not None and r.threshold != "auto":
        threshold = float(r.threshold)
    if new_label is not None and queries.both_kinds:
        curve = threshold_curve(queries, k)
        held_out_whole = float(np.mean(~np.isin(rows.labels[rows.labels != new_label], gallery.rows.labels)))
        new_share = _new_share(queries, within, held_out_whole, r)
        if threshold is None:
            fit = partial(fit_threshold, by=r.threshold_by, share=new_share, far=r.far)
            threshold = crossfit_thresholds(queries, fit, k, individuals)
    metrics, per_query = evaluate_queries(gallery, embeddings, truth, result, threshold, new_label, k)
    weights = np.ones(len(truth))
    if new_share is not None:
        known = queries.in_gallery
        weights = np.where(known, (1 - new_share) / known.mean(), new_share / (~known).mean())
        for name in [name for name in per_query if name.startswith("map@") and name != "map@r"]:
            metrics[name] = float(np.average(per_query[name], weights=weights))
        metrics["map@5_known"], metrics["map@5_new"] = (float(per_query["map@5"][kind].mean()) for kind in (known, ~known))
    return OpenSetEvaluation(metrics, per_query, result, queries, curve, new_share, unlabelled_scores, weights, individuals)


def _individuals(rows: ValidationSet, new_label: str | None) -> np.ndarray:
    """Return `OpenSetEvaluation.individuals`: of rows of the new label, whose names nobody knows, the group or the row."""
    labels = rows.labels[rows.is_query]
    unnamed = np.flatnonzero(rows.is_query) if rows.groups is None else rows.groups[rows.is_query]
    return np.where(labels != (new_label or ""), np.char.add("name ", labels), np.char.add("group ", unnamed.astype(str)))


def _new_share(queries: LabelledScores, unlabelled: np.ndarray | None, held_out_whole: float, r: Retrieval) -> float:
    """Return retrieval.new_share, or its estimate from the best scores `unlabelled` (t,) of the queries to answer (0.5 without).

    `held_out_whole` is the share of the rows whose individual was held out with all its images: new to validation's gallery, but
    not to the one that will be searched. The estimate is reduced by it.
    """
    if r.new_share != "estimate":
        return float(r.new_share)
    if unlabelled is None:
        return 0.5
    share = estimate_new_share(replace_missing(queries.scores[:, 0]), queries.in_gallery, replace_missing(unlabelled))
    return float(np.clip((share - held_out_whole) / max(1 - held_out_whole, 1e-9), NEW_SHARES[0], NEW_SHARES[-1]))


def validation_set(gallery: Gallery) -> ValidationSet:
    """Return the rows of a gallery that remembers its held-out queries: these, to be searched among all of its other rows.

    A gallery that has grown or shrunk is evaluated as it is now.
    """
    assert gallery.held_out is not None
    held_out, rows = gallery.held_out, gallery.rows
    others = ~np.isin(rows.ids, held_out.ids)
    return ValidationSet(
        np.concatenate([gallery.embeddings(rows.ids[others]), held_out.embeddings]),
        np.concatenate([rows.labels[others], held_out.labels]),
        np.arange(others.sum() + len(held_out.ids)) >= others.sum(),
        np.concatenate([rows.ids[others].astype(str), held_out.groups]),
    )


def average_metrics(evaluations: Sequence[OpenSetEvaluation]) -> dict[str, float]:
    """Return the mean of each metric over evaluations."""
    means = pd.DataFrame([evaluation.metrics for evaluation in evaluations]).mean()
    return {str(name): float(value) for name, value in means.items()}


def evaluate_queries(
    gallery: Gallery,
    embeddings: np.ndarray,
    truth: np.ndarray,
    result: SearchResult,
    threshold: float | np.ndarray | None,
    new_label: str | None,
    topk: int = 5,
    own: np.ndarray | None = None,
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Compute metrics (see `mean_metrics`) of a search for queries (q, d) with labels `truth` (q,), and each query's contribution.

    Queries of `new_label` and of individuals of which the gallery has no (other) image are new individuals. `threshold`: one
    value, (q,) values, or None, by which the new label comes last. The embeddings were made by the gallery's model. map@`topk` is
    among the metrics where that isn't 5. `own` (q,) as in `search_identities`.
    """
    own = np.full(len(truth), -1) if own is None else own
    images = Counter(gallery.rows.labels.tolist())
    counts = np.array([images[name] for name in truth.tolist()])
    counts -= (own >= 0) & (gallery.rows.labels[gallery.rows.positions(own)] == truth)
    known = counts > 0
    lowest = -np.inf if threshold is None else threshold
    per_query = metrics_per_query(truth, result.names, result.scores, known, lowest, new_label, topk)
    per_query["map@r"] = np.full(len(truth), np.nan)
    per_query["map@r"][known] = _search_map_at_r(gallery, embeddings[known], truth[known], counts[known], own[known])
    metrics = mean_metrics(per_query, result.scores, known)
    if new_label is not None:  # the first answer, the new label for a score below the threshold
        first = rank_with_new(result.names, result.scores, lowest, new_label, 1)
        right = np.array([names[0] == (name if there else new_label) for names, name, there in zip(first, truth.tolist(), known)])
        metrics |= open_set_accuracies(truth, right, known)
    return metrics, per_query


def _search_map_at_r(
    gallery: Gallery, embeddings: np.ndarray, truth: np.ndarray, counts: np.ndarray, own: np.ndarray
) -> NDArray[np.float64]:
    """Return mAP@R of each query (q,), of whose individual the gallery has `counts` (q,) other images, at least 1."""
    found = np.empty(len(truth))
    order = np.argsort(counts, kind="stable")  # a large class alone is searched deep
    start = 0
    while start < len(order):
        depth = counts[order[start:]] + 1  # one may be the query itself
        rows = order[start : start + max(int((depth * np.arange(1, len(depth) + 1) <= BLOCK).sum()), 1)]
        scores, ids = gallery.search(embeddings[rows], int(counts[rows].max()) + 1, gallery.model)
        positions = gallery.rows.positions(without_own(scores, ids, own[rows])[1])
        hits = (gallery.rows.labels[positions] == truth[rows, None]) & (positions >= 0)
        found[rows] = map_at_r(hits, counts[rows])
        start += len(rows)
    return found


def metrics_per_query(
    truth: Sequence[str] | NDArray[Any],
    names: NDArray[Any],
    scores: NDArray[Any],
    in_gallery: NDArray[np.bool_],
    threshold: ArrayLike,
    new_label: str | None,
    topk: int = 5,
) -> dict[str, NDArray[np.float64]]:
    """Compute each labelled query's contribution to metrics, under their names in lib.metrics.registry.

    truth (q,), names (q, m >= 5) and scores (q, m) best first, in_gallery (q,) whether the gallery has the query's individual; if
    not, the new label is right. Returns (q,) values whose mean is the metric, NaN for a query that it leaves out: map@5 with the
    new label where the threshold places it, and map@`topk`; recall@1 and recall@5 of the known queries, without the new label.
    """
    right_names = [name if known else new_label or "" for name, known in zip(truth, in_gallery)]
    is_right = names == np.asarray(truth, np.str_)[:, None]
    values = {
        f"map@{k}": reciprocal_ranks(right_names, rank_with_new(names, scores, threshold, new_label, k), k)
        for k in dict.fromkeys((5, topk))
    }
    for k in (1, 5):
        values[f"recall@{k}"] = np.where(in_gallery, is_right[:, :k].any(axis=1), np.nan)
    return values


def mean_metrics(
    per_query: dict[str, NDArray[np.float64]], scores: NDArray[Any], in_gallery: NDArray[np.bool_]
) -> dict[str, float]:
    """Return the means of the queries' contributions, and auroc: known against new by the best of scores (q, m).

    Leaves out what the queries don't define.
    """
    metrics = {name: float(np.nanmean(values)) for name, values in per_query.items() if not np.isnan(values).all()}
    if in_gallery.any() and not in_gallery.all():
        metrics["auroc"] = float(roc_auc_score(in_gallery, replace_missing(scores[:, 0])))
    return metrics
