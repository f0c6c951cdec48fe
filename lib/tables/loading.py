"""Load tables from a contest's files: the training images, the test images, or other images to predict."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lib.config.recipe import Data, Folds
from lib.errors import FlukeError, first_few
from lib.files import safe_join
from lib.tables.boxes import add_boxes
from lib.tables.filters import drop_images, drop_unreadable, filter_by_class, note_similar_labels, refuse_repeats
from lib.tables.folders import IMAGE_SUFFIXES, image_stem, list_images, walk_images
from lib.tables.image_path import read_as
from lib.tables.joining import joined_header, read_joined
from lib.tables.labels import from_pattern, map_classes
from lib.tables.long_form import wide_header
from lib.tables.readers import read_columns, read_header, read_mapping, refuse_blanks
from lib.tables.regression_target import is_number
from lib.tables.rows import (
    SelectedRows,
    add_labels,
    add_labels_by_pattern,
    add_labels_of,
    find_rows,
    has_labels,
    label_fields,
    number_columns,
    read_rows,
)
from lib.tables.sample import find_id_column, read_recipe_sample
from lib.tables.table import Table
from lib.tables.target import Target


def load_train(data: Data, folds: Folds, keep_others: bool = False) -> Table:
    """Return the recipe's training images after its filters, with the groups and the user's own folds of `folds`.

    Order of the filters: train_where, class_map, drop_images, missing files (on_unreadable), take, min_images, only_classes.
    With `keep_others`, rows that only_classes leaves out stay, with labels outside of the class list (Table.in_classes).
    Raises FlukeError that names all rows with one kind of fault.
    """
    root = Path(data.root)
    if data.train_dir is None:
        table, missing = read_labelled_rows(data, folds.group_column if folds.group_csv is None else None)
    else:
        table, missing = _read_train_dir(root / data.train_dir, data)
    table, missing = map_classes(table, data.class_map, missing)
    table, missing = drop_images(table, missing, data.drop_images)
    table = drop_unreadable(table, missing, data.on_unreadable)
    refuse_repeats(table)
    if data.task == "number":
        table = replace(table, classes=number_columns(data))
        if wrong := [i for i, row in enumerate(table.labels or []) if not all(map(is_number, row))]:  # before any image is read
            found = first_few(f"{table.describe_row(i)} {' '.join((table.labels or [])[i])!r}" for i in wrong)
            raise FlukeError(
                f"{table.source}: {len(wrong):,} rows hold no number: {found}; correct or remove them, or see data.task."
            )
    else:
        table = note_similar_labels(filter_by_class(table, data, keep_others))
    return add_boxes(_with_folds(table, data, folds), data, required=True)


def _with_folds(table: Table, data: Data, folds: Folds) -> Table:
    """Return the table with the groups and folds that other tables, or the images' names, say."""
    root = Path(data.root)
    if (groups_of := group_table(data, folds)) is not None:
        groups = read_mapping(root / groups_of, table.names, folds.group_column, "folds.group_column")
        table = replace(table, groups=np.array(groups))
    if folds.group_pattern is not None:
        found = from_pattern("folds.group_pattern", folds.group_pattern, table.names, "group")
        if without := [name for name, group in zip(table.names, found) if group is None]:
            raise FlukeError(
                f"folds.group_pattern {folds.group_pattern!r}: finds nothing in {len(without):,} of {len(table):,} image names: "
                f"{first_few(map(repr, without))}."
            )
        table = replace(table, groups=np.array(found))
    if folds.csv is not None:
        column = "fold" if "fold" in read_header(root / folds.csv) else None
        assigned = read_mapping(root / folds.csv, table.names, column, "a column called fold")
        if invalid := sorted({fold for fold in assigned if not re.fullmatch("[0-9]{1,9}", fold)}):
            shown = first_few(map(repr, invalid))
            raise FlukeError(f"{root / folds.csv}: some folds are not numbers from 0 on: {shown}; number the folds 0, 1, 2, ...")
        table = replace(table, folds=np.array(assigned, dtype=np.int64))
    return table


def group_table(data: Data, folds: Folds) -> str | None:
    """Return the table that has the groups by image name; None where the training table has them, or there are none.

    Images in class folders have no table of their own to join with data.join_csv: their names are the key.
    """
    return folds.group_csv or (data.join_csv if data.train_dir is not None and folds.group_column is not None else None)


def load_test(data: Data, classes: tuple[str, ...], target: Target) -> Table | None:
    """Return the recipe's test images: `test_csv`, else the sample submission's rows, else all of `test_dir`; None without any.

    With `test_where` they are those rows of `test_csv` or `train_csv`. Labels are read from a `test_csv` that has them, but not
    from a sample submission, whose labels are placeholders. Raises FlukeError.
    """
    root = Path(data.root)
    folders = test_folders(data)
    source = data.test_csv or (data.train_csv if data.test_where else None)
    names_sample = source is not None and _same_file(root / source, root / (data.sample_submission or ""))
    if source is not None and not names_sample:
        data = replace(data, image_column=data.test_image_column or data.image_column)
        table = _without_placeholders(load_images(root / source, folders, data, classes, target, where=data.test_where))
        return table if data.sample_submission is None else _with_ids(table, root / data.sample_submission, data)
    if (sample := data.sample_submission) is not None:
        header = read_header(root / sample)
        if header:  # samples may call it "id"
            data = replace(data, image_column=header[find_id_column(header, data.image_column)])
        table = load_images(root / sample, folders, data, classes, target, with_labels=False)
        return _with_ids(table, root / sample, data)
    if len(folders) > 1:
        raise FlukeError("data.test_dir: several folders need a table of the test images: data.test_csv or data.sample_submission.")
    return None if data.test_dir is None else load_images(folders[0], folders, data, classes, target)


def test_folders(data: Data) -> list[Path]:
    """Return the folders of the test images, one at least."""
    named = [data.test_dir] if isinstance(data.test_dir, str) else data.test_dir
    return [Path(data.root) / name for name in named or [data.image_dir]]


def _with_ids(table: Table, sample: Path, data: Data) -> Table:
    """Return the test table with the ids under which the sample submission knows its rows, where these are no image names.

    They are in the column data.id_column, or in the first column of the table that holds all of the sample's ids. Rows that the
    sample doesn't ask for are kept.
    """
    if table.ids is not None or table.source.is_dir() or _same_file(table.source, sample):
        return table
    lines = table.lines
    assert lines is not None
    header = read_header(table.source)
    wanted = set(read_recipe_sample(sample, data).ids)
    if data.id_column is None:
        if wanted <= set(table.names) or {image_stem(name) for name in wanted} <= {image_stem(name) for name in table.names}:
            return table
        columns, at = read_columns(table.source, {column: column for column in dict.fromkeys(header) if header.count(column) == 1})
        found = next((column for column, cells in columns.items() if wanted <= set(cells)), None)
        if found is None:
            return table  # the sample's check names the ids that have no image
        note = f"the sample's ids are in the column {found!r} of {table.source} (data.id_column names another)"
    else:
        joined = read_joined(table.source, {data.id_column: data.id_column}, data)
        columns, at = joined.columns, joined.lines
        found, note = data.id_column, ""
    of_line = dict(zip(at.tolist(), columns[found]))
    ids = [of_line[line] for line in lines.tolist()]
    return replace(table, ids=ids, notes=(*table.notes, note) if note else table.notes)


def _same_file(path: Path, other: Path) -> bool:
    return os.path.realpath(path) == os.path.realpath(other)


def _without_placeholders(table: Table) -> Table:
    """Return the table without labels where all rows have the same one, as in a sample submission; a note says so."""
    if table.labels is None or len(table) < 2 or len(set(table.labels)) > 1:
        return table
    note = f"every row has the label {' '.join(table.labels[0])!r}, taken for a placeholder: the images count as unlabelled"
    return replace(table, labels=None, notes=(*table.notes, note))


def load_files(paths: Sequence[Path], classes: tuple[str, ...], target: Target, data: Data) -> Table:
    """Return the images that are named one by one, and all of folders among `paths`; names are the paths as they are given.

    Raises FlukeError for what is neither an image nor a folder of images.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = [path / name for name in list_images(path)[0]]
            if not found:
                raise FlukeError(f"{path}: holds no images.")
            files += found
        elif path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            files.append(path)
        else:
            raise FlukeError(f"{path}: {'is no image or folder' if path.exists() else 'no such file'}; a table is named alone.")
    names = [str(path) for path in files]
    table = Table(np.arange(len(files)), names, read_as(files, data), None, classes, None, target, source=Path("the images named"))
    refuse_repeats(table)
    return table


def load_images(
    path: Path,
    folders: Sequence[Path],
    data: Data,
    classes: tuple[str, ...],
    target: Target,
    with_labels: bool = True,
    where: Mapping[str, str | list[str]] | None = None,
) -> Table:
    """Return images to predict: those that the table `path` names, below one of `folders`, or all of the folder `path`.

    Only the rows that are as `where` says are taken. Labels are read if `with_labels` and the file has the recipe's columns of
    labels, in which any row is not blank. Raises FlukeError, also for a missing image, because each row needs a prediction.
    """
    if path.is_dir():
        table, missing = _read_folder(path, data)
    else:
        header = wide_header(path, data)
        labels = label_fields(path, header, data) if with_labels and has_labels(header, data) else {}
        taken = read_rows(path, {"data.image_column": data.image_column} | labels, where or {}, "data.test_where", data)
        table, missing = _find_in_folders(path, folders, taken, data)
        if any(cell.strip() for field in labels for cell in taken.columns[field]):
            table, missing = add_labels_of(table, missing, taken.columns, labels, data, target.several)
            table, missing = map_classes(table, {old: new for old, new in data.class_map.items() if old in table.counts()}, missing)
        table = replace(table, notes=(*taken.notes, *table.notes))
    table = drop_unreadable(replace(table, classes=classes, target=target), missing, "error", what="test")
    refuse_repeats(table)
    return add_boxes(table, data)


def _read_folder(path: Path, data: Data) -> tuple[Table, dict[int, str]]:
    """Return all images of a folder, of its sub-folders where it has none itself, and {position: reason} of missing ones."""
    names, folders, others = list_images(path)
    deeper = walk_images(path) if not names else []
    if not names and not deeper:
        found = f"only folders: {first_few(folders)}" if folders else f"{len(others):,} other files"
        raise FlukeError(f"{path}: holds no images ({found}); name a folder of images.")
    table, missing = find_rows(path, path, names or deeper, data)
    notes = (f"{path}: {len(deeper):,} images in its sub-folders ({first_few(folders, 3)})",) if deeper else ()
    return replace(table, notes=(*table.notes, *notes, *_ignored_entries(path, [] if deeper else folders, others))), missing


def _find_in_folders(path: Path, folders: Sequence[Path], taken: SelectedRows, data: Data) -> tuple[Table, dict[int, str]]:
    """Return the images of rows of the table `path`, each in the first folder that has it, and reasons of missing ones."""
    names = taken.columns["data.image_column"]
    table, missing = find_rows(path, folders[0], names, data, taken.lines, taken.rows)
    for other in folders[1:] if missing else ():
        elsewhere, still_missing = find_rows(path, other, names, data, taken.lines, taken.rows)
        paths = [new if i in missing else old for i, (old, new) in enumerate(zip(table.paths, elsewhere.paths))]
        table = replace(table, paths=paths, notes=(*table.notes, *elsewhere.notes))
        missing = {i: reason for i, reason in missing.items() if i in still_missing}
    return table, missing


def read_labelled_rows(data: Data, group_column: str | None) -> tuple[Table, dict[int, str]]:
    """Return the rows of data.train_csv with labels and groups, without classes, and {position: reason} of missing images."""
    source = Path(data.root) / (data.train_csv or "")
    labels = label_fields(source, joined_header(source, data), data)
    wanted = {"data.image_column": data.image_column} | labels
    if group_column is not None:
        wanted["folds.group_column"] = group_column
    taken = read_rows(source, wanted, data.train_where, "data.train_where", data)
    columns, lines, rows = taken.columns, taken.lines, taken.rows
    table, missing = find_rows(source, Path(data.root) / data.image_dir, columns["data.image_column"], data, lines, rows)
    table = replace(table, notes=(*taken.notes, *table.notes))
    if group_column is not None:
        refuse_blanks(source, group_column, columns["folds.group_column"], lines)
    if data.image_pattern is not None:  # a row may have several images
        position = {line: i for i, line in enumerate(lines.tolist())}
        of_image = [position[line] for line in (table.lines if table.lines is not None else lines).tolist()]
        columns = {field: [cells[i] for i in of_image] for field, cells in columns.items()}
        table = replace(table, groups=np.array(columns["data.image_column"]))
    if group_column is not None:
        table = replace(table, groups=np.array(columns["folds.group_column"]))
    return add_labels_of(table, missing, columns, labels, data, data.label_separator is not None)


def _read_train_dir(folder: Path, data: Data) -> tuple[Table, dict[int, str]]:
    """Return the labelled images of a folder, and {position: reason} of missing ones."""
    tests = test_folders(data) if data.test_dir is not None else []
    if data.label_pattern is None:
        return read_class_folders(folder, data, tests)
    names = walk_images(folder, tests)
    if not names:
        raise FlukeError(f"{folder}: holds no images (data.train_dir).")
    table, missing = find_rows(folder, folder, names, data)
    return add_labels_by_pattern(table, missing, data)


def read_class_folders(folder: Path, data: Data, tests: Sequence[Path]) -> tuple[Table, dict[int, str]]:
    """Return the images in a folder of class folders, named `class/file` and sorted, and {position: reason} of missing images.

    Images in folders within a class folder are of that class. The folder of the test images is no class.
    """
    loose, classes, others = list_images(folder)
    names, empty, notes = [], [], _ignored_entries(folder, [], loose + others)
    for label in classes:
        inside = safe_join(folder, label, [Path(root) for root in data.trusted_roots])
        if any(f"{os.path.realpath(test)}{os.sep}".startswith(os.path.realpath(inside) + os.sep) for test in tests):
            notes += (f"{inside}: is no class, because data.test_dir is there",)
            continue
        images, folders, others = list_images(inside)
        # A folder of several folders is more likely a level above the classes than a class.
        deeper = [name for name in walk_images(inside) if "/" in name] if folders and (images or len(folders) == 1) else []
        names += [f"{label}/{image}" for image in images + deeper]
        notes += _ignored_entries(inside, [], others)
        if deeper:
            notes += (f"{inside}: {len(deeper):,} images in its sub-folders count as {label!r} ({first_few(folders, 3)})",)
        if not images and not deeper and data.class_map.get(label, label) is not None:
            empty.append(f"{label!r}" + (f" (only folders: {first_few(folders, 3)})" if folders else ""))
    if empty or not names:
        found = f"without images: {first_few(empty)}" if empty else "no folders at all"
        raise FlukeError(f"{folder}: is not a folder of class folders ({found}); put each class's images in a folder of its name.")
    table, missing = find_rows(folder, folder, names, data)
    labels = [name.split("/")[0] for name in names]
    return replace(add_labels(table, labels, None, data.task), notes=(*table.notes, *notes)), missing


def _ignored_entries(folder: Path, folders: list[str], files: list[str]) -> tuple[str, ...]:
    found = [(folders, "sub-folders"), (files, "files")]
    return tuple(f"{folder}: {len(names):,} {what} ignored ({first_few(names, 3)})" for names, what in found if names)
