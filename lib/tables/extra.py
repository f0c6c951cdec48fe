"""Rows for training only: external images and pseudo-labels, which are never held out, validated on or counted in an interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lib.config.recipe import Data, Folds
from lib.errors import FlukeError, first_few
from lib.tables.filters import drop_unreadable, refuse_repeats
from lib.tables.joining import joined_header
from lib.tables.labels import from_pattern, map_classes
from lib.tables.loading import group_table, read_class_folders, read_labelled_rows
from lib.tables.readers import read_mapping
from lib.tables.regression_target import is_number
from lib.tables.splits import keep_together
from lib.tables.table import Table

FIELD = "data.extra_csv"


def load_extra(data: Data, folds: Folds, train: Table, identities: bool = False) -> Table | None:
    """Return the rows for training only, with the classes of `train`; None where the recipe names none.

    They have the columns of the training table, whose fields of the recipe apply to them, but not train_where and the filters by
    class. Labels that aren't among the classes are left out, which a note counts; of `identities` they are individuals more, and
    rows of data.new_label are left out unless data.new_rows says negatives. Groups are those of the same column, file or
    pattern as the training table's; a row without one is a group of its own. Raises FlukeError, also for images that the training
    table has.
    """
    if data.extra_csv is None and data.extra_dir is None:
        return None
    root = Path(data.root)
    if data.extra_csv is None:
        table, missing = read_class_folders(root / (data.extra_dir or ""), data, [])
    else:
        by_column = folds.group_column if folds.group_csv is None else None
        has_groups = by_column is not None and by_column in joined_header(root / data.extra_csv, data)
        own = replace(data, train_csv=data.extra_csv, image_dir=data.extra_dir or data.image_dir, train_where={})
        table, missing = read_labelled_rows(own, by_column if has_groups else None)
    known = {old: new for old, new in data.class_map.items() if old in table.counts()}
    table, missing = map_classes(table, known, missing)
    table = replace(drop_unreadable(table, missing, data.on_unreadable), classes=train.classes)
    refuse_repeats(table)
    if named := _also_in(table, train):
        raise FlukeError(
            f"{FIELD}: {len(named):,} images of {table.source} are in {train.source} too, where each is held out sooner or later: "
            f"{first_few(table.describe_row(i) for i in named)}; remove these rows."
        )
    table = _of_identities(table, data) if identities else _of_known_labels(table, train)
    prefix = f"{data.extra_dir}/" if data.extra_dir is not None else ""
    groups = None if train.groups is None else _groups(table, data, folds)
    return replace(table, names=[prefix + name for name in table.names], groups=groups, ids=None)


def _also_in(table: Table, train: Table) -> list[int]:
    """Return the positions of the rows whose image file the training table names too, links followed."""
    known = {path.resolve() for path in train.paths}
    return [i for i, path in enumerate(table.paths) if path.resolve() in known]


def _of_known_labels(table: Table, train: Table) -> Table:
    """Return the rows whose labels the training rows have, or that hold numbers. Raises FlukeError where none is left."""
    if train.target.numeric:
        known = np.array([all(map(is_number, row)) for row in table.labels or []], dtype=bool)
        lacks = "hold no number"
    else:
        known = table.in_classes()
        lacks = f"have a label that {train.source} lacks"
    if known.all():
        return table
    found = first_few(repr(" ".join((table.labels or [])[i])) for i in np.flatnonzero(~known))
    if not known.any():
        raise FlukeError(f"{FIELD}: all {len(table):,} rows of {table.source} {lacks}: {found}; see data.class_map.")
    note = f"{FIELD}: {(~known).sum():,} of {len(table):,} rows are left out because they {lacks}: {found}"
    return replace(table, notes=(*table.notes, note)).take(known)


def _of_identities(table: Table, data: Data) -> Table:
    """Return the rows that an embedding is trained on. Raises FlukeError where none is left."""
    kept = np.array([data.new_rows == "negatives" or row != (data.new_label,) for row in table.labels or []], dtype=bool)
    if not kept.any():
        raise FlukeError(f"{FIELD}: all {len(table):,} rows of {table.source} are {data.new_label!r}; see data.new_rows.")
    if kept.all():
        return table
    note = f"{FIELD}: {(~kept).sum():,} rows of {data.new_label!r} are left out (data.new_rows)"
    return replace(table, notes=(*table.notes, note)).take(kept)


def _groups(table: Table, data: Data, folds: Folds) -> np.ndarray:
    """Return the group of each row, (n,) str: of the table's column, of folds.group_csv or group_pattern, else its own."""
    own = [f"{FIELD} {name}" for name in table.names]
    if table.groups is not None:
        return table.groups
    if (groups_of := group_table(data, folds)) is not None:
        path = Path(data.root) / groups_of
        return np.array(read_mapping(path, table.names, folds.group_column, "folds.group_column", otherwise=own))
    if folds.group_pattern is not None:
        found = from_pattern("folds.group_pattern", folds.group_pattern, table.names, "group")
        return np.array([each if group is None else group for group, each in zip(found, own)])
    return np.array(own)


def group_copies(
    train: Table, extra: Table, identical: Sequence[Sequence[int]], copies: Sequence[Sequence[int]]
) -> tuple[Table, Table]:
    """Return both tables with groups that keep images together which are `copies` of each other.

    `identical` files and `copies` are sets of positions, those of `extra` counted on from the training rows'. Raises FlukeError
    where identical files are in both tables.
    """
    n = len(train)
    if across := [same for same in identical if min(same) < n <= max(same)]:
        pairs = first_few(f"{extra.names[max(same) - n]!r} = {train.names[min(same)]!r}" for same in across)
        raise FlukeError(
            f"{FIELD}: {len(across):,} images of {extra.source} are the same files as images of {train.source}, which are held out "
            f"sooner or later: {pairs}; remove these rows."
        )
    if train.folds is not None or not copies:
        return train, extra
    both = keep_together(train.join(extra), [list(same) for same in copies])
    assert both.groups is not None
    return replace(train, groups=both.groups[:n]), replace(extra, groups=both.groups[n:])


def join_extra(train: Table, extra: Table | None, held_out: Table, identities: bool = False) -> tuple[Table, str]:
    """Return the training rows with those of `extra` that share no group with `held_out`, and a sentence for the log.

    Of `identities`, rows of individuals that are held out whole are left out too, because these are to be unknown.
    """
    if extra is None:
        return train, ""
    apart = np.ones(len(extra), dtype=bool)
    if extra.groups is not None and held_out.groups is not None:
        apart = ~np.isin(extra.groups, held_out.groups)
    unknown = set(held_out.counts()) - set(train.counts()) if identities else set()
    is_unknown = np.array([not unknown.isdisjoint(row) for row in extra.labels or []], dtype=bool)
    apart &= ~is_unknown
    said = f"extra: {apart.sum():,} rows of {extra.source} are trained on too and never held out"
    if not apart.all():
        of_group = (~apart & ~is_unknown).sum()
        said += f"; {of_group:,} are left out because images of their group are held out" if of_group else ""
        said += f"; {is_unknown.sum():,} are left out because their individuals are held out as unknown" if is_unknown.any() else ""
    return train.join(extra.take(apart)), said
