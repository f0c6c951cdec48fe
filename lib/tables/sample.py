"""The sample submission: what a contest wants back, and which prediction belongs to each of its rows.

Line numbers in sentences are those of the file, the header being line 1; a row is named by the line it begins on.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lib.config.recipe import Predict, Recipe
from lib.errors import FlukeError, first_few
from lib.tables.readers import IMAGE_SUFFIXES

Format = Literal["label", "topk", "labels", "scores"]
"""What its columns hold: a label, the k best, all that apply, or a column of scores a class."""


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


def infer_format(sample: Sample, classes: Sequence[str], multi: bool, separator: str = " ") -> Format:
    """What the sample's columns hold, for `predict.submission: auto`; `classes` are all labels that may be written.

    scores: the other columns are the classes, in any order, or one column the score of one of two classes (see
    `class_of_columns`). With one
    other column: labels for several labels an image; topk when most of the sample's cells hold several known labels; else label.
    Raises FlukeError when the columns are none of these.
    """
    others, known = sample.others, set(classes)
    number = None if known.intersection(sample.cells) else next(filter(_is_fraction, sample.cells), None)
    if set(others) == known or (number and not multi and len(classes) == 2 and class_of_columns(sample, classes)):
        return "scores"
    if len(others) > 1:
        unknown, lacking = [c for c in others if c not in set(classes)], [c for c in classes if c not in set(others)]
        raise FlukeError(
            f"{sample.path}: its {len(others)} columns after the image names would have to be the {len(classes)} classes; "
            f"no classes: {first_few(map(repr, unknown)) or 'none'}; lacking: {first_few(map(repr, lacking)) or 'none'}."
        )
    if multi:
        return "labels"
    if number:
        raise FlukeError(
            f"{sample.path}: column {others[0]} holds numbers ({number}), but no class ({first_few(classes)}), and whose "
            "scores they are isn't said; predict.submission label writes the class's name all the same."
        )
    lists = sum(cell not in known and sum(part in known for part in cell.split(separator)) > 1 for cell in sample.cells)
    return "topk" if lists > len(sample.cells) / 2 else "label"


def _is_fraction(cell: str) -> bool:
    """Whether a cell is a number but no whole one: 0.5 stands for a probability, 0 may stand for any class."""
    try:
        return math.isfinite(float(cell)) and not float(cell).is_integer()
    except ValueError:
        return False


def resolve_format(sample: Sample, p: Predict, classes: Sequence[str], multi: bool) -> Format:
    """predict.submission, inferred if it is auto."""
    return infer_format(sample, classes, multi, p.separator) if p.submission == "auto" else p.submission


def class_of_columns(sample: Sample, classes: Sequence[str]) -> list[int] | None:
    """Which class (a position in `classes`) each of the other columns holds the scores of; None where a column is no class.

    Of two classes a single column may be either's, by its name; by any other name it is class 1's beside 0, true's beside false.
    """
    place = {name: i for i, name in enumerate(classes)}
    if all(column in place for column in sample.others):
        return [place[column] for column in sample.others]
    of_two = {name.casefold(): i for i, name in enumerate(classes)}
    if len(sample.others) == 1 and list(of_two) in (["0", "1"], ["false", "true"]):
        return [1]
    return None


def column_faults(sample: Sample, kind: Format, classes: Sequence[str], separator: str) -> list[str]:
    """Why answers of that kind don't go into the sample's columns, as the sentences' ends; [] if they do."""
    known = set(classes)
    if kind == "scores":
        if class_of_columns(sample, classes) is not None:
            return []
        unknown = [repr(column) for column in sample.others if column not in known]
        return [f"{len(unknown):,} of its columns are no classes: {first_few(unknown)}"]
    if len(sample.columns) != 2:
        return [f"{kind} go into one column, but the sample has {len(sample.columns) - 1}"]
    if kind != "label" and (cut := [repr(label) for label in classes if separator in label]):
        return [f"{len(cut):,} labels hold the separator {separator!r}: {first_few(cut)} (set predict.separator)"]

    def lists(by: str) -> int:
        return sum(cell not in known and len(parts := cell.split(by)) > 1 and known.issuperset(parts) for cell in sample.cells)

    for other in ("|", ";", ", ", ",", "/", " "):
        if lists(other) > len(sample.cells) / 2 and not lists(separator):
            return [f"its cells are labels parted by {other!r}, not by {separator!r} (set predict.separator)"]
    return []


def check_sample(sample: Sample, p: Predict, names: Sequence[str], classes: Sequence[str], multi: bool) -> None:
    """Raise FlukeError, before anything slow begins, where a row of the sample has none of the images `names` (n), or the answers
    don't fit its columns."""
    match_images(sample.ids, names, sample.path)
    kind = resolve_format(sample, p, classes, multi)
    if faults := column_faults(sample, kind, classes, p.separator):
        raise FlukeError(f"{sample.path} (predict.submission {kind}): {'; '.join(faults)}.")


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
