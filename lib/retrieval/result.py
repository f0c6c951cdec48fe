"""The result of a retrieval: the answers to all queries with what validation taught, as a table and as threshold.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from lib.config.recipe import Recipe
from lib.files import atomic_write, write_json
from lib.retrieval.evaluation import OpenSetEvaluation
from lib.retrieval.gallery import Gallery
from lib.retrieval.open_set import OpenSet
from lib.retrieval.pairs import PairVerification
from lib.retrieval.search import SearchResult
from lib.retrieval.thresholds import new_share_costs
from lib.run_folder import RetrievalFolder
from lib.tables.table import Table


@dataclass
class RetrievalResult:
    """The answers to q queries."""

    recipe: Recipe
    gallery: Gallery
    queries: Table
    search: SearchResult
    evaluations: list[OpenSetEvaluation]
    """Of the held-out rows: one, one per run where the runs held out different rows, or none where a saved gallery's open-set model
    is used."""
    open_set: OpenSet
    names: list[list[str]]
    """Up to `predict.topk` names per query, with the new label where the threshold places it."""
    truth: list[str | None]
    """The right name of each query, the new label for one that the gallery lacks; None without labels."""
    metrics: dict[str, float]
    """Metrics of the queries; empty without labels."""
    validation: dict[str, float]
    """Metrics of the held-out queries, averaged over the evaluations."""
    pairs: PairVerification | None = None
    encounters: np.ndarray | None = None
    """(q,) str: photographs that were asked together, "" for one alone; None: all were alone."""
    without_viewpoint: int = 0
    """Queries whose viewpoint is unknown where viewpoints are compared."""
    points: Mapping[tuple[int, int], np.ndarray] = field(default_factory=dict)
    """Of a query's position and a row id: points that match, (m, 4) x and y in both images, each centred in a square of side 1."""

    def shown_pairs(self) -> list[tuple[int, int]]:
        """Return the position of each query with the row id of the image of each of its answers."""
        pairs = []
        for q, names in enumerate(self.names):
            nearest = dict(zip(self.search.names[q].tolist(), self.search.images[q].tolist()))
            pairs += [(q, nearest[name]) for name in names if nearest.get(name, -1) >= 0]
        return pairs


def ranking_table(result: RetrievalResult) -> pd.DataFrame:
    """Return one row per answer: query, rank (from 1), name, score, probability, image (the individual's nearest; None for none),
    and where photographs were asked together, encounter.

    The new label's score is the threshold. The probabilities of a query's answers are of one distribution.
    """
    search, open_set, new_label = result.search, result.open_set, result.recipe.data.new_label
    positions = result.gallery.rows.positions(search.images)
    images = result.gallery.rows.names[positions].astype(object)
    images[positions < 0] = None
    unknown = np.full(search.scores.shape, np.nan), np.full(len(search.scores), np.nan)
    of_name, of_new = unknown if open_set.answers is None else open_set.answers(search.scores)
    rows: list[tuple[Any, ...]] = []
    for q, (query, names) in enumerate(zip(result.queries.names, result.names)):
        column = {name: j for j, name in enumerate(search.names[q].tolist())}
        for rank, name in enumerate(names, 1):
            if name == new_label:
                rows.append((query, rank, name, open_set.lowest_score, of_new[q], None))
            else:
                j = column[name]
                rows.append((query, rank, name, float(search.scores[q, j]), of_name[q, j], images[q, j]))
    table = pd.DataFrame(rows, columns=["query", "rank", "name", "score", "probability", "image"])
    if result.encounters is not None:
        table["encounter"] = np.repeat(result.encounters, [len(names) for names in result.names])
    return table


def write_threshold(folder: RetrievalFolder, result: RetrievalResult) -> None:
    """Write threshold.json: the open-set model, validation's metrics, and the cost of another share of new queries.

    Where there is a curve, write it too: threshold_curve.npz.
    """
    curve, threshold = result.evaluations[0].curve if result.evaluations else None, result.open_set.threshold
    about = {**result.open_set.to_json(), "by": result.recipe.retrieval.threshold_by, "model": result.gallery.model}
    about["validation"] = result.validation
    if result.pairs is not None:
        about["verification"] = result.pairs.to_json()
    if curve is not None and threshold is not None:
        about["other_shares"] = new_share_costs(curve, threshold)
        with atomic_write(folder.threshold_curve) as temporary, temporary.open("wb") as handle:
            np.savez(handle, **curve._asdict())
    write_json(folder.threshold, about)
