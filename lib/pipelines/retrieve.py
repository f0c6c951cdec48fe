"""One retrieval end to end: embed, fit the threshold on what the runs held out, answer, write; and changes to a saved gallery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from accelerate import Accelerator

from lib.config.command_line import dump
from lib.config.recipe import Recipe, Retrieval
from lib.errors import FlukeError, first_few
from lib.files import atomic_write, lock_folder, write_text
from lib.pipelines.embed import combine_embeddings, embed, embed_pair, fingerprint, load_class_centres, load_held_out
from lib.reports import retrieval_page
from lib.retrieval import calibration
from lib.retrieval.evaluation import OpenSetEvaluation, evaluate_open_set, evaluate_queries
from lib.retrieval.gallery import Gallery, build_gallery, open_gallery
from lib.retrieval.ranking import rank_with_new
from lib.retrieval.search import search_identities
from lib.submission.writing import submit_ranking
from lib.tables import loading
from lib.tables.sample import load_sample
from lib.tables.table import Table
from lib.tables.target import ONE_LABEL
from lib.training.distributed import run_on_main

CENTRES = ("arcface", "subcenter_arcface", "cosface")  # objectives whose weights stand for the individuals


@dataclass
class RetrievalJob:
    """What is asked with what."""

    runs: list[Path]
    recipes: list[Recipe]
    """Each run's; the first one's tables and retrieval section count."""
    how: Literal["concat", "mean"]
    accelerator: Accelerator
    folder: Path
    """What is written goes here."""
    gallery: Path | None
    """A saved gallery to ask or to change; None: one of the training table, saved in `folder`/gallery."""

    def __post_init__(self) -> None:
        self.recipe = self.recipes[0]
        if self.recipe.data.label_separator is not None:
            raise FlukeError("data.label_separator: retrieval takes one individual an image; set it to null.")
        self.say = self.accelerator.print
        marks = [fingerprint(run, recipe) for run, recipe in zip(self.runs, self.recipes)]
        self.model = f" {self.how} ".join(marks)
        self.saved = self.gallery or self.folder / "gallery"

    def embed(self, rows: Table, what: Literal["train", "test"]) -> tuple[Table, list[np.ndarray]]:
        """The readable rows and their embeddings by each run."""
        found = [embed(run, recipe, rows, self.accelerator, what) for run, recipe in zip(self.runs, self.recipes)]
        return found[0][0], [vectors for _, vectors in found]

    def combine(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        return combine_embeddings(parts, self.how, self.runs)


def answer_queries(job: RetrievalJob, path: Path | None, image_dir: Path | None, metrics_alone: bool = False) -> dict[str, Any]:
    """Answer the images of `path` (a table or folder; None: the recipe's test images) and write what the script's docstring says;
    or measure the answers to labelled ones and write nothing. Returns the metrics, of validation where labels aren't known."""
    d = job.recipe.data
    train = loading.load_train(d, job.recipe.folds)
    queries = _queries(job, path, image_dir, train.classes)
    if metrics_alone and queries.labels is None:
        raise FlukeError(
            f"--evaluate {path}: has no column {d.label_column!r} (data.label_column); --queries takes unlabelled images."
        )
    train, parts = job.embed(train, "train")
    queries, query_parts = job.embed(queries, "test")

    def finish() -> dict[str, Any]:
        return _answer(job, train, parts, queries, query_parts, path is None, metrics_alone)

    return run_on_main(job.accelerator, finish) or {}


def _queries(job: RetrievalJob, path: Path | None, image_dir: Path | None, classes: tuple[str, ...]) -> Table:
    d = job.recipe.data
    if path is not None:
        return loading.load_images(path, image_dir or Path(d.root) / (d.test_dir or d.image_dir), d, classes, ONE_LABEL)
    found = loading.load_test(d, classes, ONE_LABEL)
    if found is None:
        raise FlukeError(
            "The recipe names no test images (data.test_csv, test_dir, sample_submission); give a table or folder: --queries."
        )
    return found


def _answer(
    job: RetrievalJob,
    train: Table,
    parts: list[np.ndarray],
    queries: Table,
    query_parts: list[np.ndarray],
    is_test: bool,
    metrics_alone: bool,
) -> dict[str, Any]:
    recipe, say, new_label = job.recipe, job.say, job.recipe.data.new_label
    r, k = recipe.retrieval, recipe.predict.topk
    vectors, labels = job.combine(query_parts), _labels(train)
    if job.gallery is not None:
        gallery = open_gallery(job.gallery)
        if gallery.metric != r.metric:
            raise FlukeError(f"{job.gallery}: was built for {gallery.metric}, not for retrieval.metric {r.metric}; build it again.")
    else:
        gallery = build_gallery(job.combine(parts), train.rows, train.names, labels, job.model, r.metric, r.factory, new_label)
    centres = load_class_centres(job.runs[0], recipe) if r.centre_weight > 0 and len(job.runs) == 1 else None
    own = len(set(queries.paths) & set(train.paths)) if job.gallery is None else 0
    if own:
        say(f"note: {own:,} of the queries are images of the gallery: they find themselves, which says nothing of others")
    fitted = calibration.fit_open_set(_validate(job, train, parts, query_parts, replace(r, factory=gallery.factory)), k)
    found = search_identities(gallery, vectors, r, job.model, max(5, k), centres)
    below = [v.below for v in fitted.validations if v.below is not None]
    if len(below) > 1 and job.how == "concat" and r.threshold == "auto":
        # The mean of the runs' cosines reaches less high than each: not a threshold carries over, but whom it parts.
        fitted = fitted._replace(threshold=float(np.quantile(found.scores[:, 0], np.mean(below))))
    say(f"gallery: {len(gallery.ids):,} images of {len(np.unique(gallery.labels)):,} individuals; queries: {len(queries):,}")
    if fitted.threshold is not None:
        share = "" if fitted.share is None else f"; {fitted.share:.0%} of the queries are taken to be new ({r.new_share})"
        say(f"threshold for {new_label}: {fitted.threshold:.4f} ({r.threshold_by if r.threshold == 'auto' else 'given'}){share}")
    elif new_label is not None:
        say(f"no threshold for {new_label}: no stranger was held out, so it comes last; set retrieval.threshold to change that")
    say("validation: " + _describe_metrics(fitted.metrics))
    measured: dict[str, float] = {}
    truth: list[str | None] = [None] * len(queries)
    if queries.labels is not None:
        names = _labels(queries)
        measured, _ = evaluate_queries(gallery, vectors, names, found, fitted.threshold, job.model, new_label)
        truth = np.where(np.isin(names, gallery.labels), names, new_label or names).tolist()
        say("these queries: " + _describe_metrics(measured))
    if metrics_alone:
        return measured
    lowest = -np.inf if fitted.threshold is None else fitted.threshold
    lists = rank_with_new(found.names, found.scores, lowest, new_label, k)
    if new_label is not None:
        say(f"{np.mean([names[0] == new_label for names in lists]):.1%} of the queries are answered {new_label} first")
    with lock_folder(job.folder):
        return _write(job, train, parts, queries, gallery, fitted, found, lists, truth, measured, is_test)


def _write(
    job: RetrievalJob,
    train: Table,
    parts: list[np.ndarray],
    queries: Table,
    gallery: Gallery,
    fitted: calibration.OpenSet,
    found: Any,
    lists: list[list[str]],
    truth: list[str | None],
    measured: dict[str, float],
    is_test: bool,
) -> dict[str, Any]:
    recipe, new_label, p = job.recipe, job.recipe.data.new_label, job.recipe.predict
    if job.gallery is None:
        if (job.saved / "changes.txt").exists():
            raise FlukeError(
                f"{job.saved}: was changed by --add or --remove, which building it again would undo; ask it with --gallery "
                f"{job.saved}, or name another --out, or delete it."
            )
        with lock_folder(job.saved):
            gallery.save(job.saved)
    if is_test and (sample := load_sample(recipe)) is not None:
        may = [*np.unique(gallery.labels).tolist(), *([new_label] if new_label is not None else [])]
        submit_ranking(p, job.folder / "submission.csv", sample, queries.names, lists, may)
    frame = retrieval_page.ranking_table(queries, found, lists, gallery, fitted, new_label)
    with atomic_write(job.folder / "ranks.parquet") as temporary:
        frame.to_parquet(temporary, index=False)
    verified = _verify(job, train, parts)
    retrieval_page.write_threshold(job.folder, fitted, verified, recipe, job.model)
    asked = {"runs": ", ".join(map(str, job.runs)), "network": job.model, "gallery": f"{len(gallery.ids):,} images"}
    facts: dict[str, dict[str, Any]] = {"Asked": asked | {"queries": len(queries)}, "Recipe": {"recipe.yaml": dump(recipe)}}
    paths = dict(zip(train.names, train.paths))
    retrieval_page.write_search_page(
        job.folder / "retrieval.html", frame, queries, truth, paths, fitted, verified, recipe, measured, facts
    )
    job.say(f"{job.folder}: {', '.join(sorted(path.name for path in job.folder.iterdir() if not path.name.startswith('.')))}")
    r, flips = recipe.retrieval, "[mirror]" if recipe.data.mirror_identities else "[hflip]"
    untried = [] if r.method != "best" else ["--retrieval.method vote"]
    if len(job.runs) == 1 and r.metric == "cosine" and not r.centre_weight and recipe.objective.name in CENTRES:
        untried.append("--retrieval.centre_weight 0.5")
    untried += [] if p.tta else [f"--predict.tta '{flips}'"]
    job.say(f"next: see whether validation gains by {', '.join(untried)}" if untried else "next: open retrieval.html")
    return measured or fitted.metrics


def _labels(rows: Table) -> np.ndarray:
    return np.array([label for (label,) in rows.labels or []])


def _groups(train: Table, at: np.ndarray) -> np.ndarray | None:
    return None if train.groups is None else train.groups[at]


def _describe_metrics(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())


def _validate(
    job: RetrievalJob, train: Table, parts: list[np.ndarray], query_parts: list[np.ndarray], r: Retrieval
) -> list[OpenSetEvaluation]:
    """One validation of the combined embeddings if the runs held out the same rows; else one of each run, on its own."""
    recipe, labels = replace(job.recipe, retrieval=r), _labels(train)
    splits = [load_held_out(run, train) for run in job.runs]
    held = [{at for at, mine in zip(*split) if mine} for split in splits]
    if any(other != held[0] for other in held):
        job.say("note: these runs held out different rows, so the threshold says new as often as each run alone does, in the mean")
        return [
            evaluate_open_set(part[at], labels[at], mine, recipe, None, q, _groups(train, at))
            for part, (at, mine), q in zip(parts, splits, query_parts)
        ]
    at, mine = splits[0]
    centres = load_class_centres(job.runs[0], recipe) if recipe.retrieval.centre_weight > 0 and len(job.runs) == 1 else None
    return [
        evaluate_open_set(job.combine(parts)[at], labels[at], mine, recipe, centres, job.combine(query_parts), _groups(train, at))
    ]


def _verify(job: RetrievalJob, train: Table, parts: list[np.ndarray]) -> calibration.PairVerification | None:
    """On pairs of images that no run was trained on."""
    splits = [load_held_out(run, train) for run in job.runs]
    rows = np.array(sorted(set.intersection(*({at for at, mine in zip(*split) if mine} for split in splits))), dtype=np.int64)
    if len(rows) < 2:
        return None
    return calibration.verify_held_out_pairs(job.combine(parts)[rows], _labels(train)[rows], _groups(train, rows), job.recipe)


def compare_pair(job: RetrievalJob, images: list[Path]) -> dict[str, Any]:
    """Are two images of the same individual? Score, probability (same and different being equally probable beforehand), and the
    decision at the threshold where both errors are equally frequent on held-out pairs."""
    train, parts = job.embed(loading.load_train(job.recipe.data, job.recipe.folds), "train")
    pair = job.combine([embed_pair(run, recipe, images, job.accelerator) for run, recipe in zip(job.runs, job.recipes)]).astype(
        np.float64
    )

    def judge() -> dict[str, Any]:
        metric = job.recipe.retrieval.metric
        a, b = pair / np.linalg.norm(pair, axis=1, keepdims=True) if metric == "cosine" else pair
        score = float(a @ b) if metric == "cosine" else -float(np.square(a - b).sum())
        said = f"{images[0]} and {images[1]}: {retrieval_page.SCORE_NAMES[metric]} {score:.4f}"
        if (verified := _verify(job, train, parts)) is None:
            job.say(f"{said}; the held-out images make no pairs to judge it by.")
            return {"score": score}
        threshold, rate = verified.roc.equal_error_threshold, verified.roc.equal_error_rate
        same, probability = score >= threshold, float(verified.same(score))
        job.say(f"{said}: {'the same individual' if same else 'different individuals'}")
        job.say(f"  probability of the same, if same and different are as likely beforehand: {probability:.1%}")
        job.say(f"  threshold {threshold:.4f}: there {rate:.1%} of held-out pairs are mistaken, in both directions")
        return {"score": score, "probability": probability, "same": same, "threshold": threshold, "equal_error_rate": rate}

    return run_on_main(job.accelerator, judge) or {}


# --- changes to a saved gallery ---------------------------------------------------------------------------------------------------


def add_to_gallery(job: RetrievalJob, path: Path, image_dir: Path | None) -> dict[str, Any]:
    """Embed the images of a labelled table into the saved gallery; rows of data.new_label are left out."""
    d = job.recipe.data
    rows = loading.load_images(path, image_dir or Path(d.root) / d.image_dir, d, (), ONE_LABEL)
    if rows.labels is None:
        raise FlukeError(f"--add {path}: has no column {d.label_column!r} (data.label_column) of names.")
    rows = rows.take(_labels(rows) != (d.new_label or ""))
    if not len(rows):
        raise FlukeError(f"--add {path}: every row is labelled {d.new_label}; a gallery holds individuals with names.")
    open_gallery(job.saved)  # a lock would make its folder
    rows, parts = job.embed(rows, "test")

    def change() -> dict[str, Any]:
        with lock_folder(job.saved):
            gallery = open_gallery(job.saved)
            if there := sorted(set(rows.names) & set(gallery.names.tolist())):
                raise FlukeError(f"--add {path}: {len(there):,} of its images are in the gallery already: {first_few(there)}.")
            ids = gallery.ids.max() + 1 + np.arange(len(rows))
            gallery.add(job.combine(parts), ids, rows.names, _labels(rows), job.model)
            return _save(job, gallery, f"added {len(rows):,} images of {path}")

    return run_on_main(job.accelerator, change) or {}


def remove_from_gallery(job: RetrievalJob, names: list[str]) -> dict[str, Any]:
    """Take individuals or images, by name, out of the saved gallery."""
    open_gallery(job.saved)

    def change() -> dict[str, Any]:
        with lock_folder(job.saved):
            gallery = open_gallery(job.saved)
            if unknown := sorted(set(names) - set(gallery.labels.tolist()) - set(gallery.names.tolist())):
                raise FlukeError(
                    f"--remove: {len(unknown):,} names are no individual or image of {job.saved}: {first_few(unknown)}."
                )
            gone = np.isin(gallery.labels, names) | np.isin(gallery.names, names)
            gallery.remove(gallery.ids[gone])
            return _save(job, gallery, f"removed {gone.sum():,} images: {' '.join(names)}")

    return run_on_main(job.accelerator, change) or {}


def _save(job: RetrievalJob, gallery: Gallery, what: str) -> dict[str, Any]:
    notes = job.saved / "changes.txt"
    write_text(notes, (notes.read_text(encoding="utf-8") if notes.exists() else "") + what + "\n")
    gallery.save(job.saved)
    size = {"images": len(gallery.ids), "individuals": len(np.unique(gallery.labels))}
    job.say(f"{job.saved}: {what}; now {size['images']:,} images of {size['individuals']:,} individuals")
    job.say(f"next: ask it with --gallery {job.saved}")
    return size
