"""What discover.py writes: clusters.csv, metrics.json, a page, and the submission where there is a sample."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lib.errors import first_few
from lib.files import atomic_write, write_json
from lib.pipelines.retrieval_session import RetrievalSession
from lib.reports import html
from lib.run_folder import DiscoveryFolder
from lib.submission.writing import submit_ranking
from lib.tables.readers import read_columns
from lib.tables.sample import load_sample
from lib.tables.table import Table

SHOWN_CLUSTERS, SHOWN_IMAGES = 60, 8


@dataclass(frozen=True)
class Clusters:
    """The answer for n images."""

    names: np.ndarray
    """(n,) str: a known individual's name, or one made for a new one."""
    is_known: np.ndarray
    """(n,) bool"""
    probability: np.ndarray
    """(n,) that the image is in the right cluster."""


def read_names(folder: DiscoveryFolder) -> dict[str, str]:
    """Return the name of the cluster of each image in the folder's earlier answer; empty without one. Raises FlukeError."""
    if not folder.clusters.exists():
        return {}
    columns, _ = read_columns(folder.clusters, {name: name for name in ("image", "cluster")})
    return dict(zip(columns["image"], columns["cluster"]))


def write_clusters(
    session: RetrievalSession, folder: DiscoveryFolder, table: Table, found: Clusters, result: dict[str, Any]
) -> None:
    """Write clusters.csv, metrics.json, the page, and the submission where there is a sample."""
    folder.path.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder.clusters) as temporary, open(temporary, "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(["image", "cluster", "known", "probability"])
        for name, cluster, known, p in zip(table.names, found.names.tolist(), found.is_known.tolist(), found.probability.tolist()):
            writer.writerow([name, cluster, int(known), f"{p:.4f}"])
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
    sure = {name: float(np.mean(found.probability[found.names == name])) for name in np.unique(found.names.astype(str)).tolist()}
    sizes = {name: int((found.names == name).sum()) for name in sure}
    order = sorted((name for name in sure if sizes[name] > 1), key=lambda name: sure[name])
    images = {}
    for name in order[:SHOWN_CLUSTERS]:
        rows = np.flatnonzero(found.names == name)
        rows = rows[np.argsort(found.probability[rows], kind="stable")][:SHOWN_IMAGES]
        title = f"{name}: {sizes[name]} images, right with probability {sure[name]:.2f}"
        images[title] = [(table.paths[i], table.names[i]) for i in rows.tolist()]
    html.write_page(folder.page, html.Page("Individuals", images=images, facts=result["parts"]))
