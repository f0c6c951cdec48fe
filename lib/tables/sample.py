"""The sample submission: its columns, image names and file format, and the prediction that belongs to each of its rows.

Line numbers in messages are those of the file, the header being line 1; a row is named by the line on which it begins.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from lib.config.recipe import Data, Recipe
from lib.errors import FlukeError, first_few
from lib.tables.folders import IMAGE_SUFFIXES
from lib.tables.long_form import split_names
from lib.tables.readers import read_columns, read_header


@dataclass(frozen=True)
class Sample:
    """A sample submission: the rows and columns that the contest expects, and the format of its file."""

    path: Path
    columns: list[str]
    id_column: int
    """Position of the image names among the columns."""
    ids: list[str]
    """Image names in the file's order and spelling; each once."""
    cells: list[str]
    """Cells of the prediction column if there is just one; else empty."""
    delimiter: str
    newline: str
    quote_all: bool
    encoding: str
    """utf-8, or utf-8-sig when the file begins with a byte order mark."""

    index: list[str] | None = None
    """Cells of a first column without a name, which are copied; None without one."""
    long: LongForm | None = None
    """Of a file with a row per image and label: the file's rows. Ids and columns are then those of a table with a row per image."""

    @property
    def prediction_columns(self) -> list[str]:
        """The columns to fill in: all but the image names' and the index."""
        return [column for i, column in enumerate(self.columns) if i != self.id_column and (i or self.index is None)]

    @property
    def file(self) -> Sample:
        """The sample with the rows and columns that the file has."""
        return self if self.long is None else self.long.sample

    def rows(self, cells: Iterable[list[str]]) -> Iterator[list[str]]:
        """Yield the rows of the file, with the `cells` of the prediction columns for each of the ids."""
        if self.long is None:
            yield from (self._row(i, row) for i, (_, row) in enumerate(zip(self.ids, cells, strict=True)))
            return
        of_image, file = list(cells), self.long.sample
        for i, place in enumerate(self.long.places):
            yield file._row(i, [file.cells[i] if place is None else of_image[place[0]][place[1]]])

    def _row(self, i: int, cells: list[str]) -> list[str]:
        index = [] if self.index is None else [self.index[i]]
        at = self.id_column - len(index)
        return [*index, *cells[:at], self.ids[i], *cells[at:]]

    def cells_of(self, row: list[str]) -> list[str]:
        """Return the cells of the prediction columns of a row of the file."""
        return [cell for i, cell in enumerate(row) if i != self.id_column and (i or self.index is None)]


@dataclass(frozen=True)
class LongForm:
    """The rows of a sample submission with a row per image and label."""

    sample: Sample
    """As the file is."""
    places: list[tuple[int, int] | None]
    """Of each row, the positions of its image among the ids and of its label among the columns; None: the row is copied."""
    copied: list[str]
    """Labels whose rows are copied."""


def load_sample(recipe: Recipe, answers: Sequence[str] = (), classes: Sequence[str] = ()) -> Sample | None:
    """Return the recipe's sample submission; None without one and in a dry run (train.limit_rows). Raises FlukeError.

    Without a file, but with a form in `predict.submission`, it is made: the rows are `answers`, the names of the test images, in
    their order; the columns are `data.image_column` and the `classes` (scores; with those of predict.fill), or `data.label_column`.
    """
    d, form = recipe.data, recipe.predict.submission
    if recipe.train.limit_rows is not None:
        return None
    if d.sample_submission is None:
        if form == "auto" or not answers:
            return None
        several = form == "scores" or (form == "numbers" and d.number_columns)
        filled = recipe.predict.fill if form == "scores" else ()
        columns = [d.image_column, *((*classes, *filled) if several else [d.label_column])]
        ids = list(answers)
        if len({without_extension(name) for name in ids}) == len(ids) and d.train_csv is not None and d.test_csv is None:
            ids = [without_extension(name) for name in ids] if _names_lack_extensions(recipe) else ids
        return Sample(Path(d.root) / "predict.submission", columns, 0, ids, [], ",", "\n", False, "utf-8")
    return read_recipe_sample(Path(d.root) / d.sample_submission, d)


def read_recipe_sample(path: Path, data: Data) -> Sample:
    """Read a sample submission as `data` says. Raises FlukeError as `read_sample` does.

    Where data.row_pattern finds an image and a label in its ids, the ids are the images and the columns the labels; where
    data.label_column is one of these labels, it is the only column, and the rows of the others stay as they are.
    """
    sample = read_sample(path, data.image_column)
    pairs = None if data.row_pattern is None else split_names(path, sample.ids, data.row_pattern)
    return sample if pairs is None else _widen(sample, pairs, data.label_column)


def _widen(sample: Sample, pairs: Sequence[tuple[str, str]], label_column: str) -> Sample:
    """Return the sample of long form whose rows are the images and labels `pairs`, with a row per image. Raises FlukeError."""
    if len(columns := sample.prediction_columns) != 1:
        raise FlukeError(
            f"{sample.path}: its rows are an image and a label each (data.row_pattern), but {len(columns)} columns are to fill "
            f"in: {first_few(map(repr, columns))}; one is expected."
        )
    labels = list(dict.fromkeys(label for _, label in pairs))
    filled = [label_column] if label_column in labels else labels
    images = {image: i for i, image in enumerate(dict.fromkeys(image for image, label in pairs if label in filled))}
    column = {label: i for i, label in enumerate(filled)}
    places = [(images[image], column[label]) if label in column else None for image, label in pairs]
    cells = [cell for cell, place in zip(sample.cells, places) if place is not None]
    return replace(
        sample,
        columns=[sample.columns[sample.id_column], *filled],
        id_column=0,
        ids=list(images),
        cells=cells if len(filled) == 1 else [],
        index=None,
        long=LongForm(sample, places, [label for label in labels if label not in column]),
    )


def read_sample(path: Path, image_column: str | None = None) -> Sample:
    """Read a sample submission. The image names are in column `image_column`, else in the first column.

    A first column without a name, or called "Unnamed: 0", is an index that pandas wrote: it is copied.
    Raises FlukeError: no such file, not UTF-8, fewer than two columns, no rows, rows with another number of fields, repeated
    columns or image names, blank image names.
    """
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise FlukeError(f"{path}: {error.strerror or error}.") from None
    except UnicodeDecodeError as error:
        raise FlukeError(f"{path}: not UTF-8 text (byte 0x{error.object[error.start]:02x}); save it as UTF-8.") from None
    delimiter = _find_delimiter(path, text)
    rows = list(read_records(path, text, delimiter))
    (_, columns), body = rows[0], rows[1:]
    if ragged := describe_ragged_rows(body, len(columns)):
        raise FlukeError(f"{path}: {ragged}; quote the values that hold the delimiter.")
    if repeated := [repr(column) for column, count in Counter(columns).items() if count > 1]:
        raise FlukeError(f"{path}: has several columns {first_few(repeated)}; a sample submission names each column once.")
    if not body:
        raise FlukeError(f"{path}: has a header but no rows; a sample submission lists the images to predict.")
    at = find_id_column(columns, image_column)
    ids = [row[at] for _, row in body]
    if blank := [line for (line, _), name in zip(body, ids) if not name.strip()]:
        raise FlukeError(f"{path}: {len(blank):,} rows have a blank {columns[at]}: line {first_few(blank)}; fill it in.")
    if repeated := [repr(name) for name, count in Counter(ids).items() if count > 1]:
        raise FlukeError(f"{path}: {len(repeated):,} images come more than once: {first_few(repeated)}; keep one row per image.")
    index = [row[0] for _, row in body] if at and _is_index(columns) else None
    others = [i for i in range(len(columns)) if i != at and (i or index is None)]
    header = text[: text.find("\n") + 1]
    return Sample(
        path,
        columns,
        at,
        ids,
        cells=[row[others[0]] for _, row in body] if len(others) == 1 else [],
        delimiter=delimiter,
        newline="\r\n" if header.endswith("\r\n") else "\n",
        quote_all=header.startswith('"') and f'"{delimiter}"' in header,
        encoding="utf-8-sig" if raw.startswith(b"\xef\xbb\xbf") else "utf-8",
        index=index,
    )


def find_id_column(columns: Sequence[str], image_column: str | None = None) -> int:
    """Return the position of the image names among a sample's columns: `image_column`, in any case, else the first one."""
    if image_column in columns:
        return columns.index(image_column)
    folded = [column.casefold() for column in columns]
    if image_column is not None and folded.count(image_column.casefold()) == 1:
        return folded.index(image_column.casefold())
    return 1 if _is_index(columns) else 0


def is_beginning(column: str, name: str) -> bool:
    """Return whether a sample's column is a table's column without what follows a mark: X4 of X4_mean."""
    return name.startswith(column) and not name[len(column) : len(column) + 1].isalnum()


def _is_index(columns: Sequence[str]) -> bool:
    """Return whether the first column is an index that pandas wrote."""
    return len(columns) > 2 and columns[0] in ("", "Unnamed: 0")


def _names_lack_extensions(recipe: Recipe) -> bool:
    """Return whether the training table writes image names without extension, as the contest's answers will be."""
    d = recipe.data
    source = Path(d.root) / (d.train_csv or "")
    if d.image_column not in read_header(source):
        return False  # rows of pixels are named by their numbers
    columns, _ = read_columns(source, {"data.image_column": d.image_column})
    return all(without_extension(name) == name for name in columns["data.image_column"])


def match_images(ids: Sequence[str], names: Sequence[str], path: Path) -> NDArray[np.int64]:
    """Return the position in `names` of each of `ids` (n,), the image names of the sample `path`.

    Names match exactly, else without extension, else without folder, else without both. Names that match no id are ignored.
    Raises FlukeError for ids that match none or several of `names`, and for names that match several ids.
    """
    missing: list[str] = []
    for key in (str, without_extension, _without_folder, lambda name: without_extension(_without_folder(name))):
        positions_by_key: dict[str, list[int]] = {}
        for i, name in enumerate(names):
            positions_by_key.setdefault(key(name), []).append(i)
        matches = [positions_by_key.get(key(name), []) for name in ids]
        if all(matches):
            break
        unmatched = [name for name, found in zip(ids, matches) if not found]
        if not missing or len(unmatched) < len(missing):
            missing = unmatched
    else:
        raise FlukeError(
            f"{path}: {len(missing):,} of its {len(ids):,} images have no prediction: {first_few(map(repr, missing))}; add them to "
            "the test images."
        )
    if ambiguous := [
        f"{name!r} ({first_few((repr(names[i]) for i in found), 3)})" for name, found in zip(ids, matches) if len(found) > 1
    ]:
        raise FlukeError(
            f"{path}: {len(ambiguous):,} of its images match several test images: {first_few(ambiguous)}; name the test images as "
            "the sample does."
        )
    positions = np.array([found[0] for found in matches], dtype=np.int64)
    if shared := [repr(names[i]) for i, count in Counter(positions.tolist()).items() if count > 1]:
        raise FlukeError(
            f"{path}: {len(shared):,} test images match several of its images: {first_few(shared)}; name the test images as the "
            "sample does."
        )
    return positions


def without_extension(name: str) -> str:
    """Return an image's name without an extension such as .jpg."""
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix.lower() in IMAGE_SUFFIXES else str(path)


def _without_folder(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).name


def _find_delimiter(path: Path, text: str) -> str:
    """Return the character that gives every line as many fields as the header, two at least; without one, a comma.

    Raises FlukeError if the header has fewer than two fields then.
    """
    for delimiter in (",", ";", "\t", "|"):
        try:
            widths = {len(row) for _, row in read_records(path, text, delimiter)}
        except FlukeError:
            continue
        if len(widths) == 1 and max(widths) > 1:
            return delimiter
    width = len(next(read_records(path, text, ","), (1, []))[1])
    if width < 2:
        raise FlukeError(f"{path}: its header has {width} columns; a sample submission has image names and a column to fill in.")
    return ","


def read_records(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each row begins, and its fields; blank lines are skipped. Raises FlukeError for broken quotes."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for row in reader:
            if row:
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise FlukeError(f"{path}, line {line}: not readable as CSV ({error}); check for an unclosed quote.") from None


def describe_ragged_rows(rows: Sequence[tuple[int, list[str]]], width: int) -> str:
    """Return a message about rows of `read_records` with another number of fields than the header's `width`; "" without any."""
    ragged = [f"line {line} ({len(row)})" for line, row in rows if len(row) != width]
    return f"{len(ragged):,} rows don't have the header's {width} fields: {first_few(ragged)}" if ragged else ""
