"""What is left out of a table, and what is refused in it: unreadable and unwanted images, repeated ones, classes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from lib.config.recipe import Data
from lib.errors import FlukeError, did_you_mean, first_few
from lib.tables.table import Table


def drop_unreadable(table: Table, bad: dict[int, str], on_unreadable: str, what: str = "train") -> Table:
    """The table without the rows of `bad`, {position: reason}, if `on_unreadable` is "drop"; the loss is noted.

    Raises FlukeError that counts them and names the first: with "error", for a `what` of test (a contest wants an answer for each
    row), and when a class would lose its last image.
    """
    if not bad:
        return table
    found = f"{table.source}: {len(bad):,} of {len(table):,} images can't be read: " + first_few(
        f"{table.describe_row(i)} ({bad[i]})" for i in sorted(bad)
    )
    if on_unreadable != "drop" or what == "test":
        cure = "every test row needs its image" if what == "test" else "mend them, or set data.on_unreadable: drop"
        where = "the folder of the test images (data.test_dir, else data.image_dir)" if what == "test" else "data.image_dir"
        folder = f"; is {where} right?" if len(bad) == len(table) else "."
        raise FlukeError(f"{found}; {cure}{folder}")
    kept = table.take(np.array([i not in bad for i in range(len(table))]))
    if gone := sorted(set(table.counts()) - set(kept.counts())):
        raise FlukeError(
            f"{found}; no image is left of {first_few(map(repr, gone))}: name those images in data.drop_images if that is meant."
        )
    return replace(kept, notes=(*table.notes, f"left out: {found}"))


def drop_images(table: Table, missing: dict[int, str], unwanted: list[str]) -> tuple[Table, dict[int, str]]:
    if not unwanted:
        return table, missing
    dropped = set(unwanted)
    if unknown := sorted(dropped - set(table.names)):
        raise FlukeError(
            f"data.drop_images: {table.source} has no {first_few(map(repr, unknown))}; names as the table writes them."
        )
    kept = np.flatnonzero([name not in dropped for name in table.names])
    note = f"data.drop_images: {len(table) - len(kept):,} images left out"
    moved = {new: missing[old] for new, old in enumerate(kept.tolist()) if old in missing}
    return replace(table.take(kept), notes=(*table.notes, note)), moved


def refuse_repeats(table: Table) -> None:
    """One row an image: a repeated one would sit in training and in validation, or under two labels."""
    if len(set(table.paths)) == len(table):
        return
    rows: dict[Path, list[int]] = {}
    for i, path in enumerate(table.paths):
        rows.setdefault(path, []).append(i)

    def tell(i: int) -> str:
        return table.describe_row(i) + (f" {' '.join(table.labels[i])!r}" if table.labels is not None else "")

    repeated = [" = ".join(map(tell, each)) for each in rows.values() if len(each) > 1]
    raise FlukeError(
        f"{table.source}: {len(repeated):,} images have more than one row: {first_few(repeated)}; keep one row an image."
    )


def filter_by_class(table: Table, data: Data, keep_others: bool) -> Table:
    """The table with its class list, after the filters by class, which are for one label per image (lib/config/constraints.py).
    Rows that data.only_classes leaves out stay, outside of the class list, if `keep_others`."""
    counts, notes = table.counts(), []
    others: dict[str, int] = {}
    left = {label: count for label, count in counts.items() if label not in data.take}

    def leave_out(field: str, unwanted: list[str]) -> None:
        if unwanted:
            images = sum(left.pop(label) for label in unwanted)
            notes.append(f"data.{field} {getattr(data, field)}: {len(unwanted):,} classes with {images:,} images left out")

    for field, named in (("take", data.take), ("only_classes", data.only_classes)):
        if unknown := sorted(set(named) - set(counts)):
            raise FlukeError(
                f"data.{field}: {table.source} has no class {first_few(map(repr, unknown))}{did_you_mean(unknown[0], counts)}"
            )
    notes += [
        f"data.take: {min(n, counts[label]):,} of {counts[label]:,} images of {label!r} kept" for label, n in data.take.items()
    ]
    leave_out("min_images", [label for label in left if left[label] < data.min_images])
    if data.max_images is not None:
        leave_out("max_images", [label for label in left if left[label] > data.max_images])
    if data.largest_classes is not None:
        leave_out("largest_classes", sorted(left, key=lambda label: (-left[label], label))[data.largest_classes :])
    if data.only_classes and keep_others:
        others = {label: left.pop(label) for label in list(left) if label not in data.only_classes}
        notes.append(f"data.only_classes: {sum(others.values()):,} images of other classes are scored in validation, not learnt")
    elif data.only_classes:
        leave_out("only_classes", [label for label in left if label not in data.only_classes])
    classes = tuple(sorted([*left, *data.take]))
    if len(classes) < (1 if table.target.several else 2):
        why = "; ".join([*table.notes, *notes]) or "nothing was left out"
        raise FlukeError(f"{table.source}: {len(classes)} of {len(counts):,} classes are left, too few to learn from ({why}).")
    if notes:
        room = Counter({label: len(table) for label in [*left, *others]}) + Counter(data.take)
        kept = []
        for i, (label,) in enumerate(table.labels or []):
            room[label] -= 1
            kept += [i] if room[label] >= 0 else []
        table = table.take(kept)
    return replace(table, classes=classes, notes=(*table.notes, *notes))
