"""A contest's files become tables: the training images, the test images, or any others to be answered."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from lib.config.recipe import Data, Folds
from lib.errors import FlukeError, first_few
from lib.files import safe_join
from lib.tables.filters import drop_images, drop_unreadable, filter_by_class, refuse_repeats
from lib.tables.folders import find_images, list_images
from lib.tables.readers import read_columns, read_header, read_mapping, refuse_blanks
from lib.tables.table import Table
from lib.tables.target import Target, label_target


def load_train(data: Data, folds: Folds, keep_others: bool = False) -> Table:
    """The recipe's training images after its filters, with the groups and the user's own folds of `folds`.

    Order of the filters: drop_images, missing files (on_unreadable), take, min_images, max_images, largest_classes, only_classes.
    With `keep_others`, rows that only_classes leaves out stay, outside of the class list (Table.known). Raises FlukeError for
    whatever doesn't fit, all rows of a kind at once.
    """
    root = Path(data.root)
    if data.train_dir is not None:
        source = folder = root / data.train_dir
        names, notes = _class_folders(folder)
        table, missing = _table(source, folder, names, [name.split("/")[0] for name in names], None, None)
        table = replace(table, notes=notes)
    else:
        source = root / (data.train_csv or "")
        wanted = {"data.image_column": data.image_column, "data.label_column": data.label_column}
        if folds.group_column is not None:
            wanted["folds.group_column"] = folds.group_column
        columns, lines = read_columns(source, wanted)
        names, labels = columns["data.image_column"], columns["data.label_column"]
        table, missing = _table(source, root / data.image_dir, names, labels, lines, data.label_separator)
        if folds.group_column is not None:
            refuse_blanks(source, folds.group_column, columns["folds.group_column"], lines)
            table = replace(table, groups=np.array(columns["folds.group_column"]))
    table, missing = drop_images(table, missing, data.drop_images)
    table = drop_unreadable(table, missing, data.on_unreadable)
    refuse_repeats(table)
    table = filter_by_class(table, data, keep_others)
    if folds.group_csv is not None:
        table = replace(table, groups=np.array(read_mapping(root / folds.group_csv, table.names)))
    if folds.csv is not None:
        own = read_mapping(root / folds.csv, table.names)
        if wrong := sorted({fold for fold in own if not re.fullmatch("[0-9]{1,9}", fold)}):
            raise FlukeError(f"{root / folds.csv}: folds are numbers from 0 on, not {first_few(map(repr, wrong))}.")
        table = replace(table, folds=np.array(own, dtype=np.int64))
    return table


def load_test(data: Data, classes: tuple[str, ...], target: Target) -> Table | None:
    """The recipe's test images: `test_csv`, else the rows of the sample submission, else all of `test_dir`; None without any.

    Labels are read from a `test_csv` that has them, not from a sample submission, whose labels mean nothing. Raises FlukeError.
    """
    root = Path(data.root)
    folder = root / (data.test_dir or data.image_dir)
    if data.test_csv is not None and data.test_csv != data.sample_submission:
        return load_images(root / data.test_csv, folder, data, classes, target)
    if (sample := data.sample_submission) is not None:
        header = read_header(root / sample)
        if header and data.image_column not in header:  # samples may call it "id"; it comes first in them
            data = replace(data, image_column=header[0])
        return load_images(root / sample, folder, data, classes, target, labelled=False)
    return None if data.test_dir is None else load_images(folder, folder, data, classes, target)


def load_images(path: Path, folder: Path, data: Data, classes: tuple[str, ...], target: Target, labelled: bool = True) -> Table:
    """Images to predict: those that a CSV or Parquet file names, relative to `folder`, or all images of `path` if that is a folder.

    Labels are read if `labelled` and the file has a `data.label_column` that isn't blank from top to bottom. Raises FlukeError,
    also for a missing image: each row wants an answer.
    """
    if path.is_dir():
        names, below, others = list_images(path)
        if not names:
            raise FlukeError(f"{path}: holds no images{f', only folders: {first_few(below)}' if below else ''}.")
        table, missing = _table(path, path, names, None, None, None)
        table = replace(table, notes=_ignored_entries(path, below, others))
    else:
        wanted = {"data.image_column": data.image_column}
        if labelled and data.label_column in read_header(path):
            wanted["data.label_column"] = data.label_column
        columns, lines = read_columns(path, wanted)
        labels = columns.get("data.label_column", [])
        known = labels if any(label.strip() for label in labels) else None
        separator = data.label_separator if target.several else None
        table, missing = _table(path, folder, columns["data.image_column"], known, lines, separator)
    table = drop_unreadable(replace(table, classes=classes, target=target), missing, "error", what="test")
    refuse_repeats(table)
    return table


def _table(
    source: Path, folder: Path, names: list[str], labels: list[str] | None, lines: np.ndarray | None, separator: str | None
) -> tuple[Table, dict[int, str]]:
    """Every row of a source, without classes yet, and {position: reason} for images that aren't there."""
    if lines is not None:
        refuse_blanks(source, "image name", names, lines)
        if labels is not None and separator is None:
            refuse_blanks(source, "label", labels, lines)
    split: list[tuple[str, ...]] | None = None
    if labels is not None and separator is not None:
        split = [tuple(dict.fromkeys(part.strip() for part in text.split(separator) if part.strip())) for text in labels]
    elif labels is not None:
        split = [(label,) for label in labels]
    paths, missing = find_images(folder, names)
    rows = np.arange(len(names), dtype=np.int64)
    return Table(rows, names, paths, split, (), None, label_target(separator), source=source, lines=lines), missing


def _class_folders(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    """`class/file` of every image in a folder of class folders, sorted, and what was ignored there."""
    loose, classes, others = list_images(folder)
    names, empty, notes = [], [], _ignored_entries(folder, [], loose + others)
    for label in classes:
        images, below, others = list_images(safe_join(folder, label))
        names += [f"{label}/{image}" for image in images]
        notes += _ignored_entries(folder / label, below, others)
        if not images:
            empty.append(f"{label!r}" + (f" (only folders: {first_few(below, 3)})" if below else ""))
    if empty or not classes:
        raise FlukeError(
            f"{folder}: a folder of images a class is wanted; without images: {first_few(empty) or 'no folders at all'}."
        )
    return names, notes


def _ignored_entries(folder: Path, below: list[str], others: list[str]) -> tuple[str, ...]:
    found = [(below, "sub-folders"), (others, "files")]
    return tuple(f"{folder}: {len(names):,} {what} ignored ({first_few(names, 3)})" for names, what in found if names)
