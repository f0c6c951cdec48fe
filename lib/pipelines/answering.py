"""Answers to queries: the open-set model is fitted on held-out rows against the gallery that is asked, or read from its folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from lib.config.recipe import Recipe
from lib.errors import FlukeError, first_few
from lib.pipelines.embed import load_held_out, renamed_since_training
from lib.pipelines.encounters import gallery_encounters, match_encounters
from lib.pipelines.gallery_files import content_hashes
from lib.pipelines.local_matching import match_held_out, match_queries, name_files
from lib.pipelines.retrieval_session import EmbeddedTable, RetrievalSession
from lib.retrieval.class_centres import ClassCentres
from lib.retrieval.combination import combination_gap
from lib.retrieval.encounter_search import search_encounters
from lib.retrieval.evaluation import LENGTH, HeldOutSearch, OpenSetEvaluation, average_metrics, evaluate_search, search_held_out
from lib.retrieval.gallery import Gallery, build_gallery
from lib.retrieval.held_out import HeldOut, hold_out
from lib.retrieval.local_fusion import Fusion
from lib.retrieval.open_set import OpenSet, fit_open_set
from lib.retrieval.queries import Queries
from lib.retrieval.rows import GalleryRows, LeftOut
from lib.retrieval.search import SearchResult

LEAST_JOINT = 20
"""Known, and new, queries that all runs held out, from which on the open-set model is fitted on them."""


@dataclass
class Answers:
    """The search for queries, with the open-set model that places the new label."""

    found: SearchResult
    open_set: OpenSet
    evaluations: list[OpenSetEvaluation]
    """Of the held-out rows; none where the model was read from the gallery's folder."""
    validation: dict[str, float]


def settings(recipe: Recipe) -> dict[str, Any]:
    """Return the fields that the open-set model was fitted for."""
    return {**asdict(recipe.retrieval), "topk": recipe.predict.topk, "new_label": recipe.data.new_label}


def answer_from_folder(session: RetrievalSession, gallery: Gallery, queries: EmbeddedTable) -> Answers | None:
    """Answer with the open-set model of a saved gallery; for other settings it is fitted again on the gallery's held-out queries.

    None where the folder holds neither.
    """
    about, recipe, left_out = gallery.about, session.recipe, self_matches(session, gallery, queries)
    if about and settings(Recipe()) | about["settings"] == settings(recipe):  # fields added since had their default
        open_set = OpenSet.from_json(about["open_set"])
        centres = with_line(centres_of(session, gallery), open_set)
        found = _search(session, gallery, queries, centres, left_out, open_set.fusion)
        return Answers(found, open_set, [], about["validation"])
    if gallery.held_out is None:
        return None
    return answer_held_out(session, gallery, gallery.held_out, queries, left_out)


def centres_of(session: RetrievalSession, gallery: Gallery) -> ClassCentres | None:
    """Return the network's class centres under the names that the gallery gives them."""
    return None if session.centres is None else session.centres.rename(gallery.about.get("classes", {}))


def with_line(centres: ClassCentres | None, open_set: OpenSet) -> ClassCentres | None:
    """Return class centres with the line that the open-set model holds."""
    return None if centres is None else centres._replace(line=open_set.centre_line)


def answer_held_out(
    session: RetrievalSession, gallery: Gallery, held_out: HeldOut, queries: EmbeddedTable, left_out: LeftOut | None
) -> Answers:
    """Answer queries with an open-set model that is fitted on held-out queries of the combined embeddings."""
    searched = _search_held_out(session, gallery, held_out)
    found = _search(session, gallery, queries, searched.centres, left_out, searched.fusion)
    evaluation = evaluate_search(searched, gallery, session.recipe, found.best_scores)
    return Answers(found, fit_open_set([evaluation], session.recipe), [evaluation], evaluation.metrics)


def refit(session: RetrievalSession, gallery: Gallery) -> None:
    """Fit the open-set model of a changed gallery again, on its held-out queries, for the same share of new individuals."""
    if gallery.held_out is None:
        if gallery.about:
            session.log("note: the threshold stays the one of the gallery before; no row was held out by all runs")
        return
    before = OpenSet.from_json(gallery.about["open_set"]) if gallery.about else None
    gallery.about = gallery.about | fit_about(session, gallery, gallery.held_out, None if before is None else before.new_share)
    now = OpenSet.from_json(gallery.about["open_set"]).threshold
    if before is not None and before.threshold is not None and now is not None:
        session.log(f"threshold, fitted for the changed gallery: {before.threshold:.4f} to {now:.4f}")


def fit_about(session: RetrievalSession, gallery: Gallery, held_out: HeldOut, share: float | None = None) -> dict[str, Any]:
    """Return what gallery.json says of the open-set model, fitted on held-out queries for a `share` of new individuals."""
    searched = _search_held_out(session, gallery, held_out)
    evaluation = evaluate_search(searched, gallery, session.recipe, share)
    return describe(session, fit_open_set([evaluation], session.recipe), evaluation.metrics)


def _search_held_out(session: RetrievalSession, gallery: Gallery, held_out: HeldOut) -> HeldOutSearch:
    local = match_held_out(session, gallery, held_out)
    searched = search_held_out(held_out, gallery, session.recipe, centres_of(session, gallery), local)
    if searched.fusion is not None:
        session.log(f"local scores {searched.fusion.describe()}")
    return searched


def describe(session: RetrievalSession, open_set: OpenSet, validation: dict[str, float]) -> dict[str, Any]:
    """Return what gallery.json says of an open-set model: its values, the settings that it was fitted for, and its validation."""
    about = {"settings": settings(session.recipe), "open_set": open_set.to_json()}
    return {**about, "validation": validation, "combine": session.combine}


def answer_from_training(session: RetrievalSession, train: EmbeddedTable, gallery: Gallery, queries: EmbeddedTable) -> Answers:
    """Answer with an open-set model fitted on the rows that all runs held out, or on each run's own where these are too few."""
    gallery.about = gallery.about | {"classes": _new_names(session, train)}
    left_out, joint = self_matches(session, gallery, queries), joint_held_out(session, train)
    if joint is not None:
        gallery.held_out = joint
        return answer_held_out(session, gallery, joint, queries, left_out)
    if session.recipe.retrieval.local != "none":
        raise FlukeError(
            "retrieval.local: these runs held out different rows, so local scores can't be weighed for all; name one run, or set "
            "it to none."
        )
    session.log("note: these runs held out different rows, so each is validated on its own and the results are averaged")
    found = _search(session, gallery, queries, None, left_out, None)
    named = train.labels != (session.recipe.data.new_label or "")
    views = {} if train.viewpoints is None else {session.recipe.retrieval.orientation_column or "": train.viewpoints}
    rows = GalleryRows(train.table.rows, train.table.names, train.labels, details=views).take(named)
    evaluations, r = [], session.recipe.retrieval
    for run, part, of_queries in zip(session.runs, train.units, queries.units):
        one = build_gallery(part[named], rows, gallery.model, r.metric, "Flat" if r.store else gallery.index.factory)
        held_out = _hold_out(session, train, part, *load_held_out(run, train.table))
        # every run's best scores in the whole gallery, not those of the combination, belong to its own held-out scores
        best = _search(session, one, replace(queries, embeddings=of_queries), None, left_out, None).best_scores
        evaluations.append(evaluate_search(search_held_out(held_out, one, session.recipe), one, session.recipe, best))
    groups = None if train.table.groups is None else train.table.groups[named]
    gap = combination_gap([part[named] for part in train.units], gallery, train.embeddings[named], rows, groups, r)
    return Answers(found, fit_open_set(evaluations, session.recipe, gap), evaluations, average_metrics(evaluations))


def _new_names(session: RetrievalSession, train: EmbeddedTable) -> dict[str, str]:
    """Return the individuals of the first run that the training table calls otherwise now, and say so."""
    found = renamed_since_training(session.runs[0], train.table)
    if found:
        some = first_few(f"{old}: {new or 'part of another'}" for old, new in found.items())
        session.log(f"note: {len(found):,} individuals have other names than in training ({some}); no embedding depends on a name")
    return found


def joint_held_out(session: RetrievalSession, train: EmbeddedTable) -> HeldOut | None:
    """Return the rows that all runs held out; None where runs differ and too few are left."""
    splits = [load_held_out(run, train.table) for run in session.runs]
    held_out = [set(positions[is_query].tolist()) for positions, is_query in splits]
    joint = np.array(sorted(set.intersection(*held_out)), dtype=np.int64)
    positions = np.unique(np.concatenate([positions for positions, _ in splits]))
    if not len(joint):
        return None
    found = _hold_out(session, train, train.embeddings, positions, np.isin(positions, joint))
    if all(rows == held_out[0] for rows in held_out):
        return found
    new = int(found.is_new.sum())
    enough = len(joint) - new >= LEAST_JOINT and (session.recipe.data.new_label is None or new >= LEAST_JOINT)
    return found if enough else None


def _hold_out(
    session: RetrievalSession, train: EmbeddedTable, embeddings: np.ndarray, positions: np.ndarray, is_query: np.ndarray
) -> HeldOut:
    """Return the queries among the training table's rows at `positions` (n,), with their viewpoints."""
    found = hold_out(train.validation_set(embeddings, positions, is_query), session.recipe.data.new_label)
    found = found._replace(viewpoints=None if train.viewpoints is None else train.viewpoints[positions[is_query]])
    return name_files(session.recipe, found, train.table)


def _search(
    session: RetrievalSession,
    gallery: Gallery,
    queries: EmbeddedTable,
    centres: ClassCentres | None,
    left_out: LeftOut | None,
    fusion: Fusion | None,
) -> SearchResult:
    topk, r = max(LENGTH, session.recipe.predict.topk), session.recipe.retrieval
    local = match_queries(session, gallery, queries.table, fusion)
    asked = Queries(queries.embeddings, left_out, queries.encounters, queries.viewpoints, local)
    return search_encounters(gallery, asked, r, topk, centres)


def self_matches(session: RetrievalSession, gallery: Gallery, queries: EmbeddedTable, quiet: bool = False) -> LeftOut | None:
    """Return which gallery images are the same files as queries, or of the same encounter: they are left out, and counted on the
    screen unless `quiet`."""
    hashes, rows = content_hashes(queries.table.paths), gallery.rows
    names, code = np.unique(hashes, return_inverse=True)
    at = np.searchsorted(names, rows.hashes).clip(max=len(names) - 1)
    same_file = (names[at] == rows.hashes) & (rows.hashes != "")
    of_row = np.where(same_file, at, -2)
    what, repeated = "images of the gallery", int(np.isin(code, of_row).sum())
    known = None if queries.encounters is None else gallery_encounters(session.recipe, gallery)
    if queries.encounters is not None and known is not None:
        code, of_row = match_encounters(code, of_row, queries.encounters, known)
        what, repeated = "images of the gallery, or of encounters in it", int(np.isin(code, of_row).sum())
    if not repeated:
        return None
    if not quiet:
        session.log(f"note: {repeated:,} of the queries are {what}; a query isn't answered by itself")
    return LeftOut(code, of_row)


def require_same_model(session: RetrievalSession, gallery: Gallery) -> None:
    """Raise FlukeError for a gallery of another metric or network than the session's."""
    r = session.recipe.retrieval
    if gallery.metric != r.metric:
        raise FlukeError(f"{session.gallery}: was built for {gallery.metric}, not for retrieval.metric {r.metric}; build it again.")
    gallery.require_model(session.model, "queries")
