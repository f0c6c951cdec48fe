"""The page of a retrieval: each query image with its answers, and the metrics and figures of validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.metrics.verification import verify_pairs
from lib.reports import figures, html
from lib.reports.query_pages import write_query_pages
from lib.retrieval.answer_model import crossfit_answers
from lib.retrieval.evaluation import LENGTH
from lib.retrieval.ranking import replace_missing
from lib.retrieval.result import RetrievalResult
from lib.retrieval.similarity import SIMILARITIES


def write_search_page(path: Path, result: RetrievalResult, answers: pd.DataFrame, facts: dict[str, dict[str, Any]]) -> None:
    """Write the page of a result to `path`; answers: the result's `ranking_table`; facts: sections of names and values."""
    queries = _queries(result, answers)
    if result.metrics:
        metrics, n, note, interval = result.metrics, len(queries), "", None
    else:
        metrics, n = result.validation, sum(len(each.queries.scores) for each in result.evaluations)
        note = "on the held-out images, because the queries have no labels"
        interval = result.evaluations[0].interval("map@5") if len(result.evaluations) == 1 else None
    headline = html.Headline("map@5", metrics["map@5"], n, interval, note)
    others = {name: value for name, value in metrics.items() if name != "map@5"}
    local = " with points that match" if result.points else ""
    unit, title = SIMILARITIES[result.recipe.retrieval.metric].unit, f"{path.parent.parent.name}: retrieval"
    write_query_pages(path, html.Page(title, headline, others, _figures(result, unit), facts=facts), queries, unit + local)


def _queries(result: RetrievalResult, answers: pd.DataFrame) -> list[html.Query]:
    """Return the queries with their answers, which stand in the order of the queries."""
    rows, found, at = result.gallery.rows, [], 0
    positions = rows.positions(result.search.images)
    listed = list(answers[["name", "score", "probability"]].itertuples(index=False))
    for q, (name, image, truth) in enumerate(zip(result.queries.names, result.queries.pictures, result.truth)):
        nearest = {name: j for j, name in enumerate(result.search.names[q].tolist())}
        given = []
        for label, score, probability in listed[at : at + len(result.names[q])]:
            j = nearest.get(label)
            picture = rows.picture(positions[q, j]) if j is not None and positions[q, j] >= 0 else None
            points = () if j is None else result.points.get((q, int(result.search.images[q, j])), np.empty((0, 4))).tolist()
            given.append(html.Answer(label, score, None if pd.isna(probability) else float(probability), picture, points))
        found.append(html.Query(name, image, given, truth))
        at += len(given)
    return found


def _figures(result: RetrievalResult, unit: str) -> dict[str, Figure]:
    """Draw validation's threshold, its scores of known and new queries, and the ROC of both and of pairs, as far as they exist."""
    open_set, drawn = result.open_set, {}
    first = result.evaluations[0] if result.evaluations else None
    if first is None:
        return {}
    if open_set.answers is not None:
        drawn["Calibration of the answers, on validation"] = _reliability(result)
    if first.curve is not None and open_set.threshold is not None and open_set.new_share is not None:
        best, known = replace_missing(first.result.best_scores), np.asarray(first.queries.in_gallery)
        share, metric = open_set.new_share, f"MAP@{min(LENGTH, result.recipe.predict.topk)}"
        drawn[f"Threshold, on validation if {share:.0%} are new"] = figures.threshold_curve(
            first.curve.thresholds, first.curve.map_at_k(share), open_set.threshold, metric, unit
        )
        drawn["Known and unknown, on validation"] = figures.score_histograms(best[known], best[~known], open_set.threshold, unit)
        drawn["Known against unknown, on validation"] = figures.roc_curve(verify_pairs(known, best), "known against unknown")
    if result.pairs is not None:
        drawn["Verification of pairs, on validation"] = figures.roc_curve(result.pairs.roc, "same against different individual")
    return drawn


def _reliability(result: RetrievalResult) -> Figure:
    """Draw how often the most probable answer is right, each query's probabilities fitted without its individual."""
    confidence, right = [], []
    for evaluation in result.evaluations:
        probability, answers = crossfit_answers(evaluation.queries, evaluation.new_share, evaluation.clusters)
        best = probability.argmax(axis=1)[:, None]
        confidence.append(np.take_along_axis(probability, best, 1)[:, 0])
        right.append(np.take_along_axis(answers, best, 1)[:, 0])
    return figures.reliability_diagram(np.concatenate(confidence), np.concatenate(right))
