"""What discover.py writes: clusters.csv, metrics.json, pages, and the submission where there is a sample."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from lib.config.recipe import Recipe
from lib.errors import first_few
from lib.files import atomic_write, write_json
from lib.pipelines.discovery_inputs import DiscoveryInputs
from lib.pipelines.discovery_matching import match_pairs
from lib.pipelines.retrieval_session import RetrievalSession
from lib.reports import html
from lib.reports.review_page import Pair, Side, write_review_page
from lib.retrieval.review_pairs import ReviewPair
from lib.run_folder import DiscoveryFolder
from lib.submission.writing import submit_ranking
from lib.tables.readers import read_columns
from lib.tables.sample import Sample, load_sample
from lib.tables.table import Table

SHOWN_CLUSTERS, SHOWN_IMAGES, SHOWN_PAIRS = 60, 8, 10


@dataclass(frozen=True)
class Clusters:
    """The answer for n images."""

    names: np.ndarray
    """(n,) str: a known individual's name, or one made for a new one."""
    is_known: np.ndarray
    """(n,) bool"""
    probability: np.ndarray
    """(n,) that the image is in the right cluster."""
    pairs: list[ReviewPair] = field(default_factory=list)
    """Merges that a person should look at."""
    contradictions: list[tuple[str, str, str]] = field(default_factory=list)
    """What wasn't followed, and between which two images or individuals."""

    @staticmethod
    def empty(n: int) -> Clusters:
        """Return an answer to be filled."""
        return Clusters(np.empty(n, object), np.zeros(n, bool), np.zeros(n))


def read_names(folder: DiscoveryFolder) -> dict[str, str]:
    """Return the name of the cluster of each image in the folder's earlier answer; empty without one. Raises FlukeError."""
    if not folder.clusters.exists():
        return {}
    columns, _ = read_columns(folder.clusters, {name: name for name in ("image", "cluster")})
    return dict(zip(columns["image"], columns["cluster"]))


def write_clusters(
    session: RetrievalSession, folder: DiscoveryFolder, inputs: DiscoveryInputs, found: Clusters, result: dict[str, Any]
) -> None:
    """Write clusters.csv, metrics.json, the pages, contradictions, and the submission where there is a sample."""
    folder.path.mkdir(parents=True, exist_ok=True)
    table = inputs.query_table
    answers = zip(table.names, found.names.tolist(), found.is_known.tolist(), found.probability.tolist())
    rows = [(name, cluster, int(known), f"{p:.4f}") for name, cluster, known, p in answers]
    _write_csv(folder.clusters, ("image", "cluster", "known", "probability"), rows)
    folder.contradictions.unlink(missing_ok=True)
    if found.contradictions:
        _write_csv(folder.contradictions, ("what", "first", "second"), found.contradictions)
    write_json(folder.metrics, result)
    pairs = _pairs_to_show(session, inputs, found)
    _write_page(folder, table, found, pairs, result)
    write_review_page(folder.review, pairs)
    session.log(f"clusters: {folder.clusters}")
    sample = read_sample(session.recipe)
    if sample is not None and not asks_for_clusters(sample):
        session.log(f"no submission: {sample.path} asks for {first_few(sample.prediction_columns)}, not for a cluster")
    elif sample is not None and len(sample.prediction_columns) == 1:
        p = replace(session.recipe.predict, submission="label")
        names = table.ids or table.names
        submit_ranking(p, folder.submission, sample, names, [[name] for name in found.names.tolist()], sorted(set(found.names)))
        session.log(f"submission: {folder.submission}, a cluster for each of {len(sample.ids):,} images")


def read_sample(recipe: Recipe) -> Sample | None:
    """Return the sample submission, which predict.submission says nothing about; None without one. Raises FlukeError."""
    return load_sample(replace(recipe, predict=replace(recipe.predict, submission="auto")))


def asks_for_clusters(sample: Sample) -> bool:
    """Return whether a column of the sample is called after clusters or groups."""
    return re.search("cluster|group", " ".join(sample.prediction_columns), re.IGNORECASE) is not None


def _write_csv(path: Path, header: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> None:
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as handle:
        csv.writer(handle, lineterminator="\n").writerows([header, *rows])


def _pairs_to_show(session: RetrievalSession, inputs: DiscoveryInputs, found: Clusters) -> list[Pair]:
    """Return the pairs to review, those whose answer changes most first, with the names and files of their images."""

    of_queries, of_labelled = inputs.query_table.pictures, inputs.labelled_table.pictures

    def side(i: int, size: int) -> Side:
        table, pictures = (inputs.query_table, of_queries) if i >= 0 else (inputs.labelled_table, of_labelled)
        at = i if i >= 0 else -1 - i
        return Side(table.names[at], pictures[at], str(found.names[i]) if i >= 0 else str(inputs.labels[at]), size)

    ordered = sorted(found.pairs, key=lambda pair: -pair.effect)
    points = match_pairs(session, inputs, [(pair.first, pair.second) for pair in ordered])
    return [
        Pair(side(pair.first, pair.sizes[0]), side(pair.second, pair.sizes[1]), pair.merged, pair.probability, matched.tolist())
        for pair, matched in zip(ordered, points)
    ]


def _write_page(folder: DiscoveryFolder, table: Table, found: Clusters, pairs: list[Pair], result: dict[str, Any]) -> None:
    """Write the page: merges that nearly happened or nearly didn't, then clusters as rows of photographs, the least sure first."""
    images, pictures = {}, table.pictures
    for merged, what in ((True, "Merges that nearly didn't happen"), (False, "Merges that nearly happened")):
        shown = [pair for pair in pairs if pair.merged == merged][:SHOWN_PAIRS]
        if shown:
            images[what] = [
                (
                    side.path,
                    f"pair {i}, the same with {pair.probability:.0%}: {Path(side.image).name}, one of {side.images} of {side.name}",
                )
                for i, pair in enumerate(shown, 1)
                for side in (pair.first, pair.second)
            ]
    sure = {name: float(np.mean(found.probability[found.names == name])) for name in np.unique(found.names.astype(str)).tolist()}
    sizes = {name: int((found.names == name).sum()) for name in sure}
    order = sorted((name for name in sure if sizes[name] > 1), key=lambda name: sure[name])
    for name in order[:SHOWN_CLUSTERS]:
        rows = np.flatnonzero(found.names == name)
        rows = rows[np.argsort(found.probability[rows], kind="stable")][:SHOWN_IMAGES]
        title = f"{name}: {sizes[name]} images, right with probability {sure[name]:.2f}"
        images[title] = [(pictures[i], table.names[i]) for i in rows.tolist()]
    known = len(np.unique(found.names[found.is_known].astype(str)))
    subtitle = (
        f"{len(found.names):,} images in {len(sure):,} clusters, {known:,} of them known by name. Shown are the least sure merges "
        f"and clusters; {folder.clusters.name} has all, {folder.review.name} takes decisions."
    )
    html.write_page(folder.page, html.Page("Individuals", images=images, facts=result["parts"], subtitle=subtitle))
