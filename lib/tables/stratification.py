"""Stratified choices of the rows to hold out, and of each row's fold; the rows of a group stay together.

The same table and seed give the same split on any machine, because shares are whole numbers or fractions, sorts are stable, and
draws come from NumPy's RandomState, whose stream is frozen. scikit-learn's splitters don't serve: they refuse classes with few
images, which contests are full of, or hold them out whole. StratifiedGroupKFold also compares rounded deviations, and needs 9 s
for 25,000 images of 5,000 classes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from fractions import Fraction

import numpy as np
from iterstrat.ml_stratifiers import IterativeStratification

from lib.config.recipe import Folds
from lib.tables.table import Table


class SplitUnits:
    """The units of a split: the groups of a table, or its single rows when it has no groups.

    With several labels per image and stratification, `label_matrix` is (units, C + 1) bool: the labels of each unit, and whether it
    has none.
    """

    def __init__(self, table: Table, folds: Folds) -> None:
        rows = np.arange(len(table)) if table.groups is None else np.unique(table.groups, return_inverse=True)[1]
        self.unit_of_row: np.ndarray = rows  # (n,) int64
        self.random = np.random.RandomState(folds.seed)
        self.sizes: list[int] = np.bincount(rows).tolist()  # rows of each unit
        self.label_counts: list[Counter[str]] = [Counter() for _ in self.sizes]  # rows of each label in each unit
        labels_of_rows = table.labels or []
        if table.target.numeric:  # numbers are stratified by their quantiles
            labels_of_rows = [(f"{stratum:02}",) for stratum in table.target.strata(table.targets()).tolist()]
        for unit, labels in zip(rows.tolist(), labels_of_rows):
            self.label_counts[unit].update(labels)
        self.table_counts = Counter(label for labels in labels_of_rows for label in labels)
        # A unit's stratum is its rarest label, because rare ones leave least choice; "", which is no label, stands for all rows.
        self.strata = [
            min(counts, key=lambda label: (self.table_counts[label], label), default="") if folds.stratify else ""
            for counts in self.label_counts
        ]
        self.label_matrix: np.ndarray | None = None
        if table.target.several and folds.stratify:
            self.label_matrix = np.zeros((len(self.sizes), len(table.classes) + 1), dtype=bool)
            row, label = np.nonzero(table.targets())
            self.label_matrix[rows[row], label] = True
            self.label_matrix[:, -1] = ~self.label_matrix.any(axis=1)


def choose_holdout(units: SplitUnits, count: int) -> list[int]:
    """Return the units to hold out, about `count` rows; every class keeps a unit to train on."""
    if units.label_matrix is None:
        return _holdout_by_stratum(units, count)
    return _holdout_by_labels(units, units.label_matrix, count)


def choose_folds(units: SplitUnits, n: int, grouped: bool) -> np.ndarray:
    """Return the fold of each unit, (units,) int64 in 0 ... n - 1."""
    if units.label_matrix is None:
        return _folds_by_stratum(units, n)
    if grouped:
        return _folds_of_groups(units, n)
    return _stratify_iteratively(units.label_matrix, np.full(n, 1 / n), units.random)


def _holdout_by_stratum(units: SplitUnits, count: int) -> list[int]:
    """Return the units to hold out: from each stratum its share of `count` rows."""
    members: dict[str, list[int]] = defaultdict(list)
    for unit in units.random.permutation(len(units.sizes)).tolist():
        members[units.strata[unit]].append(unit)
    quotas = _stratum_quotas(units, members, count)
    chosen, train_counts, wanted = [], units.table_counts.copy(), 0
    for stratum, quota in quotas.items():
        wanted += quota  # plus the rows that whole groups left over before, or minus those that they took too many
        for unit in members[stratum]:
            if units.sizes[unit] < 2 * wanted and _try_hold_out(units, unit, train_counts):
                chosen.append(unit)
                wanted -= units.sizes[unit]
    return chosen


def _stratum_quotas(units: SplitUnits, members: dict[str, list[int]], count: int) -> dict[str, int]:
    """Return the rows to hold out of each stratum, in the order in which strata are served.

    A stratum keeps its smallest unit to train on. Strata with the smallest share to give come first, and the later ones give in
    proportion what these can't. Equal ones keep their drawn order, and their shares are rounded cumulatively, so that a share of
    0.1 splits 20 of 100 pairs.
    """
    rows = {stratum: sum(units.sizes[unit] for unit in of) for stratum, of in members.items()}
    available = {stratum: rows[stratum] - min(units.sizes[unit] for unit in of) for stratum, of in members.items()}
    due, rows_left = min(count, sum(available.values())), sum(rows.values())
    quotas: dict[str, int] = {}
    rows_served = given = 0
    for stratum in sorted(members, key=lambda stratum: Fraction(available[stratum], rows[stratum])):
        if not rows_served and due * rows[stratum] > available[stratum] * rows_left:
            quotas[stratum] = available[stratum]
            due, rows_left = due - available[stratum], rows_left - rows[stratum]
        else:
            rows_served += rows[stratum]
            quotas[stratum] = (2 * due * rows_served + rows_left) // (2 * rows_left) - given
            given += quotas[stratum]
    return quotas


def _holdout_by_labels(units: SplitUnits, label_matrix: np.ndarray, count: int) -> list[int]:
    """Return the units to hold out: those of an iterative stratification first, then others until `count` rows are reached."""
    share = count / sum(units.sizes)
    part = _stratify_iteratively(label_matrix, np.array([share, 1 - share]), units.random)
    chosen, train_counts = [], units.table_counts.copy()
    for unit in sorted(units.random.permutation(len(units.sizes)).tolist(), key=lambda unit: part[unit]):
        if units.sizes[unit] <= count and _try_hold_out(units, unit, train_counts):
            chosen.append(unit)
            count -= units.sizes[unit]
    return chosen


def _try_hold_out(units: SplitUnits, unit: int, train_counts: Counter[str]) -> bool:
    """Subtract a unit from the training rows of each class, unless a class would lose its last one; return whether it was done."""
    if any(train_counts[label] <= rows for label, rows in units.label_counts[unit].items()):
        return False
    train_counts.subtract(units.label_counts[unit])
    return True


def _stratify_iteratively(label_matrix: np.ndarray, shares: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Return the part of each unit by iterative stratification (Sechidis et al. 2011), (units,) int64.

    Units come in a drawn order, because the larger part is filled from the beginning and would show the order of the file.
    """
    order = random.permutation(len(label_matrix))
    parts = np.zeros(len(label_matrix), dtype=np.int64)
    parts[order] = IterativeStratification(labels=label_matrix[order], r=shares, random_state=random)
    return parts


def _folds_by_stratum(units: SplitUnits, n: int) -> np.ndarray:
    """Return the fold of each unit: rare strata and large units first, to the fold with fewest rows of the stratum, then of all."""
    stratum_rows = Counter(dict.fromkeys(units.strata, 0))
    for stratum, size in zip(units.strata, units.sizes):
        stratum_rows[stratum] += size
    fold_rows: dict[str, list[int]] = defaultdict(lambda: [0] * n)  # of each label, and of all rows under "", which is no label
    fold = np.zeros(len(units.sizes), dtype=np.int64)
    order = units.random.permutation(len(units.sizes)).tolist()
    for unit in sorted(order, key=lambda u: (stratum_rows[units.strata[u]], units.strata[u], -units.sizes[u])):
        of_stratum, of_all = fold_rows[units.strata[unit]], fold_rows[""]
        chosen = min(range(n), key=lambda f: (of_stratum[f], of_all[f]))
        fold[unit] = chosen
        of_all[chosen] += units.sizes[unit]
        for label, rows in units.label_counts[unit].items():
            fold_rows[label][chosen] += rows
    return fold


def _folds_of_groups(units: SplitUnits, n: int) -> np.ndarray:
    """Return the fold of each group of rows with several labels per image.

    Large groups come first, each to the fold where the squared shares of its labels, and of all rows, grow least. Iterative
    stratification doesn't serve, because it counts a group of 30 rows as it does one of 2: labels were three times as uneven, and
    3,000 rows of fashion79 gave folds of 546 to 638 rows.
    """
    column = {label: i for i, label in enumerate(sorted(units.table_counts))}
    shares = np.zeros((len(units.sizes), len(column) + 1))
    shares[:, -1] = np.array(units.sizes) / sum(units.sizes)
    for unit, counts in enumerate(units.label_counts):
        for label, rows in counts.items():
            shares[unit, column[label]] = rows / units.table_counts[label]
    weights = np.append(np.ones(len(column)), len(column))  # the number of rows counts as much as all labels together
    totals, fold = np.zeros((n, len(weights))), np.zeros(len(units.sizes), dtype=np.int64)
    order = units.random.permutation(len(units.sizes)).tolist()
    for unit in sorted(order, key=lambda unit: -units.sizes[unit]):
        # (total + share)^2 - total^2, without share^2, which is the same in all folds
        chosen = int(np.argmin((2 * totals * shares[unit]) @ weights))
        fold[unit] = chosen
        totals[chosen] += shares[unit]
    return fold
