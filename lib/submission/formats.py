"""Formats of a submission: what the columns of a sample submission hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from lib.config.recipe import Predict
from lib.errors import FlukeError, first_few
from lib.tables.sample import Sample, match_images
from lib.tables.target import Target

Format = Literal["label", "topk", "labels", "scores"]
"""What its columns hold: a label, the k best, all that apply, or a column of scores a class."""


def infer_format(sample: Sample, classes: Sequence[str], target: Target, separator: str = " ") -> Format:
    """What the sample's columns hold, for `predict.submission: auto`; `classes` are all labels that may be written.

    scores: the other columns are the classes, in any order, or one column the score of one of two classes (see
    `class_of_columns`). With one
    other column: labels for several labels per image; topk when most of the sample's cells hold several known labels; else label.
    Raises FlukeError when the columns are none of these.
    """
    others, known = sample.others, set(classes)
    number = None if known.intersection(sample.cells) else next(filter(_is_fraction, sample.cells), None)
    if set(others) == known or (number and not target.several and len(classes) == 2 and class_of_columns(sample, classes)):
        return "scores"
    if len(others) > 1:
        unknown, lacking = [c for c in others if c not in set(classes)], [c for c in classes if c not in set(others)]
        raise FlukeError(
            f"{sample.path}: its {len(others)} columns after the image names would have to be the {len(classes)} classes; "
            f"no classes: {first_few(map(repr, unknown)) or 'none'}; lacking: {first_few(map(repr, lacking)) or 'none'}."
        )
    if target.several:
        return "labels"
    if number:
        raise FlukeError(
            f"{sample.path}: column {others[0]} holds numbers ({number}), but no class ({first_few(classes)}), and whose "
            "scores they are isn't said; predict.submission label writes the class's name all the same."
        )
    lists = sum(cell not in known and sum(part in known for part in cell.split(separator)) > 1 for cell in sample.cells)
    return "topk" if lists > len(sample.cells) / 2 else "label"


def _is_fraction(cell: str) -> bool:
    """Whether a cell is a number but no whole one: 0.5 stands for a probability, 0 may stand for any class."""
    try:
        return math.isfinite(float(cell)) and not float(cell).is_integer()
    except ValueError:
        return False


def resolve_format(sample: Sample, p: Predict, classes: Sequence[str], target: Target) -> Format:
    """predict.submission, inferred if it is auto."""
    return infer_format(sample, classes, target, p.separator) if p.submission == "auto" else p.submission


def class_of_columns(sample: Sample, classes: Sequence[str]) -> list[int] | None:
    """Which class (a position in `classes`) each of the other columns holds the scores of; None where a column is no class.

    Of two classes a single column may be either's, by its name; by any other name it is class 1's beside 0, true's beside false.
    """
    place = {name: i for i, name in enumerate(classes)}
    if all(column in place for column in sample.others):
        return [place[column] for column in sample.others]
    of_two = {name.casefold(): i for i, name in enumerate(classes)}
    if len(sample.others) == 1 and list(of_two) in (["0", "1"], ["false", "true"]):
        return [1]
    return None


def column_faults(sample: Sample, kind: Format, classes: Sequence[str], separator: str) -> list[str]:
    """Why answers of that kind don't go into the sample's columns, as the sentences' ends; [] if they do."""
    known = set(classes)
    if kind == "scores":
        if class_of_columns(sample, classes) is not None:
            return []
        unknown = [repr(column) for column in sample.others if column not in known]
        return [f"{len(unknown):,} of its columns are no classes: {first_few(unknown)}"]
    if len(sample.columns) != 2:
        return [f"{kind} go into one column, but the sample has {len(sample.columns) - 1}"]
    if kind != "label" and (cut := [repr(label) for label in classes if separator in label]):
        return [f"{len(cut):,} labels hold the separator {separator!r}: {first_few(cut)} (set predict.separator)"]

    def lists(by: str) -> int:
        return sum(cell not in known and len(parts := cell.split(by)) > 1 and known.issuperset(parts) for cell in sample.cells)

    for other in ("|", ";", ", ", ",", "/", " "):
        if lists(other) > len(sample.cells) / 2 and not lists(separator):
            return [f"its cells are labels parted by {other!r}, not by {separator!r} (set predict.separator)"]
    return []


def check_sample(sample: Sample, p: Predict, names: Sequence[str], classes: Sequence[str], target: Target) -> None:
    """Raise FlukeError, before anything slow begins, where a row of the sample has none of the images `names` (n), or the answers
    don't fit its columns."""
    match_images(sample.ids, names, sample.path)
    kind = resolve_format(sample, p, classes, target)
    if faults := column_faults(sample, kind, classes, p.separator):
        raise FlukeError(f"{sample.path} (predict.submission {kind}): {'; '.join(faults)}.")
