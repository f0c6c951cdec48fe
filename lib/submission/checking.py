"""Check a written submission against the sample: header, rows and their order, and every cell."""

from __future__ import annotations

from pathlib import Path

from lib.errors import FlukeError, first_few
from lib.submission.formats import Format
from lib.tables.sample import Sample, describe_ragged_rows, read_records

Rows = list[tuple[int, list[str]]]
"""The line that each row begins on, and its cells."""


def check_file(path: Path, sample: Sample, fmt: Format, name: Path | None = None) -> None:
    """Raise FlukeError, with each kind of fault counted and the first rows named, unless the contest would accept the file.

    Checked: columns and their order; missing, extra and repeated rows and their order; each cell, by the format.
    `name` is what the message calls the file, default `path`.
    """
    name = name or path
    try:
        text = path.read_bytes().decode(sample.encoding)
    except OSError as error:
        raise FlukeError(f"{name}: can't be read ({error.strerror or error}).") from None
    except UnicodeDecodeError as error:
        raise FlukeError(f"{name}: is not UTF-8 text (byte 0x{error.object[error.start]:02x}).") from None
    rows = list(read_records(name, text, sample.delimiter))
    header, body = (rows[0][1], rows[1:]) if rows else ([], [])
    if header != sample.file.columns:
        found, expected = first_few(map(repr, header), 12) or "none", first_few(map(repr, sample.file.columns), 12)
        faults = [f"its columns are {found}, not {expected}"]
    else:
        faults = _row_faults(body, sample.file) or _cell_faults(body, sample, fmt)
    if faults:
        raise FlukeError(f"{name}: does not fit {sample.path}: {'; '.join(faults)}.")


def _row_faults(rows: Rows, sample: Sample) -> list[str]:
    if ragged := describe_ragged_rows(rows, len(sample.columns)):
        return [ragged]
    expected, seen = set(sample.ids), set()
    extra, repeated, moved = [], [], []
    for line, row in rows:
        image = row[sample.id_column]
        if image not in expected:
            extra.append(f"line {line} ({image!r})")
        elif image in seen:
            repeated.append(f"line {line} ({image!r})")
        seen.add(image)
    missing = [repr(image) for image in sample.ids if image not in seen]
    if not (missing or extra or repeated):
        found = [(line, row[sample.id_column]) for line, row in rows]
        moved = [f"line {line} ({image!r})" for (line, image), wanted in zip(found, sample.ids) if image != wanted]
    faults = {"missing": missing, "too many": extra, "repeated": repeated, "not in the sample's order": moved}
    return [f"{len(where):,} rows {what}: {first_few(where)}" for what, where in faults.items() if where]


def _cell_faults(rows: Rows, sample: Sample, fmt: Format) -> list[str]:
    found: dict[str, list[str]] = {}
    copied = [False] * len(rows) if sample.long is None else [place is None for place in sample.long.places]
    for (line, row), as_before in zip(rows, copied):
        for cell in [] if as_before else sample.file.cells_of(row):
            if fault := fmt.cell_fault(cell):
                found.setdefault(fault, []).append(f"line {line} ({cell if len(cell) < 40 else cell[:39] + '…'!r})")
    return [f"{len(where):,} {fault}: {first_few(where)}" for fault, where in found.items()]
