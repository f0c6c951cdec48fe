"""Evaluation: metrics of a search for labelled queries, and the validation of embeddings on held-out rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from lib.config.recipe import Recipe, Retrieval
from lib.metrics.clustered import mixture_interval
from lib.metrics.retrieval import map_at_r, open_set_accuracies, reciprocal_ranks
from lib.retrieval.calibration import estimate_new_share
from lib.retrieval.class_centres import ClassCentres
from lib.retrieval.encounter_search import search_encounters
from lib.retrieval.gallery import Gallery, build_gallery
from lib.retrieval.held_out import HeldOut, ValidationSet, hold_out
from lib.retrieval.local_fusion import Fusion
from lib.retrieval.local_search import LocalSearch
from lib.retrieval.queries import Queries
from lib.retrieval.ranking import rank_with_new, replace_missing
from lib.retrieval.rows import GalleryRows, LeftOut
from lib.retrieval.search import SearchResult, blocks, fit_centre_line, nearest_images
from lib.retrieval.thresholds import LabelledScores, ThresholdCurve, crossfit_thresholds, fit_threshold, threshold_curve

LENGTH = 5
"""Names per query that map@5 counts; the threshold is fitted for the same, or for `predict.topk` where it is less."""


class HeldOutSearch(NamedTuple):
    """The answers of a gallery to held-out queries."""

    held_out: HeldOut
    asked: Queries
    """The held-out queries, as they were asked."""
    result: SearchResult
    queries: LabelledScores
    """The result's scores, with what is right."""
    centres: ClassCentres | None
    """With the line that was fitted on these queries."""
    fusion: Fusion | None = None
    """What local scores add, fitted on these queries."""


class AnswerRule(NamedTuple):
    """How answers become lists of names, and how these are scored."""

    threshold: float | NDArray[np.floating] | None
    """Score below which the new label comes first, one or (q,); None: it comes last."""
    new_label: str | None
    """None: no query is new."""
    length: int = LENGTH
    """Names per list that map@5 counts."""
    share: float | None = None
    """Share of new individuals that the metrics are for; None: that of the queries."""

    @property
    def lowest_score(self) -> float | NDArray[np.floating]:
        """The threshold, -inf without one."""
        return -np.inf if self.threshold is None else self.threshold


class OpenSetEvaluation(NamedTuple):
    """The search for q held-out queries, and its metrics."""

    metrics: dict[str, float]
    """map@5 is (1 - s) * map@5_known + s * map@5_new, where s is `new_share`; the mean over the queries without it."""
    per_query: dict[str, np.ndarray]
    """Contribution of each query to the metrics, as `metrics_per_query` returns it."""
    result: SearchResult
    queries: LabelledScores
    """The result's scores, with what is right."""
    curve: ThresholdCurve | None
    """None without `data.new_label`, and where known or new individuals are missing among the queries."""
    new_share: float | None
    """Share of new individuals among the queries to answer, assumed or estimated; None without a curve."""
    clusters: np.ndarray
    """(q,) individuals, which are independent of each other."""
    centres: ClassCentres | None = None
    fusion: Fusion | None = None

    def interval(self, metric: str) -> tuple[float, float] | None:
        """Return the 95% interval of a metric that is a mean over queries, individuals drawn whole; None for another one."""
        if metric not in self.per_query:
            return None
        return metric_interval(self.per_query[metric], self.queries.in_gallery, self.new_share, self.clusters)


def mixed(values: np.ndarray, in_gallery: np.ndarray, share: float | None) -> float:
    """Return the mean of `values` (q,), NaN left out, of queries of which `share` are new (None: as they are)."""
    known, new = values[in_gallery], values[~in_gallery]
    if share is None or np.isnan(known).all() or np.isnan(new).all():
        return float(np.nanmean(values))
    return float((1 - share) * np.nanmean(known) + share * np.nanmean(new))


def metric_interval(values: np.ndarray, in_gallery: np.ndarray, share: float | None, clusters: np.ndarray) -> tuple[float, float]:
    """Return the 95% interval of `mixed`, rows of `clusters` (q,) drawn together."""
    kinds = [(kind, weight) for kind, weight in ((in_gallery, 1 - (share or 0)), (~in_gallery, share or 0))]
    kinds = [(kind, weight) for kind, weight in kinds if not np.isnan(values[kind]).all()]
    if share is None or len(kinds) < 2:
        kinds = [(np.ones(len(values), bool), 1.0)]
    return mixture_interval([(weight, values[kind], clusters[kind]) for kind, weight in kinds])


def search_held_out(
    held_out: HeldOut, gallery: Gallery, recipe: Recipe, centres: ClassCentres | None = None, local: LocalSearch | None = None
) -> HeldOutSearch:
    """Ask held-out queries of the gallery that further ones will ask, without the images that `HeldOut.left_out` names.

    Hence threshold and calibration hold for a gallery of this size. With retrieval.encounter_column the photographs of a sighting
    are asked together, as further ones will be. With local scores of the held-out queries, what these add is fitted first.
    """
    r, topk = recipe.retrieval, max(LENGTH, recipe.predict.topk)
    together = held_out.sightings if r.encounter_column is not None else None
    viewpoints = held_out.viewpoints if r.orientation_column is not None else None
    asked = Queries(held_out.embeddings, held_out.left_out(gallery.rows), together, viewpoints, local)
    if centres is not None and r.centre_weight > 0:
        centres = fit_centre_line(gallery, asked, r, centres)
    result = search_encounters(gallery, asked, r, topk, centres)
    if local is not None:  # the same pairs again, weighted
        local = local.fit(held_out.labels, held_out.clusters, lambda ids: gallery.rows.labels[gallery.rows.positions(ids)])
        asked = replace(asked, local=local)
        result = search_encounters(gallery, asked, r, topk, centres)
    known = _relevant(gallery.rows, held_out.labels, asked.left_out) > 0
    queries = LabelledScores(result.scores, (result.names == held_out.labels[:, None]) & known[:, None], known)
    return HeldOutSearch(held_out, asked, result, queries, centres, None if local is None else local.fusion)


def evaluate_search(
    found: HeldOutSearch, gallery: Gallery, recipe: Recipe, unlabelled: np.ndarray | float | None = None
) -> OpenSetEvaluation:
    """Compute the metrics of a search for held-out queries.

    unlabelled (t,): best scores of the queries to answer in the same gallery, from which the share of new individuals is estimated;
    or an earlier estimate. map@5 is at the recipe's threshold, or for each query at one that was fitted without its individual (see
    `crossfit_thresholds`).
    """
    r, new_label, queries = recipe.retrieval, recipe.data.new_label, found.queries
    curve, new_share = None, None
    threshold: float | np.ndarray | None = None
    length = min(LENGTH, recipe.predict.topk)
    if new_label is not None and r.threshold != "auto":
        threshold = float(r.threshold)
    if new_label is not None and queries.both_kinds:
        curve = threshold_curve(queries, length)
        new_share = assumed_share(queries, unlabelled, r)
        if threshold is None:
            fit = partial(fit_threshold, by=r.threshold_by, share=new_share, far=r.far)
            threshold = crossfit_thresholds(queries, fit, length, found.held_out.clusters)
    rule, held = AnswerRule(threshold, new_label, length, new_share), found.held_out
    metrics, per_query = evaluate_queries(gallery, found.asked, held.labels, found.result, rule)
    return OpenSetEvaluation(
        metrics, per_query, found.result, queries, curve, new_share, held.clusters, found.centres, found.fusion
    )


def evaluate_open_set(rows: ValidationSet, recipe: Recipe, centres: ClassCentres | None = None) -> OpenSetEvaluation:
    """Evaluate embeddings on a validation set: its queries are asked of a gallery of all its rows."""
    r, new_label = recipe.retrieval, recipe.data.new_label
    gallery_rows = GalleryRows(rows.row_ids, rows.row_ids.astype(str), rows.labels)
    gallery = build_gallery(rows.embeddings, gallery_rows, "validation", r.metric, r.factory, new_label)
    return evaluate_search(search_held_out(hold_out(rows, new_label), gallery, recipe, centres), gallery, recipe)


def assumed_share(queries: LabelledScores, unlabelled: np.ndarray | float | None, r: Retrieval) -> float:
    """Return retrieval.new_share, or its estimate from the best scores (t,) of the queries to answer (0.5 without any)."""
    if r.new_share != "estimate":
        return float(r.new_share)
    if isinstance(unlabelled, float):
        return unlabelled
    if unlabelled is None or not len(unlabelled):
        return 0.5
    return estimate_new_share(queries.best_scores, queries.in_gallery, unlabelled)


def average_metrics(evaluations: Sequence[OpenSetEvaluation]) -> dict[str, float]:
    """Return the mean of each metric over evaluations."""
    means = pd.DataFrame([evaluation.metrics for evaluation in evaluations]).mean()
    return {str(name): float(value) for name, value in means.items()}


def _relevant(rows: GalleryRows, labels: np.ndarray, left_out: LeftOut | None) -> NDArray[np.int64]:
    """Return the number of each query's individual's images that may answer it, (q,)."""
    names, sizes = np.unique(rows.labels, return_counts=True)
    at = np.searchsorted(names, labels).clip(max=len(names) - 1)
    counts: NDArray[np.int64] = np.where(names[at] == labels, sizes[at], 0)
    if left_out is None:
        return counts
    own = pd.Series(1, index=pd.MultiIndex.from_arrays([left_out.of_row, rows.labels])).groupby(level=[0, 1]).sum()
    hidden = own.reindex(pd.MultiIndex.from_arrays([left_out.of_query, labels]), fill_value=0).to_numpy(np.int64)
    return np.asarray(counts - hidden, np.int64)


def evaluate_queries(
    gallery: Gallery, queries: Queries, truth: NDArray[np.str_], result: SearchResult, rule: AnswerRule
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Compute metrics (see `mean_metrics`) of a search for queries with labels `truth` (q,), and each query's contribution.

    Queries of the new label and of individuals that the gallery lacks are new individuals.
    """
    counts = _relevant(gallery.rows, truth, queries.left_out)
    known = counts > 0
    per_query = metrics_per_query(truth, result.names, result.scores, known, rule)
    per_query["map@r"] = _map_at_r(gallery, queries, truth, counts)
    metrics = mean_metrics(per_query, result.scores, known, rule.share)
    if rule.new_label is not None:  # the first answer, the new label for a score below the threshold
        first = rank_with_new(result.names, result.scores, rule.lowest_score, rule.new_label, 1)
        expected = np.where(known, truth, rule.new_label)
        metrics |= open_set_accuracies(truth, np.array([names[0] for names in first]) == expected, known)
    return metrics, per_query


def _map_at_r(gallery: Gallery, queries: Queries, truth: np.ndarray, counts: NDArray[np.int64]) -> np.ndarray:
    """Return the average precision at R = `counts` of each query, (q,), NaN where it is 0; queries in blocks of similar R."""
    values, known = np.full(len(truth), np.nan), np.flatnonzero(counts > 0)
    for block in blocks(counts[known]):
        rows = known[block]
        at = nearest_images(gallery, queries.take(rows), int(counts[rows].max()))[2]
        values[rows] = map_at_r((gallery.rows.labels[at] == truth[rows, None]) & (at >= 0), counts[rows])
    return values


def metrics_per_query(
    truth: Sequence[str] | NDArray[Any], names: NDArray[Any], scores: NDArray[Any], in_gallery: NDArray[np.bool_], rule: AnswerRule
) -> dict[str, NDArray[np.float64]]:
    """Compute each labelled query's contribution to metrics, under their names in lib.metrics.registry.

    truth (q,), names (q, m >= 5) and scores (q, m) best first, in_gallery (q,) whether the gallery has the query's individual; if
    not, the new label is right. Returns (q,) values whose mean is the metric, NaN for a query that it leaves out: map@5 with the
    new label where the threshold places it; recall@1 and recall@5 of the known queries, without it.
    """
    right_names = [name if known else rule.new_label or "" for name, known in zip(truth, in_gallery)]
    is_right = names == np.asarray(truth, np.str_)[:, None]
    ranked = rank_with_new(names, scores, rule.lowest_score, rule.new_label)
    values = {"map@5": reciprocal_ranks(right_names, ranked, rule.length)}
    for k in (1, 5):
        values[f"recall@{k}"] = np.where(in_gallery, is_right[:, :k].any(axis=1), np.nan)
    return values


def mean_metrics(
    per_query: dict[str, NDArray[np.float64]], scores: NDArray[Any], in_gallery: NDArray[np.bool_], share: float | None = None
) -> dict[str, float]:
    """Return the means of the queries' contributions, and auroc: known against new by the best of scores (q, m).

    With `share`, as if so many queries were new (see `mixed`), with both parts of map@5. Leaves out what the queries don't define.
    """
    metrics = {name: mixed(values, in_gallery, share) for name, values in per_query.items() if not np.isnan(values).all()}
    if in_gallery.any() and not in_gallery.all():
        metrics["auroc"] = float(roc_auc_score(in_gallery, replace_missing(scores[:, 0])))
        if share is not None:
            parts = {"known": in_gallery, "new": ~in_gallery}
            metrics |= {f"map@5_{name}": float(per_query["map@5"][kind].mean()) for name, kind in parts.items()}
            metrics["new_share"] = share
    return metrics
