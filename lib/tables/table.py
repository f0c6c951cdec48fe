"""One table of images: rows, names, paths, labels, classes and groups, as every later step takes it.

Names and labels are strings from file to submission; `Table.targets` alone turns labels into integers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lib.errors import FlukeError
from lib.tables.box import Box
from lib.tables.image_path import cut_path
from lib.tables.readers import reader_of
from lib.tables.target import Target


@dataclass(frozen=True, eq=False)
class Table:
    """n images of a contest, in the order of the file or folder that lists them."""

    rows: np.ndarray
    """(n,) int64: 0-based position in the source file, or in the sorted listing of the folder, before filters."""
    names: list[str]
    """Image names in the file's spelling; `class/file` for a folder of class folders."""
    paths: list[Path]
    """Paths of the images, never outside their folder."""
    labels: list[tuple[str, ...]] | None
    """Labels of each image, exactly one unless `target.several`; None when the table has none."""
    classes: tuple[str, ...]
    """Sorted classes of the training table after its filters; class indices and columns of scores refer to them.

    With data.only_classes, a classifier's table also keeps rows of other classes, because ensembles need their scores."""
    groups: np.ndarray | None
    """(n,) str: images of one group are never both in training and in the hold-out."""
    target: Target
    """What is predicted for an image: one label, several, or an identity."""
    folds: np.ndarray | None = None
    """(n,) int64: folds that the user assigned (`folds.csv` of the recipe)."""
    source: Path = Path("table")
    """The file or folder that the table was read from, for messages."""
    lines: np.ndarray | None = None
    """(n,) int64: line of each row in a CSV file, its number from 1 in a Parquet file; None for a folder."""
    ids: list[str] | None = None
    """What the sample submission calls each row where that isn't the image's name; rows of one id are answered together."""
    boxes: list[Box | None] | None = None
    """The part of each image that is read, None for a whole one; None: all are whole."""
    notes: tuple[str, ...] = ()
    """One sentence per filter that left something out."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def pictures(self) -> list[Path]:
        """The images' paths with their boxes, as pages show them and local matching reads them."""
        return list(self.paths) if self.boxes is None else [cut_path(path, box) for path, box in zip(self.paths, self.boxes)]

    def take(self, index: Any) -> Table:
        """Return the rows that `index` (integers, booleans or a slice) selects, in its order, with the same classes."""
        kept = np.arange(len(self))[index]

        def select(array: np.ndarray | None) -> np.ndarray | None:
            return None if array is None else array[kept]

        return replace(
            self,
            rows=self.rows[kept],
            names=[self.names[i] for i in kept],
            paths=[self.paths[i] for i in kept],
            labels=None if self.labels is None else [self.labels[i] for i in kept],
            groups=select(self.groups),
            folds=select(self.folds),
            lines=select(self.lines),
            ids=None if self.ids is None else [self.ids[i] for i in kept],
            boxes=None if self.boxes is None else [self.boxes[i] for i in kept],
        )

    def join(self, other: Table) -> Table:
        """Return the rows of this table and then of `other`, another part of the same table, without folds and lines."""
        both = self.groups is not None and other.groups is not None
        return replace(
            self,
            rows=np.concatenate([self.rows, other.rows]),
            names=self.names + other.names,
            paths=self.paths + other.paths,
            labels=(self.labels or []) + (other.labels or []),
            groups=np.concatenate([self.groups, other.groups]) if both else None,
            folds=None,
            lines=None,
            ids=None,
            boxes=None if self.boxes is None or other.boxes is None else self.boxes + other.boxes,
        )

    def targets(self, classes: Sequence[str] | None = None) -> np.ndarray:
        """Return class indices, (n,) int64; for several labels per image 0 or 1, (n, number of classes) float32.

        Raises FlukeError without labels, and for labels that are not in `classes` (default: the table's), with their counts.
        """
        if self.labels is None:
            raise FlukeError(f"{self.source}: has no labels; name their column with data.label_column.")
        return self.target.encode(self.labels, self.classes if classes is None else classes, str(self.source))

    @property
    def answers(self) -> list[str]:
        """The names by which a sample submission may know the rows, each once."""
        return self.names if self.ids is None else list(dict.fromkeys(self.ids))

    def in_classes(self) -> np.ndarray:
        """Return (n,) bool: whether all labels of the row are among the classes; numbers always are."""
        if self.target.numeric:
            return np.ones(len(self), dtype=bool)
        classes = set(self.classes)
        return np.array([classes.issuperset(labels) for labels in self.labels or [()] * len(self)], dtype=bool)

    def counts(self) -> Counter[str]:
        """Return the number of images of each label that occurs; numbers are not counted."""
        if self.target.numeric:
            return Counter()
        return Counter(label for labels in self.labels or [] for label in labels)

    def describe_row(self, i: int) -> str:
        """Return what messages call row i: its line in the file, if any, and its image name."""
        return repr(self.names[i]) if self.lines is None else f"{reader_of(self.source).unit} {self.lines[i]} {self.names[i]!r}"


def describe_table(table: Table, what: str = "train") -> str:
    """Return lines that count the rows, classes (the largest and smallest named) and groups, and the table's notes."""
    lines = [f"{what}: {len(table):,} images of {table.source}"]
    if table.labels is not None and table.target.numeric:
        for name, column in zip(table.classes, table.targets().T):
            low, middle, high = (f"{q:.6g}" for q in np.quantile(column, [0, 0.5, 1]))
            lines.append(f"  {name}: {low} to {high}, median {middle}")
    elif table.labels is not None:
        counts = table.counts()
        order = sorted(counts, key=lambda label: (-counts[label], label))
        sizes = [f"{label!r} {counts[label]:,}" for label in order]
        lines[0] += f", {len(table.classes):,} classes: "
        lines[0] += ", ".join(sizes) if len(sizes) < 7 else f"{', '.join(sizes[:3])} ... {', '.join(sizes[-3:])}"
        if table.target.several:
            unlabeled = sum(not labels for labels in table.labels)
            lines.append(f"  {sum(counts.values()) / max(len(table), 1):.1f} labels per image; {unlabeled:,} images without any")
        else:
            few = [f"{n:,} with {k}" for k in (1, 2) if (n := sum(count == k for count in counts.values()))]
            lines += [f"  classes with few images: {', '.join(few)}"] if few else []
    if table.groups is not None:
        lines.append(f"  {len(set(table.groups)):,} groups, the largest of {max(Counter(table.groups).values()):,} images")
    return "\n".join(lines + [f"  {note}" for note in table.notes])
