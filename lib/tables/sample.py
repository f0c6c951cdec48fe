"""The sample submission: what a contest wants back, and which prediction belongs to each of its rows.

Line numbers in sentences are those of the file, the header being line 1; a row is named by the line it begins on.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from lib.config.recipe import Recipe
from lib.errors import FlukeError, first_few
from lib.tables.folders import IMAGE_SUFFIXES


@dataclass(frozen=True)
class Sample:
    """A sample submission: what the contest wants back, and how its file is made."""

    path: Path
    columns: list[str]
    id_column: int
    """Position of the image names among the columns."""
    ids: list[str]
    """Image names as they stand, in order; each once."""
    cells: list[str]
    """The other column's cells, where there is just one; else empty."""
    delimiter: str
    newline: str
    quote_all: bool
    encoding: str
    """utf-8, or utf-8-sig when the file begins with a byte order mark."""

    @property
    def others(self) -> list[str]:
        """The columns to fill in."""
        return [column for i, column in enumerate(self.columns) if i != self.id_column]


def load_sample(recipe: Recipe) -> Sample | None:
    """The recipe's sample submission; None if it has none or is a dry run's (train.limit_rows). Raises FlukeError."""
    d = recipe.data
    if d.sample_submission is None or recipe.train.limit_rows is not None:
        return None
    return read_sample(Path(d.root) / d.sample_submission, d.image_column)


def read_sample(path: Path, image_column: str | None = None) -> Sample:
    """Read a sample submission. Image names stand in `image_column`, if there is one of that name, else in the first column.

    Raises FlukeError: no such file, not UTF-8, not a table of two columns at least, repeated columns or image names, blank names.
    """
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise FlukeError(f"{path}: {error.strerror or error}.") from None
    except UnicodeDecodeError as error:
        raise FlukeError(f"{path}: not UTF-8 text (byte 0x{error.object[error.start]:02x}); save it as UTF-8.") from None
    delimiter = _delimiter(path, text)
    rows = list(read_records(path, text, delimiter))
    (_, columns), body = rows[0], rows[1:]
    if ragged := [f"line {line} ({len(row)})" for line, row in body if len(row) != len(columns)]:
        raise FlukeError(f"{path}: {len(ragged):,} rows don't have the header's {len(columns)} fields: {first_few(ragged)}.")
    if twice := [repr(column) for column, count in Counter(columns).items() if count > 1]:
        raise FlukeError(f"{path}: has several columns {first_few(twice)}; a sample submission names each column once.")
    if not body:
        raise FlukeError(f"{path}: has a header but no rows; a sample submission lists the images to predict.")
    at = columns.index(image_column) if image_column in columns else 0
    ids = [row[at] for _, row in body]
    if blank := [line for (line, _), name in zip(body, ids) if not name.strip()]:
        raise FlukeError(f"{path}: {len(blank):,} rows have a blank {columns[at]}: line {first_few(blank)}.")
    if twice := [repr(name) for name, count in Counter(ids).items() if count > 1]:
        raise FlukeError(f"{path}: {len(twice):,} images come more than once: {first_few(twice)}.")
    header = text[: text.find("\n") + 1]
    return Sample(
        path,
        columns,
        at,
        ids,
        cells=[row[1 - at] for _, row in body] if len(columns) == 2 else [],
        delimiter=delimiter,
        newline="\r\n" if header.endswith("\r\n") else "\n",
        quote_all=header.startswith('"') and f'"{delimiter}"' in header,
        encoding="utf-8-sig" if raw.startswith(b"\xef\xbb\xbf") else "utf-8",
    )


def match_images(ids: Sequence[str], names: Sequence[str], path: Path) -> NDArray[np.int64]:
    """Positions (n,) in `names` of each of `ids`, which are the image names of the sample `path`.

    They are compared as they stand, else without extension, without folder, without both. Names that no id asks for are left out.
    Raises FlukeError for ids without a prediction and where several fit.
    """
    lacking: list[str] = []
    for key in (str, without_extension, _no_folder, lambda name: without_extension(_no_folder(name))):
        places: dict[str, list[int]] = {}
        for i, name in enumerate(names):
            places.setdefault(key(name), []).append(i)
        found = [places.get(key(name), []) for name in ids]
        if all(found):
            break
        missing = [name for name, fits in zip(ids, found) if not fits]
        if not lacking or len(missing) < len(lacking):
            lacking = missing
    else:
        raise FlukeError(
            f"{path}: {len(lacking):,} of its {len(ids):,} images have no prediction: {first_few(map(repr, lacking))}."
        )
    if several := [f"{name!r} ({first_few((repr(names[i]) for i in fits), 3)})" for name, fits in zip(ids, found) if len(fits) > 1]:
        raise FlukeError(
            f"{path}: for {len(several):,} images several predictions fit: {first_few(several)}; name them as the sample does."
        )
    positions = np.array([fits[0] for fits in found], dtype=np.int64)
    if shared := [repr(names[i]) for i, count in Counter(positions.tolist()).items() if count > 1]:
        raise FlukeError(
            f"{path}: {len(shared):,} predictions fit several of its images: {first_few(shared)}; name them as the sample does."
        )
    return positions


def without_extension(name: str) -> str:
    """An image's name without .jpg and the like."""
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix.lower() in IMAGE_SUFFIXES else str(path)


def _no_folder(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).name


def _delimiter(path: Path, text: str) -> str:
    """The character that gives every line as many fields as the header, two at least; a comma if several do or none does."""
    for delimiter in (",", ";", "\t", "|"):
        try:
            widths = {len(row) for _, row in read_records(path, text, delimiter)}
        except FlukeError:
            continue
        if len(widths) == 1 and max(widths) > 1:
            return delimiter
    width = len(next(read_records(path, text, ","), (1, []))[1])
    if width < 2:
        raise FlukeError(f"{path}: needs a column of image names and one for the answer at least; its header has {width}.")
    return ","


def read_records(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Rows with the line each begins on; blank lines are none."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for row in reader:
            if row:
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise FlukeError(f"{path}, line {line}: not readable as CSV ({error}); is a quote left open?") from None
