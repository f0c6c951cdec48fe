"""Tables with a row per image and label ("ID_12_epidural"), read as tables with a row per image and a column per label."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from lib.config.recipe import Data
from lib.errors import FlukeError, first_few
from lib.tables.readers import read_columns, read_header, reader_of

FIELD = "data.row_pattern"


def split_names(source: Path, names: Sequence[str], pattern: str) -> list[tuple[str, str]] | None:
    """Return image and label of each of `names`, by the pattern's groups `image` and `label`, else its first two; None where it
    finds none of them.

    Raises FlukeError for a wrong pattern, and where it finds some of the names only.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise FlukeError(f"{FIELD} {pattern!r}: not a regular expression ({error}).") from None
    if expression.groups < 2:
        raise FlukeError(f"{FIELD} {pattern!r}: has {expression.groups} groups; it needs one of the image and one of the label.")
    named = {"image", "label"} <= expression.groupindex.keys()
    image, label = (expression.groupindex["image"], expression.groupindex["label"]) if named else (1, 2)
    found = [None if (match := expression.search(name)) is None else (match[image], match[label]) for name in names]
    pairs = [pair for pair in found if pair is not None]
    if pairs and len(pairs) < len(names):
        others = [name for name, pair in zip(names, found) if pair is None]
        raise FlukeError(
            f"{source}: {len(others):,} of {len(names):,} rows aren't called after an image and a label: "
            f"{first_few(map(repr, others))} ({FIELD} {pattern!r})."
        )
    return pairs or None


def wide_header(source: Path, data: Data) -> list[str]:
    """Return the columns of a table, as `wide_columns` has them. Raises FlukeError."""
    table = None if data.row_pattern is None else _pivot(source, data)
    return read_header(source) if table is None else list(table[0])


def wide_columns(source: Path, fields: dict[str, str], data: Data) -> tuple[dict[str, list[str]], np.ndarray]:
    """Read columns as `read_columns` does. Where data.row_pattern finds an image and a label in the cells of data.image_column, a
    row is an image, whose line is that of its first row, and each label is a column of the cells of data.label_column.

    Raises FlukeError, also for rows of one image and label with different cells.
    """
    table = None if data.row_pattern is None else _pivot(source, data)
    if table is None or not set(fields.values()) <= table[0].keys():
        return read_columns(source, fields)
    return {field: table[0][column] for field, column in fields.items()}, table[1]


def _pivot(source: Path, data: Data) -> tuple[dict[str, list[str]], np.ndarray] | None:
    try:
        status = source.stat()
    except OSError as error:
        raise FlukeError(f"{source}: {error.strerror or error}.") from None
    state = status.st_mtime_ns, status.st_size
    return _pivot_of(source, data.row_pattern or "", data.image_column, data.label_column, state)


@lru_cache(maxsize=4)  # the header and the columns of a table are asked for one after the other
def _pivot_of(
    source: Path, pattern: str, image_column: str, label_column: str, state: tuple[int, int]
) -> tuple[dict[str, list[str]], np.ndarray] | None:
    """Return the columns of the wide table and the line of each row; None where rows aren't called after an image and a label."""
    header = read_header(source)
    if header.count(image_column) != 1:
        return None
    columns, lines = read_columns(source, {name: name for name in header if header.count(name) == 1})
    pairs = split_names(source, columns[image_column], pattern)
    if pairs is None:
        return None
    first: dict[str, int] = {}
    for i, (image, _) in enumerate(pairs):
        first.setdefault(image, i)
    row_of = {image: row for row, image in enumerate(first)}
    values = columns.pop(label_column, None)
    at = list(first.values())
    wide = {name: [cells[i] for i in at] for name, cells in columns.items()} | {image_column: list(first)}
    if values is not None:
        wide |= {label: [""] * len(first) for label in dict.fromkeys(label for _, label in pairs)}
        seen: dict[tuple[str, str], int] = {}
        clashing = []
        for i, pair in enumerate(pairs):
            if values[i] != values[(before := seen.setdefault(pair, i))]:
                clashing.append(f"{reader_of(source).unit} {lines[i]} ({columns[image_column][before]!r})")
            wide[pair[1]][row_of[pair[0]]] = values[i]
        if clashing:
            raise FlukeError(
                f"{source}: {len(clashing):,} rows repeat an image and a label with another {label_column}: {first_few(clashing)}; "
                "keep one row of each."
            )
    return wide, lines[at]
