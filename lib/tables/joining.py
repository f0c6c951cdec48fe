"""A second table whose columns count as those of the first: drivers of photographs, data of patients, labels apart from images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lib.config.recipe import Data
from lib.errors import FlukeError, first_few
from lib.tables.folders import image_stem
from lib.tables.long_form import wide_columns, wide_header
from lib.tables.readers import read_columns, read_header, reader_of

FIELD = "data.join_csv"


@dataclass(frozen=True)
class JoinedColumns:
    """Columns of a table and of the one joined with it, by the field of the recipe that names each."""

    columns: dict[str, list[str]]
    lines: np.ndarray
    """(n,) int64: line of each row in the first table."""
    joined: frozenset[str] = frozenset()
    """Fields whose column is the second table's."""
    unmatched: frozenset[int] = frozenset()
    """Positions of rows without a row in the second table, whose cells of its columns are blank."""
    notes: tuple[str, ...] = field(default=())
    """What the tables were joined on, and how many rows have no match."""


def joined_header(source: Path, data: Data) -> list[str]:
    """Return the columns of `source` and those that data.join_csv adds to them. Raises FlukeError."""
    own = wide_header(source, data)
    if data.join_csv is None:
        return own
    return own + [column for column in read_header(Path(data.root) / data.join_csv) if column not in own]


def read_joined(source: Path, fields: dict[str, str], data: Data) -> JoinedColumns:
    """Read columns as `read_columns` does; those that `source` lacks are data.join_csv's, matched by data.join_key.

    Keys match exactly, else without folder and extension. Raises FlukeError for keys that the second table has twice, where no key
    is found, and where no row matches.
    """
    own = set(wide_header(source, data))
    other = Path(data.root) / data.join_csv if data.join_csv is not None else None
    lacking = {name: column for name, column in fields.items() if column not in own}
    if other is None or not lacking or not set(lacking.values()) & set(read_header(other)):
        return JoinedColumns(*wide_columns(source, fields, data))
    if absent := {name: column for name, column in lacking.items() if column not in read_header(other)}:
        name, column = next(iter(absent.items()))
        raise FlukeError(f"{source}: has no column {column!r} ({name}), nor has {other} ({FIELD}); name one of their columns.")
    left, right = _find_keys(source, other, data.join_key)
    ours = {n: c for n, c in fields.items() if n not in lacking} | {"data.join_key": left}
    columns, lines = wide_columns(source, ours, data)
    found, their_lines = read_columns(other, lacking | {"data.join_key": right})
    rows = _match(columns.pop("data.join_key"), found.pop("data.join_key"), other, right, their_lines)
    for name, cells in found.items():
        columns[name] = ["" if row is None else cells[row] for row in rows]
    unmatched = frozenset(i for i, row in enumerate(rows) if row is None)
    if len(unmatched) == len(rows):
        raise FlukeError(
            f"{source}: no row's {left} is a {right} of {other} ({FIELD}); name the columns that match in data.join_key."
        )
    note = f"joined with {other} on {left} = {right}" + ("" if data.join_key else " (data.join_key names others)")
    if unmatched:
        note += f"; {len(unmatched):,} of {len(rows):,} rows have no match there"
    if spare := len(found[next(iter(found))]) - len({row for row in rows if row is not None}):
        note += f"; {spare:,} of its rows aren't used"
    return JoinedColumns(columns, lines, frozenset(lacking), unmatched, (note,))


def refuse_unmatched(source: Path, data: Data, names: list[str], joined: JoinedColumns, rows: np.ndarray, needed: set[str]) -> None:
    """Raise FlukeError when one of `rows` (positions) has no match, whose `needed` field is a column of the second table."""
    without = [i for i in rows.tolist() if i in joined.unmatched]
    if without and needed & joined.joined:
        found = first_few(f"{reader_of(source).unit} {joined.lines[i]} {names[i]!r}" for i in without)
        raise FlukeError(
            f"{source}: {len(without):,} of {len(rows):,} rows have no row in {Path(data.root) / (data.join_csv or '')} ({FIELD}): "
            f"{found}; add them there, or leave these rows out by data.train_where or drop_images."
        )


def _find_keys(source: Path, other: Path, key: str | list[str] | None) -> tuple[str, str]:
    """Return the columns of the two tables that `key` names, else those that have most different values in common.

    Only a column of `other` whose values are all different is a key of itself. Of equal ones, columns of one name are taken, else
    the longer values, because short ones may be numbers of rows.
    """
    if key is not None:
        left, right = (key, key) if isinstance(key, str) else (key[0], key[-1])
        return left, right
    ours, theirs = _all_columns(source), _all_columns(other)
    sets = {column: {image_stem(cell) for cell in cells if cell.strip()} for column, cells in ours.items()}
    best: tuple[int, bool, int, str, str] | None = None
    for right, cells in theirs.items():
        stems = Counter(image_stem(cell) for cell in cells if cell.strip())
        if max(stems.values(), default=2) > 1:
            continue
        for left, values in sets.items():
            common = values & stems.keys()
            rank = len(common), left == right, max(map(len, cells))
            if common and (best is None or rank > best[:3]):
                best = *rank, left, right
    if best is None:
        raise FlukeError(
            f"{source}: shares no column of values with a column of {other} that names each row once ({FIELD}); name the columns "
            "that match in data.join_key."
        )
    return best[3], best[4]


def _all_columns(path: Path) -> Mapping[str, list[str]]:
    header = read_header(path)
    return read_columns(path, {column: column for column in header if header.count(column) == 1})[0]


def _match(keys: list[str], theirs: list[str], other: Path, right: str, lines: np.ndarray) -> list[int | None]:
    """Return the row of the second table for each of `keys`, None for one that it lacks. Raises FlukeError for repeated keys."""
    if repeated := [key for key, count in Counter(theirs).items() if count > 1]:
        where = first_few(
            f"{key!r} ({reader_of(other).unit} {first_few(lines[i] for i, k in enumerate(theirs) if k == key)})"
            for key in repeated[:3]
        )
        raise FlukeError(f"{other}: {len(repeated):,} values of {right} come more than once: {where}; keep one row of each.")
    exact = {key: i for i, key in enumerate(theirs)}
    stems: dict[str, list[int]] = {}
    for i, key in enumerate(theirs):
        stems.setdefault(image_stem(key), []).append(i)

    def find(key: str) -> int | None:
        if not key.strip():
            return None
        same = stems.get(image_stem(key), [])
        return exact.get(key, same[0] if len(same) == 1 else None)

    return [find(key) for key in keys]
