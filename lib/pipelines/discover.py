"""Group the test images into individuals: named ones and new ones."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lib.errors import FlukeError, first_few
from lib.files import atomic_write, lock_folder, write_json
from lib.pipelines.embed import load_held_out
from lib.pipelines.retrieval_session import EmbeddedTable, RetrievalSession
from lib.pipelines.retrieve import load_queries
from lib.process import announce
from lib.reports import html
from lib.retrieval.discovery import Fit, Images, Known, fit, group_images, make_pseudo_tests, margin, pair_scores
from lib.run_folder import DiscoveryFolder, submit_command
from lib.submission.writing import submit_ranking
from lib.tables import loading
from lib.tables.joining import read_joined
from lib.tables.readers import read_mapping
from lib.tables.sample import load_sample
from lib.tables.table import Table
from lib.training.distributed import run_on_main

LEAST_IMAGES, LEAST_INDIVIDUALS = 30, 10
"""Held-out images and individuals of a part from which on it has a threshold of its own."""
SHOWN_CLUSTERS, SHOWN_IMAGES = 60, 8


@dataclass(frozen=True)
class Clusters:
    """The answer for n images."""

    names: np.ndarray
    """(n,) str: a known individual's name, or one made for a new one."""
    is_known: np.ndarray
    """(n,) bool"""
    probability: np.ndarray
    """(n,) that the image is in the right cluster; NaN where nothing could be fitted."""


def discover(
    session: RetrievalSession, folder: DiscoveryFolder, paths: Sequence[Path] | None, image_dir: Path | None
) -> dict[str, Any]:
    """Group the images of `paths`, or the recipe's test images; returns what metrics.json holds. Raises FlukeError."""
    train = loading.load_train(session.recipe.data, session.recipe.folds)
    queries = load_queries(session, paths, image_dir, train.classes)
    embedded_train, embedded_queries = session.embed(train, "train"), session.embed(queries, "test")

    def group_and_write() -> dict[str, Any]:
        found, result = group_parts(session, embedded_train, embedded_queries)
        with lock_folder(folder.path):
            write_clusters(session, folder, embedded_queries.table, found, result)
        hand_in = submit_command(session.runs[0], f"--file {folder.submission}") if folder.submission.exists() else None
        announce(folder.list_paths(), hand_in)
        return result

    return run_on_main(session.accelerator, group_and_write) or {}


def group_parts(session: RetrievalSession, train: EmbeddedTable, queries: EmbeddedTable) -> tuple[Clusters, dict[str, Any]]:
    """Return the clusters of the queries, each part on its own, and the metrics by part."""
    parts_of_train, parts = part_of_rows(session, train.table), part_of_rows(session, queries.table)
    links_of_train, links = encounter_of_rows(session, train.table), encounter_of_rows(session, queries.table)
    positions, is_query = load_held_out(session.runs[0], train.table)
    held_out, learnt = positions[is_query], positions[~is_query]
    new_label = session.recipe.data.new_label
    named = train.labels != new_label
    held_out, learnt = held_out[named[held_out]], learnt[named[learnt]]
    if not np.any(~np.isin(train.labels[held_out], train.labels[learnt])):
        session.log(
            "note: no individual was held out whole, so the threshold is fitted on individuals that the network has learnt and "
            "will merge too little; train with data.new_label and folds.unknown"
        )

    def fit_part(rows: np.ndarray, known_rows: np.ndarray) -> Fit | None:
        images = Images(train.embeddings[rows], links_of_train[rows])
        tests = make_pseudo_tests(images, train.labels[rows], Known.of(train.embeddings[known_rows], train.labels[known_rows]))
        return fit(tests) if tests else None

    pooled = fit_part(held_out, learnt)
    if pooled is None:
        raise FlukeError(f"{session.runs[0]}: too few photographs were held out to fit a threshold; raise folds.holdout.")
    names, is_known, probability = np.empty(len(parts), object), np.zeros(len(parts), bool), np.full(len(parts), np.nan)
    result: dict[str, Any] = {"parts": {}}
    for part in np.unique(parts).tolist():
        rows = np.flatnonzero(parts == part)
        of_part = held_out[parts_of_train[held_out] == part]
        own = len(of_part) >= LEAST_IMAGES and len(np.unique(train.labels[of_part])) >= LEAST_INDIVIDUALS
        fitted = (fit_part(of_part, learnt[parts_of_train[learnt] == part]) if own else None) or pooled
        labelled = np.flatnonzero(named & (parts_of_train == part))
        known = Known.of(train.embeddings[labelled], train.labels[labelled])
        images = Images(queries.embeddings[rows], links[rows])
        clusters, individual = group_images(images, known).cut(fitted.threshold)
        margins = margin(images, clusters, individual, known, fitted.threshold)
        if fitted.probability is not None:
            probability[rows] = fitted.probability.predict_proba(margins[:, None])[:, 1]
        is_known[rows] = individual >= 0
        names[rows] = name_clusters([queries.table.names[i] for i in rows], clusters, individual, known, part)
        result["parts"][part] = _describe_part(fitted, own, clusters, individual, queries, rows)
        session.log(_part_line(part, result["parts"][part], len(rows)))
    for metric in ("adjusted_rand", "test_adjusted_rand"):
        values = [values[metric] for values in result["parts"].values() if metric in values]
        if values:
            result[f"mean_{metric}"] = float(np.mean(values))
    return Clusters(names.astype(str), is_known, probability), result


def part_of_rows(session: RetrievalSession, table: Table) -> np.ndarray:
    """Return the part (data set, species) of each row, (n,) str; "all" without retrieval.part_column. Raises FlukeError."""
    column = session.recipe.retrieval.part_column
    if column is None:
        return np.array(["all"] * len(table))
    if table.lines is None:
        raise FlukeError(f"{table.source}: is a folder, without the column {column!r} (retrieval.part_column).")
    joined = read_joined(table.source, {"retrieval.part_column": column}, session.recipe.data)
    of_line = dict(zip(joined.lines.tolist(), joined.columns["retrieval.part_column"]))
    return np.array([of_line[line] for line in table.lines.tolist()])


def encounter_of_rows(session: RetrievalSession, table: Table) -> np.ndarray:
    """Return a number for the encounter of each row, (n,) int64; each row its own without retrieval.encounters."""
    path = session.recipe.retrieval.encounters
    if path is None:
        return np.arange(len(table))
    found = read_mapping(Path(session.recipe.data.root) / path, table.names, None, "two columns, image and encounter")
    return np.unique(found, return_inverse=True)[1]


def name_clusters(images: list[str], clusters: np.ndarray, individual: np.ndarray, known: Known, part: str) -> list[str]:
    """Return the name of each image's cluster: the known individual's, else one made of the first image's name.

    A new individual keeps its name when photographs are added that change neither its cluster nor its first image by name.
    """
    first: dict[int, str] = {}
    for image, cluster in zip(images, clusters.tolist()):
        first[cluster] = min(first.get(cluster, image), image)
    prefix = "new" if part == "all" else f"new_{part}"
    return [
        str(known.names[i]) if i >= 0 else f"{prefix}_{Path(first[cluster]).stem}"
        for cluster, i in zip(clusters.tolist(), individual.tolist())
    ]


def _describe_part(
    fitted: Fit, own: bool, clusters: np.ndarray, individual: np.ndarray, queries: EmbeddedTable, rows: np.ndarray
) -> dict[str, Any]:
    found = len(np.unique(clusters))
    ratio, low, high = fitted.count_ratio
    result = {
        "threshold": fitted.threshold,
        "threshold_of": "this part" if own else "all parts",
        **fitted.metrics,
        "images": len(rows),
        "clusters": found,
        "known_individuals": len(np.unique(individual[individual >= 0])),
        "individuals": found * ratio,
        "individuals_interval": [found * low, found * high],
    }
    if queries.table.labels is not None:
        from sklearn.metrics import adjusted_rand_score

        labels = queries.labels[rows]
        precision, recall = pair_scores(labels, clusters)
        result |= {"test_adjusted_rand": float(adjusted_rand_score(labels, clusters))}
        result |= {"test_pair_precision": precision, "test_pair_recall": recall}
    return result


def _part_line(part: str, values: dict[str, Any], images: int) -> str:
    low, high = values["individuals_interval"]
    line = f"{part}: {images:,} images in {values['clusters']:,} clusters, {values['known_individuals']:,} of them known; "
    line += f"about {values['individuals']:.0f} individuals ({low:.0f} to {high:.0f}); threshold {values['threshold']:.2f} of "
    line += f"{values['threshold_of']}; adjusted Rand index {values['adjusted_rand']:.3f} on held-out individuals "
    line += f"({values['best_adjusted_rand']:.3f} with each sample's best threshold)"
    if "test_adjusted_rand" in values:
        line += f"; {values['test_adjusted_rand']:.3f} on these images' labels"
    return line


def write_clusters(
    session: RetrievalSession, folder: DiscoveryFolder, table: Table, found: Clusters, result: dict[str, Any]
) -> None:
    """Write clusters.csv, metrics.json, the page, and the submission where there is a sample."""
    folder.path.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder.clusters) as temporary, open(temporary, "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(["image", "cluster", "known", "probability"])
        for name, cluster, known, p in zip(table.names, found.names.tolist(), found.is_known.tolist(), found.probability.tolist()):
            writer.writerow([name, cluster, int(known), "" if np.isnan(p) else f"{p:.4f}"])
    write_json(folder.metrics, result)
    _write_page(folder, table, found, result)
    session.log(f"clusters: {folder.clusters}")
    sample = load_sample(replace(session.recipe, predict=replace(session.recipe.predict, submission="auto")))
    if sample is not None and not re.search("cluster|group", " ".join(sample.prediction_columns), re.IGNORECASE):
        session.log(f"no submission: {sample.path} asks for {first_few(sample.prediction_columns)}, not for a cluster")
    elif sample is not None and len(sample.prediction_columns) == 1:
        p = replace(session.recipe.predict, submission="label")
        names = table.ids or table.names
        submit_ranking(p, folder.submission, sample, names, [[name] for name in found.names.tolist()], sorted(set(found.names)))
        session.log(f"submission: {folder.submission}, a cluster for each of {len(sample.ids):,} images")


def _write_page(folder: DiscoveryFolder, table: Table, found: Clusters, result: dict[str, Any]) -> None:
    """Write the page: clusters as rows of photographs, the least sure first."""
    sure = {name: float(np.nanmean(found.probability[found.names == name])) for name in np.unique(found.names).tolist()}
    sizes = {name: int((found.names == name).sum()) for name in sure}
    order = sorted((name for name in sure if sizes[name] > 1), key=lambda name: (np.isnan(sure[name]), sure[name]))
    images = {}
    for name in order[:SHOWN_CLUSTERS]:
        rows = np.flatnonzero(found.names == name)
        rows = rows[np.argsort(found.probability[rows], kind="stable")][:SHOWN_IMAGES]
        title = f"{name}: {sizes[name]} images, right with probability {sure[name]:.2f}"
        images[title] = [(table.paths[i], table.names[i]) for i in rows.tolist()]
    html.write_page(folder.page, html.Page("Individuals", images=images, facts=result["parts"]))
