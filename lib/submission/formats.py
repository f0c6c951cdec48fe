"""Formats of a submission: one class per format, which recognizes and checks a sample's columns, fills cells and checks them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from lib.errors import first_few
from lib.tables.sample import Sample, is_beginning
from lib.tables.target import ONE_LABEL, Target


@dataclass(frozen=True, eq=False)
class Format(ABC):
    """One kind of content for a sample's prediction columns, with the labels and the options for writing it.

    `logits` are (n, C) over `classes`.
    """

    name: ClassVar[str]
    """Value of `predict.submission`."""
    holds: ClassVar[str]
    """What the cells hold, for messages."""
    uses_thresholds: ClassVar[bool] = False

    classes: Sequence[str]
    """All C labels that may be written."""
    target: Target = ONE_LABEL
    topk: int = 5
    separator: str = " "
    allow_empty: bool = False
    fixed: Mapping[str, float] = field(default_factory=dict)
    """Values of columns that are no classes (predict.fill)."""
    thresholds: float | NDArray[np.floating] = 0.5
    """Probability from which on a label is written, one for all or (C,)."""
    second_of_two: bool = False
    """Whether one column of any name holds the probability of the second of two classes: a metric wants probabilities."""

    @cached_property
    def known(self) -> frozenset[str]:
        return frozenset(self.classes)

    @abstractmethod
    def recognizes(self, sample: Sample) -> bool:
        """Return whether the sample asks for this format, for `predict.submission: auto`."""

    @abstractmethod
    def column_fault(self, sample: Sample) -> str | None:
        """Return why predictions of this format don't fit the sample's columns, as the end of a sentence; None if they fit."""

    def describe(self, sample: Sample) -> str:
        """Return what the cells will hold."""
        return self.holds

    @abstractmethod
    def fill(self, logits: NDArray[np.floating], sample: Sample) -> Iterator[list[str]]:
        """Yield the cells of the sample's prediction columns for each row of logits."""

    @abstractmethod
    def cell_fault(self, cell: str) -> str | None:
        """Return what is wrong with a written cell, as a plural that follows a count; None if nothing is."""


class ScoresFormat(Format):
    """One column of probabilities per class; of two classes, one column alone may hold the probability of either.

    Probabilities have float64 digits because float32 rounds different confident logits to an equal 1.0.
    """

    name = "scores"
    holds = "a probability per class"

    def describe(self, sample: Sample) -> str:
        columns = self._column_classes(sample)
        only = len(sample.prediction_columns) == 1 and columns is not None
        return f"the probability of {self.classes[columns[0]]!r}" if only and columns else self.holds

    def recognizes(self, sample: Sample) -> bool:
        if set(sample.prediction_columns) == self.known | set(self.fixed):
            return True
        of_two = len(self.classes) == 2 and not self.target.several and first_fraction(sample, self.known) is not None
        return of_two and self._column_classes(sample) is not None

    def column_fault(self, sample: Sample) -> str | None:
        if self._column_classes(sample) is not None:
            return None
        unknown = [repr(column) for column in sample.prediction_columns if column not in self.known]
        return (
            f"{len(unknown):,} of its columns are not classes: {first_few(unknown)}; give them a value with predict.fill, or set "
            "predict.submission"
        )

    def fill(self, logits: NDArray[np.floating], sample: Sample) -> Iterator[list[str]]:
        columns = self._column_classes(sample)
        constants = {i: self.fixed[name] for i, name in enumerate(sample.prediction_columns) if name in self.fixed}
        for row in self.target.probabilities(logits.astype(np.float64))[:, columns].tolist():
            yield [repr(constants.get(i, value)) for i, value in enumerate(row)]

    def cell_fault(self, cell: str) -> str | None:
        return None if _is_finite(cell) and "_" not in cell else "scores that are not finite numbers"

    def _column_classes(self, sample: Sample) -> list[int] | None:
        """Return the class index of each prediction column, by its name; None if a column is not a class.

        A single column of any other name is class 1 of the classes 0 and 1, true of false and true, and the second of two classes
        for a metric of probabilities.
        """
        position = dict.fromkeys(self.fixed, 0) | {label: i for i, label in enumerate(self.classes)}
        if all(column in position for column in sample.prediction_columns):
            return [position[column] for column in sample.prediction_columns]
        distinct = list(dict.fromkeys(label.casefold() for label in self.classes))
        of_two = len(self.classes) == 2 and not self.target.several and self.second_of_two
        if len(sample.prediction_columns) == 1 and (of_two or distinct in (["0", "1"], ["false", "true"])):
            return [1]
        return None


class NumbersFormat(Format):
    """The predicted numbers: one column each, by name, also one that is the beginning of the number's (X4 of X4_mean); a single one
    in a column of any name."""

    name = "numbers"
    holds = "the predicted number"

    def describe(self, sample: Sample) -> str:
        pairs = zip(sample.prediction_columns, self._columns(sample) or [])
        renamed = [f"{self.classes[i]} in {column}" for column, i in pairs if len(self.classes) > 1 and self.classes[i] != column]
        return f"the predicted numbers, {first_few(renamed)}" if renamed else self.holds

    def recognizes(self, sample: Sample) -> bool:
        return self.target.numeric

    def column_fault(self, sample: Sample) -> str | None:
        if not self.target.numeric:
            return "numbers are for data.task number"
        if self._columns(sample) is not None:
            return None
        unknown = [repr(column) for column in sample.prediction_columns if column not in self.known]
        return f"{len(unknown):,} of its columns are no predicted numbers: {first_few(unknown)}; see data.number_columns"

    def fill(self, logits: NDArray[np.floating], sample: Sample) -> Iterator[list[str]]:
        for row in logits[:, self._columns(sample)].astype(np.float64).tolist():
            yield [f"{value:.9g}" for value in row]  # float32 has no more digits

    def cell_fault(self, cell: str) -> str | None:
        return None if _is_finite(cell) and "_" not in cell else "cells that are not finite numbers"

    def _columns(self, sample: Sample) -> list[int] | None:
        position, columns = {label: i for i, label in enumerate(self.classes)}, sample.prediction_columns
        if all(column in position for column in columns):
            return [position[column] for column in columns]
        if len(columns) == len(self.classes) == 1:
            return [0]
        begun = [[i for i, label in enumerate(self.classes) if is_beginning(column, label)] for column in columns]
        return [i for (i,) in begun] if all(len(found) == 1 for found in begun) else None


class LabelColumn(Format):
    """One column of labels, joined by `separator` where a cell may hold several; subclasses say which labels."""

    several_per_cell: ClassVar[bool] = True

    @abstractmethod
    def choose(self, logits: NDArray[np.floating]) -> Iterable[NDArray[np.intp]]:
        """Return the class indices to write for each row of logits, in the order of writing."""

    def fill(self, logits: NDArray[np.floating], sample: Sample) -> Iterator[list[str]]:
        for indices in self.choose(logits):
            yield [self.separator.join(self.classes[i] for i in indices.tolist())]

    def column_fault(self, sample: Sample) -> str | None:
        if (n := len(sample.prediction_columns)) != 1:
            return f"{self.name} fills 1 column, but the sample has {n} besides the image names; set predict.submission"
        if self.several_per_cell and (split := [repr(label) for label in self.classes if self.separator in label]):
            return f"{len(split):,} labels contain the separator {self.separator!r}: {first_few(split)}; set predict.separator"
        for other in ("|", ";", ", ", ",", "/", " "):
            if self._count_lists(sample, other) > len(sample.cells) / 2 and not self._count_lists(sample, self.separator):
                return f"its cells separate labels by {other!r}, not by {self.separator!r}; set predict.separator"
        return None

    def cell_fault(self, cell: str) -> str | None:
        if not cell.strip() and cell not in self.known:
            return "blank cells"
        labels = cell.split(self.separator)
        if "" in labels:
            return "cells with blank labels (a separator too many)"
        if not self.known.issuperset(labels):
            return "cells with unknown labels"
        return "cells with a label twice" if len(set(labels)) < len(labels) else None

    def _count_lists(self, sample: Sample, separator: str) -> int:
        """Return how many of the sample's cells are several labels with this separator."""
        return sum(cell not in self.known and self._is_list(cell, separator) for cell in sample.cells)

    def _is_list(self, cell: str, separator: str) -> bool:
        return len(labels := cell.split(separator)) > 1 and self.known.issuperset(labels)


class LabelsFormat(LabelColumn):
    """Every label with a probability (sigmoid) of its threshold or more; without any, the most probable unless `allow_empty`."""

    name = "labels"
    holds = "all labels over their thresholds"
    uses_thresholds = True

    def recognizes(self, sample: Sample) -> bool:
        return len(sample.prediction_columns) == 1 and self.target.several

    def choose(self, logits: NDArray[np.floating]) -> Iterable[NDArray[np.intp]]:
        chosen = expit(logits.astype(np.float64)) >= self.thresholds
        if not self.allow_empty:
            empty = np.flatnonzero(~chosen.any(axis=1))
            chosen[empty, logits[empty].argmax(axis=1)] = True
        return map(np.flatnonzero, chosen)

    def cell_fault(self, cell: str) -> str | None:
        return None if self.allow_empty and not cell else super().cell_fault(cell)


class RankedLabels(LabelColumn):
    """The labels of the highest scores, best first; of equal scores the first class."""

    @property
    def length(self) -> int:
        """Labels per cell, at most."""
        return self.topk

    def recognizes(self, sample: Sample) -> bool:
        single = len(sample.prediction_columns) == 1 and not self.target.several
        return single and first_fraction(sample, self.known) is None

    def choose(self, logits: NDArray[np.floating]) -> Iterable[NDArray[np.intp]]:
        return np.argsort(-logits, axis=1, kind="stable")[:, : self.length]

    def fill_from_ranking(self, ranked: Iterable[Sequence[str]]) -> Iterator[list[str]]:
        """Yield the cells for each list of labels, best first."""
        for labels in ranked:
            yield [self.separator.join(labels[: self.length])]


class TopKFormat(RankedLabels):
    """The `topk` best labels."""

    name = "topk"
    holds = "the best labels, best first"

    def describe(self, sample: Sample) -> str:
        return f"the {self.topk} best labels, best first"

    def recognizes(self, sample: Sample) -> bool:
        def is_list(cell: str) -> bool:
            return cell not in self.known and sum(part in self.known for part in cell.split(self.separator)) > 1

        return super().recognizes(sample) and sum(map(is_list, sample.cells)) > len(sample.cells) / 2

    def cell_fault(self, cell: str) -> str | None:
        too_many = len(cell.split(self.separator)) > self.topk
        return super().cell_fault(cell) or (f"cells with more than {self.topk} labels" if too_many else None)


class LabelFormat(RankedLabels):
    """The best label; it may contain the separator."""

    name = "label"
    holds = "one label"
    several_per_cell = False
    length = 1

    def cell_fault(self, cell: str) -> str | None:
        if cell in self.known:
            return None
        if not cell.strip():
            return "blank cells"
        return "cells with several labels where one belongs" if self._is_list(cell, self.separator) else "unknown labels"


class ConfidenceFormat(LabelColumn):
    """The best label and its probability, separated by a blank."""

    name = "confidence"
    holds = "the best label and its probability"
    several_per_cell = False

    def recognizes(self, sample: Sample) -> bool:
        return not self.target.several and bool(sample.cells) and all(self._is_answer(cell) for cell in sample.cells)

    def choose(self, logits: NDArray[np.floating]) -> Iterable[NDArray[np.intp]]:
        return logits.argmax(axis=1)[:, None]

    def fill(self, logits: NDArray[np.floating], sample: Sample) -> Iterator[list[str]]:
        p = self.target.probabilities(logits.astype(np.float64))
        for i, (c,) in enumerate(self.choose(logits)):
            yield [f"{self.classes[c]} {p[i, c].item()!r}"]

    def cell_fault(self, cell: str) -> str | None:
        return None if self._is_answer(cell) else "cells that are not a label and its confidence"

    def _is_answer(self, cell: str) -> bool:
        label, _, confidence = cell.rpartition(" ")
        return label in self.known and _is_finite(confidence)


FORMATS: dict[str, type[Format]] = {
    each.name: each for each in (NumbersFormat, ScoresFormat, LabelsFormat, ConfidenceFormat, TopKFormat, LabelFormat)
}
"""By the value of `predict.submission`, in the order in which `auto` tries them."""


IMAGE_ANSWERS = ("images", "matches")
"""Values of `predict.submission` that ask for names of images, which retrieve.py writes as rankings."""


def first_fraction(sample: Sample, known: frozenset[str]) -> str | None:
    """Return the sample's first cell that is a fraction; None without any, and if a cell is a known label.

    0.5 stands for a probability, but 0 may stand for any class.
    """
    if known.intersection(sample.cells):
        return None
    return next((cell for cell in sample.cells if _is_finite(cell) and not float(cell).is_integer()), None)


def _is_finite(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False
