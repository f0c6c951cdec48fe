"""Retrieval: embed gallery and queries, fit the open-set model on held-out rows, search, evaluate and write; compare a pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lib.config.command_line import dump
from lib.config.recipe import Recipe, Retrieval
from lib.errors import FlukeError
from lib.files import atomic_write, content_mark, lock_folder
from lib.metrics.intervals import share_interval
from lib.pipelines.embed import combine_embeddings, embed_files, load_held_out
from lib.pipelines.retrieval_session import EmbeddedTable, RetrievalSession
from lib.pipelines.runs import RunArguments
from lib.pipelines.train import train as train_embedding
from lib.process import announce
from lib.reports.retrieval_page import write_search_page
from lib.retrieval.evaluation import OpenSetEvaluation, evaluate_open_set, evaluate_queries, query_interval, validation_set
from lib.retrieval.gallery import CHANGES, Gallery, GalleryRows, HeldOut, build_gallery, open_gallery
from lib.retrieval.open_set import MANY, OpenSet, fit_open_set
from lib.retrieval.pairs import verify_held_out_pairs
from lib.retrieval.ranking import rank_with_new
from lib.retrieval.result import RetrievalResult, ranking_table, write_threshold
from lib.retrieval.search import search_identities
from lib.retrieval.similarity import SIMILARITIES, normalize
from lib.run_folder import submit_command
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
    saved = None if session.gallery is None else open_saved_gallery(session)
    # A gallery that remembers the held-out queries needs neither the training table nor its images.
    train = None if saved and saved.held_out else loading.load_train(session.recipe.data, session.recipe.folds)
    classes = tuple(saved.identities.tolist()) if saved else train.classes if train else ()
    queries = load_queries(session, paths, image_dir, classes)
    if metrics_only and queries.labels is None:
        column = session.recipe.data.label_column
        raise FlukeError(
            f"--evaluate {queries.source}: has no column {column!r} (data.label_column); --queries takes unlabelled images."
        )
    embedded_train = None if train is None else session.embed(train, "train")
    embedded_queries = session.embed(queries, "test")

    def search_and_write() -> dict[str, Any]:
        gallery = saved or make_gallery(session, embedded_train)
        result = search_queries(session, gallery, embedded_train, embedded_queries)
        log_result(session, result)
        if metrics_only:
            announce([], f"python scripts/retrieve.py --run {' '.join(map(str, session.runs))}")
            return result.metrics
        if gallery.held_out is not None:
            held_out = gallery.held_out
            result.pairs = verify_held_out_pairs(held_out.embeddings, held_out.labels, held_out.groups, session.recipe)
        with lock_folder(session.folder.path):
            write_result(session, result, is_test=paths is None)
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


def search_queries(
    session: RetrievalSession, gallery: Gallery, train: EmbeddedTable | None, queries: EmbeddedTable
) -> RetrievalResult:
    """Search the gallery for all queries, place the new label, and evaluate queries that have labels.

    `train` is needed where several runs held out different rows. A query that is in the gallery doesn't find itself.
    """
    recipe = _with_stored_share(session, gallery, len(queries.table))
    r, k, new_label = recipe.retrieval, recipe.predict.topk, recipe.data.new_label
    gallery.require_model(session.model, "queries")
    own = find_own_rows(gallery, queries.table.paths)
    if repeated := int((own >= 0).sum()):
        session.log(f"note: {repeated:,} of the queries are in the gallery; each is answered by its other images")
    evaluations = evaluate_held_out(session, recipe, gallery, train, queries)
    found = search_identities(gallery, queries.embeddings, r, session.model, max(5, k), session.centres, own)
    if len(evaluations) > 1 and session.combine == "concat" and new_label is not None and len(queries.table) < MANY:
        session.log(
            f"note: {len(queries.table)} queries are too few to carry the runs' thresholds over to their concatenation; the "
            f"thresholds' mean is used, which answers {new_label} more often"
        )
    open_set = fit_open_set(evaluations, recipe, found.best_scores if session.combine == "concat" else None)
    if len(queries.table) >= MANY:
        gallery.new_share = open_set.new_share
    names = rank_with_new(found.names, found.scores, open_set.lowest_score, new_label, k)
    truth: list[str | None] = [None] * len(names)
    result = RetrievalResult(recipe, gallery, queries.table, found, evaluations, open_set, names, truth, metrics={})
    if queries.table.labels is not None:
        labels = queries.labels
        result.metrics, per_query = evaluate_queries(
            gallery, queries.embeddings, labels, found, open_set.threshold, new_label, own=own
        )
        result.interval = share_interval(per_query["map@5"], labels)
        result.truth = np.where(np.isin(labels, gallery.rows.labels), labels, new_label or labels).tolist()
    elif len(evaluations) == 1:
        result.interval = query_interval(evaluations[0], "map@5")
    return result


def _with_stored_share(session: RetrievalSession, gallery: Gallery, queries: int) -> Recipe:
    """Return the recipe, for a few queries with the share of new individuals that the gallery's first many queries had."""
    recipe = session.recipe
    if recipe.retrieval.new_share != "estimate" or queries >= MANY or gallery.new_share is None:
        return recipe
    return replace(recipe, retrieval=replace(recipe.retrieval, new_share=gallery.new_share))


def find_own_rows(gallery: Gallery, paths: Sequence[Path]) -> np.ndarray:
    """Return the row id (q,) of each query in the gallery, by its file's path or content, -1 for one that isn't there."""
    rows = gallery.rows
    by_path = dict(zip(rows.paths.tolist(), rows.ids.tolist()))
    by_content = dict(zip(rows.contents.tolist(), rows.ids.tolist()))
    for known in (by_path, by_content):
        known.pop("", None)
    return np.array([by_path.get(str(path.absolute()), by_content.get(content_mark(path), -1)) for path in paths], np.int64)


def open_saved_gallery(session: RetrievalSession) -> Gallery:
    """Open the gallery that the session names. Raises FlukeError for a gallery of another metric."""
    assert session.gallery is not None
    gallery, r = open_gallery(session.gallery), session.recipe.retrieval
    if gallery.metric != r.metric:
        raise FlukeError(f"{session.gallery}: was built for {gallery.metric}, not for retrieval.metric {r.metric}; build it again.")
    return gallery


def prepare_pretrained(recipe: Recipe, run: Path, recipe_file: str | None) -> None:
    """Make a run whose network is a pretrained backbone as it is, unless it is there: its features are the embeddings.

    Raises FlukeError as train_embedding does, and for a run of another recipe.
    """
    model = replace(recipe.model, embedding_dim=None, hidden=[])
    recipe = replace(recipe, model=model, train=replace(recipe.train, epochs=0))
    train_embedding(recipe, RunArguments(str(run), resume=run.exists(), recipe_file=recipe_file), embedding=True)


def runs_of_gallery(folder: Path) -> list[str]:
    """Return the runs whose networks embed what a saved gallery is asked; [] for a gallery of an earlier version."""
    return list(open_gallery(folder).runs)


def make_gallery(session: RetrievalSession, train: EmbeddedTable | None) -> Gallery:
    """Build the gallery of the training table; it remembers the rows that all runs held out, if they held out the same."""
    assert train is not None
    r, table = session.recipe.retrieval, train.table
    rows = gallery_rows(table.rows, table, train.labels)
    gallery = build_gallery(train.embeddings, rows, session.model, r.metric, r.factory, session.recipe.data.new_label)
    gallery.runs = tuple(str(Path(run).absolute()) for run in session.runs)
    splits = [load_held_out(run, table) for run in session.runs]
    queries = [positions[is_query] for positions, is_query in splits]
    if all(set(each) == set(queries[0]) for each in queries):
        asked = queries[0]
        groups = table.rows.astype(str) if table.groups is None else np.asarray(table.groups, np.str_)
        gallery.held_out = HeldOut(table.rows[asked], train.embeddings[asked], train.labels[asked], groups[asked])
    return gallery


def gallery_rows(ids: np.ndarray, table: Table, labels: np.ndarray) -> GalleryRows:
    """Return the gallery's rows of a table's images."""
    paths = [str(path.absolute()) for path in table.paths]
    return GalleryRows(ids, table.names, labels, paths, [content_mark(path) for path in table.paths])


def evaluate_held_out(
    session: RetrievalSession, recipe: Recipe, gallery: Gallery, train: EmbeddedTable | None, queries: EmbeddedTable
) -> list[OpenSetEvaluation]:
    """Evaluate the gallery, as it is now, on the rows that all runs held out, or each run on its own where these differ.

    `queries` are the queries to answer, whose share of new individuals is estimated.
    """
    recipe = replace(recipe, retrieval=replace(recipe.retrieval, factory=gallery.index.factory))
    if gallery.held_out is not None:
        return [evaluate_open_set(validation_set(gallery), recipe, session.centres, queries.embeddings)]
    assert train is not None
    splits = [load_held_out(run, train.table) for run in session.runs]
    if all(set(positions[is_query]) == set(splits[0][0][splits[0][1]]) for positions, is_query in splits):
        rows = train.validation_set(train.embeddings, *splits[0])  # a gallery of an earlier version
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
    interval = "" if result.interval is None else "; map@5 95% interval {:.4f} to {:.4f}".format(*result.interval)
    session.log("validation: " + _describe_metrics(result.validation) + ("" if result.metrics else interval))
    if result.metrics:
        session.log("these queries: " + _describe_metrics(result.metrics) + interval)
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
    how = "estimated, within 5 to 70%" if r.new_share == "estimate" else "retrieval.new_share"
    share = "" if open_set.new_share is None else f"; {open_set.new_share:.0%} of the queries are taken to be new ({how})"
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
    rows = result.gallery.rows
    pictures = {name: Path(path) for name, path in zip(rows.names.tolist(), rows.paths.tolist()) if path}
    write_search_page(folder.page, result, answers, pictures, facts)
    if untried := _untried_options(session):
        session.log(f"see whether validation gains by {', '.join(untried)}")
    announce(folder.list_paths(), submit_command(session.runs[0]) if folder.submission.exists() else None)


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
