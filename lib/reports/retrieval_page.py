"""What a retrieval leaves behind: the threshold with its curve, every query's ranked names, and the page that shows them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.config.recipe import Recipe
from lib.files import atomic_write, write_json
from lib.metrics.verification import verify_pairs
from lib.reports import figures, html
from lib.retrieval.calibration import OpenSet, PairVerification
from lib.retrieval.gallery import Gallery
from lib.retrieval.open_set import new_share_costs
from lib.retrieval.ranking import replace_missing
from lib.retrieval.search import SearchResult
from lib.tables.table import Table

SCORE_NAMES = {"cosine": "cosine similarity", "l2": "minus squared distance"}


def ranking_table(
    queries: Table, answers: SearchResult, lists: list[list[str]], gallery: Gallery, fitted: OpenSet, new_label: str | None
) -> pd.DataFrame:
    """A row an answer: query, rank (from 1), name, score, probability, image (the nearest of that individual; None for none).

    The new label's score is the threshold.
    """
    rows = gallery.rows(answers.images)
    images = gallery.names[rows].astype(object)
    images[rows < 0] = None
    of_name, of_new = fitted.right(answers.scores), fitted.new and fitted.new(-answers.scores[:, 0])
    found: list[tuple[Any, ...]] = []
    for q, (query, names) in enumerate(zip(queries.names, lists)):
        place = {name: j for j, name in enumerate(answers.names[q].tolist())}
        for rank, name in enumerate(names, 1):
            if name == new_label:
                score = -np.inf if fitted.threshold is None else fitted.threshold
                found.append((query, rank, name, score, np.nan if of_new is None else of_new[q], None))
            else:
                j = place[name]
                found.append((query, rank, name, float(answers.scores[q, j]), of_name[q, j], images[q, j]))
    return pd.DataFrame(found, columns=["query", "rank", "name", "score", "probability", "image"])


def write_threshold(folder: Path, fitted: OpenSet, verified: PairVerification | None, recipe: Recipe, model: str) -> None:
    """threshold.json: threshold, share, probabilities, validation and what another share of new queries would cost; and its curve,
    threshold_curve.npz, when there is one."""
    curve = fitted.validations[0].curve
    about: dict[str, Any] = {
        "threshold": fitted.threshold,
        "by": recipe.retrieval.threshold_by,
        "share": fitted.share,
        "model": model,
    }
    about |= {
        "probability": fitted.right._asdict(),
        "probability_new": fitted.new and fitted.new._asdict(),
        "validation": fitted.metrics,
    }
    if verified is not None:
        roc = verified.roc
        rates = {"equal_error_rate": roc.equal_error_rate, "threshold": roc.equal_error_threshold}
        about["verification"] = {"auroc": roc.auroc, **rates, "probability": verified.same._asdict()}
    if curve is not None and fitted.threshold is not None:
        about["other_shares"] = new_share_costs(curve, fitted.threshold)
        with atomic_write(folder / "threshold_curve.npz") as temporary, temporary.open("wb") as handle:
            np.savez(handle, **curve._asdict())
    write_json(folder / "threshold.json", about)


def write_search_page(
    path: Path,
    frame: pd.DataFrame,
    queries: Table,
    truth: Sequence[str | None],
    paths: dict[str, Path],
    fitted: OpenSet,
    verified: PairVerification | None,
    recipe: Recipe,
    measured: dict[str, float],
    facts: dict[str, dict[str, Any]],
) -> None:
    """Each query beside its answers, with what validation says; `paths` are the gallery's images by name, `truth` the queries'
    right answers, `measured` their metrics ({}: labels aren't known)."""
    k, unit = recipe.predict.topk, SCORE_NAMES[recipe.retrieval.metric]
    answers: dict[str, list[html.Answer]] = {}
    for query, name, score, probability, image in frame[["query", "name", "score", "probability", "image"]].itertuples(index=False):
        known = None if pd.isna(probability) else float(probability)
        answers.setdefault(query, []).append(html.Answer(name, score, known, paths.get(image)))
    shown = [
        html.Query(name, image, answers.get(name, []), right) for name, image, right in zip(queries.names, queries.paths, truth)
    ]
    pictures = {}
    first = fitted.validations[0]
    best, there = replace_missing(first.answers.scores[:, 0]), first.known
    if first.curve is not None and fitted.threshold is not None and fitted.share is not None:
        pictures[f"Threshold, on validation if {fitted.share:.0%} are new"] = figures.threshold_curve(
            first.curve.thresholds, first.curve.map_at_k(fitted.share), fitted.threshold, f"MAP@{k}", unit
        )
        pictures["Known and new, on validation"] = figures.score_histograms(best[there], best[~there], fitted.threshold, unit)
        pictures["Known against new, on validation"] = figures.roc_curve(verify_pairs(there, best), "known against new")
    if verified is not None:
        pictures["Verification of pairs, on validation"] = figures.roc_curve(verified.roc, "same against different individual")
    metrics, rows = (measured, len(shown)) if measured else (fitted.metrics, len(best))
    note = "" if measured else "on the held-out images, for these have no labels"
    headline = html.Headline("map@5", metrics["map@5"], rows, note=note)
    others = {name: value for name, value in metrics.items() if name != "map@5"}
    page = html.Page(f"{path.parent.parent.name}: who is this?", headline, others, pictures, facts=facts)
    html.write_retrieval_page(path, page, shown, unit)
