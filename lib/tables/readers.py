"""Where a table comes from: columns of CSV and Parquet files as strings, and images found in folders.

CSV (also with semicolons, tabs or bars) goes through the standard library's reader, which guesses no types ("01", "NA" and "1e5"
survive) and knows on which line a row stands. Folders are listed once: a question to the disk for each of 100,000 rows costs
seconds, minutes on a network disk.
"""

from __future__ import annotations

import csv
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from lib.errors import FlukeError, did_you_mean, first_few
from lib.files import safe_join

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


# --- CSV and Parquet --------------------------------------------------------------------------------------------------------------


def row_unit(path: Path) -> str:
    """What a position in this file is called."""
    return "row" if _is_parquet(path) else "line"


def read_header(path: Path) -> list[str]:
    """Column names of a CSV or Parquet file. Raises FlukeError."""
    with _reading(path):
        if _is_parquet(path):
            import pyarrow.parquet as pq

            return list(pq.read_schema(path).names)
        with open(path, encoding="utf-8-sig", newline="") as handle:
            return next(_csv_reader(handle), [])


def read_columns(path: Path, wanted: dict[str, str]) -> tuple[dict[str, list[str]], np.ndarray]:
    """Columns of a CSV or Parquet file, untouched, as strings; a null of Parquet is "".

    `wanted` maps what the caller calls a column (the recipe's field) to its name in the file; the first result has the same keys.
    The second, (n,) int64, is the line each row begins on (Parquet: its number from 1). Blank lines are no rows.
    Raises FlukeError: missing or repeated column, other encodings, broken quotes, rows with another number of fields, no rows.
    """
    header = read_header(path)
    if not header:
        raise FlukeError(f"{path}: begins with a blank line or is empty; a header is wanted there.")
    for field, column in wanted.items():
        if column not in header:
            raise FlukeError(
                f"{path}: has no column {column!r} ({field}) but {first_few(header, 12)}{did_you_mean(column, header)}"
            )
        if header.count(column) > 1:
            raise FlukeError(f"{path}: has several columns {column!r}; rename all but one.")
    with _reading(path):
        if _is_parquet(path):
            columns, lines = _read_parquet(path, wanted)
        else:
            records, lines = _read_csv(path, len(header))
            columns = {field: [record[at] for record in records] for field, at in ((f, header.index(c)) for f, c in wanted.items())}
    if not lines:
        raise FlukeError(f"{path}: has a header but no rows.")
    return columns, np.array(lines, dtype=np.int64)


def read_mapping(path: Path, names: Sequence[str]) -> list[str]:
    """What a table's second column (a group, a fold) says of each of `names`, which stand in its first; other rows don't matter.

    Matched by the name as it stands, else by the file's name without folder and extension, if that is unique on both sides.
    Raises FlukeError for names that come twice or not at all, and for blank values.
    """
    header = read_header(path)
    if len(header) < 2:
        raise FlukeError(f"{path}: needs two columns, image names first; it has {header}.")
    columns, lines = read_columns(path, {"image": header[0], "value": header[1]})
    refuse_blanks(path, header[1], columns["value"], lines)
    if twice := [name for name, count in Counter(columns["image"]).items() if count > 1]:
        raise FlukeError(f"{path}: {len(twice):,} images come more than once: {first_few(map(repr, twice))}.")
    exact = dict(zip(columns["image"], columns["value"]))
    loose = defaultdict(list)
    for name, value in exact.items():
        loose[_bare_name(name)].append(value)
    alike = Counter(map(_bare_name, names))
    for name in names:
        if name not in exact and alike[_bare_name(name)] == len(loose.get(_bare_name(name), ())) == 1:
            exact[name] = loose[_bare_name(name)][0]
    if lacking := [name for name in names if name not in exact]:
        raise FlukeError(f"{path}: has no row for {len(lacking):,} of {len(names):,} images: {first_few(map(repr, lacking))}.")
    return [exact[name] for name in names]


def refuse_blanks(path: Path, what: str, values: Sequence[str], lines: np.ndarray) -> None:
    """Raise FlukeError, with the lines, when some of a column's values (`what` says of what) are blank."""
    if blank := [lines[i] for i, value in enumerate(values) if not value.strip()]:
        raise FlukeError(f"{path}: {len(blank):,} rows have a blank {what}: {row_unit(path)} {first_few(blank)}.")


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() in (".parquet", ".pq")


def _csv_reader(handle: TextIO) -> Any:
    """A reader of rows parted by the first of comma, semicolon, tab and bar that the header holds."""
    header = handle.readline()
    handle.seek(0)
    return csv.reader(handle, delimiter=next((mark for mark in ",;\t|" if mark in header), ","), strict=True)


def _read_csv(path: Path, width: int) -> tuple[list[list[str]], list[int]]:
    records: list[list[str]] = []
    lines: list[int] = []
    with open(path, encoding="utf-8-sig", newline="") as handle:
        reader = _csv_reader(handle)
        next(reader)
        line = reader.line_num + 1
        try:
            for record in reader:
                if record:
                    records.append(record)
                    lines.append(line)
                line = reader.line_num + 1
        except csv.Error as error:
            raise FlukeError(f"{path}, line {line}: not readable as CSV ({error}); is a quote left open?") from None
    if ragged := [f"line {line} ({len(record)})" for record, line in zip(records, lines) if len(record) != width]:
        raise FlukeError(f"{path}: {len(ragged):,} rows don't have the header's {width} fields: {first_few(ragged)}.")
    return records, lines


def _read_parquet(path: Path, wanted: dict[str, str]) -> tuple[dict[str, list[str]], list[int]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = pq.read_table(path, columns=sorted(set(wanted.values())))
    columns = {field: data.column(column).cast(pa.string()).fill_null("").to_pylist() for field, column in wanted.items()}
    return columns, list(range(1, data.num_rows + 1))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what reading `path` may raise into one sentence."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise FlukeError(f"{path}: not UTF-8 text (byte 0x{error.object[error.start]:02x}); save it as UTF-8.") from None
    except OSError as error:
        raise FlukeError(f"{path}: {error.strerror or error}.") from None
    except csv.Error as error:
        raise FlukeError(f"{path}, line 1: not readable as CSV ({error}).") from None
    except (ValueError, NotImplementedError) as error:  # pyarrow's
        raise FlukeError(f"{path}: not readable as Parquet ({str(error).splitlines()[0]}).") from None


# --- folders ----------------------------------------------------------------------------------------------------------------------


def list_images(folder: Path) -> tuple[list[str], list[str], list[str]]:
    """Sorted names of the images, the sub-folders and the other files in a folder; hidden ones left out. Raises FlukeError."""
    files, folders = _list_folder(folder)
    seen = sorted(name for name in files if not name.startswith("."))
    images = [name for name in seen if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]
    return images, sorted(f for f in folders if not f.startswith(".")), sorted(set(seen) - set(images))


def find_images(folder: Path, names: Sequence[str]) -> tuple[list[Path], dict[int, str]]:
    """Paths (n) of the images that a table names, and {position: reason} for those that aren't there.

    A name is a path below `folder`; failing that, the image in the same folder with the same name and another extension, or none.
    Raises FlukeError when `folder` is missing, when a name leads out of it, or when several images fit a name.
    """
    listings = {"": _list_folder(folder)[0]}
    stems: dict[str, dict[str, list[str]]] = {}
    paths: list[Path] = []
    missing: dict[int, str] = {}
    several: list[str] = []
    for i, name in enumerate(names):
        cut = name.rfind("/") + 1
        parent, file = name[:cut], name[cut:]
        if parent not in listings:
            below = safe_join(folder, parent)
            listings[parent] = _list_folder(below)[0] if below.is_dir() else {}
        found = file
        if file not in listings[parent]:
            if parent not in stems:
                stems[parent] = defaultdict(list)
                for other in listings[parent]:
                    stems[parent][_without_extension(other)].append(other)
            fits = stems[parent].get(_without_extension(file), [])
            if len(fits) > 1:
                several.append(f"{name!r} ({', '.join(sorted(fits))})")
            elif fits:
                found = fits[0]
            else:
                safe_join(folder, name)  # a name that leads elsewhere deserves that sentence
                missing[i] = "no such file"
        link = listings[parent].get(found, False)
        paths.append(safe_join(folder, parent + found) if link else folder / (parent + found))
    if several:
        raise FlukeError(f"{folder}: {len(several):,} image names fit several files: {first_few(several)}; give the extension.")
    return paths, missing


def _list_folder(folder: Path) -> tuple[dict[str, bool], list[str]]:
    """Files of a folder, {name: is it a link}, and its sub-folders."""
    files, folders = {}, []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    folders.append(entry.name)
                else:
                    files[entry.name] = entry.is_symlink()
        "".join([*files, *folders]).encode()
    except OSError as error:
        raise FlukeError(f"{folder}: not a folder that can be read ({error.strerror}).") from None
    except UnicodeEncodeError:
        raise FlukeError(f"{folder}: holds file names that aren't UTF-8; rename them.") from None
    return files, folders


def _without_extension(file: str) -> str:
    """The file's name without an image's extension; that of "img.0012" is all of it."""
    stem, suffix = os.path.splitext(file)
    return stem if suffix.lower() in IMAGE_SUFFIXES else file


def _bare_name(name: str) -> str:
    return _without_extension(name.rpartition("/")[2])
