"""Answer queries with names of images: the most similar ones in order, or all that show the same (predict.submission)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lib.config.recipe import Data
from lib.errors import FlukeError
from lib.files import write_json
from lib.pipelines.embed import load_held_out
from lib.pipelines.retrieval_session import EmbeddedTable, RetrievalSession
from lib.retrieval.image_sets import ImageSets, fit_image_sets, nearest
from lib.submission.writing import submit_ranking
from lib.tables.folders import IMAGE_SUFFIXES, image_stem, walk_images
from lib.tables.loading import load_images, test_folders
from lib.tables.rows import find_rows
from lib.tables.sample import Sample, load_sample, match_images
from lib.tables.table import Table
from lib.tables.target import ONE_LABEL

LEAST_WHOLE = 20
"""Held-out images of individuals without any trained image from which on the threshold is fitted on them alone."""


def load_index(data: Data, index: str | None) -> Table | None:
    """Return the images of predict.index, a folder with all folders in it, or a table; None without one. Raises FlukeError."""
    if index is None:
        return None
    path = Path(data.root) / index
    if not path.is_dir():
        return load_images(path, test_folders(data), data, (), ONE_LABEL, with_labels=False)
    names = walk_images(path)
    if not names:
        raise FlukeError(f"{path}: holds no images (predict.index).")
    return find_rows(path, path, names, data)[0]


def write_image_answers(
    session: RetrievalSession, train: EmbeddedTable | None, queries: EmbeddedTable, index: EmbeddedTable | None
) -> None:
    """Write the submission of image names, the images of `index` or (None) the queries themselves, and what matches reach.

    Raises FlukeError where there is no sample submission, or no held-out image to fit a threshold on.
    """
    recipe, folder = session.recipe, session.folder
    sample = load_sample(recipe)
    if sample is None:
        raise FlukeError(f"predict.submission {recipe.predict.submission}: needs a sample submission (data.sample_submission).")
    r, k = recipe.retrieval, recipe.predict.topk
    threshold = -np.inf
    if recipe.predict.submission == "matches":
        assert train is not None
        sets = _fit(session, train)
        threshold, k = sets.threshold, r.neighbours
        folder.path.mkdir(parents=True, exist_ok=True)
        write_json(folder.matches, sets._asdict())
    asked = queries.table.ids or queries.table.names
    own = _spelled(asked, sample)
    candidates = own if index is None else _spelled_as(index.table.names, sample)
    searched = queries if index is None else index
    scores, at = nearest(queries.embeddings, searched.embeddings, k + 1, r.metric)
    ranked = _answers(asked, own if index is None else None, candidates, scores, at, threshold)
    names = list(ranked)
    given = [ranked[name][:k] for name in names]
    p = replace(recipe.predict, submission="topk", topk=k)
    submit_ranking(p, folder.submission, sample, names, given, sorted(set(candidates)))
    session.log(
        f"submission: {folder.submission}, names of {np.mean([len(row) for row in given]):.1f} images per row, among "
        f"{len(set(candidates)):,} of {searched.table.source}"
    )


def _fit(session: RetrievalSession, train: EmbeddedTable) -> ImageSets:
    """Return the threshold of matches, fitted on images that no run was trained on. Raises FlukeError for fewer than two."""
    splits = [load_held_out(run, train.table) for run in session.runs]
    rows = np.array(sorted(set.intersection(*(set(at[is_query].tolist()) for at, is_query in splits))), dtype=np.int64)
    learnt = np.concatenate([at[~is_query] for at, is_query in splits])
    rows = rows[train.labels[rows] != (session.recipe.data.new_label or "")]
    whole = rows[~np.isin(train.labels[rows], train.labels[learnt])]
    if len(whole) >= LEAST_WHOLE:
        rows = whole
    elif len(rows) < 2:
        raise FlukeError("predict.submission matches: no images were held out to fit a threshold on; raise folds.holdout.")
    else:
        session.log(
            "note: few individuals were held out whole, so the threshold is fitted on individuals that the network has learnt, and "
            "may be too high; train with data.new_label and folds.unknown"
        )
    r = session.recipe.retrieval
    sets = fit_image_sets(train.embeddings[rows], train.labels[rows], r.neighbours, r.metric)
    low, high = sets.interval
    session.log(
        f"matches: mean F1 {sets.f1:.4f} ({low:.4f} to {high:.4f}) at the similarity {sets.threshold:.4f}, among {sets.images:,} "
        "held-out images; among more images, more strangers reach it"
    )
    return sets


def _answers(
    asked: Sequence[str], own: Sequence[str] | None, candidates: Sequence[str], scores: np.ndarray, at: np.ndarray, threshold: float
) -> dict[str, list[str]]:
    """Return the names for each of `asked`, best first, its own name (of `own`) before all; images of one name are one."""
    best: dict[str, dict[str, float]] = {}
    for i, name in enumerate(asked):
        found = best.setdefault(name, {} if own is None else {own[i]: np.inf})
        for score, j in zip(scores[i].tolist(), at[i].tolist()):
            if j >= 0 and score >= threshold and score > found.get(candidates[j], -np.inf):
                found[candidates[j]] = score
    return {name: sorted(found, key=lambda other: -found[other]) for name, found in best.items()}


def _spelled(names: Sequence[str], sample: Sample) -> list[str]:
    """Return the test images' names as the sample spells them; those that it doesn't list as they are."""
    answers = list(dict.fromkeys(names))
    spelling: dict[str, Any] = {answers[i]: name for name, i in zip(sample.ids, match_images(sample.ids, answers, sample.path))}
    return [spelling.get(name, name) for name in names]


def _spelled_as(names: Sequence[str], sample: Sample) -> list[str]:
    """Return names of files as the sample's ids are written: without folder, and with an extension only if these have one."""
    with_extension = any(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in sample.ids)
    return [name.rpartition("/")[2] if with_extension else image_stem(name) for name in names]
