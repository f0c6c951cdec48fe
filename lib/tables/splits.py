"""Who is held out: a share or a number of rows, or one of k folds; stratified, grouped, seeded.

The same table and seed give the same split on any machine: decisions are taken in whole numbers, sorts are stable, and draws
come from NumPy's RandomState, whose stream is frozen. scikit-learn's splitters don't serve: they refuse classes with few images, of
which contests are full, or hold them out whole; StratifiedGroupKFold compares rounded deviations and needs 9 s for 25,000 images of
5,000 classes.
"""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from fractions import Fraction
from pathlib import Path

import numpy as np
from iterstrat.ml_stratifiers import IterativeStratification

from lib.config.recipe import Folds
from lib.errors import FlukeError, first_few
from lib.files import atomic_write
from lib.tables.table import Table


def split_holdout(table: Table, folds: Folds) -> tuple[np.ndarray, np.ndarray]:
    """Positions (int64, ascending) of the rows to train on and of those held out, `folds.holdout` of them.

    Without groups the number held out is exact and, stratified, within one row of each class's share; with groups both are met as
    nearly as whole groups allow. Every class keeps a row, or a group, to train on: a class that has just one is never held out, and
    others give more instead. Several labels per image: iterative stratification (Sechidis et al. 2011). With the user's own folds,
    fold 0 is held out. Raises FlukeError when so many rows can't be held out.
    """
    n = len(table)
    if table.folds is not None:
        held = table.folds == 0
        if held.all() or not held.any():
            raise FlukeError(f"folds.csv: {held.sum():,} of {n:,} rows are in fold 0; validation needs some, and training some.")
        return np.flatnonzero(~held), np.flatnonzero(held)
    count = round(n * folds.holdout) if folds.holdout < 1 else int(folds.holdout)
    if not 0 < count < n:
        raise FlukeError(f"folds.holdout {folds.holdout:g}: would hold out {count:,} of the {n:,} images of {table.source}.")
    units = _Units(table, folds)
    picked = _hold_out_labels(units, units.labels, count) if units.labels is not None else _hold_out_strata(units, count)
    held = np.isin(units.of_row, picked)
    if not held.any():
        one = "image" if table.groups is None else "group"
        raise FlukeError(f"{table.source}: no row can be held out, for no class has a second {one} to train on.")
    return np.flatnonzero(~held), np.flatnonzero(held)


def assign_folds(table: Table, folds: Folds) -> np.ndarray:
    """The fold of each row, (n,) int64 in 0 ... `folds.n` - 1: the user's own, or as `split_holdout` says with equal shares.

    Every row is in a fold. Without groups or several labels, folds differ by one row at most, overall and in each class; the rows
    of a class with fewer images than folds lie in different ones. Where a class has one image (group), the fold that holds it out
    trains without. Raises FlukeError.
    """
    n = folds.n
    if table.folds is not None:
        if set(table.folds) != set(range(n)):
            raise FlukeError(
                f"folds.csv: its folds are {first_few(sorted(set(table.folds)), 12)}; with folds.n {n}, 0 to {n - 1} are wanted."
            )
        return table.folds
    units = _Units(table, folds)
    if len(units.sizes) < n:
        raise FlukeError(
            f"folds.n {n}: {table.source} has only {len(units.sizes)} {'images' if table.groups is None else 'groups'}."
        )
    if units.labels is None:
        return _deal_strata(units, n)[units.of_row]
    if table.groups is not None:
        return _deal_groups(units, n)[units.of_row]
    fold = _stratify_iteratively(units.labels, np.full(n, 1 / n), units.random)[units.of_row]
    if len(set(fold)) < n:
        raise FlukeError(f"folds.n {n}: {table.source} has too few images for so many stratified folds.")
    return fold


def split_identities(
    table: Table, folds: Folds, new_label: str | None, keep_new: bool, fold: np.ndarray | None = None, number: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Positions (int64, ascending) of the rows to train on and of those to ask about, as a contest with strangers asks.

    A share `folds.unknown` of the individuals (without a `new_label` none) is left out of training whole: their held-out images are
    queries whose right answer is `new_label`. Of the others `folds.holdout` of the images are held out, as `split_holdout` does
    it. Rows of
    `new_label` are split like an individual's if training uses them (`keep_new`), and are all asked about if it doesn't. With
    `fold` (n,), fold `number` is what is held out; each row is then asked about in one fold only. Raises FlukeError for several
    labels per image.
    """
    if table.target.several:
        raise FlukeError("data.label_separator: train_embedding takes one individual an image; set it to null.")
    labels = np.array([label for (label,) in table.labels or []])
    new = labels == new_label
    people = [label for label in table.classes if label != new_label]
    generator = np.random.RandomState(folds.seed)
    drawn, some = generator.permutation(len(people)), round(folds.unknown * len(people)) if new_label is not None else 0
    strangers = np.isin(labels, [people[i] for i in np.roll(drawn, -number * some)[:some]])
    if fold is not None:
        held = fold == number
        return np.flatnonzero(~held & ~strangers & (keep_new | ~new)), np.flatnonzero(held)
    asked = strangers | (new & (not keep_new))
    if table.groups is not None:  # others of the same sighting must not be trained on
        asked = np.isin(table.groups, table.groups[asked])
    rest = np.flatnonzero(~asked)
    train, held_out = split_holdout(table.take(rest), folds)
    asked[rest[held_out]] = True
    return rest[train], np.flatnonzero(asked)


def write_folds(path: Path, table: Table, fold: np.ndarray) -> None:
    """Write (image, fold), a table that `folds.csv` of the recipe accepts."""
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(["image", "fold"])
        writer.writerows(zip(table.names, fold.tolist()))


def describe_split(table: Table, train: np.ndarray, held: np.ndarray) -> str:
    """What is printed after `split_holdout`: sizes, and the classes that are on one side only."""
    to_train, to_hold = table.take(train).counts(), table.take(held).counts()
    lines = [f"split: {len(train):,} rows to train on, {len(held):,} held out"]
    if absent := [label for label in table.classes if not to_hold[label]]:
        lines.append(f"  {len(absent):,} classes, too small for this share, are in training only: {first_few(map(repr, absent))}")
    if unseen := [label for label in table.classes if to_hold[label] and not to_train[label]]:
        lines.append(f"  {len(unseen):,} classes held out whole, so never learnt: {first_few(map(repr, unseen))}")
    return "\n".join(lines)


def describe_folds(table: Table, fold: np.ndarray) -> str:
    """What is printed after `assign_folds`: sizes, and the classes that have too few images for so many folds."""
    sizes = np.bincount(fold)
    lines = [f"folds: {len(sizes)} of {first_few((f'{size:,}' for size in sizes), 10)} rows"]
    present = [table.take(fold == f).counts() for f in range(len(sizes))]
    in_folds = {label: sum(label in counts for counts in present) for label in table.counts()}
    if few := [label for label in table.classes if 1 < in_folds.get(label, 0) < len(sizes)]:
        lines.append(f"  {len(few):,} classes are in some of the folds only: {first_few(map(repr, few))}")
    if single := [label for label in table.classes if in_folds.get(label) == 1]:
        lines.append(
            f"  {len(single):,} classes are in one fold only, whose model never learns them: {first_few(map(repr, single))}"
        )
    return "\n".join(lines)


class _Units:
    """What is held out together: the rows of a group, or single rows."""

    def __init__(self, table: Table, folds: Folds) -> None:
        rows = np.arange(len(table)) if table.groups is None else np.unique(table.groups, return_inverse=True)[1]
        self.of_row: np.ndarray = rows
        self.random = np.random.RandomState(folds.seed)
        self.sizes = np.bincount(rows).tolist()
        self.counts: list[Counter[str]] = [Counter() for _ in self.sizes]
        for unit, labels in zip(rows.tolist(), table.labels or []):
            self.counts[unit].update(labels)
        self.rows_of = table.counts()
        # A unit counts for its rarest class, as rare ones leave least choice; "" is no label's name, and stands for all rows.
        self.strata = [
            min(c, key=lambda label: (self.rows_of[label], label), default="") if folds.stratify else "" for c in self.counts
        ]
        self.labels: np.ndarray | None = None
        if table.target.several and folds.stratify:
            self.labels = np.zeros((len(self.sizes), len(table.classes) + 1), dtype=bool)  # the last: has no label
            unit, label = np.nonzero(table.targets())
            self.labels[rows[unit], label] = True
            self.labels[:, -1] = ~self.labels.any(axis=1)


def _hold_out_strata(units: _Units, count: int) -> list[int]:
    """Units to hold out, of each stratum its share of `count` rows."""
    members: dict[str, list[int]] = defaultdict(list)
    for unit in units.random.permutation(len(units.sizes)).tolist():
        members[units.strata[unit]].append(unit)
    size = {stratum: sum(units.sizes[u] for u in of) for stratum, of in members.items()}
    room = {stratum: size[stratum] - min(units.sizes[u] for u in of) for stratum, of in members.items()}
    # From the tightest stratum on: what it can't give, later ones give in proportion. Equally tight ones come in a drawn order,
    # their shares rounded cumulatively, so that a share of 0.1 splits 20 of 100 pairs.
    order = sorted(members, key=lambda stratum: Fraction(room[stratum], size[stratum]))
    due, rows, quota, seen, given = min(count, sum(room.values())), sum(size.values()), {}, 0, 0
    for stratum in order:
        if not seen and due * size[stratum] > room[stratum] * rows:
            quota[stratum] = room[stratum]
            due, rows = due - room[stratum], rows - size[stratum]
        else:
            seen += size[stratum]
            quota[stratum] = (2 * due * seen + rows) // (2 * rows) - given
            given += quota[stratum]
    picked, left, want = [], units.rows_of.copy(), 0
    for stratum in order:
        want += quota[stratum]  # with what whole groups left over or took too much
        for unit in members[stratum]:
            if units.sizes[unit] < 2 * want and _try_hold_out(units, unit, left):
                picked.append(unit)
                want -= units.sizes[unit]
    return picked


def _hold_out_labels(units: _Units, labels: np.ndarray, count: int) -> list[int]:
    """Units to hold out by iterative stratification, whose number of rows is then mended."""
    share = count / sum(units.sizes)
    side = _stratify_iteratively(labels, np.array([share, 1 - share]), units.random)
    picked, left = [], units.rows_of.copy()
    for unit in sorted(units.random.permutation(len(units.sizes)).tolist(), key=lambda unit: side[unit]):
        if units.sizes[unit] <= count and _try_hold_out(units, unit, left):
            picked.append(unit)
            count -= units.sizes[unit]
    return picked


def _stratify_iteratively(labels: np.ndarray, shares: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Part of each unit, in a drawn order: the larger part is filled from the beginning, so the file's order would show in it."""
    order = random.permutation(len(labels))
    parts = np.zeros(len(labels), dtype=np.int64)
    parts[order] = IterativeStratification(labels=labels[order], r=shares, random_state=random)
    return parts


def _deal_groups(units: _Units, n: int) -> np.ndarray:
    """Fold of each group of rows with several labels: large groups first, each to the fold where the squared shares of its labels,
    and of all rows, grow least. (Iterative stratification counts a group of 30 rows as it does one of 2: labels were three times as
    uneven, and folds of 546 to 638 rows were made of 3,000 of fashion79's.)"""
    place = {label: i for i, label in enumerate(sorted(units.rows_of))}
    shares = np.zeros((len(units.sizes), len(place) + 1))
    shares[:, -1] = np.array(units.sizes) / sum(units.sizes)
    for unit, counts in enumerate(units.counts):
        for label, rows in counts.items():
            shares[unit, place[label]] = rows / units.rows_of[label]
    weights = np.append(np.ones(len(place)), len(place))  # the number of rows counts as much as all labels together
    have, fold = np.zeros((n, len(weights))), np.zeros(len(units.sizes), dtype=np.int64)
    drawn = units.random.permutation(len(units.sizes)).tolist()
    for unit in sorted(drawn, key=lambda unit: -units.sizes[unit]):
        f = int(np.argmin((2 * have * shares[unit]) @ weights))  # (have + share)^2 - have^2, but for what is the same in all folds
        fold[unit] = f
        have[f] += shares[unit]
    return fold


def _try_hold_out(units: _Units, unit: int, left: Counter[str]) -> bool:
    """Take a unit out of `left`, the training rows of each class, unless that would be the last of a class."""
    if any(left[label] <= rows for label, rows in units.counts[unit].items()):
        return False
    left.subtract(units.counts[unit])
    return True


def _deal_strata(units: _Units, n: int) -> np.ndarray:
    """Fold of each unit: rare strata and large units first, to the fold with fewest rows of the stratum, then fewest at all."""
    total = Counter(dict.fromkeys(units.strata, 0))
    for stratum, size in zip(units.strata, units.sizes):
        total[stratum] += size
    have: dict[str, list[int]] = defaultdict(lambda: [0] * n)
    fold = np.zeros(len(units.sizes), dtype=np.int64)
    drawn = units.random.permutation(len(units.sizes)).tolist()
    for unit in sorted(drawn, key=lambda u: (total[units.strata[u]], units.strata[u], -units.sizes[u])):
        of_stratum, of_all = have[units.strata[unit]], have[""]
        f = min(range(n), key=lambda f: (of_stratum[f], of_all[f]))
        fold[unit] = f
        of_all[f] += units.sizes[unit]
        for label, rows in units.counts[unit].items():
            have[label][f] += rows
    return fold
