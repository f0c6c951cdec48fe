"""The page of a retrieval: each query image with its answers, and the metrics and figures of validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.metrics.verification import verify_pairs
from lib.reports import figures, html
from lib.retrieval.ranking import replace_missing
from lib.retrieval.result import RetrievalResult
from lib.retrieval.similarity import SIMILARITIES


def write_search_page(
    path: Path, result: RetrievalResult, answers: pd.DataFrame, image_paths: dict[str, Path], facts: dict[str, dict[str, Any]]
) -> None:
    """Write the page of a result to `path`.

    answers: the result's `ranking_table`; image_paths: the gallery's images by name; facts: sections of names and values.
    """
    listed: dict[str, list[html.Answer]] = {}
    columns = ["query", "name", "score", "probability", "image"]
    for query, name, score, probability, image in answers[columns].itertuples(index=False):
        calibrated = None if pd.isna(probability) else float(probability)
        listed.setdefault(query, []).append(html.Answer(name, score, calibrated, image_paths.get(image)))
    queries = [
        html.Query(name, image, listed.get(name, []), truth)
        for name, image, truth in zip(result.queries.names, result.queries.paths, result.truth)
    ]
    if result.metrics:
        metrics, rows, note = result.metrics, len(queries), ""
    else:
        metrics, rows = result.validation, len(result.evaluations[0].queries.scores)
        note = "on the held-out images, because the queries have no labels"
    headline = html.Headline("map@5", metrics["map@5"], rows, result.interval, note)
    others = {name: value for name, value in metrics.items() if name != "map@5"}
    unit, title = SIMILARITIES[result.recipe.retrieval.metric].unit, f"{path.parent.parent.name}: retrieval"
    html.write_retrieval_page(path, html.Page(title, headline, others, _figures(result, unit), facts=facts), queries, unit)


def _figures(result: RetrievalResult, unit: str) -> dict[str, Figure]:
    """Draw validation's threshold, its scores of known and new queries, and the ROC of both and of pairs, as far as they exist."""
    first, open_set, drawn = result.evaluations[0], result.open_set, {}
    if first.curve is not None and open_set.threshold is not None and open_set.new_share is not None:
        best, known = replace_missing(first.result.best_scores), np.asarray(first.queries.in_gallery)
        share, metric = open_set.new_share, f"MAP@{result.recipe.predict.topk}"
        drawn[f"Threshold, on validation if {share:.0%} are new"] = figures.threshold_curve(
            first.curve.thresholds, first.curve.map_at_k(share), open_set.threshold, metric, unit
        )
        drawn["Known and unknown, on validation"] = figures.score_histograms(best[known], best[~known], open_set.threshold, unit)
        drawn["Known against unknown, on validation"] = figures.roc_curve(verify_pairs(known, best), "known against unknown")
    if result.pairs is not None:
        drawn["Verification of pairs, on validation"] = figures.roc_curve(result.pairs.roc, "same against different individual")
    return drawn
