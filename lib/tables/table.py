"""One table of images: rows, names, paths, labels, class list, groups; what every later step is given.

Names and labels are strings from file to submission; integers appear in `Table.targets` only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lib.errors import FlukeError, first_few
from lib.tables.readers import row_unit
from lib.tables.target import Target


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
    """Labels of each image, exactly one unless `target` takes several; None when the table has none."""
    classes: tuple[str, ...]
    """Sorted classes of the training table after its filters; what integers and columns of scores refer to. With data.only_classes
    a classifier's table keeps rows of other classes too, for its scores to be set beside another run's."""
    groups: np.ndarray | None
    """(n,) str: images of one group never sit on both sides of a split."""
    target: Target
    """What is predicted: how many labels per image may have."""
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
        )

    def targets(self, classes: Sequence[str] | None = None) -> np.ndarray:
        """Class indices, (n,) int64; with several labels per image 0 and 1, (n, number of classes) float32.

        Raises FlukeError when there are no labels, or some that are not in `classes` (default: the table's), with their counts.
        """
        if self.labels is None:
            raise FlukeError(f"{self.source}: has no labels, but they are needed here.")
        return self.target.encode(self.labels, self.classes if classes is None else classes, str(self.source))

    def in_classes(self) -> np.ndarray:
        """Return whether each row's labels are all among the classes, (n,) bool."""
        return np.array([set(labels) <= set(self.classes) for labels in self.labels or [()] * len(self)], dtype=bool)

    def counts(self) -> Counter[str]:
        """Images of each label that occurs."""
        return Counter(label for labels in self.labels or [] for label in labels)

    def spot(self, i: int) -> str:
        """How a message names row i."""
        return repr(self.names[i]) if self.lines is None else f"{row_unit(self.source)} {self.lines[i]} {self.names[i]!r}"


def describe_table(table: Table, what: str = "train") -> str:
    """What is printed at the start: rows, classes, the largest and the smallest, groups, and what was left out; a line each."""
    lines = [f"{what}: {len(table):,} images of {table.source}"]
    if table.labels is not None:
        counts = table.counts()
        order = sorted(counts, key=lambda label: (-counts[label], label))
        ends = [f"{label!r} {counts[label]:,}" for label in order]
        lines[0] += f", {len(table.classes):,} classes: " + (
            ", ".join(ends) if len(ends) < 7 else f"{first_few(ends[:3])} ... {first_few(ends[-3:])}"
        )
        if table.target.several:
            bare = sum(not labels for labels in table.labels)
            lines.append(f"  {sum(counts.values()) / max(len(table), 1):.1f} labels per image; {bare:,} images without any")
        else:
            few = [f"{n:,} with {k}" for k in (1, 2) if (n := sum(count == k for count in counts.values()))]
            lines += [f"  classes with few images: {', '.join(few)}"] if few else []
    if table.groups is not None:
        lines.append(f"  {len(set(table.groups)):,} groups, the largest of {max(Counter(table.groups).values()):,} images")
    return "\n".join(lines + [f"  {note}" for note in table.notes])
