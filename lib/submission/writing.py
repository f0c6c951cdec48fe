"""The submission: written in the sample's columns, rows and formats, and read back and checked before it gets its name."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from lib.config.recipe import Predict
from lib.errors import FlukeError, first_few
from lib.files import atomic_write
from lib.scores.score_file import Scores
from lib.submission.formats import Format, class_of_columns, column_faults, resolve_format
from lib.tables.sample import Sample, match_images, read_records
from lib.tables.target import ONE_LABEL, Target


def submit(
    p: Predict,
    path: Path,
    sample: Sample,
    test: Scores,
    thresholds: dict[str, float] | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Write the submission that a recipe's predict section asks for, and say so.

    `thresholds`: the probability from which on each label is given; None: 0.5. Raises FlukeError as `write` does.
    """
    kind = resolve_format(sample, p, test.classes, test.target)
    least = np.array([0.5 if thresholds is None else thresholds[label] for label in test.classes])
    write(
        path,
        sample,
        test.names,
        kind,
        test.logits,
        test.classes,
        target=test.target,
        k=p.topk,
        separator=p.separator,
        thresholds=least,
        allow_empty=p.allow_empty,
    )
    say(f"submission: {path}, {len(sample.ids):,} rows as the sample has them ({kind})")
    if kind == "labels" and thresholds is not None:
        low, middle, high = (f"{q:.3f}" for q in np.quantile(least, [0, 0.5, 1]))
        say(f"  a label is given from a probability of {low} to {high} on, median {middle} (best F1 of each on validation rows)")


def write(
    path: Path,
    sample: Sample,
    names: Sequence[str],
    kind: Format,
    values: NDArray[np.floating] | Sequence[Sequence[str]],
    classes: Sequence[str],
    *,
    target: Target = ONE_LABEL,
    k: int = 5,
    separator: str = " ",
    thresholds: float | NDArray[np.floating] = 0.5,
    allow_empty: bool = False,
) -> None:
    """Write the predictions for the images `names` (n) as the sample asks, check the file, and only then give it its name.

    `values` are logits (n, C) over `classes`, or n lists of labels, best first. label and topk take the first and the first `k`;
    labels takes those with a probability (sigmoid) of `thresholds`, one or (C,), at least, and the most probable one where that
    leaves none, unless `allow_empty`; scores writes probabilities, as `target` says, in float64 digits, so that what
    the logits rank stays ranked. Raises FlukeError; what stood at `path` before then still stands.
    """
    if len(values) != len(names):
        raise ValueError(f"{len(values)} predictions for {len(names)} names")
    if faults := column_faults(sample, kind, classes, separator):
        raise FlukeError(f"{path}: not what {sample.path} asks for: {'; '.join(faults)}.")
    positions = match_images(sample.ids, names, sample.path)
    if isinstance(values, np.ndarray):
        # A class ruled out (-inf) is fine, a row without any score is not; NaN shows through max.
        if bad := [repr(names[i]) for i in np.flatnonzero(~np.isfinite(values.max(axis=1))).tolist()]:
            raise FlukeError(f"{path}: {len(bad):,} predictions hold NaN or infinity: {first_few(bad)}.")
        answers = _answers(values[positions], kind, classes, target, k, separator, thresholds, allow_empty, sample)
    else:
        first = {"label": 1, "topk": k}.get(kind)
        answers = ([separator.join(values[i][:first])] for i in positions.tolist())
    with atomic_write(path) as temporary:
        with open(temporary, "w", encoding=sample.encoding, newline="") as handle:
            handle.write(_line(sample.columns, sample))
            for name, answer in zip(sample.ids, answers, strict=True):
                handle.write(_line([*answer[: sample.id_column], name, *answer[sample.id_column :]], sample))
        check(temporary, sample, classes, kind, k=k, separator=separator, allow_empty=allow_empty, name=path)


def _answers(
    logits: NDArray[np.floating],
    kind: Format,
    classes: Sequence[str],
    target: Target,
    k: int,
    separator: str,
    thresholds: float | NDArray[np.floating],
    allow_empty: bool,
    sample: Sample,
) -> Iterator[list[str]]:
    """The cells to fill in, row by row."""
    if kind == "scores":
        columns = class_of_columns(sample, classes)
        exact = logits.astype(np.float64)
        for row in target.probabilities(exact)[:, columns].tolist():
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
    kind: Format,
    *,
    k: int = 5,
    separator: str = " ",
    allow_empty: bool = False,
    name: Path | None = None,
) -> None:
    """Raise FlukeError, with every kind of fault counted and the first ones named, unless the contest would accept the file.

    Looked at: columns and their order; missing, extra and repeated rows and their order; unknown labels, blanks, several labels
    where one belongs, more than `k` labels or a label twice in a row, scores that are no finite numbers. `classes`: all that
    may be written. `name` is what the sentence calls the file, default: `path`.
    """
    if faults := _faults(path, sample, classes, kind, k, separator, allow_empty):
        raise FlukeError(f"{name or path}: not what {sample.path} asks for: {'; '.join(faults)}.")


def _faults(
    path: Path, sample: Sample, classes: Sequence[str], kind: Format, k: int, separator: str, allow_empty: bool
) -> list[str]:
    if faults := column_faults(sample, kind, classes, separator):
        return faults
    try:
        text = path.read_bytes().decode(sample.encoding)
    except OSError as error:
        return [error.strerror or str(error)]
    except UnicodeDecodeError as error:
        return [f"not UTF-8 text (byte 0x{error.object[error.start]:02x})"]
    rows = list(read_records(path, text, sample.delimiter))
    header = rows[0][1] if rows else []
    if header != sample.columns:
        return [f"its columns are {first_few(map(repr, header), 12) or 'none'}, not {first_few(map(repr, sample.columns), 12)}"]
    return _row_faults(rows[1:], sample) or _cell_faults(rows[1:], sample, set(classes), kind, k, separator, allow_empty)


def _row_faults(rows: list[tuple[int, list[str]]], sample: Sample) -> list[str]:
    if ragged := [f"line {line} ({len(row)})" for line, row in rows if len(row) != len(sample.columns)]:
        return [f"{len(ragged):,} rows don't have the header's {len(sample.columns)} fields: {first_few(ragged)}"]
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
        faults.append(f"{len(missing):,} rows missing: {first_few(missing)}")
    if extra:
        faults.append(f"{len(extra):,} rows too many: {first_few(extra)}")
    if twice:
        faults.append(f"{len(twice):,} rows repeated: {first_few(twice)}")
    if not faults:
        moved = [
            f"line {line} ({row[sample.id_column]!r})"
            for (line, row), name in zip(rows, sample.ids)
            if row[sample.id_column] != name
        ]
        if moved:
            faults.append(f"{len(moved):,} rows not in the sample's order: {first_few(moved)}")
    return faults


def _cell_faults(
    rows: list[tuple[int, list[str]]], sample: Sample, known: set[str], kind: Format, k: int, separator: str, allow_empty: bool
) -> list[str]:
    found: dict[str, list[str]] = {}
    for line, row in rows:
        cells = row[: sample.id_column] + row[sample.id_column + 1 :]
        for cell in cells:
            if fault := _fault(cell, known, kind, k, separator, allow_empty):
                found.setdefault(fault, []).append(f"line {line} ({cell if len(cell) < 40 else cell[:39] + '…'!r})")
    return [f"{len(where):,} {fault}: {first_few(where)}" for fault, where in found.items()]


def _fault(cell: str, known: set[str], kind: Format, k: int, separator: str, allow_empty: bool) -> str | None:
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
