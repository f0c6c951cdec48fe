"""Lists in text files: fields separated by blanks, without column names, as public data sets have them (meta/train.txt)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lib.errors import FlukeError, first_few

SUFFIXES = (".txt", ".lst", ".list")
DELIMITERS = ",;\t|"
"""A file whose first line holds one of these is read as CSV."""


def is_list(path: Path) -> bool:
    """Return whether a text file is such a list: its first line has no delimiter, and isn't a single name above others.

    A first line of one word without digit, dot or slash, such as "image", above file names is a header. Raises OSError and
    UnicodeDecodeError.
    """
    if path.suffix.lower() not in SUFFIXES:
        return False
    with open(path, encoding="utf-8-sig") as handle:
        lines = [line for _, line in zip(range(2), (line for line in handle if _is_row(line)))]
    if not lines or any(mark in lines[0] for mark in DELIMITERS):
        return False
    first, *others = (line.split() for line in lines)
    is_name = len(first) == 1 and first[0].isidentifier() and not any(c.isdigit() for c in first[0])
    return not (is_name and others and any(c in others[0][0] for c in "./0123456789"))


def list_header(path: Path) -> list[str]:
    """Return made names of the columns: train_1, train_2, ... of train.txt, so that those of joined tables differ."""
    width = max((len(line.split()) for _, line in _rows(path)), default=0)
    return [f"{path.stem}_{i + 1}" for i in range(width)]


def read_list(path: Path, header: list[str]) -> tuple[dict[str, list[str]], list[int]]:
    """Return all columns and the line of each row; lines that begin with # are comments.

    Raises FlukeError for rows of another number of fields.
    """
    lines, rows = zip(*((number, line.split()) for number, line in _rows(path))) if header else ((), ())
    if ragged := [f"line {line} ({len(row)})" for line, row in zip(lines, rows) if len(row) != len(header)]:
        raise FlukeError(
            f"{path}: {len(ragged):,} rows don't have {len(header)} fields separated by blanks, as others do: {first_few(ragged)}; "
            "make it a CSV file with column names."
        )
    return {column: [row[i] for row in rows] for i, column in enumerate(header)}, list(lines)


def _is_row(line: str) -> bool:
    return bool(line.strip()) and not line.startswith("#")


def _rows(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each line that isn't blank or a comment."""
    with open(path, encoding="utf-8-sig") as handle:
        yield from ((number, line) for number, line in enumerate(handle, start=1) if _is_row(line))
