"""Load tables from a contest's files: the training images, the test images, or other images to predict."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from lib.config.recipe import Data, Folds
from lib.errors import FlukeError, first_few
from lib.files import safe_join
from lib.tables.filters import drop_images, drop_unreadable, filter_by_class, note_similar_labels, refuse_repeats
from lib.tables.folders import find_images, list_images
from lib.tables.readers import read_columns, read_header, read_mapping, refuse_blanks
from lib.tables.table import Table
from lib.tables.target import ONE_LABEL, Target, label_target


def load_train(data: Data, folds: Folds, keep_others: bool = False) -> Table:
    """Return the recipe's training images after its filters, with the groups and the user's own folds of `folds`.

    Order of the filters: drop_images, missing files (on_unreadable), take, min_images, only_classes.
    With `keep_others`, rows that only_classes leaves out stay, with labels outside of the class list (Table.in_classes).
    Raises FlukeError that names all rows with one kind of fault.
    """
    root = Path(data.root)
    table, missing = _read_train_csv(data, folds) if data.train_dir is None else _read_class_folders(root / data.train_dir, data)
    table, missing = drop_images(table, missing, data.drop_images)
    table = drop_unreadable(table, missing, data.on_unreadable)
    refuse_repeats(table)
    if data.task == "number":
        table = replace(table, classes=number_columns(data))
        table.targets()  # what is no number is found before any image is read
    else:
        table = note_similar_labels(filter_by_class(table, data, keep_others))
    if folds.group_csv is not None:
        table = replace(table, groups=np.array(read_mapping(root / folds.group_csv, table.names)))
    if folds.csv is not None:
        assigned = read_mapping(root / folds.csv, table.names)
        if invalid := sorted({fold for fold in assigned if not re.fullmatch("[0-9]{1,9}", fold)}):
            found = first_few(map(repr, invalid))
            raise FlukeError(f"{root / folds.csv}: some folds are not numbers from 0 on: {found}; number the folds 0, 1, 2, ...")
        table = replace(table, folds=np.array(assigned, dtype=np.int64))
    return table


def load_test(data: Data, classes: tuple[str, ...], target: Target) -> Table | None:
    """Return the recipe's test images: `test_csv`, else the sample submission's rows, else all of `test_dir`; None without any.

    Labels are read from a `test_csv` that has them, but not from a sample submission, whose labels are placeholders.
    Raises FlukeError.
    """
    root = Path(data.root)
    folder = root / (data.test_dir or data.image_dir)
    names_sample = data.test_csv is not None and _same_file(root / data.test_csv, root / (data.sample_submission or ""))
    if data.test_csv is not None and not names_sample:
        return _without_placeholders(load_images(root / data.test_csv, folder, data, classes, target))
    if (sample := data.sample_submission) is not None:
        header = read_header(root / sample)
        if header and data.image_column not in header:  # samples may call it "id" and have it first
            data = replace(data, image_column=header[0])
        return load_images(root / sample, folder, data, classes, target, with_labels=False)
    return None if data.test_dir is None else load_images(folder, folder, data, classes, target)


def _same_file(path: Path, other: Path) -> bool:
    return os.path.realpath(path) == os.path.realpath(other)


def _without_placeholders(table: Table) -> Table:
    """Return the table without labels where all rows have the same one, as in a sample submission; a note says so."""
    if table.labels is None or len(table) < 2 or len(set(table.labels)) > 1:
        return table
    note = f"every row has the label {' '.join(table.labels[0])!r}, taken for a placeholder: the images count as unlabelled"
    return replace(table, labels=None, notes=(*table.notes, note))


def load_images(path: Path, folder: Path, data: Data, classes: tuple[str, ...], target: Target, with_labels: bool = True) -> Table:
    """Return images to predict: those that the CSV or Parquet file `path` names, below `folder`, or all of the folder `path`.

    Labels are read if `with_labels` and the file has a `data.label_column` in which any row is not blank.
    Raises FlukeError, also for a missing image, because each row needs a prediction.
    """
    if path.is_dir():
        names, folders, others = list_images(path)
        if not names:
            found = f"only folders: {first_few(folders)}" if folders else f"{len(others):,} other files"
            raise FlukeError(f"{path}: holds no images ({found}); name a folder of images.")
        table, missing = _find_rows(path, path, names, data)
        table = replace(table, notes=_ignored_entries(path, folders, others))
    else:
        wanted = {"data.image_column": data.image_column}
        if with_labels and set(label_columns := _label_columns(data, target)) <= set(read_header(path)):
            wanted |= {f"data.label_column {i}": column for i, column in enumerate(label_columns)}
        columns, lines = read_columns(path, wanted)
        table, missing = _find_rows(path, folder, columns["data.image_column"], data, lines)
        rows = list(zip(*(columns[name] for name in wanted if name != "data.image_column")))
        if any(cell.strip() for row in rows for cell in row):
            if target.numeric:
                table = replace(table, labels=rows, target=target)
            else:
                table = _add_labels(table, [cell for (cell,) in rows], data.label_separator if target.several else None, data.task)
    table = drop_unreadable(replace(table, classes=classes, target=target), missing, "error", what="test")
    refuse_repeats(table)
    return table


def _read_train_csv(data: Data, folds: Folds) -> tuple[Table, dict[int, str]]:
    """Return the rows of data.train_csv with labels and groups, without classes, and {position: reason} of missing images."""
    source = Path(data.root) / (data.train_csv or "")
    wanted = {"data.image_column": data.image_column}
    if data.task == "number":
        wanted |= {f"{_number_field(data)} {name}": name for name in number_columns(data)}
    else:
        wanted["data.label_column"] = data.label_column
    if folds.group_column is not None:
        wanted["folds.group_column"] = folds.group_column
    columns, lines = read_columns(source, wanted)
    table, missing = _find_rows(source, Path(data.root) / data.image_dir, columns["data.image_column"], data, lines)
    if data.task == "number":
        cells = [columns[f"{_number_field(data)} {name}"] for name in number_columns(data)]
        for name, column in zip(number_columns(data), cells):
            refuse_blanks(source, name, column, lines)
        table = replace(table, labels=list(zip(*cells)), target=label_target(None, data.task))
    else:
        table = _add_labels(table, columns["data.label_column"], data.label_separator, data.task)
    if folds.group_column is not None:
        refuse_blanks(source, folds.group_column, columns["folds.group_column"], lines)
        table = replace(table, groups=np.array(columns["folds.group_column"]))
    return table, missing


def _read_class_folders(folder: Path, data: Data) -> tuple[Table, dict[int, str]]:
    """Return the images in a folder of class folders, named `class/file` and sorted, and {position: reason} of missing images."""
    loose, classes, others = list_images(folder)
    names, empty, notes = [], [], _ignored_entries(folder, [], loose + others)
    for label in classes:
        images, folders, others = list_images(safe_join(folder, label, [Path(root) for root in data.trusted_roots]))
        names += [f"{label}/{image}" for image in images]
        notes += _ignored_entries(folder / label, folders, others)
        if not images:
            empty.append(f"{label!r}" + (f" (only folders: {first_few(folders, 3)})" if folders else ""))
    if empty or not classes:
        found = f"without images: {first_few(empty)}" if empty else "no folders at all"
        raise FlukeError(f"{folder}: is not a folder of class folders ({found}); put each class's images in a folder of its name.")
    table, missing = _find_rows(folder, folder, names, data)
    return replace(_add_labels(table, [name.split("/")[0] for name in names], None, data.task), notes=notes), missing


def _find_rows(
    source: Path, folder: Path, names: list[str], data: Data, lines: np.ndarray | None = None
) -> tuple[Table, dict[int, str]]:
    """Return a table, without labels and classes, of the images `names` below `folder`, and {position: reason} of missing ones."""
    if lines is not None:
        refuse_blanks(source, "image name", names, lines)
    paths, missing = find_images(folder, names, [Path(root) for root in data.trusted_roots])
    rows = np.arange(len(names), dtype=np.int64)
    return Table(rows, names, paths, None, (), None, ONE_LABEL, source=source, lines=lines), missing


def number_columns(data: Data) -> tuple[str, ...]:
    """Return the columns of the numbers to predict."""
    return tuple(data.number_columns or [data.label_column])


def _number_field(data: Data) -> str:
    return "data.number_columns" if data.number_columns else "data.label_column"


def _label_columns(data: Data, target: Target) -> tuple[str, ...]:
    return number_columns(data) if target.numeric else (data.label_column,)


def _add_labels(table: Table, cells: list[str], separator: str | None, task: str = "label") -> Table:
    """Return the table with the labels of `cells`, one each, or several separated by `separator`."""
    if separator is not None:
        labels = [tuple(dict.fromkeys(part.strip() for part in cell.split(separator) if part.strip())) for cell in cells]
    else:
        if table.lines is not None:
            refuse_blanks(table.source, "label", cells, table.lines)
        labels = [(cell,) for cell in cells]
    return replace(table, labels=labels, target=label_target(separator, task))


def _ignored_entries(folder: Path, folders: list[str], files: list[str]) -> tuple[str, ...]:
    found = [(folders, "sub-folders"), (files, "files")]
    return tuple(f"{folder}: {len(names):,} {what} ignored ({first_few(names, 3)})" for names, what in found if names)
