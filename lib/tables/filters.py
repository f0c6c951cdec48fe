"""Filters of a table: unreadable images, images and classes that the recipe leaves out; repeated images are refused."""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from lib.config.recipe import Data
from lib.errors import FlukeError, did_you_mean, first_few
from lib.tables.regression_target import is_number
from lib.tables.table import Table


def drop_unreadable(table: Table, unreadable: dict[int, str], on_unreadable: str, what: str = "train") -> Table:
    """Return the table without the rows of `unreadable`, {position: reason}, if `on_unreadable` is "drop"; a note counts them.

    Raises FlukeError, with their number and the first of them, if `on_unreadable` is "error" or `what` is "test" (a contest needs
    an answer per row), and when a class would lose its last image.
    """
    if not unreadable:
        return table
    reasons = first_few(f"{table.describe_row(i)} ({unreadable[i]})" for i in sorted(unreadable))
    found = f"{table.source}: {len(unreadable):,} of {len(table):,} images can't be read: {reasons}"
    if on_unreadable != "drop" or what == "test":
        if what == "test":
            action, field = "every test row needs its image", "the folder of the test images (data.test_dir, else data.image_dir)"
        else:
            action, field = "replace them, or set data.on_unreadable: drop", "data.image_dir"
        hint = f"; is {field} right?" if len(unreadable) == len(table) else "."
        raise FlukeError(f"{found}; {action}{hint}")
    kept = table.take(np.array([i not in unreadable for i in range(len(table))]))
    if lost := sorted(set(table.counts()) - set(kept.counts())):
        named = first_few(map(repr, lost))
        raise FlukeError(f"{found}; no image is left of {named}; to leave a class out, name its images in data.drop_images.")
    return replace(kept, notes=(*table.notes, f"left out: {found}"))


def drop_images(table: Table, missing: dict[int, str], unwanted: list[str]) -> tuple[Table, dict[int, str]]:
    """Return the table without the images named in `unwanted`, and `missing`, {position: reason}, for its positions.

    Raises FlukeError for names that the table lacks.
    """
    if not unwanted:
        return table, missing
    dropped = set(unwanted)
    if unknown := sorted(dropped - set(table.names)):
        named = first_few(map(repr, unknown))
        raise FlukeError(f"data.drop_images: {table.source} has no {named}; write names as the table does.")
    kept = np.flatnonzero([name not in dropped for name in table.names])
    note = f"data.drop_images: {len(table) - len(kept):,} images left out"
    missing = {new: missing[old] for new, old in enumerate(kept.tolist()) if old in missing}
    return replace(table.take(kept), notes=(*table.notes, note)), missing


def refuse_repeats(table: Table) -> None:
    """Raise FlukeError for images with several rows, which could be in training and in validation, or have two labels."""
    if len(set(table.paths)) == len(table):
        return
    rows: dict[Path, list[int]] = {}
    for i, path in enumerate(table.paths):
        rows.setdefault(path, []).append(i)

    def describe(i: int) -> str:
        return table.describe_row(i) + (f" {' '.join(table.labels[i])!r}" if table.labels is not None else "")

    repeated = [" = ".join(map(describe, same)) for same in rows.values() if len(same) > 1]
    raise FlukeError(
        f"{table.source}: {len(repeated):,} images have more than one row: {first_few(repeated)}; keep one row per image."
    )


def filter_by_class(table: Table, data: Data, keep_others: bool) -> Table:
    """Return the table with its class list, after the filters by class (for one label per image; lib/config/constraints.py).

    With `keep_others`, rows that data.only_classes leaves out stay, outside of the class list. Raises FlukeError for unknown
    classes in the recipe, and when too few classes are left.
    """
    counts, notes = table.counts(), []
    for field, named in (("take", data.take), ("only_classes", data.only_classes)):
        if unknown := sorted(set(named) - set(counts)):
            hint = did_you_mean(unknown[0], counts)
            raise FlukeError(f"data.{field}: {table.source} has no class {first_few(map(repr, unknown))}{hint}")
    others: dict[str, int] = {}
    left = {label: count for label, count in counts.items() if label not in data.take}

    def leave_out(field: str, unwanted: list[str]) -> None:
        if unwanted:
            images = sum(left.pop(label) for label in unwanted)
            notes.append(f"data.{field} {getattr(data, field)}: {len(unwanted):,} classes with {images:,} images left out")

    for label, n in data.take.items():
        notes.append(f"data.take: {min(n, counts[label]):,} of {counts[label]:,} images of {label!r} kept")
    leave_out("min_images", [label for label in left if left[label] < data.min_images])
    if data.only_classes and keep_others:
        others = {label: left.pop(label) for label in list(left) if label not in data.only_classes}
        images = sum(others.values())
        notes.append(f"data.only_classes: {images:,} images of other classes are scored in validation but not trained on")
    elif data.only_classes:
        leave_out("only_classes", [label for label in left if label not in data.only_classes])
    classes = order_classes(table, data, [*left, *data.take])
    if len(classes) < (1 if table.target.several else 2):
        why = "; ".join([*table.notes, *notes]) or "nothing was left out"
        raise FlukeError(
            f"{table.source}: {len(classes)} of {len(counts):,} classes are left, too few to train on ({why}); keep more classes."
        )
    if notes:
        table = _take_first(table, Counter({label: len(table) for label in [*left, *others]}) + Counter(data.take))
    return replace(table, classes=classes, notes=(*table.notes, *notes))


def order_classes(table: Table, data: Data, labels: list[str]) -> tuple[str, ...]:
    """Return the classes in data.order, or as numbers for data.task ordinal, or sorted as text.

    Raises FlukeError for an order that isn't of the classes, and for ordered classes without an order.
    """
    if data.order:
        wrong = sorted((set(labels) - set(data.order)) | (set(data.order) - set(table.counts())))
        if wrong or len(set(data.order)) < len(data.order):
            found = f"missing or unknown: {first_few(map(repr, wrong))}" if wrong else "some are named twice"
            raise FlukeError(f"data.order: has to name each class of {table.source} once ({found}).")
        return tuple(label for label in data.order if label in set(labels))
    if data.task != "ordinal":
        return tuple(sorted(labels))
    if words := [label for label in labels if not is_number(label)]:
        raise FlukeError(
            f"data.task ordinal: classes of {table.source} that are no numbers need data.order, lowest first "
            f"(found {first_few(map(repr, sorted(words)))})."
        )
    return tuple(sorted(labels, key=lambda label: (float(label), label)))


def note_similar_labels(table: Table) -> Table:
    """Return the table with a note on classes whose names differ only in case, blanks or Unicode form."""
    same: dict[str, list[str]] = {}
    for name in table.classes:
        same.setdefault(" ".join(unicodedata.normalize("NFKC", name).casefold().split()), []).append(name)
    if not (similar := [names for names in same.values() if len(names) > 1]):
        return table
    found = first_few((" and ".join(map(repr, names)) for names in similar), 3)
    note = f"different classes whose names differ only in case, blanks or Unicode form: {found}; correct the labels if they are one"
    return replace(table, notes=(*table.notes, note))


def _take_first(table: Table, limits: Counter[str]) -> Table:
    """Return the first `limits[label]` rows of each label (one label per image), in their order."""
    kept = []
    for i, (label,) in enumerate(table.labels or []):
        limits[label] -= 1
        kept += [i] if limits[label] >= 0 else []
    return table.take(kept)
