"""The rows of a table: which are taken, where their images are, and what labels they have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from string import Formatter

import numpy as np

from lib.config.recipe import Data
from lib.errors import FlukeError, first_few
from lib.files import safe_join
from lib.tables.folders import find_by_pattern, find_deeper, find_images
from lib.tables.image_path import read_as, stack_files
from lib.tables.joining import read_joined, refuse_unmatched
from lib.tables.labels import expand_columns, from_one_hot, from_pattern, join_rows_of_an_image, select_rows
from lib.tables.pixels import pixel_paths
from lib.tables.readers import read_columns, read_header, refuse_blanks
from lib.tables.table import Table
from lib.tables.target import ONE_LABEL, label_target


@dataclass(frozen=True)
class SelectedRows:
    """Rows of a table that a recipe takes."""

    columns: dict[str, list[str]]
    """Cells by the field of the recipe that names the column."""
    lines: np.ndarray
    """(n,) int64: line of each row in the file."""
    rows: np.ndarray
    """(n,) int64: position of each row in the file."""
    notes: tuple[str, ...] = ()


def read_rows(source: Path, fields: dict[str, str], where: Mapping[str, str | list[str]], field: str, data: Data) -> SelectedRows:
    """Return the columns `fields` of the rows that are as `where` says, also from the table that is joined with `source`.

    Raises FlukeError, also for a row that needs a cell of the joined table and has no match there.
    """
    named = not data.pixel_columns or data.image_column in read_header(source)
    parts = name_parts(fields["data.image_column"])
    wanted = {name: column for name, column in fields.items() if not parts or name != "data.image_column"}
    wanted |= {f"data.image_column {column}": column for column in parts} | {f"{field} {column}": column for column in where}
    if not named:  # rows of pixels may have no name, but one column at least has to be read
        wanted = {name: column for name, column in wanted.items() if name != "data.image_column"}
        wanted["data.image_column"] = read_header(source)[0]
    joined = read_joined(source, wanted, data)
    columns, lines = joined.columns, joined.lines
    if not named:
        columns["data.image_column"] = [str(i + 1) for i in range(len(lines))]
    if parts:
        cells = zip(*(columns.pop(f"data.image_column {column}") for column in parts))
        columns["data.image_column"] = [fields["data.image_column"].format_map(dict(zip(parts, row))) for row in cells]
    rows = np.arange(len(lines), dtype=np.int64)
    if where:
        rows = select_rows(source, field, where, {column: columns[f"{field} {column}"] for column in where})
    refuse_unmatched(source, data, columns["data.image_column"], joined, rows, set(fields))
    return SelectedRows({name: [cells[i] for i in rows] for name, cells in columns.items()}, lines[rows], rows, joined.notes)


def name_parts(image_column: str) -> list[str]:
    """Return the columns of which a data.image_column such as "{patient}/{image}.png" composes names; [] for a column."""
    try:
        parts = [(name, form) for _, name, form, _ in Formatter().parse(image_column) if name is not None]
    except ValueError:
        parts = [("", "")]
    if any(form or not name or not name.strip() or set(name) & set(".[]!") for name, form in parts):
        raise FlukeError(f"data.image_column {image_column!r}: names columns between {{ and }}, such as {{patient}}/{{image}}.png.")
    return list(dict.fromkeys(name for name, _ in parts))


def find_rows(
    source: Path, folder: Path, names: list[str], data: Data, lines: np.ndarray | None = None, rows: np.ndarray | None = None
) -> tuple[Table, dict[int, str]]:
    """Return a table, without labels and classes, of the images `names` below `folder`, and {position: reason} of missing ones.

    Images that aren't where their name says are looked for further down. With data.image_pattern a name stands for all files that
    match it: these become rows, whose id is the name.
    """
    if lines is not None:
        refuse_blanks(source, "image name", names, lines)
    rows = np.arange(len(names), dtype=np.int64) if rows is None else rows
    if data.image_pattern is not None and lines is not None:
        return _find_files_of_rows(source, folder, names, data, lines)
    missing: dict[int, str] = {}
    notes: tuple[str, ...] = ()
    if data.pixel_columns and lines is not None:
        paths = pixel_paths(source, data, rows)
    elif isinstance(data.channels, list):
        if lines is None:
            raise FlukeError(f"{source}: is a folder, but an image has {len(data.channels)} files (data.channels); name a table.")
        paths, missing, notes = _find_channels(folder, names, data, data.channels)
    else:
        paths, missing, notes = _locate(folder, names, data, lines is not None)
        paths = read_as(paths, data)
    return Table(rows, names, paths, None, (), None, ONE_LABEL, source=source, lines=lines, notes=notes), missing


def _locate(folder: Path, names: list[str], data: Data, deeper: bool) -> tuple[list[Path], dict[int, str], tuple[str, ...]]:
    """Return the paths of the images `names`, {position: reason} of missing ones, and notes; `deeper` looks further down too."""
    trusted = [Path(root) for root in data.trusted_roots]
    paths, missing = find_images(folder, names, trusted)
    notes: tuple[str, ...] = ()
    if missing and deeper:
        found = find_deeper(folder, [names[i] for i in missing])
        for i in [i for i in missing if names[i] in found]:
            paths[i] = safe_join(folder, found[names[i]], trusted)
            del missing[i]
        if found:
            example = next(iter(found.values()))
            notes = (f"{len(found):,} images found by their names in folders below {folder}, such as {example}",)
    return paths, missing, notes


def _find_channels(
    folder: Path, names: list[str], data: Data, patterns: list[str]
) -> tuple[list[Path], dict[int, str], tuple[str, ...]]:
    """Return what `_locate` does for images whose channels are the files of `patterns` with {name}."""
    channels: list[list[Path]] = []
    missing: dict[int, str] = {}
    for pattern in patterns:
        files = [pattern.replace("{name}", name) for name in names]
        paths, absent, _ = _locate(folder, files, data, deeper=True)
        channels.append(paths)
        missing |= {i: f"no file {files[i]}" for i in absent if i not in missing}
    return stack_files(channels, data), missing, (f"data.channels: an image is {len(patterns)} files, {', '.join(patterns)}",)


def _find_files_of_rows(
    source: Path, folder: Path, names: list[str], data: Data, lines: np.ndarray
) -> tuple[Table, dict[int, str]]:
    """Return a table with a row for each file that matches data.image_pattern with one of `names`; the files are its names."""
    pattern = data.image_pattern or ""
    of_name = find_by_pattern(folder, pattern)
    if without := [name for name in names if name not in of_name]:
        raise FlukeError(
            f"{source}: {len(without):,} of {len(names):,} rows have no image: {first_few(map(repr, without))} (data.image_pattern "
            f"{pattern!r} below {folder}); drop these rows, or change the pattern."
        )
    files = [(file, name, line) for name, line in zip(names, lines.tolist()) for file in of_name[name]]
    note = f"data.image_pattern: {len(names):,} rows have {len(files):,} images"
    return Table(
        np.arange(len(files), dtype=np.int64),
        [file for file, _, _ in files],
        read_as([folder / file for file, _, _ in files], data),
        None,
        (),
        None,
        ONE_LABEL,
        source=source,
        lines=np.array([line for _, _, line in files]),
        notes=(note,),
        ids=[name for _, name, _ in files],
    ), {}


def has_labels(header: list[str], data: Data) -> bool:
    """Return whether a table to predict has the columns of the recipe's labels."""
    if data.task == "number":
        return set(number_columns(data)) <= set(header)
    if data.label_columns:
        return any(fnmatchcase(column, pattern) for column in header for pattern in data.label_columns)
    return data.label_pattern is None and data.label_column in header


def label_fields(source: Path, header: list[str], data: Data) -> dict[str, str]:
    """Return the columns that hold labels, by the field of the recipe that names each. Raises FlukeError."""
    if data.task == "number":
        return {f"{_number_field(data)} {name}": name for name in number_columns(data)}
    if data.label_columns:
        return {f"data.label_columns {name}": name for name in expand_columns(source, header, data.label_columns)}
    if data.label_pattern is None and data.label_column not in header:
        refuse_one_hot(source, header, data.label_column)
    return {} if data.label_pattern is not None else {"data.label_column": data.label_column}


def refuse_one_hot(source: Path, header: list[str], label_column: str) -> None:
    """Raise FlukeError where a table without `label_column` has a column of 0 and 1 per class, as far as it can be read."""
    own = [column for column in read_header(source) if column in header and header.count(column) == 1]
    columns, _ = read_columns(source, {column: column for column in own})
    named = [column for column, cells in columns.items() if cells and {cell.strip() for cell in cells} == {"0", "1"}]
    if len(named) > 1:
        raise FlukeError(
            f"{source}: has no column {label_column!r} (data.label_column), but one-hot columns of 0 and 1: {first_few(named)}; "
            "name them in data.label_columns, and set data.label_separator where an image may have several labels."
        )


def add_labels_of(
    table: Table, missing: dict[int, str], columns: dict[str, list[str]], fields: dict[str, str], data: Data, several: bool
) -> tuple[Table, dict[int, str]]:
    """Return the table with the labels of its columns or names, and `missing` for its positions."""
    separator, lines = data.label_separator if several else None, table.lines
    assert lines is not None
    if data.task == "number":
        for field, name in fields.items():
            refuse_blanks(table.source, name, columns[field], lines)
        labels = list(zip(*(columns[field] for field in fields)))
        return replace(table, labels=labels, target=label_target(None, data.task)), missing
    if data.label_columns:
        rows = from_one_hot(table.source, list(fields.values()), [columns[field] for field in fields], several, lines)
        table = replace(table, labels=rows, target=label_target(separator, data.task))
    elif data.label_pattern is not None:
        return add_labels_by_pattern(table, missing, data)
    else:
        table = add_labels(table, columns["data.label_column"], separator, data.task)
    return join_rows_of_an_image(table, missing) if several else (table, missing)


def add_labels_by_pattern(table: Table, missing: dict[int, str], data: Data) -> tuple[Table, dict[int, str]]:
    """Return the images in whose name data.label_pattern finds a label, and `missing` for their positions. Raises FlukeError."""
    found = from_pattern("data.label_pattern", data.label_pattern or "", table.names, "label")
    kept = np.flatnonzero([label is not None for label in found])
    if not len(kept):
        raise FlukeError(
            f"data.label_pattern {data.label_pattern!r}: finds no label in any of {len(table):,} image names, such as "
            f"{first_few(map(repr, table.names), 3)}."
        )
    notes = table.notes
    if len(kept) < len(table):
        others = [name for name, label in zip(table.names, found) if label is None]
        notes += (f"data.label_pattern: {len(others):,} images without a label left out ({first_few(others, 3)})",)
    labelled = replace(table, labels=[(label or "",) for label in found], target=label_target(None, data.task), notes=notes)
    return labelled.take(kept), {new: missing[old] for new, old in enumerate(kept.tolist()) if old in missing}


def add_labels(table: Table, cells: list[str], separator: str | None, task: str = "label") -> Table:
    """Return the table with the labels of `cells`, one each, or several separated by `separator`."""
    if separator is not None:
        labels = [tuple(dict.fromkeys(part.strip() for part in cell.split(separator) if part.strip())) for cell in cells]
    else:
        if table.lines is not None:
            refuse_blanks(table.source, "label", cells, table.lines)
        labels = [(cell,) for cell in cells]
    return replace(table, labels=labels, target=label_target(separator, task))


def number_columns(data: Data) -> tuple[str, ...]:
    """Return the columns of the numbers to predict."""
    return tuple(data.number_columns or [data.label_column])


def _number_field(data: Data) -> str:
    return "data.number_columns" if data.number_columns else "data.label_column"
