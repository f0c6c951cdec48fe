"""A contest's files become one table: rows, image names and paths, labels, class list, groups; validated, filtered, explained.

Names and labels are strings from file to submission; integers appear in `Table.targets` only.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lib.config import Data, Folds
from lib.files import FlukeError, inside, nearest
from lib.sources import find_images, list_images, read_columns, read_header, read_pairs, refuse_blanks, some, unit


@dataclass(frozen=True, eq=False)
class Table:
    """n images of a contest, in the order of their file."""

    rows: np.ndarray
    """(n,) int64: 0-based position in the source file, or in the sorted listing of the folder, before filters."""
    names: list[str]
    """Image names as the file writes them; `class/file` for a folder of class folders."""
    paths: list[Path]
    """Where the images are read from; never outside their folder."""
    labels: list[tuple[str, ...]] | None
    """Labels of each image, exactly one unless `multi`; None when the table has none."""
    classes: tuple[str, ...]
    """Sorted classes of the training table after its filters; what integers and columns of scores refer to."""
    groups: np.ndarray | None
    """(n,) str: images of one group never sit on both sides of a split."""
    multi: bool
    """Whether an image may have several labels, or none."""
    folds: np.ndarray | None = None
    """(n,) int64: the user's own folds (`folds.csv` of the recipe)."""
    source: Path = Path("table")
    """The file or folder it came from, for messages."""
    lines: np.ndarray | None = None
    """(n,) int64: line of each row in a CSV, row number from 1 in a Parquet file; None for a folder."""
    notes: tuple[str, ...] = ()
    """What was left out on the way here, a sentence each."""

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: Any) -> Table:
        """The rows that `index` (array of integers or booleans, or a slice) selects, in its order, with the same classes."""
        kept = np.arange(len(self))[index]

        def of(array: np.ndarray | None) -> np.ndarray | None:
            return None if array is None else array[kept]

        return replace(
            self,
            rows=self.rows[kept],
            names=[self.names[i] for i in kept],
            paths=[self.paths[i] for i in kept],
            labels=None if self.labels is None else [self.labels[i] for i in kept],
            groups=of(self.groups),
            folds=of(self.folds),
            lines=of(self.lines),
        )

    def join(self, other: Table) -> Table:
        """The rows of this table and then those of `other`, another part of the same one."""
        return replace(
            self,
            rows=np.concatenate([self.rows, other.rows]),
            names=self.names + other.names,
            paths=self.paths + other.paths,
            labels=(self.labels or []) + (other.labels or []),
            groups=None,
            folds=None,
            lines=None,
        )

    def targets(self, classes: Sequence[str] | None = None) -> np.ndarray:
        """Class indices, (n,) int64; with several labels an image 0 and 1, (n, number of classes) float32.

        Raises FlukeError when there are no labels, or some that are not in `classes` (default: the table's), with their counts.
        """
        if self.labels is None:
            raise FlukeError(f"{self.source}: has no labels, but they are needed here.")
        position = {label: i for i, label in enumerate(self.classes if classes is None else classes)}
        if unknown := [(label, count) for label, count in self.counts().most_common() if label not in position]:
            found = some(f"{label!r} ({count:,} images)" for label, count in unknown)
            raise FlukeError(f"{self.source}: {len(unknown):,} labels are not among the {len(position):,} classes: {found}.")
        if not self.multi:
            return np.array([position[label] for (label,) in self.labels], dtype=np.int64)
        targets = np.zeros((len(self), len(position)), dtype=np.float32)
        for i, labels in enumerate(self.labels):
            targets[i, [position[label] for label in labels]] = 1
        return targets

    def counts(self) -> Counter[str]:
        """Images of each label that occurs."""
        return Counter(label for labels in self.labels or [] for label in labels)

    def spot(self, i: int) -> str:
        """How a message names row i."""
        return repr(self.names[i]) if self.lines is None else f"{unit(self.source)} {self.lines[i]} {self.names[i]!r}"


# --- reading ----------------------------------------------------------------------------------------------------------------------


def load_train(data: Data, folds: Folds) -> Table:
    """The recipe's training images after its filters, with the groups and the user's own folds of `folds`.

    Order of the filters: drop_images, missing files (on_unreadable), take, only_classes, min_images, max_images, largest_classes.
    Raises FlukeError for whatever doesn't fit, all rows of a kind at once.
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
    table, missing = _drop_images(table, missing, data.drop_images)
    table = without_unreadable(table, missing, data.on_unreadable)
    _refuse_repeats(table)
    table = _filter_classes(table, data)
    if folds.group_csv is not None:
        table = replace(table, groups=np.array(read_pairs(root / folds.group_csv, table.names)))
    if folds.csv is not None:
        own = read_pairs(root / folds.csv, table.names)
        if wrong := sorted({fold for fold in own if not re.fullmatch("[0-9]{1,9}", fold)}):
            raise FlukeError(f"{root / folds.csv}: folds are numbers from 0 on, not {some(map(repr, wrong))}.")
        table = replace(table, folds=np.array(own, dtype=np.int64))
    return table


def load_test(data: Data, classes: tuple[str, ...], multi: bool) -> Table | None:
    """The recipe's test images: `test_csv`, else the rows of the sample submission, else all of `test_dir`; None without any.

    Labels are read from a `test_csv` that has them, not from a sample submission, whose labels mean nothing. Raises FlukeError.
    """
    root = Path(data.root)
    folder = root / (data.test_dir or data.image_dir)
    if data.test_csv is not None and data.test_csv != data.sample_submission:
        return load_any(root / data.test_csv, folder, data, classes, multi)
    if (sample := data.sample_submission) is not None:
        header = read_header(root / sample)
        if header and data.image_column not in header:  # samples may call it "id"; it comes first in them
            data = replace(data, image_column=header[0])
        return load_any(root / sample, folder, data, classes, multi, labelled=False)
    return None if data.test_dir is None else load_any(folder, folder, data, classes, multi)


def load_any(path: Path, folder: Path, data: Data, classes: tuple[str, ...], multi: bool, labelled: bool = True) -> Table:
    """Images to predict: those that a CSV or Parquet file names, relative to `folder`, or all images of `path` if that is a folder.

    Labels are read if `labelled` and the file has a `data.label_column` that isn't blank from top to bottom. Raises FlukeError,
    also for a missing image: each row wants an answer.
    """
    if path.is_dir():
        names, below, others = list_images(path)
        if not names:
            raise FlukeError(f"{path}: holds no images{f', only folders: {some(below)}' if below else ''}.")
        table, missing = _table(path, path, names, None, None, None)
        table = replace(table, notes=_left_out(path, below, others))
    else:
        wanted = {"data.image_column": data.image_column}
        if labelled and data.label_column in read_header(path):
            wanted["data.label_column"] = data.label_column
        columns, lines = read_columns(path, wanted)
        labels = columns.get("data.label_column", [])
        known = labels if any(label.strip() for label in labels) else None
        separator = data.label_separator if multi else None
        table, missing = _table(path, folder, columns["data.image_column"], known, lines, separator)
    table = without_unreadable(replace(table, classes=classes, multi=multi), missing, "error", what="test")
    _refuse_repeats(table)
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
    return Table(rows, names, paths, split, (), None, separator is not None, source=source, lines=lines), missing


def _class_folders(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    """`class/file` of every image in a folder of class folders, sorted, and what was ignored there."""
    loose, classes, others = list_images(folder)
    names, empty, notes = [], [], _left_out(folder, [], loose + others)
    for label in classes:
        images, below, others = list_images(inside(folder, label))
        names += [f"{label}/{image}" for image in images]
        notes += _left_out(folder / label, below, others)
        if not images:
            empty.append(f"{label!r}" + (f" (only folders: {some(below, 3)})" if below else ""))
    if empty or not classes:
        raise FlukeError(f"{folder}: a folder of images a class is wanted; without images: {some(empty) or 'no folders at all'}.")
    return names, notes


def _left_out(folder: Path, below: list[str], others: list[str]) -> tuple[str, ...]:
    found = [(below, "sub-folders"), (others, "files")]
    return tuple(f"{folder}: {len(names):,} {what} ignored ({some(names, 3)})" for names, what in found if names)


# --- filters ----------------------------------------------------------------------------------------------------------------------


def without_unreadable(table: Table, bad: dict[int, str], on_unreadable: str, what: str = "train") -> Table:
    """The table without the rows of `bad`, {position: reason}, if `on_unreadable` is "drop"; the loss is noted.

    Raises FlukeError that counts them and names the first: with "error", for a `what` of test (a contest wants an answer for each
    row), and when a class would lose its last image.
    """
    if not bad:
        return table
    found = f"{table.source}: {len(bad):,} of {len(table):,} images can't be read: " + some(
        f"{table.spot(i)} ({bad[i]})" for i in sorted(bad)
    )
    if on_unreadable != "drop" or what == "test":
        cure = "every test row needs its image" if what == "test" else "mend them, or set data.on_unreadable: drop"
        folder = "; is data.image_dir right?" if len(bad) == len(table) else "."
        raise FlukeError(f"{found}; {cure}{folder}")
    kept = table.take(np.array([i not in bad for i in range(len(table))]))
    if gone := sorted(set(table.counts()) - set(kept.counts())):
        raise FlukeError(
            f"{found}; no image is left of {some(map(repr, gone))}: name those images in data.drop_images if that is meant."
        )
    return replace(kept, notes=(*table.notes, f"left out: {found}"))


def _drop_images(table: Table, missing: dict[int, str], unwanted: list[str]) -> tuple[Table, dict[int, str]]:
    if not unwanted:
        return table, missing
    dropped = set(unwanted)
    if unknown := sorted(dropped - set(table.names)):
        raise FlukeError(f"data.drop_images: {table.source} has no {some(map(repr, unknown))}; names as the table writes them.")
    kept = np.flatnonzero([name not in dropped for name in table.names])
    note = f"data.drop_images: {len(table) - len(kept):,} images left out"
    moved = {new: missing[old] for new, old in enumerate(kept.tolist()) if old in missing}
    return replace(table.take(kept), notes=(*table.notes, note)), moved


def _refuse_repeats(table: Table) -> None:
    """One row an image: a repeated one would sit in training and in validation, or under two labels."""
    if len(set(table.paths)) == len(table):
        return
    rows: dict[Path, list[int]] = {}
    for i, path in enumerate(table.paths):
        rows.setdefault(path, []).append(i)

    def tell(i: int) -> str:
        return table.spot(i) + (f" {' '.join(table.labels[i])!r}" if table.labels is not None else "")

    repeated = [" = ".join(map(tell, each)) for each in rows.values() if len(each) > 1]
    raise FlukeError(f"{table.source}: {len(repeated):,} images have more than one row: {some(repeated)}; keep one row an image.")


def _filter_classes(table: Table, data: Data) -> Table:
    """The table with its class list, after the filters by class, which are for one label an image (config.check)."""
    counts, notes = table.counts(), []
    left = {label: count for label, count in counts.items() if label not in data.take}

    def leave_out(field: str, unwanted: list[str]) -> None:
        if unwanted:
            images = sum(left.pop(label) for label in unwanted)
            notes.append(f"data.{field} {getattr(data, field)}: {len(unwanted):,} classes with {images:,} images left out")

    for field, named in (("take", data.take), ("only_classes", data.only_classes)):
        if unknown := sorted(set(named) - set(counts)):
            raise FlukeError(f"data.{field}: {table.source} has no class {some(map(repr, unknown))}{nearest(unknown[0], counts)}")
    notes += [
        f"data.take: {min(n, counts[label]):,} of {counts[label]:,} images of {label!r} kept" for label, n in data.take.items()
    ]
    if data.only_classes:
        leave_out("only_classes", [label for label in left if label not in data.only_classes])
    leave_out("min_images", [label for label in left if left[label] < data.min_images])
    if data.max_images is not None:
        leave_out("max_images", [label for label in left if left[label] > data.max_images])
    if data.largest_classes is not None:
        leave_out("largest_classes", sorted(left, key=lambda label: (-left[label], label))[data.largest_classes :])
    classes = tuple(sorted([*left, *data.take]))
    if len(classes) < (1 if table.multi else 2):
        why = "; ".join([*table.notes, *notes]) or "nothing was left out"
        raise FlukeError(f"{table.source}: {len(classes)} of {len(counts):,} classes are left, too few to learn from ({why}).")
    if notes:
        room = Counter({label: len(table) for label in left}) + Counter(data.take)
        kept = []
        for i, (label,) in enumerate(table.labels or []):
            room[label] -= 1
            kept += [i] if room[label] >= 0 else []
        table = table.take(kept)
    return replace(table, classes=classes, notes=(*table.notes, *notes))


def summary(table: Table, what: str = "train") -> str:
    """What is printed at the start: rows, classes, the largest and the smallest, groups, and what was left out; a line each."""
    lines = [f"{what}: {len(table):,} images of {table.source}"]
    if table.labels is not None:
        counts = table.counts()
        order = sorted(counts, key=lambda label: (-counts[label], label))
        ends = [f"{label!r} {counts[label]:,}" for label in order]
        lines[0] += f", {len(table.classes):,} classes: " + (
            ", ".join(ends) if len(ends) < 7 else f"{some(ends[:3])} ... {some(ends[-3:])}"
        )
        if table.multi:
            bare = sum(not labels for labels in table.labels)
            lines.append(f"  {sum(counts.values()) / max(len(table), 1):.1f} labels an image; {bare:,} images without any")
        else:
            few = [f"{n:,} with {k}" for k in (1, 2) if (n := sum(count == k for count in counts.values()))]
            lines += [f"  classes with few images: {', '.join(few)}"] if few else []
    if table.groups is not None:
        lines.append(f"  {len(set(table.groups)):,} groups, the largest of {max(Counter(table.groups).values()):,} images")
    return "\n".join(lines + [f"  {note}" for note in table.notes])
