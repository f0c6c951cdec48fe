"""Score files: an npz without pickles that holds the scores of a table's rows, with their row ids, classes and source.

A file holds `rows` (n,) int64, `logits` (n, C) float32 (or `embeddings` (n, d)) and `meta`, UTF-8 JSON as bytes: names, classes,
labels and source. JSON, because NumPy's fixed-width text loses trailing NULs.
"""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lib.errors import FlukeError, first_few, one_line
from lib.files import atomic_write
from lib.tables.target import ONE_LABEL, Target, describe_target, stored_target

FORMAT = "fluke scores 1"


@dataclass
class Scores:
    """Logits or embeddings of the images of a table."""

    rows: np.ndarray
    """(n,) int64: positions in the source table, each once, in any order."""
    names: list[str]
    """n image names."""
    classes: tuple[str, ...]
    """C class names, the columns of `logits`; () for embeddings."""
    logits: np.ndarray
    """(n, C) float32, before softmax or sigmoid; (n, d) float32 embeddings for an identity."""
    labels: list[tuple[str, ...]] | None = None
    """Each row's true labels, which need not be among `classes`; None where they aren't known."""
    target: Target = ONE_LABEL
    """What is predicted."""
    source: dict[str, Any] = field(default_factory=dict)
    """Origin, plain JSON: run, model, fold, metric, git, ..."""
    groups: list[str] | None = None
    """n groups (sightings, patients) whose images belong together when rows are resampled or split; None: each row alone."""
    ids: list[str] | None = None
    """n names by which the sample submission knows the rows, several images to one where they share an answer; None: `names`."""


def save_scores(path: Path, scores: Scores) -> None:
    """Write `scores` atomically. Raises FlukeError for what `load_scores` refuses: NaN, a row twice, lengths that differ."""
    _validate(scores, path)
    meta = {
        "format": FORMAT,
        "kind": scores.target.outputs,
        **describe_target(scores.target),
        "names": list(scores.names),
        "classes": list(scores.classes),
        "labels": scores.labels,
        "groups": scores.groups,
        "source": scores.source,
    } | ({} if scores.ids is None else {"ids": scores.ids})
    arrays = {
        "meta": np.frombuffer(json.dumps(meta).encode("ascii"), dtype=np.uint8),
        "rows": np.ascontiguousarray(scores.rows),
        scores.target.outputs: np.ascontiguousarray(scores.logits),
    }
    with atomic_write(path) as temporary, open(temporary, "wb") as handle:  # a handle, for NumPy appends .npz to a name
        np.savez(handle, allow_pickle=False, **arrays)


def load_scores(path: Path) -> Scores:
    """Read and check a file of `save_scores`. Never unpickles, and reads no more than the file's own size into memory.

    Raises FlukeError for no such file, another kind of file, a torn one, and one whose content contradicts itself.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        # `save_scores` does not compress: an archive that would unfold to more than the file's size is a bomb.
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise FlukeError(f"{path}: not a scores file (a compressed or forged archive).")
        with np.load(path, allow_pickle=False) as arrays:
            content = {key: arrays[key] for key in arrays.files}
        meta = json.loads(content.pop("meta").tobytes())
        kind, rows = meta["kind"], content.pop("rows")
        values = content.pop(kind)
        if meta["format"] != FORMAT or content or kind not in ("logits", "embeddings"):
            raise ValueError
        texts = [
            *meta["names"],
            *meta["classes"],
            *(meta.get("groups") or ()),
            *(meta.get("ids") or ()),
            *(label for row in meta["labels"] or () for label in row),
        ]
        if not all(isinstance(text, str) for text in texts) or not isinstance(meta["source"], dict):
            raise TypeError
        labels = None if meta["labels"] is None else [tuple(row) for row in meta["labels"]]
        groups = None if meta.get("groups") is None else list(meta["groups"])
        scores = Scores(
            rows,
            list(meta["names"]),
            tuple(meta["classes"]),
            values,
            labels,
            stored_target(kind, bool(meta["multi"]), meta.get("target")),
            meta["source"],
            groups,
            None if meta.get("ids") is None else list(meta["ids"]),
        )
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise FlukeError(f"{path}: {error.strerror}.") from None
    except FlukeError:
        raise
    except Exception as error:  # a forged file can make NumPy, zipfile and json raise anything
        raise FlukeError(f"{path}: not a scores file, or torn ({one_line(error, 80)}); write it again.") from None
    _validate(scores, path)
    return scores


def _validate(scores: Scores, path: Path) -> None:
    n = len(scores.names)
    faults = []
    if scores.rows.dtype != np.int64 or scores.rows.shape != (n,):
        faults.append(f"row ids are {scores.rows.dtype} {scores.rows.shape}, not int64 ({n},) like the names")
    elif n and scores.rows.min() < 0:
        faults.append(f"{(scores.rows < 0).sum()} negative row ids")
    elif len(twice := _repeated(scores.rows.tolist())):
        faults.append(f"{len(twice):,} rows are there more than once: {first_few(twice)}")
    shape = scores.logits.shape
    if scores.logits.dtype != np.float32 or len(shape) != 2 or shape[0] != n:
        faults.append(f"{scores.target.outputs} are {scores.logits.dtype} {shape}, not float32 with {n} rows")
    elif len(bad := np.flatnonzero(~np.isfinite(scores.logits).all(axis=1))):
        faults.append(f"{len(bad):,} of {n:,} rows hold NaN or infinity: {first_few(scores.names[i] for i in bad)}")
    if scores.target.outputs == "logits" and len(shape) == 2 and shape[1] != len(scores.classes):
        faults.append(f"{shape[1]} columns for {len(scores.classes)} classes")
    if twice := _repeated(scores.classes):
        faults.append(f"classes named more than once: {first_few(twice)}")
    if scores.groups is not None and len(scores.groups) != n:
        faults.append(f"{len(scores.groups)} groups for {n} names")
    if scores.ids is not None and len(scores.ids) != n:
        faults.append(f"{len(scores.ids)} ids for {n} names")
    if scores.labels is not None and len(scores.labels) != n:
        faults.append(f"{len(scores.labels)} rows of labels for {n} names")
    elif bad_rows := [r for r, row in enumerate(scores.labels or ()) if not scores.target.accepts(row)]:
        names = first_few(scores.names[i] for i in bad_rows)
        faults.append(f"{len(bad_rows):,} rows have labels that don't fit {scores.target.wording}: {names}")
    if faults:
        raise FlukeError(f"{path}: {'; '.join(faults)}.")


def _repeated(items: Iterable[Any]) -> list[Any]:
    return [item for item, count in Counter(items).items() if count > 1]
