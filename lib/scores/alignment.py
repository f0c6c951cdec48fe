"""Alignment of the scores of several runs by row id and class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lib.errors import FlukeError, first_few
from lib.scores.score_file import Scores, load_scores


def encode_targets(scores: Scores, where: str = "scores") -> np.ndarray:
    """Return the true labels as `scores.target` encodes them, for metrics.

    Raises FlukeError when labels aren't known, or not among the classes.
    """
    if not scores.labels:
        raise FlukeError(f"{where}: has no labels to be scored against.")
    return scores.target.encode(scores.labels, scores.classes, where)


def align_scores(members: Sequence[Scores], where: Sequence[str] = ()) -> list[Scores]:
    """The same scores, all in the first one's row order and class order. A member may know fewer classes (a specialist): it keeps
    its own, in the first one's order.

    `where` names the members in messages (default: their source's run). Raises FlukeError when rows, names, labels or classes
    differ: two contests, two splits or two versions of a table can't be combined.
    """
    where = where or [str(m.source.get("run", f"scores {i}")) for i, m in enumerate(members)]
    first, out = members[0], []
    position = {row: i for i, row in enumerate(first.rows.tolist())}
    known = {name: i for i, name in enumerate(first.classes)}
    for member, here in zip(members, where):
        there = where[0]
        if member.target is not first.target:
            raise FlukeError(f"{here}: {member.target.wording}, but {there}: {first.target.wording}; they can't be combined.")
        _compare_classes(member.classes, known, here, there)
        theirs = {row: i for i, row in enumerate(member.rows.tolist())}
        extra = [member.names[i] for row, i in theirs.items() if row not in position]
        lacking = [first.names[i] for row, i in position.items() if row not in theirs]
        if extra or lacking:
            only = [f"{len(v):,} only in {w} ({first_few(v)})" for v, w in ((extra, here), (lacking, there)) if v]
            raise FlukeError(
                f"{here} has {len(theirs):,} rows and {there} {len(position):,}: {' and '.join(only)}; "
                "combine runs of one table and one split, or k-fold runs."
            )
        order = np.array([theirs[row] for row in position], dtype=np.int64)
        names = [member.names[i] for i in order]
        if different := [f"{a} / {b}" for a, b in zip(names, first.names) if a != b]:
            raise FlukeError(
                f"{here} and {there} name {len(different):,} rows differently ({first_few(different)}): not the same table."
            )
        labels = None if member.labels is None else [member.labels[i] for i in order]
        if labels and first.labels and any(different := [n for n, a, b in zip(names, labels, first.labels) if set(a) != set(b)]):
            raise FlukeError(f"{here} and {there} have other labels for {len(different):,} rows ({first_few(different)}).")
        columns = np.argsort([known[name] for name in member.classes], kind="stable")
        groups = None if member.groups is None else [member.groups[i] for i in order]
        values = member.logits[order] if member.target.outputs == "embeddings" else member.logits[order][:, columns]
        classes = tuple(member.classes[c] for c in columns)
        out.append(replace(member, rows=first.rows, names=names, classes=classes, logits=values, labels=labels, groups=groups))
    return out


def _compare_classes(classes: tuple[str, ...], known: dict[str, int], here: str, there: str) -> None:
    lacking = [name for name in known if name not in set(classes)]
    if extra := [name for name in classes if name not in known]:
        if not lacking:
            raise FlukeError(f"{here} knows {len(extra)} classes that {there} doesn't ({first_few(extra)}); name {here} first.")
        if len(extra) == len(classes):
            raise FlukeError(f"{here} and {there} have no class in common: runs of different contests.")
        raise FlukeError(
            f"{here} and {there} have different classes: {len(extra)} only in the first ({first_few(extra)}), "
            f"{len(lacking)} only in the second ({first_few(lacking)})."
        )


def load_run_scores(folder: Path) -> tuple[Scores | None, Scores | None]:
    """A run's out-of-fold scores (oof.npz of a k-fold run, else scores_val.npz) and its test scores, None where there are none.

    Raises FlukeError when the folder is no run, or a k-fold run that lacks folds.
    """
    if not folder.is_dir():
        raise FlukeError(f"{folder}: no such run folder.")
    names = ("oof.npz", "scores_val.npz")
    found = next((folder / name for name in names if (folder / name).exists()), None)
    parts = sorted(part.name for part in folder.glob("fold[0-9]*") if part.is_dir())
    if parts and (folder / "cv.json").exists() and found is None:
        raise FlukeError(f"{folder}: a k-fold run of embeddings, not of classes; retrieve.py combines those.")
    if parts and (found is None or found.name != "oof.npz"):
        raise FlukeError(f"{folder}: a k-fold run without oof.npz ({', '.join(parts)} begun); finish it with kfold.py --resume.")
    test = folder / "scores_test.npz"
    if found is None and not test.exists():
        raise FlukeError(f"{folder}: holds no scores (oof.npz, scores_val.npz or scores_test.npz); is it a finished run?")
    return load_scores(found) if found else None, load_scores(test) if test.exists() else None


def load_aligned_scores(folders: Sequence[str]) -> tuple[list[Scores], list[Scores]]:
    """Out-of-fold and test scores of several runs, aligned; [] where no run has any.

    Raises FlukeError when only some have them, when they don't fit each other, or are embeddings.
    """
    found = [load_run_scores(Path(folder)) for folder in folders]
    sides: list[list[Scores]] = []
    for side, what in zip(zip(*found), ("out-of-fold scores (oof.npz or scores_val.npz)", "test scores (scores_test.npz)")):
        there = [scores for scores in side if scores is not None]
        if lacking := [folder for folder, scores in zip(folders, side) if scores is None and there]:
            raise FlukeError(f"{first_few(lacking)}: no {what}, which other runs have.")
        if embedded := [folder for folder, scores in zip(folders, side) if scores and scores.target.outputs == "embeddings"]:
            raise FlukeError(f"{first_few(embedded)}: holds embeddings, not logits of classes; retrieve.py combines those.")
        sides.append(align_scores(there, folders) if there else [])
    oof, test = sides
    if oof and test and [m.classes for m in oof] != [m.classes for m in test]:
        raise FlukeError(
            f"{first_few(folders)}: out-of-fold and test scores have different classes; they are not of the same runs."
        )
    return oof, test
