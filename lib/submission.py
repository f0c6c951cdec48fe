"""The submission: written in the sample's columns, rows and formats, and read back and checked before it gets its name.

Line numbers in sentences are those of the file, the header being line 1; a row is named by the line it begins on.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from lib.files import FlukeError, atomic
from lib.sources import IMAGE_SUFFIXES, some

Kind = Literal["label", "topk", "labels", "scores"]


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


# --- the sample -------------------------------------------------------------------------------------------------------------------


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
    rows = list(_records(path, text, delimiter))
    (_, columns), body = rows[0], rows[1:]
    if ragged := [f"line {line} ({len(row)})" for line, row in body if len(row) != len(columns)]:
        raise FlukeError(f"{path}: {len(ragged):,} rows don't have the header's {len(columns)} fields: {some(ragged)}.")
    if twice := [repr(column) for column, count in Counter(columns).items() if count > 1]:
        raise FlukeError(f"{path}: has several columns {some(twice)}; a sample submission names each column once.")
    if not body:
        raise FlukeError(f"{path}: has a header but no rows; a sample submission lists the images to predict.")
    at = columns.index(image_column) if image_column in columns else 0
    ids = [row[at] for _, row in body]
    if blank := [line for (line, _), name in zip(body, ids) if not name.strip()]:
        raise FlukeError(f"{path}: {len(blank):,} rows have a blank {columns[at]}: line {some(blank)}.")
    if twice := [repr(name) for name, count in Counter(ids).items() if count > 1]:
        raise FlukeError(f"{path}: {len(twice):,} images come more than once: {some(twice)}.")
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


def infer_kind(sample: Sample, classes: Sequence[str], multi: bool, separator: str = " ") -> Kind:
    """What the sample's columns hold, for `predict.submission: auto`; `classes` are all labels that may be written.

    scores: the other columns are the classes, in any order. With one other column: labels for several labels an image; topk when
    most of the sample's cells hold several known labels; else label. Raises FlukeError when the columns are none of these.
    """
    others = sample.others
    if set(others) == set(classes):
        return "scores"
    if len(others) > 1:
        unknown, lacking = [c for c in others if c not in set(classes)], [c for c in classes if c not in set(others)]
        raise FlukeError(
            f"{sample.path}: its {len(others)} columns after the image names would have to be the {len(classes)} classes; "
            f"no classes: {some(map(repr, unknown)) or 'none'}; lacking: {some(map(repr, lacking)) or 'none'}."
        )
    if multi:
        return "labels"
    known = set(classes)
    lists = sum(cell not in known and sum(part in known for part in cell.split(separator)) > 1 for cell in sample.cells)
    return "topk" if lists > len(sample.cells) / 2 else "label"


def match(ids: Sequence[str], names: Sequence[str], path: Path) -> NDArray[np.int64]:
    """Positions (n,) in `names` of each of `ids`, which are the image names of the sample `path`.

    They are compared as they stand, else without extension, without folder, without both. Names that no id asks for are left out.
    Raises FlukeError for ids without a prediction and where several fit.
    """
    lacking: list[str] = []
    for key in (str, _no_extension, _no_folder, lambda name: _no_extension(_no_folder(name))):
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
        raise FlukeError(f"{path}: {len(lacking):,} of its {len(ids):,} images have no prediction: {some(map(repr, lacking))}.")
    if several := [f"{name!r} ({some((repr(names[i]) for i in fits), 3)})" for name, fits in zip(ids, found) if len(fits) > 1]:
        raise FlukeError(
            f"{path}: for {len(several):,} images several predictions fit: {some(several)}; name them as the sample does."
        )
    positions = np.array([fits[0] for fits in found], dtype=np.int64)
    if shared := [repr(names[i]) for i, count in Counter(positions.tolist()).items() if count > 1]:
        raise FlukeError(
            f"{path}: {len(shared):,} predictions fit several of its images: {some(shared)}; name them as the sample does."
        )
    return positions


def _no_extension(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix.lower() in IMAGE_SUFFIXES else str(path)


def _no_folder(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).name


def _delimiter(path: Path, text: str) -> str:
    """The character that gives every line as many fields as the header, two at least; a comma if several do or none does."""
    for delimiter in (",", ";", "\t", "|"):
        try:
            widths = {len(row) for _, row in _records(path, text, delimiter)}
        except FlukeError:
            continue
        if len(widths) == 1 and max(widths) > 1:
            return delimiter
    width = len(next(_records(path, text, ","), (1, []))[1])
    if width < 2:
        raise FlukeError(f"{path}: needs a column of image names and one for the answer at least; its header has {width}.")
    return ","


def _records(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
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


# --- writing ----------------------------------------------------------------------------------------------------------------------


def write(
    path: Path,
    sample: Sample,
    names: Sequence[str],
    kind: Kind,
    values: NDArray[np.floating] | Sequence[Sequence[str]],
    classes: Sequence[str],
    *,
    multi: bool = False,
    k: int = 5,
    separator: str = " ",
    thresholds: float | NDArray[np.floating] = 0.5,
    allow_empty: bool = False,
) -> None:
    """Write the predictions for the images `names` (n) as the sample asks, check the file, and only then give it its name.

    `values` are logits (n, C) over `classes`, or n lists of labels, best first. label and topk take the first and the first `k`;
    labels takes those with a probability (sigmoid) of `thresholds`, one or (C,), at least, and the most probable one where that
    leaves none, unless `allow_empty`; scores writes probabilities, sigmoid if `multi` else softmax, in float64 digits, so that what
    the logits rank stays ranked. Raises FlukeError; what stood at `path` before then still stands.
    """
    if len(values) != len(names):
        raise ValueError(f"{len(values)} predictions for {len(names)} names")
    positions = match(sample.ids, names, sample.path)
    if isinstance(values, np.ndarray):
        # A class ruled out (-inf) is fine, a row without any score is not; NaN shows through max.
        if bad := [repr(names[i]) for i in np.flatnonzero(~np.isfinite(values.max(axis=1))).tolist()]:
            raise FlukeError(f"{path}: {len(bad):,} predictions hold NaN or infinity: {some(bad)}.")
        answers = _answers(values[positions], kind, classes, multi, k, separator, thresholds, allow_empty, sample)
    else:
        first = {"label": 1, "topk": k}.get(kind)
        answers = ([separator.join(values[i][:first])] for i in positions.tolist())
    with atomic(path) as temporary:
        with open(temporary, "w", encoding=sample.encoding, newline="") as handle:
            handle.write(_line(sample.columns, sample))
            for name, answer in zip(sample.ids, answers, strict=True):
                handle.write(_line([*answer[: sample.id_column], name, *answer[sample.id_column :]], sample))
        if faults := _faults(temporary, sample, classes, kind, k, separator, allow_empty):
            raise FlukeError(f"{path}: not written, for it would not be what {sample.path} asks for: {'; '.join(faults)}.")


def _answers(
    logits: NDArray[np.floating],
    kind: Kind,
    classes: Sequence[str],
    multi: bool,
    k: int,
    separator: str,
    thresholds: float | NDArray[np.floating],
    allow_empty: bool,
    sample: Sample,
) -> Iterator[list[str]]:
    """The cells to fill in, row by row."""
    if kind == "scores":
        columns = [list(classes).index(column) for column in sample.others]
        exact = logits.astype(np.float64)
        for row in (expit(exact) if multi else softmax(exact, axis=1))[:, columns].tolist():
            yield [repr(value) for value in row]
    elif kind == "labels":
        chosen = expit(logits.astype(np.float64)) >= thresholds
        if not allow_empty:
            empty = np.flatnonzero(~chosen.any(axis=1))
            chosen[empty, logits[empty].argmax(axis=1)] = True
        for marks in chosen:
            yield [separator.join(classes[c] for c in np.flatnonzero(marks).tolist())]
    else:
        for order in np.argsort(-logits, axis=1, kind="stable")[:, : k if kind == "topk" else 1]:
            yield [separator.join(classes[c] for c in order.tolist())]


def _line(cells: Iterable[str], sample: Sample) -> str:
    # Not csv.writer: before Python 3.11.9 it leaves a bare carriage return unquoted (CPython gh-67044), which splits the row.
    special = re.compile(f'["\r\n{re.escape(sample.delimiter)}]')
    quoted = ('"' + c.replace('"', '""') + '"' if sample.quote_all or special.search(c) else c for c in cells)
    return sample.delimiter.join(quoted) + sample.newline


# --- checking ---------------------------------------------------------------------------------------------------------------------


def check(
    path: Path,
    sample: Sample,
    classes: Sequence[str],
    kind: Kind,
    *,
    k: int = 5,
    separator: str = " ",
    allow_empty: bool = False,
) -> None:
    """Raise FlukeError, with every kind of fault counted and the first ones named, unless the contest would accept the file.

    Looked at: columns and their order; missing, extra and repeated rows and their order; unknown labels, blanks, several labels
    where one belongs, more than `k` labels or a label twice in a row, scores that are no finite numbers. `classes`: all that
    may be written.
    """
    if faults := _faults(path, sample, classes, kind, k, separator, allow_empty):
        raise FlukeError(f"{path}: not what {sample.path} asks for: {'; '.join(faults)}.")


def _faults(path: Path, sample: Sample, classes: Sequence[str], kind: Kind, k: int, separator: str, allow_empty: bool) -> list[str]:
    known = set(classes)
    if kind != "scores" and len(sample.columns) != 2:
        return [f"{kind} go into one column, but the sample has {len(sample.columns) - 1}"]
    if kind == "scores" and (unknown := [repr(column) for column in sample.others if column not in known]):
        return [f"{len(unknown):,} of its columns are no classes: {some(unknown)}"]
    if kind in ("topk", "labels") and (cut := [repr(label) for label in classes if separator in label]):
        return [f"{len(cut):,} labels hold the separator {separator!r}: {some(cut)} (set predict.separator)"]
    try:
        text = path.read_bytes().decode(sample.encoding)
    except OSError as error:
        return [error.strerror or str(error)]
    except UnicodeDecodeError as error:
        return [f"not UTF-8 text (byte 0x{error.object[error.start]:02x})"]
    rows = list(_records(path, text, sample.delimiter))
    header = rows[0][1] if rows else []
    if header != sample.columns:
        return [f"its columns are {some(map(repr, header), 12) or 'none'}, not {some(map(repr, sample.columns), 12)}"]
    return _row_faults(rows[1:], sample) or _cell_faults(rows[1:], sample, known, kind, k, separator, allow_empty)


def _row_faults(rows: list[tuple[int, list[str]]], sample: Sample) -> list[str]:
    if ragged := [f"line {line} ({len(row)})" for line, row in rows if len(row) != len(sample.columns)]:
        return [f"{len(ragged):,} rows don't have the header's {len(sample.columns)} fields: {some(ragged)}"]
    wanted, seen, faults = set(sample.ids), set(), []
    extra, twice = [], []
    for line, row in rows:
        name = row[sample.id_column]
        if name not in wanted:
            extra.append(f"line {line} ({name!r})")
        elif name in seen:
            twice.append(f"line {line} ({name!r})")
        seen.add(name)
    if missing := [repr(name) for name in sample.ids if name not in seen]:
        faults.append(f"{len(missing):,} rows missing: {some(missing)}")
    if extra:
        faults.append(f"{len(extra):,} rows too many: {some(extra)}")
    if twice:
        faults.append(f"{len(twice):,} rows repeated: {some(twice)}")
    if not faults:
        moved = [
            f"line {line} ({row[sample.id_column]!r})"
            for (line, row), name in zip(rows, sample.ids)
            if row[sample.id_column] != name
        ]
        if moved:
            faults.append(f"{len(moved):,} rows not in the sample's order: {some(moved)}")
    return faults


def _cell_faults(
    rows: list[tuple[int, list[str]]], sample: Sample, known: set[str], kind: Kind, k: int, separator: str, allow_empty: bool
) -> list[str]:
    found: dict[str, list[str]] = {}
    for line, row in rows:
        cells = row[: sample.id_column] + row[sample.id_column + 1 :]
        for cell in cells:
            if fault := _fault(cell, known, kind, k, separator, allow_empty):
                found.setdefault(fault, []).append(f"line {line} ({cell if len(cell) < 40 else cell[:39] + '…'!r})")
    return [f"{len(where):,} {fault}: {some(where)}" for fault, where in found.items()]


def _fault(cell: str, known: set[str], kind: Kind, k: int, separator: str, allow_empty: bool) -> str | None:
    """What is wrong with a cell, as the plural that its count stands before."""
    if kind == "scores":
        return None if _is_finite(cell) else "scores that are no finite numbers"
    if not cell.strip() and cell not in known:
        return None if kind == "labels" and allow_empty and not cell else "blank answers"
    if kind == "label":
        if cell in known:
            return None
        parts = cell.split(separator)
        return "answers with several labels where one belongs" if len(parts) > 1 and known.issuperset(parts) else "unknown labels"
    parts = cell.split(separator)
    if "" in parts:
        return "answers with blank labels (a separator too many)"
    if not known.issuperset(parts):
        return "answers with unknown labels"
    if len(set(parts)) < len(parts):
        return "answers with a label twice"
    return f"answers with more than {k} labels" if kind == "topk" and len(parts) > k else None


def _is_finite(cell: str) -> bool:
    try:
        return math.isfinite(float(cell)) and "_" not in cell
    except ValueError:
        return False
