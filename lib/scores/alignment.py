"""Alignment of the scores of several runs by row id and class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lib.errors import FlukeError, first_few
from lib.run_folder import RunFolder
from lib.scores.run_scores import find_run_scores
from lib.scores.score_file import Scores, load_scores


def encode_targets(scores: Scores, where: str = "scores") -> np.ndarray:
    """Return the true labels as `scores.target` encodes them, for metrics.

    Raises FlukeError when labels aren't known, or not among the classes.
    """
    if not scores.labels:
        raise FlukeError(f"{where}: has no labels; evaluation needs the labels of each row.")
    return scores.target.encode(scores.labels, scores.classes, where)


def align_scores(members: Sequence[Scores], where: Sequence[str] = ()) -> list[Scores]:
    """Return the scores in the row order and class order of the first.

    A member may have fewer classes (a specialist): it keeps its own, in the first one's order. `where` names the members in
    messages (default: their source's run). Raises FlukeError when targets, rows, names, labels or classes differ.
    """
    where = where or [str(m.source.get("run", f"scores {i}")) for i, m in enumerate(members)]
    return [_align(member, members[0], here, where[0]) for member, here in zip(members, where)]


def _align(member: Scores, first: Scores, here: str, there: str) -> Scores:
    if member.target is not first.target:
        raise FlukeError(f"{here}: {member.target.wording}, but {there}: {first.target.wording}; combine runs of one kind.")
    known = {name: i for i, name in enumerate(first.classes)}
    _compare_classes(member.classes, known, here, there)
    order = _match_rows(member, first, here, there)
    names = [member.names[i] for i in order]
    if different := [f"{a} / {b}" for a, b in zip(names, first.names) if a != b]:
        raise FlukeError(
            f"{here} and {there} name {len(different):,} rows differently ({first_few(different)}); combine runs of one table."
        )
    labels = None if member.labels is None else [member.labels[i] for i in order]
    if labels and first.labels and any(different := [n for n, a, b in zip(names, labels, first.labels) if set(a) != set(b)]):
        raise FlukeError(
            f"{here} and {there} have different labels for {len(different):,} rows ({first_few(different)}); "
            "combine runs of one version of a table."
        )
    columns = np.argsort([known[name] for name in member.classes], kind="stable")
    groups = None if member.groups is None else [member.groups[i] for i in order]
    values = member.logits[order] if member.target.outputs == "embeddings" else member.logits[order][:, columns]
    classes = tuple(member.classes[c] for c in columns)
    return replace(member, rows=first.rows, names=names, classes=classes, logits=values, labels=labels, groups=groups)


def _match_rows(member: Scores, first: Scores, here: str, there: str) -> np.ndarray:
    """Return the member's position of each row of `first`, (n,) int64. Raises FlukeError when one has rows that the other lacks."""
    theirs = {row: i for i, row in enumerate(member.rows.tolist())}
    position = {row: i for i, row in enumerate(first.rows.tolist())}
    extra = [member.names[i] for row, i in theirs.items() if row not in position]
    lacking = [first.names[i] for row, i in position.items() if row not in theirs]
    if extra or lacking:
        only = [f"{len(v):,} only in {w} ({first_few(v)})" for v, w in ((extra, here), (lacking, there)) if v]
        raise FlukeError(
            f"{here} has {len(theirs):,} rows and {there} {len(position):,}: {' and '.join(only)}; "
            "combine runs of one table and one split, or k-fold runs."
        )
    return np.array([theirs[row] for row in position], dtype=np.int64)


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


def load_run_scores(run: RunFolder) -> tuple[Scores | None, Scores | None]:
    """Return the out-of-fold and the test scores of a run, None where it has none. Raises FlukeError as `find_run_scores` does."""
    files = find_run_scores(run)
    return load_scores(files.oof) if files.oof else None, load_scores(files.test) if files.test else None


def load_aligned_scores(folders: Sequence[str]) -> tuple[list[Scores], list[Scores]]:
    """Return the out-of-fold and the test scores of several runs, aligned; [] where no run has any.

    Raises FlukeError when only some runs have them, when they don't align, or are embeddings.
    """
    runs = [RunFolder(folder) for folder in folders]
    oof, test = zip(*map(load_run_scores, runs))
    run = runs[0]
    aligned_oof = _align_runs(folders, oof, f"out-of-fold scores ({run.oof.name} or {run.scores_val.name})")
    aligned_test = _align_runs(folders, test, f"test scores ({run.scores_test.name})")
    if aligned_oof and aligned_test and [m.classes for m in aligned_oof] != [m.classes for m in aligned_test]:
        raise FlukeError(
            f"{first_few(folders)}: out-of-fold and test scores have different classes; name runs whose files are of one training."
        )
    return aligned_oof, aligned_test


def _align_runs(folders: Sequence[str], scores: Sequence[Scores | None], what: str) -> list[Scores]:
    found = [each for each in scores if each is not None]
    if lacking := [folder for folder, each in zip(folders, scores) if each is None and found]:
        raise FlukeError(f"{first_few(lacking)}: no {what}, which other runs have.")
    if embedded := [folder for folder, each in zip(folders, found) if each.target.outputs == "embeddings"]:
        raise FlukeError(f"{first_few(embedded)}: holds embeddings, not logits of classes; use retrieve.py to combine those.")
    return align_scores(found, folders) if found else []
