"""The fields of a recipe that say what a table's labels are: task, loss, metric, answers for unknown individuals."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from lib.config.draft import Draft
from lib.errors import first_few
from lib.tables.guesses import NEW_NAMES, PART_NAMES, find_labels, is_measure, split_column
from lib.tables.survey import FoundTable, Survey, is_number, splits_into_labels


def describe_labels(survey: Survey, table: FoundTable, draft: Draft) -> None:
    """Set the fields of the labels, the task, and the metric that the sample suggests."""
    labels, why = find_labels(survey, table)
    assert labels is not None
    split = split_column(table)
    rows = range(len(table)) if split is None else [i for i, cell in enumerate(table.columns[split[0]]) if cell in split[1]]
    if isinstance(labels, list):
        _describe_columns({name: [table.columns[name][i] for i in rows] for name in labels}, table, why, draft)
        return
    filled = [cell for cell in (table.columns[labels][i] for i in rows) if cell.strip()]
    draft.set(
        "data.label_column", labels, f"{why}; {len(set(filled)):,} values, such as {first_few(map(repr, sorted(set(filled))), 3)}"
    )
    strangers = [label for label, _ in Counter(filled).most_common() if NEW_NAMES.match(label)]
    if strangers:
        draft.set("data.new_label", strangers[0], "an individual that isn't known; null makes it a class like the others")
        draft.set("objective.name", "arcface")
    elif survey.sample is not None and [column.lower() for column in survey.sample.prediction_columns] == ["cluster"]:
        _describe_clusters(table, draft)
    elif not (_describe_image_answers(survey, draft) or _describe_new_answers(survey, draft)):
        _describe_filled(filled, survey, draft)


def _describe_columns(labels: dict[str, list[str]], table: FoundTable, why: str, draft: Draft) -> None:
    """Set the fields of labels in a column each, or of numbers; `labels` holds the training rows' cells."""
    if any(is_number(cell) and float(cell) not in (-1, 0, 1) for name in labels for cell in table.columns[name]):
        draft.set("data.task", "number", f"{why}, and hold numbers other than 0 and 1")
        draft.set("data.number_columns", list(labels))
        draft.set("objective.name", "mse")
        draft.set("train.metric", "rmse", "a guess; mae and r2 are for numbers too")
        return
    draft.set("data.label_columns", list(labels), why)
    if never := [name for name, cells in labels.items() if not any(float(cell or 0) > 0 for cell in cells)]:
        draft.set("predict.fill", dict.fromkeys(never, 0.0), "no row has these labels: their columns hold this number")
    sums = Counter(sum(float(cell or 0) > 0 for cell in row) for row in zip(*labels.values()))
    if set(sums) != {1}:
        draft.set("data.label_separator", " ", f"{sum(n for k, n in sums.items() if k != 1):,} rows have no label or several")
        draft.set("objective.name", "bce")
    draft.set("train.metric", "roc_auc", "a guess; the sample's columns are probabilities, which log_loss wants as well")


def _describe_new_answers(survey: Survey, draft: Draft) -> bool:
    """Set the fields of a contest whose sample answers with a name for unknown individuals; return whether it is one."""
    parts = [] if survey.sample is None else [cell.split() for cell in dict.fromkeys(survey.sample.cells)]
    new = next((part for cell in parts for part in cell if NEW_NAMES.match(part)), None)
    if new is None:
        return False
    longest = max(map(len, parts))
    draft.set("data.new_label", new, "the sample's answer for an individual that isn't known")
    draft.set("objective.name", "arcface")
    draft.set("predict.submission", "label" if longest == 1 else "topk", f"{longest} names in the sample's cells")
    draft.set("predict.topk", longest)
    return True


def _describe_filled(cells: Sequence[str], survey: Survey, draft: Draft) -> None:
    """Set the fields of several labels per cell, or else task and metric of one."""
    separator = splits_into_labels(cells)
    if separator is not None:
        draft.set("data.label_separator", separator, "cells hold several labels")
        draft.set("objective.name", "bce")
        draft.set("train.metric", "micro_f1", "a guess; samples_f1, macro_f1 and f2_samples are for lists of labels too")
        return
    _describe_one_label(cells, [] if survey.sample is None else survey.sample.cells, survey, draft)


def _describe_image_answers(survey: Survey, draft: Draft) -> bool:
    """Set the fields of a contest whose answers are names of images; return whether it is one."""
    if survey.sample is None:
        return False
    ids, columns = survey.sample.ids, [column.lower() for column in survey.sample.prediction_columns]
    matches = bool(survey.sample.cells) and all(name in cell.split() for name, cell in zip(ids, survey.sample.cells))
    if not matches and columns != ["images"]:
        return False
    draft.set("data.new_label", "new", "the test shows individuals of its own: some of the training are held out whole as such")
    draft.set("objective.name", "arcface")
    if matches:
        draft.set("predict.submission", "matches", "the sample's cells are its own ids: names of images that show the same")
        return True
    draft.set("predict.submission", "images", "the sample's column is called images: names of the most similar ones")
    draft.set("predict.topk", 100, "a guess")
    folders = sorted({image.partition("/")[0] for image in survey.images if re.match("index|gallery|database", image)})
    if folders:
        draft.set("predict.index", folders[0], "a folder of images that is neither training nor test")
    return True


def _describe_clusters(table: FoundTable, draft: Draft) -> None:
    """Set the fields of a contest that asks for a cluster per image."""
    draft.set("data.new_label", "new", "the sample asks for clusters: individuals are held out whole, to fit when two are one")
    draft.set("objective.name", "arcface")
    parts = [name for name, cells in table.columns.items() if PART_NAMES.match(name) and 1 < len(set(cells)) < 50]
    if parts:
        draft.set("retrieval.part_column", parts[0], "no cluster spans two of its values")


def _describe_one_label(cells: Sequence[str], answers: Sequence[str], survey: Survey, draft: Draft) -> None:
    """Set task and metric for one label or number per image."""
    values = set(cells)
    fractions = [cell for cell in answers if is_number(cell) and not float(cell).is_integer()]
    numeric = all(is_number(cell) for cell in values)
    known_answers = sum(all(part in values for part in cell.split()) for cell in answers)
    longest = max((len(cell.split()) for cell in answers), default=0)
    if survey.sample is not None and len(survey.sample.prediction_columns) > 1:
        draft.set("train.metric", "log_loss", "a guess; the sample's columns are probabilities, which roc_auc wants as well")
    elif len(values) == 2 and (fractions or (numeric and values <= {"0", "1", "0.0", "1.0"})):
        draft.set("train.metric", "roc_auc", "a guess for two classes; log_loss also wants probabilities, accuracy and f1 labels")
    elif numeric and len(values) > 2 and (fractions or is_measure(cells)):
        draft.set("data.task", "number", "the labels are numbers, and the sample's cells are fractions")
        draft.set("objective.name", "mse")
        draft.set("train.metric", "rmse", "a guess; mae and r2 are for numbers too")
    elif answers and known_answers > len(answers) / 2 and longest > 1 and not values & set(answers):
        draft.set("train.metric", f"map@{longest}", f"a guess: the sample's cells are {longest} labels")
        draft.set("predict.topk", longest)
    elif answers and all(len(cell.split()) == 2 and cell.split()[0] in values and is_number(cell.split()[1]) for cell in answers):
        draft.set("train.metric", "gap", "the sample's cells are a label and its confidence")
    else:
        draft.set("train.metric", "accuracy", "a guess; macro_f1 and balanced_accuracy are for one label too")
        if numeric and 2 < len(values) <= 12:
            draft.hint("data", "task: ordinal  # if the classes are ordered (grades), with train.metric: quadratic_kappa")
