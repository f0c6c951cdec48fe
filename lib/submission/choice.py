"""Choose a submission's format by the recipe, the metric or the sample; check the sample before training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lib.config.metric_traits import Answer, family_value, find_traits
from lib.config.recipe import Predict
from lib.errors import FlukeError, first_few
from lib.submission.formats import FORMATS, IMAGE_ANSWERS, Format, RankedLabels, TopKFormat, first_fraction
from lib.tables.sample import Sample, match_images
from lib.tables.target import IDENTITY, Target


def resolve_format(
    sample: Sample,
    p: Predict,
    classes: Sequence[str],
    target: Target,
    thresholds: dict[str, float] | None = None,
    metric: str = "auto",
) -> Format:
    """Return the format that `predict.submission` names; for auto, what `metric` (train.metric) wants, if the columns allow it,
    else the first that recognizes the sample.

    `thresholds` maps each label to its probability, default 0.5. Raises FlukeError when no format recognizes the sample.
    """
    least = 0.5 if thresholds is None else np.array([thresholds[label] for label in classes])
    wanted = _answer_of(metric, target)
    k = int(family_value(metric) or p.topk) if wanted == "ranking" else p.topk
    of_two = wanted == "scores"
    if clashing := sorted(set(p.fill) & set(classes)):
        raise FlukeError(f"predict.fill names {clashing[0]!r}, which is a class: its probability is written.")
    options: dict[str, Any] = {"topk": k, "separator": p.separator, "allow_empty": p.allow_empty, "fixed": p.fill}
    formats = {name: each(classes, target, **options, thresholds=least, second_of_two=of_two) for name, each in FORMATS.items()}
    if target.numeric and p.submission not in ("auto", "numbers"):
        raise FlukeError(f"predict.submission {p.submission} is for labels; with data.task number leave it at auto.")
    if p.submission in IMAGE_ANSWERS:
        raise FlukeError(f"predict.submission {p.submission}: names of images are answers of retrieve.py, after train_embedding.")
    if p.submission != "auto":
        return formats[p.submission]
    if wanted == "label" and formats["topk"].recognizes(sample):  # several answers, of which the first one counts
        return formats["topk"]
    if wanted is not None and (fmt := formats["topk" if wanted == "ranking" else wanted]).column_fault(sample) is None:
        return fmt
    for fmt in formats.values():
        if fmt.recognizes(sample):
            return fmt
    columns, known = sample.prediction_columns, frozenset(classes)
    if len(columns) > 1:
        named = set(columns)
        extra = first_few(repr(column) for column in columns if column not in known) or "none"
        missing = first_few(repr(label) for label in classes if label not in named) or "none"
        raise FlukeError(
            f"{sample.path}: the {len(columns)} columns besides the image names are not the {len(classes)} classes (not classes: "
            f"{extra}; missing: {missing}); check data.sample_submission and data.label_column."
        )
    raise FlukeError(
        f"{sample.path}: column {columns[0]} holds numbers ({first_fraction(sample, known)}) but is not named after a class "
        f"({first_few(classes)}); set train.metric to the contest's metric, or predict.submission: label to write class names."
    )


def _meant(metric: str, target: Target) -> str:
    """Return the metric; for auto the target's where the recipe has named that target (data.task), else auto."""
    return target.default_metric if metric == "auto" and target.decision_fit in ("cut_points", "none") else metric


def _answer_of(metric: str, target: Target) -> Answer | None:
    """Return what a metric wants of a submission; None for auto, and for metrics that say nothing about it."""
    traits = find_traits(_meant(metric, target), target.name)
    if traits is None:
        return None
    return "labels" if traits.answer == "label" and target.several else traits.answer


def describe_format(sample: Sample, fmt: Format, p: Predict, metric: str) -> str:
    """Return the line of the log that says what the submission will hold, why, and which field says otherwise; and whether the
    sample's cells hold something else."""
    if p.submission != "auto":
        why, otherwise = "predict.submission says so", ""
    elif (wanted := _answer_of(metric, fmt.target)) is not None:
        fits = fmt.name == wanted or (fmt.name == "topk" and wanted in ("ranking", "label"))
        name = _meant(metric, fmt.target)
        why = f"for train.metric {name}" if fits else f"by the sample, which has no place for what train.metric {name} wants"
        otherwise = "; predict.submission says otherwise"
    else:
        why, otherwise = "by the sample's columns and cells", "; train.metric or predict.submission say otherwise"
    line = f"submission: {fmt.describe(sample)} ({why}{otherwise})"
    cells = set(sample.cells)
    if odd := [cell for cell in cells if cell.strip() and fmt.cell_fault(cell)]:
        line += f"\n  the sample's cells hold something else: {first_few(map(repr, sorted(odd)), 3)}"
    elif cells and fmt.name == "scores" and cells <= fmt.known:
        line += f"\n  the sample's cells look like labels: {first_few(map(repr, sorted(cells)), 3)}"
    elif fmt.name == "label" and cells in ({"0"}, {"1"}) and len(fmt.classes) == 2:
        (cell,) = cells
        line += f"\n  the sample's cells are all {cell!r}, which may stand for a label or for a probability"
    return line


def ranking_format(p: Predict, labels: Sequence[str], metric: str = "auto") -> RankedLabels:
    """Return the format for ranked labels: the one that `predict.submission` names if it takes a ranking; else one label for a
    `metric` (train.metric) of one, else topk."""
    one = p.submission == "auto" and _answer_of(metric, IDENTITY) == "label"
    named = FORMATS.get("label" if one else p.submission, TopKFormat)
    ranked = named if issubclass(named, RankedLabels) else TopKFormat
    return ranked(labels, topk=p.topk, separator=p.separator)


def check_sample(
    sample: Sample, p: Predict, names: Sequence[str], classes: Sequence[str], target: Target, metric: str = "auto"
) -> str:
    """Return what the submission will hold, for the log.

    Raises FlukeError unless the images `names` (n) cover the sample's rows and predictions fit its columns. Called before training,
    because a fault found afterwards costs hours. `metric` is train.metric.
    """
    match_images(sample.ids, names, sample.path)
    fmt = resolve_format(sample, p, classes, target, metric=metric)
    if fault := fmt.column_fault(sample):
        raise FlukeError(f"{sample.path} (predict.submission {fmt.name}): {fault}.")
    return describe_format(sample, fmt, p, metric) + _describe_long_form(sample)


def _describe_long_form(sample: Sample) -> str:
    """Return a line about the rows of a sample with a row per image and label; "" for another."""
    if (long := sample.long) is None:
        return ""
    filled, copied = first_few(map(repr, sample.prediction_columns)), first_few(map(repr, long.copied))
    line = f"\n  its {len(long.places):,} rows are an image and a label each (data.row_pattern): {filled}"
    return line if not copied else f"{line}; rows of {copied} stay as they are: name a file that has them as data.sample_submission"
