"""Splits of a table into training rows and held-out rows, or into k folds.

The rules of choosing rows are in stratification.py; this file applies them to a table and describes the result.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lib.config.recipe import Folds
from lib.errors import FlukeError, first_few
from lib.files import atomic_write
from lib.tables.readers import read_columns
from lib.tables.stratification import SplitUnits, choose_folds, choose_holdout
from lib.tables.table import Table


def split_holdout(table: Table, folds: Folds) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions (int64, ascending) of the training rows and of the held-out rows, `folds.holdout` of them.

    Without groups the number of held-out rows is exact and, stratified, within one row of each class's share. With groups both are
    as near as whole groups allow. Every class keeps a row, or a group, to train on: a class with only one is never held out, and
    others give more instead. Several labels per image are stratified iteratively (Sechidis et al. 2011). Of the user's own folds,
    fold 0 is held out. Raises FlukeError when that many rows can't be held out.
    """
    n = len(table)
    if table.folds is not None:
        held_out = table.folds == 0
        if held_out.all() or not held_out.any():
            raise FlukeError(f"folds.csv: {held_out.sum():,} of {n:,} rows are in fold 0, the hold-out; put some rows in it.")
        return np.flatnonzero(~held_out), np.flatnonzero(held_out)
    count = round(n * folds.holdout) if folds.holdout < 1 else int(folds.holdout)
    if not 0 < count < n:
        found = f"would hold out {count:,} of the {n:,} images of {table.source}"
        raise FlukeError(f"folds.holdout {folds.holdout:g}: {found}; choose a value that leaves images on both sides.")
    units = SplitUnits(table, folds)
    held_out = np.isin(units.unit_of_row, choose_holdout(units, count))
    if not held_out.any():
        unit = "image" if table.groups is None else "group"
        raise FlukeError(f"{table.source}: no row can be held out, because no class has a second {unit} to train on; add images.")
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def assign_folds(table: Table, folds: Folds) -> np.ndarray:
    """Return the fold of each row, (n,) int64 in 0 ... `folds.n` - 1: the user's own folds, else stratified ones of equal size.

    Without groups or several labels, folds differ by one row at most, in all and in each class. The rows of a class with fewer
    images than folds lie in different folds. The fold that holds a class's only image (or group) trains without this class. Raises
    FlukeError.
    """
    n = folds.n
    if table.folds is not None:
        if set(table.folds) != set(range(n)):
            found = first_few(sorted(set(table.folds)), 12)
            raise FlukeError(f"folds.csv: folds.n {n} needs the folds 0 to {n - 1} (found: {found}); change folds.n or the file.")
        return table.folds
    units = SplitUnits(table, folds)
    if len(units.sizes) < n:
        unit = "images" if table.groups is None else "groups"
        raise FlukeError(f"folds.n {n}: {table.source} has only {len(units.sizes)} {unit}; lower folds.n.")
    fold = choose_folds(units, n, grouped=table.groups is not None)[units.unit_of_row]
    if len(set(fold)) < n:
        raise FlukeError(f"folds.n {n}: {table.source} has too few images for so many stratified folds; lower folds.n.")
    return fold


def split_identities(
    table: Table, folds: Folds, new_label: str | None, keep_new: bool, fold: tuple[np.ndarray, int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions (int64, ascending) of the training rows and of the queries, as an open-set contest divides them.

    A share `folds.unknown` of the identities is unknown: no image is trained on, and the right answer of their queries is
    `new_label` (without one, no identity is unknown). Of the other identities, `split_holdout` makes `folds.holdout` of the images
    queries. Rows of `new_label` are split like those of an identity if training uses them (`keep_new`), else all are queries.
    With `fold`, the fold of each row (n,) and the number of one, that fold's rows are the queries, and each fold has other unknown
    identities. Where each identity has one image (or group), the unknown ones alone are queries. Raises FlukeError for several
    labels per image.
    """
    if table.target.several:
        raise FlukeError("data.label_separator: train_embedding takes one identity per image; set it to null.")
    labels = np.array([label for (label,) in table.labels or []])
    is_new = labels == new_label
    identities = [label for label in table.classes if label != new_label]
    order = np.random.RandomState(folds.seed).permutation(len(identities))
    n_unknown = round(folds.unknown * len(identities)) if new_label is not None else 0
    if fold is not None:
        order = np.roll(order, -fold[1] * n_unknown)
    is_unknown = np.isin(labels, [identities[i] for i in order[:n_unknown]])
    if fold is not None:
        is_query = fold[0] == fold[1]
        return np.flatnonzero(~is_query & ~is_unknown & (keep_new | ~is_new)), np.flatnonzero(is_query)
    is_query = is_unknown | (is_new & (not keep_new))
    if table.groups is not None:  # other images of the same group must not be trained on
        is_query = np.isin(table.groups, table.groups[is_query])
    remaining = np.flatnonzero(~is_query)
    unit = np.arange(len(table)) if table.groups is None else table.groups
    if is_query.any() and len(set(zip(labels[remaining], unit[remaining]))) == len(set(labels[remaining])):
        return remaining, np.flatnonzero(is_query)
    train, held_out = split_holdout(table.take(remaining), folds)
    is_query[remaining[held_out]] = True
    return remaining[train], np.flatnonzero(is_query)


def write_folds(path: Path, table: Table, fold: np.ndarray) -> None:
    """Write the table (image, fold), which the recipe's `folds.csv` accepts."""
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(["image", "fold"])
        writer.writerows(zip(table.names, fold.tolist()))


def keep_together(table: Table, sets: list[list[int]]) -> Table:
    """Return the table with groups in which the rows of each set of positions are together, and with them their former groups."""
    if not sets:
        return table
    names = np.array(table.names) if table.groups is None else table.groups
    unit = np.arange(len(table)) if table.groups is None else np.unique(table.groups, return_inverse=True)[1]
    edges = np.array([(unit[same[0]], unit[other]) for same in sets for other in same[1:]])
    links = coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(unit.max() + 1,) * 2)
    component = connected_components(links, directed=False)[1][unit]
    first = np.unique(component, return_index=True)[1]  # a group is called after its first row
    return replace(table, groups=names[first][component])


def describe_copies(table: Table, sets: list[list[int]], what: str) -> str:
    """Return the line of the log about training images that are copies of each other; `what` names what each set is."""
    labels = table.labels or []
    contradicting = [same for same in sets if len({labels[i] for i in same}) > 1]
    line = f"duplicates: {sum(map(len, sets)):,} images are {len(sets):,} {what}, kept on one side of a split"
    if table.folds is not None:
        apart = sum(len(set(table.folds[same])) > 1 for same in sets)
        line = f"{line[: line.index(', kept')]}; folds.csv puts {apart:,} of them into several folds, so that the score is too high"
    if contradicting:
        named = first_few((" = ".join(f"{table.names[i]!r} {' '.join(labels[i])!r}" for i in same) for same in contradicting), 3)
        line += f"; {len(contradicting):,} have several labels: {named}"
    return line


def write_copies(path: Path, table: Table, sets: list[list[int]]) -> None:
    """Write the table (set, image, label) of images that are copies of each other; sets with several labels come first."""
    labels = table.labels or []
    ordered = sorted(sets, key=lambda same: len({labels[i] for i in same}) == 1)
    rows = [(number, table.names[i], " ".join(labels[i])) for number, same in enumerate(ordered) for i in same]
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as handle:
        csv.writer(handle, lineterminator="\n").writerows([("set", "image", "label"), *rows])


def keep_split(path: Path, train: Table, held_out: Table, begun: bool) -> None:
    """Write the table (image, side) of a run that starts; compare it with the one of a run that has `begun`, if it wrote one.

    Raises FlukeError where an image has another side than before: an edited table, or an image that became unreadable, may have
    changed the whole split, and held-out images would be among those already trained on.
    """
    sides = {**dict.fromkeys(train.names, "train"), **dict.fromkeys(held_out.names, "held out")}
    if not begun:
        with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as handle:
            csv.writer(handle, lineterminator="\n").writerows([("image", "side"), *sides.items()])
    elif path.exists():
        columns, _ = read_columns(path, {"image": "image", "side": "side"})
        before = dict(zip(columns["image"], columns["side"]))
        if changed := [name for name in {**before, **sides} if before.get(name) != sides.get(name)]:
            raise FlukeError(
                f"{path}: {len(changed):,} images were on another side of the split, or missing, when this run began "
                f"({first_few(changed)}); restore the table and its images, or start another run."
            )


def describe_split(table: Table, train: np.ndarray, held_out: np.ndarray) -> str:
    """Return the lines of the log about a hold-out: numbers of rows, and the classes that are on one side only."""
    train_counts, held_out_counts = table.take(train).counts(), table.take(held_out).counts()
    lines = [f"split: {len(train):,} rows to train on, {len(held_out):,} held out"]
    if table.target.numeric:
        return lines[0]
    if train_only := [label for label in table.classes if not held_out_counts[label]]:
        named = first_few(map(repr, train_only))
        lines.append(f"  {len(train_only):,} classes, too small for this share, are in training only: {named}")
    if held_out_only := [label for label in table.classes if held_out_counts[label] and not train_counts[label]]:
        named = first_few(map(repr, held_out_only))
        lines.append(f"  {len(held_out_only):,} classes are held out whole, so the model never trains on them: {named}")
    return "\n".join(lines)


def describe_folds(table: Table, fold: np.ndarray) -> str:
    """Return the lines of the log about folds: numbers of rows, and the classes that are missing from some folds."""
    sizes = np.bincount(fold)
    lines = [f"folds: {len(sizes)} of {first_few((f'{size:,}' for size in sizes), 10)} rows"]
    counts = [table.take(fold == number).counts() for number in range(len(sizes))]
    folds_of = {label: sum(label in in_fold for in_fold in counts) for label in table.counts()}
    if in_some := [label for label in table.classes if 1 < folds_of.get(label, 0) < len(sizes)]:
        lines.append(f"  {len(in_some):,} classes are in some of the folds only: {first_few(map(repr, in_some))}")
    if in_one := [label for label in table.classes if folds_of.get(label) == 1]:
        named = first_few(map(repr, in_one))
        lines.append(f"  {len(in_one):,} classes are in one fold only, whose model never trains on them: {named}")
    return "\n".join(lines)
