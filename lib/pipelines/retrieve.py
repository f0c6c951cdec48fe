"""Retrieval: embed gallery and queries, fit the open-set model on held-out rows, search, evaluate and write; compare a pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lib.config.command_line import dump
from lib.config.recipe import Retrieval
from lib.errors import FlukeError
from lib.files import atomic_write, lock_folder
from lib.pipelines.embed import combine_embeddings, embed_files, load_held_out
from lib.pipelines.retrieval_session import EmbeddedTable, RetrievalSession
from lib.reports.retrieval_page import write_search_page
from lib.retrieval.evaluation import OpenSetEvaluation, evaluate_open_set, evaluate_queries
from lib.retrieval.gallery import CHANGES, Gallery, GalleryRows, build_gallery, open_gallery
from lib.retrieval.open_set import OpenSet, fit_open_set
from lib.retrieval.ranking import rank_with_new
from lib.retrieval.result import RetrievalResult, ranking_table, write_threshold
from lib.retrieval.search import search_identities
from lib.retrieval.similarity import SIMILARITIES, normalize
from lib.submission.writing import submit_ranking
from lib.tables import loading
from lib.tables.folders import IMAGE_SUFFIXES
from lib.tables.sample import load_sample
from lib.tables.table import Table
from lib.tables.target import ONE_LABEL
from lib.training.distributed import run_on_main


def answer_queries(
    session: RetrievalSession, paths: Sequence[Path] | None, image_dir: Path | None, metrics_only: bool
) -> dict[str, Any]:
    """Answer the images of `path`, a table or a folder (None: the recipe's test images), and write the files of `write_result`.

    With `metrics_only` the images are labelled, and nothing is written. Returns the metrics of the queries, without labels those
    of validation. Raises FlukeError.
    """
    train = loading.load_train(session.recipe.data, session.recipe.folds)
    queries = load_queries(session, paths, image_dir, train.classes)
    if metrics_only and queries.labels is None:
        column = session.recipe.data.label_column
        raise FlukeError(
            f"--evaluate {queries.source}: has no column {column!r} (data.label_column); --queries takes unlabelled images."
        )
    embedded_train = session.embed(train, "train")
    embedded_queries = session.embed(queries, "test")

    def search_and_write() -> dict[str, Any]:
        result = search_queries(session, embedded_train, embedded_queries)
        log_result(session, result)
        if metrics_only:
            return result.metrics
        result.pairs = session.verify_pairs(embedded_train)
        with lock_folder(session.folder.path):
            write_result(session, result, embedded_train.table, is_test=paths is None)
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
        return loading.load_files(paths, classes, ONE_LABEL)
    if paths is not None:
        path = paths[0]
        return loading.load_images(path, image_dir or loading.test_folders(d)[0], d, classes, ONE_LABEL)
    found = loading.load_test(d, classes, ONE_LABEL)
    if found is None:
        raise FlukeError(
            "The recipe names no test images (data.test_csv, test_dir, sample_submission); give a table or folder: --queries."
        )
    return found


def search_queries(session: RetrievalSession, train: EmbeddedTable, queries: EmbeddedTable) -> RetrievalResult:
    """Search the gallery for all queries, place the new label, and evaluate queries that have labels."""
    r, k, new_label = session.recipe.retrieval, session.recipe.predict.topk, session.recipe.data.new_label
    gallery = open_or_build_gallery(session, train)
    if session.gallery is None and (repeated := len(set(queries.table.paths) & set(train.table.paths))):
        session.log(
            f"note: {repeated:,} of the queries are images of the gallery: they find themselves, so their metrics mean little"
        )
    evaluations = evaluate_held_out(session, train, queries, gallery.index.factory)
    found = search_identities(gallery, queries.embeddings, r, session.model, max(5, k), session.centres)
    open_set = fit_open_set(evaluations, session.recipe, found.best_scores if session.combine == "concat" else None)
    names = rank_with_new(found.names, found.scores, open_set.lowest_score, new_label, k)
    truth: list[str | None] = [None] * len(names)
    result = RetrievalResult(session.recipe, gallery, queries.table, found, evaluations, open_set, names, truth, metrics={})
    if queries.table.labels is not None:
        labels = queries.labels
        result.metrics, _ = evaluate_queries(gallery, queries.embeddings, labels, found, open_set.threshold, new_label)
        result.truth = np.where(np.isin(labels, gallery.rows.labels), labels, new_label or labels).tolist()
    return result


def open_or_build_gallery(session: RetrievalSession, train: EmbeddedTable) -> Gallery:
    """Open the session's saved gallery, or build one of the training table. Raises FlukeError for a gallery of another metric."""
    r, table = session.recipe.retrieval, train.table
    if session.gallery is None:
        rows = GalleryRows(table.rows, table.names, train.labels)
        return build_gallery(train.embeddings, rows, session.model, r.metric, r.factory, session.recipe.data.new_label)
    gallery = open_gallery(session.gallery)
    if gallery.metric != r.metric:
        raise FlukeError(f"{session.gallery}: was built for {gallery.metric}, not for retrieval.metric {r.metric}; build it again.")
    return gallery


def evaluate_held_out(
    session: RetrievalSession, train: EmbeddedTable, queries: EmbeddedTable, factory: str
) -> list[OpenSetEvaluation]:
    """Evaluate the combined embeddings on the rows that all runs held out, or each run on its own where these differ.

    `factory` is that of the gallery. `queries` are the queries to answer, whose share of new individuals is estimated.
    """
    recipe = replace(session.recipe, retrieval=replace(session.recipe.retrieval, factory=factory))
    splits = [load_held_out(run, train.table) for run in session.runs]
    held_out = [set(positions[is_query].tolist()) for positions, is_query in splits]
    if all(rows == held_out[0] for rows in held_out):
        rows = train.validation_set(train.embeddings, *splits[0])
        return [evaluate_open_set(rows, recipe, session.centres, queries.embeddings)]
    session.log("note: these runs held out different rows, so each is validated on its own and the results are averaged")
    return [
        evaluate_open_set(train.validation_set(part, *split), recipe, None, of_queries)
        for part, split, of_queries in zip(train.parts, splits, queries.parts)
    ]


def log_result(session: RetrievalSession, result: RetrievalResult) -> None:
    """Print the sizes, the threshold, and the metrics of validation and of labelled queries."""
    gallery, new_label = result.gallery, session.recipe.data.new_label
    session.log(f"gallery: {len(gallery.rows):,} images of {len(gallery.identities):,} individuals; queries: {len(result.names):,}")
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
    share = "" if open_set.new_share is None else f"; {open_set.new_share:.0%} of the queries are taken to be new ({r.new_share})"
    return f"threshold for {new_label}: {open_set.threshold:.4f} ({r.threshold_by if r.threshold == 'auto' else 'given'}){share}"


def _describe_metrics(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())


def write_result(session: RetrievalSession, result: RetrievalResult, train: Table, is_test: bool) -> None:
    """Write the gallery, the submission (with `is_test`), the ranks, the threshold and the page into the session's folder."""
    recipe, folder = session.recipe, session.folder
    if session.gallery is None:
        _save_new_gallery(session, result.gallery)
    if is_test:
        _write_submission(session, result)
    answers = ranking_table(result)
    with atomic_write(folder.ranks) as temporary:
        answers.to_parquet(temporary, index=False)
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
    write_search_page(folder.page, result, answers, dict(zip(train.names, train.paths)), facts)
    session.log(f"{folder}: {folder.list_files()}")
    untried = _untried_options(session)
    session.log(f"next: see whether validation gains by {', '.join(untried)}" if untried else f"next: open {session.folder.page}")


def _save_new_gallery(session: RetrievalSession, gallery: Gallery) -> None:
    folder = session.gallery_folder
    if (folder / CHANGES).exists():
        raise FlukeError(
            f"{folder}: was changed by --add or --remove, which building it again would undo; search it with --gallery {folder}, "
            "or name another --out, or delete it."
        )
    with lock_folder(folder):
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


def compare_pair(session: RetrievalSession, images: list[Path]) -> dict[str, Any]:
    """Decide whether two images show the same individual, at the threshold of equal error rates on held-out pairs.

    Returns the score, the probability of a match (same and different equally probable beforehand), the decision, the threshold and
    its error rate; the score alone where the held-out images make no pairs of both kinds.
    """
    train = session.embed(loading.load_train(session.recipe.data, session.recipe.folds), "train")
    parts = [embed_files(run, recipe, images, session.accelerator) for run, recipe in zip(session.runs, session.recipes)]
    pair = combine_embeddings(parts, session.combine, session.runs).astype(np.float64)
    return run_on_main(session.accelerator, lambda: _decide_pair(session, images, pair, train)) or {}


def _decide_pair(session: RetrievalSession, images: list[Path], pair: np.ndarray, train: EmbeddedTable) -> dict[str, Any]:
    similarity = SIMILARITIES[session.recipe.retrieval.metric]
    pair = normalize(pair) if similarity.normalized else pair
    score = float(similarity.of_pairs(pair[:1], pair[1:])[0])
    described = f"{images[0]} and {images[1]}: {similarity.unit} {score:.4f}"
    verified = session.verify_pairs(train)
    if verified is None:
        session.log(f"{described}; no decision, because the held-out images make no pairs to fit a threshold on")
        return {"score": score}
    threshold, rate = verified.roc.equal_error_threshold, verified.roc.equal_error_rate
    same, probability = score >= threshold, float(verified.probability_same(score))
    session.log(f"{described}: {'the same individual' if same else 'different individuals'}")
    session.log(f"  probability of the same, if same and different are equally probable beforehand: {probability:.1%}")
    session.log(f"  threshold {threshold:.4f}, at which {rate:.1%} of the held-out pairs of either kind are mistaken")
    return {"score": score, "probability": probability, "same": same, "threshold": threshold, "equal_error_rate": rate}
