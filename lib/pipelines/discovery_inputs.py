"""What discover.py works with: the labelled images by the models that haven't learnt them all, the queries, and their columns."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from lib.errors import FlukeError
from lib.pipelines.embed import load_held_out
from lib.pipelines.retrieval_session import EmbeddedTable, RetrievalSession
from lib.retrieval.discovery import Images
from lib.retrieval.encounter_search import blank_unknown
from lib.retrieval.encounters import divide_links, fit_looks
from lib.retrieval.individual_folds import IndividualFold, fold_frozen
from lib.retrieval.similarity import check_embeddings
from lib.tables.joining import read_joined
from lib.tables.readers import read_mapping
from lib.tables.table import Table


@dataclass(frozen=True)
class DiscoveryInputs:
    """Labelled images and queries by the same models, side by side."""

    folds: list[IndividualFold]
    """Of the labelled images by one model each."""
    labelled: Images
    labels: np.ndarray
    """(n,) str, names of individuals."""
    parts: np.ndarray
    """(n,) str"""
    queries: Images
    query_parts: np.ndarray
    """(q,) str"""
    views: list[str]
    """Names of the views; the first is the unknown one."""
    labelled_table: Table
    query_table: Table
    doubted: list[str] = field(default_factory=list)
    """Names of queries whose looks speak against their encounter."""


def read_inputs(session: RetrievalSession, train: EmbeddedTable, queries: EmbeddedTable, frozen: bool) -> DiscoveryInputs:
    """Return the images with what the recipe's retrieval section says of them; images of data.new_label are left out.

    frozen: the networks have learnt none of the images, and folds are made of their features. Raises FlukeError.
    """
    named = np.flatnonzero(train.labels != (session.recipe.data.new_label or ""))
    labels, sides = train.labels[named], [train.table.take(named), queries.table]
    if (names_found := len(np.unique(labels))) < 2:
        raise FlukeError(
            f"{train.table.source}: names {names_found} individual{'s' * (names_found != 1)}; grouping others needs at least 2, "
            "some of which are held out. Add rows of others, or correct data.label_column, data.train_where or data.new_label."
        )
    orientations = blank_unknown(np.concatenate([_column(session, side, "orientation_column") for side in sides]))
    names, codes = np.unique(orientations, return_inverse=True)
    seen = [str(name) for name in names if name]
    view_of = np.array([seen.index(name) + 1 if name in seen else 0 for name in names.tolist()])[codes]
    links = [_mapping(session, side, "encounters") for side in sides]
    photographs = [_mapping(session, side, "photographs") for side in sides]
    parts = [_column(session, side, "part_column") for side in sides]
    n = len(named)

    def images(side: int, embeddings: np.ndarray) -> Images:
        plain = Images.of(embeddings, links[side], view_of[:n] if side == 0 else view_of[n:])
        photograph = photographs[side]
        return plain if photograph is None else replace(plain, photographs=photograph)

    rows = [part[named] for part in train.parts]
    if frozen:
        folds, answers = _fold_features(
            images(0, np.concatenate(rows, axis=1)), labels, sides[0], np.concatenate(queries.parts, axis=1)
        )
    else:
        units = [check_embeddings(part, str(run), "cosine") for part, run in zip(rows, session.runs)]
        folds = [
            IndividualFold(images(0, part), labels, *_held_out(session, k, train.table, named)) for k, part in enumerate(units)
        ]
        answers = [check_embeddings(part, str(run), "cosine") for part, run in zip(queries.parts, session.runs)]
    inputs = DiscoveryInputs(
        folds,
        images(0, _join([fold.images.embeddings for fold in folds])),
        labels,
        parts[0],
        images(1, _join(answers)),
        parts[1],
        ["unknown", *seen],
        sides[0],
        sides[1],
    )
    return inputs if links[1] is None else _doubt_encounters(inputs)


def _doubt_encounters(inputs: DiscoveryInputs) -> DiscoveryInputs:
    """Return the inputs without the links that looks speak against."""
    looks = fit_looks(inputs.folds)
    folds = [replace(fold, images=divide_links(fold.images, looks).images) for fold in inputs.folds]
    doubted = divide_links(inputs.queries, looks)
    names = [inputs.query_table.names[i] for i in doubted.positions.tolist()]
    return replace(inputs, folds=folds, queries=doubted.images, doubted=names)


def _join(parts: list[np.ndarray]) -> np.ndarray:
    """Return unit vectors whose cosine is the mean of those of unit vectors (n, d_i), (n, sum of d_i)."""
    return np.concatenate(parts, axis=1) / np.float32(np.sqrt(len(parts)))


def _fold_features(
    features: Images, labels: np.ndarray, table: Table, queries: np.ndarray
) -> tuple[list[IndividualFold], list[np.ndarray]]:
    """Return the folds of frozen features, and the unit vectors of the queries' features by the model of each."""
    sightings = features.links
    if len(np.unique(sightings)) == len(sightings) and table.groups is not None:
        sightings = np.unique(table.groups, return_inverse=True)[1]
    found = fold_frozen(replace(features, links=sightings), labels)
    folds = [replace(fold, images=replace(fold.images, links=features.links)) for fold, _ in found]
    return folds, [whitening(queries) for _, whitening in found]


def _held_out(session: RetrievalSession, run: int, table: Table, named: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions among the `named` rows of a run's gallery, and of its queries."""
    positions, is_query = load_held_out(session.runs[run], table)
    return tuple(np.flatnonzero(np.isin(named, positions[side])) for side in (~is_query, is_query))  # type: ignore[return-value]


def _column(session: RetrievalSession, table: Table, field: str) -> np.ndarray:
    """Return the values of the table's column that a field of `retrieval` names, (n,) str; "all" without it. Raises FlukeError."""
    column = getattr(session.recipe.retrieval, field)
    if column is None:
        return np.array(["all" if field == "part_column" else ""] * len(table))
    if table.lines is None:
        raise FlukeError(f"{table.source}: is a folder, without the column {column!r} (retrieval.{field}).")
    joined = read_joined(table.source, {f"retrieval.{field}": column}, session.recipe.data)
    of_line = dict(zip(joined.lines.tolist(), joined.columns[f"retrieval.{field}"]))
    return np.array([of_line[line] for line in table.lines.tolist()])


def _mapping(session: RetrievalSession, table: Table, field: str) -> np.ndarray | None:
    """Return a number for the value of each image in the table that a field of `retrieval` names, (n,) int64; None without one."""
    path = getattr(session.recipe.retrieval, field)
    if path is None:
        return None
    what = f"retrieval.{field} with two columns, image and {field.removesuffix('s')}"
    return np.unique(read_mapping(Path(session.recipe.data.root) / path, table.names, None, what), return_inverse=True)[1]
