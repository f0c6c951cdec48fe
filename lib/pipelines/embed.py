"""A finished embedding run: the embeddings it makes, cached in its folder, its held-out rows and its class centres."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from safetensors import safe_open

from lib.config.recipe import Recipe
from lib.errors import FlukeError, first_few
from lib.images.augmentation import make_eval_transform
from lib.images.checking import find_unreadable
from lib.images.dataset import ImageDataset
from lib.models.weights import load_network, read_spec
from lib.pipelines.readable import require_test_images
from lib.pipelines.run_tables import make_dataset
from lib.retrieval.class_centres import ClassCentres, make_class_centres
from lib.retrieval.similarity import check_embeddings
from lib.run_folder import RunFolder, newest_run
from lib.scores import score_file
from lib.scores.score_file import Scores
from lib.tables.filters import drop_unreadable
from lib.tables.image_path import files_of, read_as
from lib.tables.table import Table
from lib.tables.target import IDENTITY
from lib.training.distributed import broadcast_from_main, run_on_main
from lib.training.inference import InferenceOptions, predict


def find_embedding_runs(names: Sequence[str] | None) -> list[RunFolder]:
    """Return the embedding runs with these names, for a k-fold run its folds; without names the newest one below runs/.

    Raises FlukeError for a folder that isn't an embedding run with weights, validation scores and recipe.
    """
    if not names:
        found = newest_run(Path("runs"), lambda run: run.weights.exists() and run.scores_val.exists() and _is_embedding(run))
        if found is None:
            raise FlukeError("runs: no embedding run there; train one with scripts/train_embedding.py, or name one with --run.")
        names = [str(found)]
    runs = []
    for folder in map(RunFolder, names):
        folds = folder.begun_folds()
        runs += folds if folds and not folder.weights.exists() else [folder]
    for run in runs:
        needed = (run.recipe, run.weights, run.scores_val)
        if missing := [str(path.relative_to(run)) for path in needed if not path.exists()]:
            raise FlukeError(f"--run {run}: lacks {', '.join(missing)}; name a finished run of train_embedding.")
        if not _is_embedding(run):
            raise FlukeError(f"--run {run}: a classifier, not an embedding; name a run of train_embedding.")
    return runs


def _is_embedding(run: RunFolder) -> bool:
    spec = read_spec(run.weights)
    return spec is not None and spec.target is IDENTITY


def fingerprint(run: RunFolder, recipe: Recipe) -> str:
    """Return everything that embeddings depend on besides the images: weights (hashed), side, fit, flips, cached pixels."""
    with run.weights.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()[:16]
    d, flips = recipe.data, sorted(set(recipe.predict.tta))
    cached = [f"cached{d.cache_size or ''}"] if d.cache_dir is not None else []
    return " ".join([digest, f"{d.eval_size or d.size}px", d.fit, *flips, *cached])


def embed_table(
    run: RunFolder, recipe: Recipe, table: Table, accelerator: Accelerator, what: Literal["train", "test"]
) -> tuple[Table, np.ndarray]:
    """Return the readable rows of `table` and their embeddings (n, d) float32 by the run's network, the same on every process.

    They are cached in <run>/embeddings, under a name that depends on the network, on how it reads images, and on the images'
    names, sizes and modification times. Raises FlukeError for unreadable images (of `what` train: as data.on_unreadable demands).
    """
    d = recipe.data
    mark = fingerprint(run, recipe)
    files = [file for path in table.paths for file in files_of(path)]
    stats = [file.stat() if file.exists() else None for file in files]
    images = [[str(file.absolute()), stat and [stat.st_size, stat.st_mtime_ns]] for file, stat in zip(files, stats)]
    boxes = [] if table.boxes is None else [table.boxes]
    lenient = what == "train" and d.on_unreadable == "drop"  # only then may rows be missing
    key = hashlib.sha256(json.dumps([mark, table.rows.tolist(), table.names, images, lenient, *boxes]).encode()).hexdigest()
    path = run.embeddings / f"{key[:20]}.npz"

    def load_cached() -> Scores | None:
        with contextlib.suppress(FlukeError):  # missing, or incomplete
            return score_file.load_scores(path)
        return None

    cached: Scores | None = broadcast_from_main(accelerator, load_cached)
    if cached is not None:
        return table.take(np.isin(table.rows, cached.rows)), cached.logits
    bad = broadcast_from_main(accelerator, lambda: find_unreadable(table.paths, d.workers, d.check))
    table = drop_unreadable(table, bad, d.on_unreadable) if what == "train" else require_test_images(table, bad, d.on_unreadable)
    network = load_network(run.weights).to(accelerator.device).to(memory_format=torch.channels_last)
    pictures = make_dataset(recipe, table, make_eval_transform(d))
    options = InferenceOptions(recipe.predict.batch_size or 64, d.workers, tuple(sorted(set(recipe.predict.tta))))
    vectors = predict([network], pictures, accelerator, options, title=f"embed {table.source.name}")[0]
    entry = Scores(table.rows, table.names, (), vectors, target=IDENTITY, source={"run": run.name, "model": mark})

    def keep() -> None:
        try:
            score_file.save_scores(path, entry)
        except FlukeError as error:  # a read-only or full disk; the embeddings are there all the same
            print(f"note: the embeddings aren't kept for the next time: {error}")

    run_on_main(accelerator, keep)
    return table, vectors


def embed_files(run: RunFolder, recipe: Recipe, paths: Sequence[Path], accelerator: Accelerator) -> np.ndarray:
    """Return the embeddings (n, d) of a few images that no table names. Raises FlukeError for unreadable ones."""
    paths = read_as(paths, recipe.data)
    if bad := find_unreadable(paths, 0, "decode"):
        raise FlukeError("; ".join(f"{paths[i]}: {reason}" for i, reason in bad.items()) + ".")
    network = load_network(run.weights).to(accelerator.device).to(memory_format=torch.channels_last)
    pictures = ImageDataset(paths, make_eval_transform(recipe.data))
    options = InferenceOptions(len(paths), 0, tuple(sorted(set(recipe.predict.tta))))
    return predict([network], pictures, accelerator, options)[0]


def combine_embeddings(parts: Sequence[np.ndarray], how: Literal["concat", "mean"], runs: Sequence[RunFolder]) -> np.ndarray:
    """Combine the embeddings (n, d_i) of several runs, each scaled to length 1 first; those of a single run stay as they are.

    concat: one after another, so that a cosine is the mean of the runs' cosines. mean: their average, which makes sense only for
    runs whose spaces are the same (begun from the same trained weights). Raises FlukeError for averaging different widths.
    """
    if len(parts) == 1:
        return parts[0]
    unit = [check_embeddings(part, str(run), "cosine") for part, run in zip(parts, runs)]
    if how == "concat":
        return np.concatenate(unit, axis=1) / np.float32(np.sqrt(len(unit)))
    if len({part.shape[1] for part in unit}) > 1:
        widths = ", ".join(f"{run}: {part.shape[1]}" for run, part in zip(runs, unit))
        raise FlukeError(f"--combine mean: the runs' embeddings differ in width ({widths}); use concat.")
    return np.asarray(np.mean(unit, axis=0, dtype=np.float32))


def load_held_out(run: RunFolder, table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions (n,) in `table` of a run's validation rows, gallery first, and whether each is a query, (n,) bool.

    Labels may have changed since: no embedding depends on a name. Raises FlukeError when the table's images are no longer those
    that the run was trained on.
    """
    val, positions, is_query = _validation_rows(run, table)
    changed = [name for at, name in zip(positions, val.names) if at is None or table.names[at] != name]
    if changed:
        raise FlukeError(
            f"{run.scores_val}: {len(changed):,} of its rows aren't in {table.source} as they were ({first_few(changed)}); give it "
            "that table, or train again."
        )
    return np.array(positions, dtype=np.int64), is_query


def renamed_since_training(run: RunFolder, table: Table) -> dict[str, str]:
    """Return the individuals that a run was trained on whose images have another label in `table`, with the most frequent one.

    "" stands for one that is another individual of the training now. Raises FlukeError as `load_held_out` does.
    """
    positions, is_query = load_held_out(run, table)
    trained, now = (
        np.array([label for (label,) in labels or []]) for labels in (score_file.load_scores(run.scores_val).labels, table.labels)
    )
    counts = pd.crosstab(trained[~is_query], now[positions[~is_query]])
    common = dict(zip(counts.index, counts.idxmax(axis=1)))
    return {old: "" if common.get(new) == new else new for old, new in common.items() if new != old}


def _validation_rows(run: RunFolder, table: Table) -> tuple[Scores, list[int | None], np.ndarray]:
    """Return a run's validation scores, the positions of their rows in `table`, and whether each is a query, (n,) bool."""
    path = run.scores_val
    val = score_file.load_scores(path)
    queries = val.source.get("queries")
    if val.target is not IDENTITY or not isinstance(queries, int) or not 0 < queries < len(val.rows):
        raise FlukeError(f"{path}: doesn't say which rows were held out; train again, with another --out.")
    position_of = {row: i for i, row in enumerate(table.rows.tolist())}
    positions = [position_of.get(row) for row in val.rows.tolist()]
    return val, positions, np.arange(len(positions)) >= len(positions) - queries


def load_class_centres(run: RunFolder, recipe: Recipe) -> ClassCentres | None:
    """Return the class centres of an ArcFace or CosFace run, None if it has none."""
    spec, o = read_spec(run.weights), recipe.objective
    with safe_open(run.weights, framework="np") as weights:
        names = [name for part in (o.name, *o.also) if (name := f"objective.parts.{part}.loss.W") in weights.keys()]  # noqa: SIM118
        if spec is None or not names:
            return None
        vectors = weights.get_tensor(names[0]).T.astype(np.float32)
    return make_class_centres(vectors, spec.classes, recipe.data.mirror_identities, "mirror" in recipe.predict.tta)
