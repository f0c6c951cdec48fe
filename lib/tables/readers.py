"""Columns of tables, read as strings: one reader per kind of file, chosen by the file's suffix."""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from lib.errors import FlukeError, did_you_mean, first_few
from lib.tables import json_tables, text_lists
from lib.tables.folders import image_stem
from lib.tables.foreign import describe_foreign, find_nul

DELIMITER_SAMPLE = 20_000
"""Characters at a file's start that decide on its delimiter."""


class CsvReader:
    """Read CSV (also with semicolons, tabs or bars) by the standard library.

    It guesses no types ("01", "NA" and "1e5" stay as they are) and reports the line of each row.
    """

    unit = "line"
    """What messages call a position in the file."""

    @staticmethod
    def header(path: Path) -> list[str]:
        """Return the column names."""
        if (kind := describe_foreign(path)) is not None:
            raise FlukeError(f"{path}: is {kind}.")
        with open(path, encoding="utf-8-sig", newline="") as handle:
            return next(_csv_rows(handle), [])

    @staticmethod
    def columns(path: Path, header: list[str], fields: dict[str, str]) -> tuple[dict[str, list[str]], list[int]]:
        """Return the columns that `fields` names, under its keys, and the position of each row."""
        if (at := find_nul(path)) is not None:
            raise FlukeError(f"{path}: holds NUL bytes, from byte {at:,} on, as files do that weren't copied whole; copy it again.")
        records: list[list[str]] = []
        lines: list[int] = []
        with open(path, encoding="utf-8-sig", newline="") as handle:
            reader = _csv_rows(handle)
            next(reader)
            line = reader.line_num + 1
            try:
                for record in reader:
                    if record:
                        records.append(record)
                        lines.append(line)
                    line = reader.line_num + 1
            except csv.Error as error:
                raise FlukeError(f"{path}, line {line}: not readable as CSV ({error}); check for an unclosed quote.") from None
        if ragged := [f"line {line} ({len(record)})" for record, line in zip(records, lines) if len(record) != len(header)]:
            found = f"{len(ragged):,} rows don't have the header's {len(header)} fields: {first_few(ragged)}"
            raise FlukeError(f"{path}: {found}; quote the values that hold the delimiter.")
        positions = {field: header.index(column) for field, column in fields.items()}
        return {field: [record[at] for record in records] for field, at in positions.items()}, lines


def _csv_rows(handle: TextIO) -> Any:
    """Return a CSV reader whose delimiter is the one of comma, semicolon, tab and bar that gives the first rows most fields,
    equally many in each; without one, the first that the header holds.
    """
    start = handle.read(DELIMITER_SAMPLE)
    handle.seek(0)
    header = start.split("\n", 1)[0]
    marks = [mark for mark in ",;\t|" if mark in header] or [","]
    return csv.reader(handle, delimiter=max(marks, key=lambda mark: _width(start, mark)), strict=True)


def delimiter_of(path: Path) -> str:
    """Return the delimiter of a CSV file. Raises FlukeError."""
    with _reading(path), open(path, encoding="utf-8-sig", newline="") as handle:
        return str(_csv_rows(handle).dialect.delimiter)


def _width(start: str, delimiter: str) -> int:
    """Return the number of fields in all rows of a file's `start`, the last, cut one aside; 1 if rows differ."""
    try:
        rows = [row for row in csv.reader(io.StringIO(start, newline=""), delimiter=delimiter) if row]
    except csv.Error:
        return 1
    widths = {len(row) for row in (rows[:-1] if len(start) == DELIMITER_SAMPLE else rows)}
    return widths.pop() if len(widths) == 1 else 1


class ParquetReader:
    """Read Parquet by pyarrow; a null becomes "", and a row's position is its number, from 1."""

    unit = "row"

    @staticmethod
    def header(path: Path) -> list[str]:
        import pyarrow.parquet as pq

        return list(pq.read_schema(path).names)

    @staticmethod
    def columns(path: Path, header: list[str], fields: dict[str, str]) -> tuple[dict[str, list[str]], list[int]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        data = pq.read_table(path, columns=sorted(set(fields.values())))
        columns = {field: data.column(column).cast(pa.string()).fill_null("").to_pylist() for field, column in fields.items()}
        return columns, list(range(1, data.num_rows + 1))


class JsonReader:
    """Read JSON (lib/tables/json_tables.py); a row's position is its number, from 1."""

    unit = "record"

    @staticmethod
    def header(path: Path) -> list[str]:
        return list(dict.fromkeys(key for record in json_tables.read_records(path) for key in record))

    @staticmethod
    def columns(path: Path, header: list[str], fields: dict[str, str]) -> tuple[dict[str, list[str]], list[int]]:
        records = json_tables.read_records(path)
        columns = {field: [record.get(column, "") for record in records] for field, column in fields.items()}
        return columns, list(range(1, len(records) + 1))


class ListReader:
    """Read lists in text files (lib/tables/text_lists.py)."""

    unit = "line"

    @staticmethod
    def header(path: Path) -> list[str]:
        return text_lists.list_header(path)

    @staticmethod
    def columns(path: Path, header: list[str], fields: dict[str, str]) -> tuple[dict[str, list[str]], list[int]]:
        columns, lines = text_lists.read_list(path, header)
        return {field: columns[column] for field, column in fields.items()}, lines


Reader = type[CsvReader] | type[ParquetReader] | type[JsonReader] | type[ListReader]
READERS: dict[str, Reader] = {
    ".parquet": ParquetReader,
    ".pq": ParquetReader,
    ".json": JsonReader,
    ".jsonl": JsonReader,
    ".ndjson": JsonReader,
}
"""Readers by lower-case suffix; every other file is read as CSV, or as a list if it is one."""


def reader_of(path: Path) -> Reader:
    """Return the reader of a file. Raises OSError and UnicodeDecodeError."""
    return READERS.get(path.suffix.lower(), ListReader if text_lists.is_list(path) else CsvReader)


def read_header(path: Path) -> list[str]:
    """Return the column names of a table. Raises FlukeError."""
    with _reading(path):
        return reader_of(path).header(path)


def read_columns(path: Path, fields: dict[str, str]) -> tuple[dict[str, list[str]], np.ndarray]:
    """Read columns of a table as strings, unchanged.

    `fields` maps a field of the recipe, which messages mention, to the column that it names; the first result has the same keys.
    The second, (n,) int64, is the line on which each row begins (Parquet: the row's number, from 1). Blank lines are skipped.
    Raises FlukeError: missing or repeated column, not UTF-8, broken quotes, rows with another number of fields, no rows.
    """
    header = read_header(path)
    if not header:
        raise FlukeError(f"{path}: has no header (the file is empty or its first line is blank); put the column names in line 1.")
    for field, column in fields.items():
        if column not in header:
            hint = did_you_mean(column, header, otherwise="; name one of these.")
            raise FlukeError(f"{path}: has no column {column!r} ({field}) among {first_few(header, 12)}{hint}")
        if header.count(column) > 1:
            raise FlukeError(f"{path}: has several columns {column!r}; rename all but one.")
    with _reading(path):
        columns, lines = reader_of(path).columns(path, header, fields)
    if not lines:
        raise FlukeError(f"{path}: has a header but no rows; one row per image is expected.")
    return columns, np.array(lines, dtype=np.int64)


def read_mapping(
    path: Path, names: Sequence[str], value_column: str | None, field: str, otherwise: Sequence[str] | None = None
) -> list[str]:
    """Return the value (a group, a fold) that a table of image names and values has for each of `names`.

    A name without a row has its value of `otherwise`, (n,), if that is given.

    The values are in `value_column`; None: in the other one of two columns. The image names are in the column that holds most of
    `names`. Names match exactly, else without folder and extension if that is unique in the table and in `names`. Other rows are
    ignored. Raises FlukeError, which tells to name the column by `field`, for repeated or missing names and for blank values.
    """
    header = read_header(path)
    if len(header) < 2:
        raise FlukeError(f"{path}: needs two columns (found: {header}); put image names in one and values in the other.")
    if value_column is None and len(header) > 2:
        raise FlukeError(f"{path}: has {len(header)} columns ({first_few(header)}); name the one to take with {field}.")
    wanted = {f"column {column}": column for column in header if column != value_column}
    columns, lines = read_columns(path, wanted | ({field: value_column} if value_column is not None else {}))
    stems = {image_stem(name) for name in names}
    found = {column: len(stems & set(map(image_stem, columns[key]))) for key, column in wanted.items()}
    image_column = max(found, key=lambda column: found[column])
    images = columns[f"column {image_column}"]
    if value_column is None:
        (value_column,) = set(header) - {image_column}
        cells = columns[f"column {value_column}"]
    else:
        cells = columns[field]
    refuse_blanks(path, value_column, cells, lines)
    if repeated := [name for name, count in Counter(images).items() if count > 1]:
        raise FlukeError(
            f"{path}: {len(repeated):,} images come more than once: {first_few(map(repr, repeated))}; keep one row per image."
        )
    values = dict(zip(images, cells))
    values_by_stem = defaultdict(list)
    for name, value in values.items():
        values_by_stem[image_stem(name)].append(value)
    stem_counts = Counter(map(image_stem, names))
    for name in names:
        stem = image_stem(name)
        if name not in values and stem_counts[stem] == len(values_by_stem.get(stem, ())) == 1:
            values[name] = values_by_stem[stem][0]
    if otherwise is not None:
        values = dict(zip(names, otherwise)) | values
    if missing := [name for name in names if name not in values]:
        shown = f"{len(missing):,} of {len(names):,} images: {first_few(map(repr, missing))}"
        raise FlukeError(f"{path}: has no row for {shown}; add one row per image.")
    return [values[name] for name in names]


def refuse_blanks(path: Path, column: str, values: Sequence[str], lines: np.ndarray) -> None:
    """Raise FlukeError, with the lines, when some of a column's values are blank."""
    if blank := [lines[i] for i, value in enumerate(values) if not value.strip()]:
        where = f"{reader_of(path).unit} {first_few(blank)}"
        raise FlukeError(f"{path}: {len(blank):,} rows have a blank {column}: {where}; fill it in or remove the rows.")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raise FlukeError for whatever the reading of `path` raises."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise FlukeError(f"{path}: not UTF-8 text (byte 0x{error.object[error.start]:02x}); save it as UTF-8.") from None
    except OSError as error:
        raise FlukeError(f"{path}: {error.strerror or error}.") from None
    except csv.Error as error:
        raise FlukeError(f"{path}, line 1: not readable as CSV ({error}); check for an unclosed quote.") from None
    except (ValueError, NotImplementedError) as error:  # pyarrow's
        raise FlukeError(f"{path}: not readable as Parquet ({str(error).splitlines()[0]}); write the file again.") from None
