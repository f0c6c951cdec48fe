"""The fields of a recipe for a contest whose sample submission has a row per image and label."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from lib.config.draft import Draft
from lib.config.recipe import Data
from lib.errors import first_few
from lib.tables.folders import image_stem
from lib.tables.guesses import LABEL_NAMES
from lib.tables.long_form import wide_columns, wide_header
from lib.tables.sample import read_recipe_sample
from lib.tables.survey import FoundTable, Survey

MOST_LABELS = 100
"""Labels of a row pattern; more are rather numbers of photographs."""


def read_long_form(survey: Survey, draft: Draft) -> Survey:
    """Return the survey with a row per image, and set data.row_pattern, where the sample's rows are an image and a label each."""
    sample = survey.sample
    if sample is None or survey.sample_path is None or len(sample.prediction_columns) != 1 or survey.images_of(sample.ids):
        return survey
    pairs = [_split(survey, name) for name in sample.ids]
    labels = list(dict.fromkeys(pair[1] for pair in pairs if pair is not None))
    if None in pairs or len(labels) > MOST_LABELS:
        return survey
    mark = Counter(pair[0] for pair in pairs if pair is not None).most_common(1)[0][0]
    pattern = f"^(.+?){re.escape(mark)}({'|'.join(map(re.escape, labels))})$"
    draft.set("data.row_pattern", pattern, f"the sample's rows are an image and a label each, such as {sample.ids[0]!r}")
    found = {table.path: _named_column(survey, table, pattern) for table in survey.tables}
    long = [table for table in survey.tables if found[table.path] is not None]
    values = [_value_column(table, sample.prediction_columns[0]) for table in long if not _is_test(table)]
    label_column = next((value for value in values if value is not None), None)
    tables = []
    if label_column is not None:
        draft.set("data.label_column", label_column, "the cells of the tables' rows")
        key = next(found[table.path] for table in long if not _is_test(table)) or ""
        data = Data(root=str(survey.folder), row_pattern=pattern, image_column=key, label_column=label_column)
        tables = [_pivot(survey, table, data) for table in long if found[table.path] == key]
    else:
        targets = max(([label for label in labels if label in table.columns] for table in survey.tables), key=len, default=[])
        data = Data(root=str(survey.folder), row_pattern=pattern, label_column=targets[0] if targets else "label")
        if len(targets) > 1:
            draft.notes.append(
                f"several targets, each a run of its own: data.label_column {first_few(targets, 9)}; each fills its rows of the "
                "sample: name the submission of the one before as data.sample_submission of the next"
            )
    others = [table for table in survey.tables if table not in long]
    return replace(survey, tables=tables + others, sample=read_recipe_sample(survey.folder / survey.sample_path, data))


def _split(survey: Survey, name: str) -> tuple[str, str] | None:
    """Return the marks and the label that follow the longest name of an image with which `name` begins; None without one."""
    for match in reversed(list(re.finditer(r"[^a-zA-Z0-9]+", name))):
        if image_stem(name[: match.start()]) in survey.stems and match.end() < len(name):
            return match[0], name[match.end() :]
    return None


def _named_column(survey: Survey, table: FoundTable, pattern: str) -> str | None:
    """Return the column whose cells are an image and a label each."""
    for column, cells in table.columns.items():
        found = [re.search(pattern, cell) for cell in cells[:100]]
        if all(match is not None and image_stem(match[1]) in survey.stems for match in found):
            return column
    return None


def _is_test(table: FoundTable) -> bool:
    return re.search("test", table.path, re.IGNORECASE) is not None


def _value_column(table: FoundTable, wanted: str) -> str | None:
    """Return the column of the cells of a table with a row per image and label: of the sample's name, or called like one."""
    named: Sequence[str] = [column for column in table.columns if LABEL_NAMES.match(column)]
    return wanted if wanted in table.columns else next(iter(named), None)


def _pivot(survey: Survey, table: FoundTable, data: Data) -> FoundTable:
    """Return the table with a row per image, without other columns that name its images."""
    path = survey.folder / table.path
    columns, _ = wide_columns(path, {column: column for column in wide_header(path, data)}, data)
    stems = set(map(image_stem, columns[data.image_column]))
    kept = {
        column: cells
        for column, cells in columns.items()
        if column == data.image_column or not set(map(image_stem, cells)) <= stems
    }
    return replace(table, columns=kept)
