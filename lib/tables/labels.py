"""Labels from other places than one column: one-hot columns, names of files and folders, a mapping of classes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from lib.errors import FlukeError, did_you_mean, first_few
from lib.tables.table import Table

Labels = list[tuple[str, ...]]


def expand_columns(
    source: Path, header: Sequence[str], patterns: Sequence[str], field: str = "data.label_columns", least: int = 2
) -> list[str]:
    """Return the columns of `header` that `patterns` (names, or with * and ?) name, in the header's order.

    Raises FlukeError, which names `field`, for a pattern without a column and for fewer than `least`.
    """
    found = [column for column in header if any(fnmatchcase(column, pattern) or column == pattern for pattern in patterns)]
    for pattern in patterns:
        if not any(fnmatchcase(column, pattern) or column == pattern for column in found):
            hint = did_you_mean(pattern, header, otherwise=".")
            raise FlukeError(f"{source}: has no column {pattern!r} ({field}) among {first_few(header, 12)}{hint}")
    if len(found) < least:
        raise FlukeError(f"{source}: data.label_columns names the column {found[0]!r} alone; a single column is data.label_column.")
    return found


def from_one_hot(source: Path, names: Sequence[str], columns: Sequence[Sequence[str]], several: bool, lines: np.ndarray) -> Labels:
    """Return the labels of each row: the `names` of the columns whose cell is above 0.

    Raises FlukeError for cells that are no numbers and, unless `several`, for rows without exactly one label.
    """
    values = np.zeros((len(lines), len(names)))
    for i, (name, column) in enumerate(zip(names, columns)):
        for row, cell in enumerate(column):
            try:
                values[row, i] = float(cell or 0)
            except ValueError:
                raise FlukeError(
                    f"{source}: column {name!r} (data.label_columns) holds {cell!r}, no number such as 0 or 1."
                ) from None
    count = (values > 0).sum(axis=1)
    if not several and len(wrong := np.flatnonzero(count != 1)):
        raise FlukeError(
            f"{source}: {len(wrong):,} rows have no label or several in data.label_columns: line {first_few(lines[wrong])}; set "
            "data.label_separator if an image may have several."
        )
    return [tuple(names[i] for i in np.flatnonzero(row > 0).tolist()) for row in values]


def from_pattern(field: str, pattern: str, names: Sequence[str], group: str) -> list[str | None]:
    """Return what the regular expression `pattern` finds in each of `names`; None where it finds nothing.

    That is its named group `group`, else its first group, else all that it matches. Raises FlukeError for a wrong expression.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise FlukeError(f"{field} {pattern!r}: not a regular expression ({error}).") from None
    chosen: str | int = group if group in expression.groupindex else min(expression.groups, 1)
    return [None if (match := expression.search(name)) is None else match[chosen] for name in names]


def map_classes(table: Table, class_map: Mapping[str, str | None], missing: dict[int, str]) -> tuple[Table, dict[int, str]]:
    """Return the table with its labels renamed, without the rows whose label is mapped to null, and `missing` for its positions.

    Raises FlukeError for a label that the table lacks.
    """
    if not class_map or table.labels is None:
        return table, missing
    counts = table.counts()
    if unknown := [label for label in class_map if label not in counts]:
        raise FlukeError(f"data.class_map: {table.source} has no label {unknown[0]!r}{did_you_mean(unknown[0], counts)}")
    labels = [
        tuple(dict.fromkeys(new for label in row if (new := class_map.get(label, label)) is not None)) for row in table.labels
    ]
    left_out = {label for label, new in class_map.items() if new is None}
    kept = np.flatnonzero([bool(new) or not left_out & set(old) for old, new in zip(table.labels, labels)])
    note = (
        f"data.class_map: {len(table) - len(kept):,} images left out, {len(counts):,} labels became {len(set().union(*labels)):,}"
    )
    mapped = replace(table, labels=labels, notes=(*table.notes, note)).take(kept)
    return mapped, {new: missing[old] for new, old in enumerate(kept.tolist()) if old in missing}


def join_rows_of_an_image(table: Table, missing: dict[int, str]) -> tuple[Table, dict[int, str]]:
    """Return the table with one row per image, which has the labels of all its rows, for tables with a row per label."""
    if len(set(table.names)) == len(table) or table.labels is None:
        return table, missing
    labels: dict[str, dict[str, None]] = {}
    first: dict[str, int] = {}
    for i, (name, row) in enumerate(zip(table.names, table.labels)):
        first.setdefault(name, i)
        labels.setdefault(name, {}).update(dict.fromkeys(row))
    kept = np.array(list(first.values()))
    note = f"{len(table):,} rows are {len(kept):,} images, because images have one row per label"
    joined = replace(table.take(kept), labels=[tuple(row) for row in labels.values()], notes=(*table.notes, note))
    return joined, {new: missing[old] for new, old in enumerate(kept.tolist()) if old in missing}


def select_rows(source: Path, field: str, where: Mapping[str, str | list[str]], columns: Mapping[str, Sequence[str]]) -> np.ndarray:
    """Return the positions of the rows whose cells are as `where` says, {column: value or values}, (n,) int64.

    `columns` holds the columns of `where`. Raises FlukeError when there is none, with the values that the column has.
    """
    length = len(next(iter(columns.values())))
    chosen = np.ones(length, bool)
    for name, wanted in where.items():
        values = {wanted} if isinstance(wanted, str) else set(wanted)
        chosen &= np.array([cell in values for cell in columns[name]])
        if not chosen.any():
            found = first_few(repr(value) for value, _ in Counter(columns[name]).most_common())
            raise FlukeError(f"{source}: no row has {name} {first_few(map(repr, sorted(values)))} ({field}); found: {found}.")
    return np.flatnonzero(chosen)
