"""Retrieval: embed gallery and queries, fit the open-set model on held-out rows, search, evaluate and write; compare a pair."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lib.config.command_line import dump
from lib.config.recipe import Retrieval
from lib.errors import FlukeError
from lib.files import atomic_write, lock_folder
from lib.pipelines.answering import answer_from_folder, answer_from_training, describe, require_same_model, self_matches
from lib.pipelines.encounters import count_encounters, query_encounters, viewpoints_of
from lib.pipelines.export_individuals import export_individuals, write_csv
from lib.pipelines.gallery_files import content_hashes, save_networks, sighting_column, table_columns
from lib.pipelines.image_answers import load_index, write_image_answers
from lib.pipelines.local_matching import find_points
from lib.pipelines.retrieval_session import EmbeddedTable, RetrievalSession
from lib.process import announce
from lib.reports.retrieval_page import write_search_page
from lib.retrieval.candidates import narrow_gallery
from lib.retrieval.evaluation import LENGTH, AnswerRule, evaluate_queries
from lib.retrieval.gallery import Gallery, build_gallery, open_gallery
from lib.retrieval.history import require_unchanged
from lib.retrieval.open_set import OpenSet
from lib.retrieval.queries import Queries
from lib.retrieval.ranking import rank_with_new
from lib.retrieval.result import RetrievalResult, ranking_table, write_threshold
from lib.retrieval.rows import GalleryRows
from lib.retrieval.similarity import SIMILARITIES
from lib.run_folder import submit_command
from lib.submission.formats import IMAGE_ANSWERS
from lib.submission.writing import submit_ranking
from lib.tables import loading
from lib.tables.box import write_boxes
from lib.tables.boxes import add_boxes
from lib.tables.folders import IMAGE_SUFFIXES
from lib.tables.sample import load_sample
from lib.tables.table import Table
from lib.tables.target import ONE_LABEL
from lib.training.distributed import run_on_main


def answer_queries(
    session: RetrievalSession, paths: Sequence[Path] | None, image_dir: Path | None, metrics_only: bool
) -> dict[str, Any]:
    """Answer the images of `paths`, a table, folders or images (None: the recipe's test images), and write `write_result`'s files.

    A saved gallery with its open-set model is asked as it is; else the training table is embedded. With `metrics_only` the images
    are labelled, and nothing is written. Returns the metrics of the queries, without labels those of validation. Raises FlukeError.
    """
    saved = None if session.gallery is None else open_gallery(session.gallery)
    if saved is not None:
        require_same_model(session, saved)
        if session.where is not None:
            saved = narrow_gallery(saved, session.where)
            session.log(f"--where {session.where}: {len(saved.rows):,} images of {len(saved.identities):,} individuals")
    form = session.recipe.predict.submission if paths is None and not metrics_only else "auto"
    complete = saved is not None and bool(saved.about or saved.held_out) and form != "matches"
    train = None if complete else loading.load_train(session.recipe.data, session.recipe.folds)
    classes = tuple(saved.identities.tolist()) if saved is not None else train.classes if train else ()
    queries = load_queries(session, paths, image_dir, classes)
    if metrics_only and queries.labels is None:
        column = session.recipe.data.label_column
        raise FlukeError(
            f"--evaluate {queries.source}: has no column {column!r} (data.label_column); --queries takes unlabelled images."
        )
    embedded_train = None if train is None else session.embed(train, "train")
    embedded_queries = session.embed(queries, "test")
    index = load_index(session.recipe.data, session.recipe.predict.index) if form in IMAGE_ANSWERS else None
    embedded_index = None if index is None else session.embed(index, "test")
    embedded_queries.encounters = query_encounters(session.recipe, embedded_queries.table)
    embedded_queries.viewpoints = viewpoints_of(session.recipe, embedded_queries.table)
    if embedded_train is not None:
        embedded_train.viewpoints = viewpoints_of(session.recipe, embedded_train.table, required=True)

    def search_and_write() -> dict[str, Any]:
        result = search_queries(session, saved, embedded_train, embedded_queries)
        log_result(session, result)
        if metrics_only:
            announce([], f"python scripts/retrieve.py --run {' '.join(map(str, session.runs))}")
            return result.metrics
        if embedded_train is not None:
            result.pairs = session.verify_pairs(embedded_train)
        with lock_folder(session.folder.path):
            if form in IMAGE_ANSWERS:
                write_image_answers(session, embedded_train, embedded_queries, embedded_index)
            write_result(session, result, is_test=paths is None and form not in IMAGE_ANSWERS)
        return result.metrics or result.validation

    return run_on_main(session.accelerator, search_and_write) or {}


def load_queries(
    session: RetrievalSession, paths: Sequence[Path] | None, image_dir: Path | None, classes: tuple[str, ...]
) -> Table:
    """Return the images of a table or folder, or those named in `paths`, or the recipe's test images (None).

    Raises FlukeError where there are none.
    """
    d = session.recipe.data
    if paths is not None and (len(paths) > 1 or paths[0].suffix.lower() in IMAGE_SUFFIXES):
        return add_boxes(loading.load_files(paths, classes, ONE_LABEL, d), d)
    if paths is not None:
        path = paths[0]
        return loading.load_images(path, [image_dir] if image_dir else loading.test_folders(d), d, classes, ONE_LABEL)
    found = loading.load_test(d, classes, ONE_LABEL)
    if found is None:
        raise FlukeError(
            "The recipe names no test images (data.test_csv, test_dir, sample_submission); give a table or folder: --queries."
        )
    return found


def search_queries(
    session: RetrievalSession, saved: Gallery | None, train: EmbeddedTable | None, queries: EmbeddedTable
) -> RetrievalResult:
    """Search the gallery for all queries, place the new label, and evaluate queries that have labels."""
    k, new_label = session.recipe.predict.topk, session.recipe.data.new_label
    gallery = saved or build_training_gallery(session, train)
    answers = None if saved is None else answer_from_folder(session, saved, queries)
    if answers is None:
        if train is None:
            raise FlukeError(
                f"{session.gallery}: its open-set model was fitted for other settings, and no held-out queries are kept to fit it "
                "again; leave --retrieval, --topk and data.new_label as they were, or build the gallery again."
            )
        answers = answer_from_training(session, train, gallery, queries)
    gallery.about = gallery.about | describe(session, answers.open_set, answers.validation)
    found, open_set = answers.found, answers.open_set
    names = rank_with_new(found.names, found.scores, open_set.lowest_score, new_label, k)
    truth: list[str | None] = [None] * len(names)
    result = RetrievalResult(
        session.recipe, gallery, queries.table, found, answers.evaluations, open_set, names, truth, {}, answers.validation
    )
    result.encounters = queries.encounters
    result.without_viewpoint = 0 if queries.viewpoints is None else int((queries.viewpoints == "").sum())
    if queries.table.labels is not None:
        labels, rule = queries.labels, AnswerRule(open_set.threshold, new_label, min(LENGTH, k))
        asked = Queries(queries.embeddings, self_matches(session, gallery, queries, quiet=True))
        result.metrics, _ = evaluate_queries(gallery, asked, labels, found, rule)
        result.truth = np.where(np.isin(labels, gallery.rows.labels), labels, new_label or labels).tolist()
    return result


def build_training_gallery(session: RetrievalSession, train: EmbeddedTable | None) -> Gallery:
    """Build the gallery of the training table."""
    assert train is not None
    r, table = session.recipe.retrieval, train.table
    paths = [str(path.absolute()) for path in table.paths]
    d = session.recipe.data
    details = table_columns(table, (d.image_column, d.label_column))
    if table.groups is not None:
        details[sighting_column(session.recipe)] = table.groups
    rows = GalleryRows(
        table.rows, table.names, train.labels, paths, content_hashes(table.paths), details, write_boxes(table.boxes, len(table))
    )
    gallery = build_gallery(train.embeddings, rows, session.model, r.metric, r.factory, session.recipe.data.new_label, r.store)
    if gallery.index.nprobe is not None and "nprobe" not in r.search:
        session.log(f"index {r.factory}: {gallery.index.nprobe} cells are searched, for 99% of the nearest images (nprobe)")
    return gallery


def log_result(session: RetrievalSession, result: RetrievalResult) -> None:
    """Print the sizes, the threshold, and the metrics of validation and of labelled queries."""
    gallery, new_label = result.gallery, session.recipe.data.new_label
    asked = f"queries: {len(result.names):,}"
    if result.encounters is not None:
        asked += f" in {count_encounters(result.encounters):,} encounters"
    session.log(f"gallery: {len(gallery.rows):,} images of {len(gallery.identities):,} individuals; {asked}")
    if result.without_viewpoint:
        session.log(f"note: the viewpoint of {result.without_viewpoint:,} queries is unknown; they are compared with all images")
    if new_label is not None:
        session.log(_describe_threshold(result.open_set, session.recipe.retrieval, new_label))
    session.log("validation: " + _describe_metrics(result.validation))
    if result.metrics:
        session.log("these queries: " + _describe_metrics(result.metrics))
    if new_label is not None:
        session.log(
            f"{np.mean([names[0] == new_label for names in result.names]):.1%} of the queries are answered {new_label} first"
        )


def _describe_threshold(open_set: OpenSet, r: Retrieval, new_label: str) -> str:
    if open_set.threshold is None:
        return f"no threshold for {new_label}: no new individual was held out, so it comes last; retrieval.threshold sets one"
    if open_set.new_share is None and r.threshold == "auto":
        return (
            f"threshold for {new_label}: {open_set.threshold:.4f}, by strangers alone, of whom retrieval.far {r.far:g} reach it: "
            "no individual has a second photograph (or sighting) to ask with; probabilities are unknown"
        )
    share = "" if open_set.new_share is None else f"; {open_set.new_share:.0%} of the queries are taken to be new ({r.new_share})"
    return f"threshold for {new_label}: {open_set.threshold:.4f} ({r.threshold_by if r.threshold == 'auto' else 'given'}){share}"


def _describe_metrics(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())


def write_result(session: RetrievalSession, result: RetrievalResult, is_test: bool) -> None:
    """Write the gallery, the submission (with `is_test`), the ranks, the threshold and the page into the session's folder."""
    recipe, folder = session.recipe, session.folder
    if session.gallery is None:
        _save_new_gallery(session, result.gallery)
    if is_test:
        _write_submission(session, result)
    answers = ranking_table(result)
    with atomic_write(folder.ranks) as temporary:
        answers.to_parquet(temporary, index=False)
    write_csv(folder.ranks_csv, answers)
    write_threshold(folder, result)
    search = {
        "runs": ", ".join(map(str, session.runs)),
        "network": session.model,
        "gallery": f"{len(result.gallery.rows):,} images",
    }
    facts: dict[str, dict[str, Any]] = {
        "Search": {**search, "queries": len(result.names)},
        "Recipe": {session.runs[0].recipe.name: dump(recipe)},
    }
    fusion = result.open_set.fusion
    if fusion is not None and fusion.ratio:
        result.points = find_points(session, result.gallery.rows, result.queries, result.shown_pairs())
    write_search_page(folder.page, result, answers, facts)
    export_individuals(session, result)
    if untried := _untried_options(session):
        session.log(f"see whether validation gains by {', '.join(untried)}")
    announce(folder.list_paths(), submit_command(session.runs[0]) if folder.submission.exists() else None)


def _save_new_gallery(session: RetrievalSession, gallery: Gallery) -> None:
    folder = session.gallery_folder
    require_unchanged(folder)
    with lock_folder(folder):
        save_networks(folder, session.runs, session.recipes)
        gallery.save(folder)


def _write_submission(session: RetrievalSession, result: RetrievalResult) -> None:
    p, new_label = session.recipe.predict, session.recipe.data.new_label
    sample = load_sample(session.recipe)
    if sample is None:
        return
    classes = [*result.gallery.identities.tolist(), *([new_label] if new_label is not None else [])]
    names, metric = result.queries.ids or result.queries.names, session.recipe.train.metric
    submit_ranking(p, session.folder.submission, sample, names, result.names, classes, metric)


def _untried_options(session: RetrievalSession) -> Sequence[str]:
    """Return options at their default that often raise the metrics of validation."""
    r, default = session.recipe.retrieval, Retrieval()
    options = ["--retrieval.method vote"] if r.method == default.method else []
    if session.centres is not None and SIMILARITIES[r.metric].normalized and not r.centre_weight:
        options.append("--retrieval.centre_weight 0.5")
    flips = "[mirror]" if session.recipe.data.mirror_identities else "[hflip]"
    return options if session.recipe.predict.tta else [*options, f"--predict.tta '{flips}'"]
