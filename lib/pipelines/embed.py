"""Embeddings of a table's images by one run or several, kept in the runs' folders so that nothing is embedded twice."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import safe_open

from lib.config.recipe import Recipe
from lib.errors import FlukeError, first_few
from lib.files import newest_run
from lib.images.augmentation import decode_side, make_eval_transform
from lib.images.dataset import ImageDataset
from lib.images.decoding import find_unreadable
from lib.models.weights import load_network, read_spec
from lib.pipelines.train import make_dataset
from lib.retrieval.gallery import check_embeddings
from lib.retrieval.search import ClassCentres, make_class_centres
from lib.scores import score_file
from lib.scores.score_file import Scores
from lib.tables.filters import drop_unreadable
from lib.tables.table import Table
from lib.tables.target import IDENTITY
from lib.training.distributed import broadcast_from_main, run_on_main
from lib.training.inference import InferenceOptions, predict

WEIGHTS = Path("best") / "model.safetensors"


def find_embedding_runs(named: Sequence[str] | None) -> list[Path]:
    """The embedding runs with these names, a k-fold run being its folds; the newest one below runs/ without names.

    Raises FlukeError for what isn't an embedding run with weights, validation scores and recipe.
    """
    if not named:
        found = newest_run(Path("runs"), lambda run: (run / WEIGHTS).exists() and _is_embedding(run))
        if found is None:
            raise FlukeError("runs: no embedding run there; train one with scripts/train_embedding.py, or name one with --run.")
        named = [str(found)]
    runs = []
    for folder in map(Path, named):
        folds = sorted(path for path in folder.glob("fold[0-9]*") if path.is_dir())
        runs += folds if folds and not (folder / WEIGHTS).exists() else [folder]
    for run in runs:
        if lacking := [str(name) for name in ("recipe.yaml", WEIGHTS, "scores_val.npz") if not (run / name).exists()]:
            raise FlukeError(f"--run {run}: lacks {', '.join(lacking)}; a run of train_embedding that came to its end is wanted.")
        if not _is_embedding(run):
            raise FlukeError(f"--run {run}: a classifier, not an embedding; retrieval takes runs of train_embedding.")
    return runs


def _is_embedding(run: Path) -> bool:
    spec = read_spec(run / WEIGHTS)
    return spec is not None and spec.kind == "embedding"


def fingerprint(run: Path, recipe: Recipe) -> str:
    """What embeddings depend on beside the images: the weights (hashed), the images' side and fit, flips, cached pixels."""
    with (run / WEIGHTS).open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()[:16]
    d, flips = recipe.data, sorted(set(recipe.predict.tta))
    cached = [f"cached{d.cache_size or ''}"] if d.cache_dir is not None else []
    return " ".join([digest, f"{d.eval_size or d.size}px", d.fit, *flips, *cached])


def embed(
    run: Path, recipe: Recipe, table: Table, accelerator: Accelerator, what: Literal["train", "test"]
) -> tuple[Table, np.ndarray]:
    """The rows of `table` that can be read, and their embeddings (n, d) float32 by the run's network, the same on every process.

    They are kept in <run>/embeddings, under a name that depends on the network, on how it looks at images, and on the images'
    names, sizes and times of change. Raises FlukeError for unreadable images (of `what` train: as data.on_unreadable says).
    """
    d = recipe.data
    mark = fingerprint(run, recipe)
    stats = [path.stat() if path.exists() else None for path in table.paths]
    images = [[str(path.absolute()), stat and [stat.st_size, stat.st_mtime_ns]] for path, stat in zip(table.paths, stats)]
    key = hashlib.sha256(json.dumps([mark, table.rows.tolist(), table.names, images]).encode()).hexdigest()
    path = run / "embeddings" / f"{key[:20]}.npz"

    def kept() -> Scores | None:
        with contextlib.suppress(FlukeError):  # not there, or torn
            return score_file.load_scores(path)
        return None

    found: Scores | None = broadcast_from_main(accelerator, kept)
    if found is not None:
        return table.take(np.isin(table.rows, found.rows)), found.logits
    bad = broadcast_from_main(accelerator, lambda: find_unreadable(table.paths, d.workers, d.check))
    table = drop_unreadable(table, bad, d.on_unreadable, what)
    network = load_network(run / WEIGHTS).to(accelerator.device).to(memory_format=torch.channels_last)
    pictures = make_dataset(recipe, table, make_eval_transform(d))
    options = InferenceOptions(recipe.predict.batch_size or 64, d.workers, tuple(sorted(set(recipe.predict.tta))))
    vectors = predict([network], pictures, accelerator, options, title=f"embed {table.source.name}")[0]
    entry = Scores(table.rows, table.names, (), vectors, target=IDENTITY, source={"run": run.name, "model": mark})
    run_on_main(accelerator, lambda: score_file.save_scores(path, entry))
    return table, vectors


def embed_pair(run: Path, recipe: Recipe, paths: Sequence[Path], accelerator: Accelerator) -> np.ndarray:
    """Embeddings (n, d) of a few images that no table names. Raises FlukeError for unreadable ones."""
    if bad := find_unreadable(paths, 0, "decode"):
        raise FlukeError("; ".join(f"{paths[i]}: {reason}" for i, reason in bad.items()) + ".")
    network = load_network(run / WEIGHTS).to(accelerator.device).to(memory_format=torch.channels_last)
    transform = make_eval_transform(recipe.data)
    pictures = ImageDataset(paths, transform, short_side=decode_side(transform))
    options = InferenceOptions(len(paths), 0, tuple(sorted(set(recipe.predict.tta))))
    return predict([network], pictures, accelerator, options)[0]


def combine_embeddings(parts: Sequence[np.ndarray], how: Literal["concat", "mean"], runs: Sequence[Path]) -> np.ndarray:
    """Embeddings (n, d_i) of several runs as one, each run's of length 1 before: side by side, so that a cosine is the mean of the
    runs' cosines, or averaged, which makes sense only for runs whose spaces are the same (begun from the same trained weights).

    A single run's stay as they are. Raises FlukeError for averaging embeddings of different widths.
    """
    if len(parts) == 1:
        return parts[0]
    unit = [check_embeddings(part, str(run), "cosine", None) for part, run in zip(parts, runs)]
    if how == "concat":
        return np.concatenate(unit, axis=1) / np.float32(np.sqrt(len(unit)))
    if len({part.shape[1] for part in unit}) > 1:
        widths = ", ".join(f"{run}: {part.shape[1]}" for run, part in zip(runs, unit))
        raise FlukeError(f"--combine mean: the runs' embeddings differ in width ({widths}); take concat.")
    return np.asarray(np.mean(unit, axis=0, dtype=np.float32))


def load_held_out(run: Path, table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Positions (n,) in `table` of the rows of a run's validation, gallery first, and which of them (n,) bool it asked about.

    Raises FlukeError when the table is no longer the one that the run was trained on.
    """
    path = run / "scores_val.npz"
    val = score_file.load_scores(path)
    queries = val.source.get("queries")
    if val.target is not IDENTITY or not isinstance(queries, int) or not 0 < queries < len(val.rows):
        raise FlukeError(f"{path}: doesn't say which rows were held out; train again, with another --out.")
    place = {row: i for i, row in enumerate(table.rows.tolist())}
    now = [place.get(row) for row in val.rows.tolist()]
    labels = val.labels or []
    gone = [
        name
        for at, name, label in zip(now, val.names, labels)
        if at is None or table.names[at] != name or (table.labels or [])[at] != label
    ]
    if gone:
        raise FlukeError(
            f"{path}: {len(gone):,} of its rows aren't in {table.source} as they were: {first_few(gone)}; give it that table, or "
            "train again."
        )
    return np.array(now, dtype=np.int64), np.arange(len(now)) >= len(now) - queries


def load_class_centres(run: Path, recipe: Recipe) -> ClassCentres | None:
    """Class centres of an ArcFace or CosFace run, None if it has none."""
    spec, o = read_spec(run / WEIGHTS), recipe.objective
    with safe_open(run / WEIGHTS, framework="np") as weights:
        names = [name for part in (o.name, *o.also) if (name := f"objective.parts.{part}.loss.W") in weights.keys()]  # noqa: SIM118
        if spec is None or not names:
            return None
        vectors = weights.get_tensor(names[0]).T.astype(np.float32)
    return make_class_centres(vectors, spec.classes, recipe.data.mirror_identities, "mirror" in recipe.predict.tta)
