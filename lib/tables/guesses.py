"""Guesses about a contest's tables: which one trains, which column holds what."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from lib.errors import first_few
from lib.tables.folders import image_stem
from lib.tables.sample import is_beginning
from lib.tables.survey import FoundTable, Survey, common_folder, is_number

SPLIT_VALUES = {"train": ("train", "training", "database"), "test": ("test", "query", "testing")}
"""Cells of a column that parts one table into training and test rows."""
LABEL_NAMES = re.compile(
    "^(.*[_ -])?(label|labels|target|class|category|category_id|class_id|species|identity|breed|diagnosis|dx|emotion|mos)$"
    "|^individual.*$|^y$",
    re.IGNORECASE,
)
GROUP_NAMES = re.compile(
    "patient|subject|lesion|location|sequence|seq_id|session|burst|encounter|observation|camera|driver|^site", re.IGNORECASE
)
PART_NAMES = re.compile("^(dataset|data_set|species)$", re.IGNORECASE)
SIDES = ("left", "right", "l", "r", "os", "od", "cc", "mlo", "front", "back", "top", "side")
"""Last parts of names that say which view of a subject an image is."""
LAST_PARTS = "|".join(sorted(SIDES, key=len, reverse=True)) + "|[0-9]+|[a-z]"
NEW_NAMES = re.compile("^new[_ -]\\w+$", re.IGNORECASE)


def choose_train_table(survey: Survey) -> FoundTable | None:
    """Return the table that lists training images with labels; None without any."""
    asked = set() if survey.sample is None else {image_stem(name) for name in survey.sample.ids}
    best: tuple[float, FoundTable] | None = None
    for table in survey.tables:
        column = survey.image_column(table)
        share = column[1] if column is not None else 0.4 if image_pattern(survey, table) else 0.0
        share = 1.0 if table.pixels else share
        if not share or len(table.columns) < (1 if table.pixels else 2):
            continue
        cells = table.columns[column[0]] if column is not None else []
        answered = sum(image_stem(cell) in asked for cell in cells) / max(len(cells), 1)
        name = Path(table.path).name.lower() + " " + table.path.lower()
        labels, why = find_labels(survey, join_labels(survey, table)[0])
        has_label = labels is not None
        score = (
            share
            + (2 if is_sure(why) else 1) * has_label
            + 0.5 * ("train" in name or "label" in name)
            - ("test" in name)
            - answered
        )
        score += 0.1 * (split_column(table) is not None) + min(len(table) / max(len(survey.images), 1), 1)
        if has_label and (best is None or score > best[0]):
            best = score, table
    return None if best is None else best[1]


def image_pattern(survey: Survey, table: FoundTable) -> tuple[str, str] | None:
    """Return a column whose cells begin the names of several images, and the pattern of their files."""
    prefixes: dict[str, Counter[str]] = {}
    for image in survey.images:
        stem, suffix = image_stem(image), image[image.rfind(".") :]
        for mark in "-_":
            head, found, _ = stem.rpartition(mark)
            if found:
                prefixes.setdefault(head, Counter())[f"{mark}*{suffix}"] += 1
    for column, cells in table.columns.items():
        known = [cell for cell in cells if cell in prefixes]
        if len(known) > 0.9 * len(cells):
            ending = sum((prefixes[cell] for cell in known), Counter()).most_common(1)[0][0]
            return column, "{name}" + ending
    return None


def channel_patterns(survey: Survey, table: FoundTable, column: str) -> list[str]:
    """Return the patterns of the files of an image's channels: grey ones whose names end in words (red, green), [] without them."""
    endings: dict[str, set[str]] = {}
    for image in survey.images:
        stem, suffix = image_stem(image), image[image.rfind(".") :]
        head, mark, word = stem.rpartition("_") if "_" in stem else stem.rpartition("-")
        if word.isalpha():
            endings.setdefault(head, set()).add(f"{mark}{word}{suffix}")
    of_rows = Counter(frozenset(endings.get(cell, ())) for cell in table.columns[column])
    common, rows = of_rows.most_common(1)[0]
    if len(common) < 2 or rows < 0.9 * len(table):
        return []
    example = next(image for image in survey.images if image.endswith(tuple(common)))
    try:
        with Image.open(survey.folder / example) as opened:
            grey = len(opened.getbands()) == 1
    except OSError:
        grey = False
    order = {"red": 0, "green": 1, "blue": 2}
    return (
        [
            "{name}" + each
            for each in sorted(common, key=lambda each: (order.get(re.sub("[^a-z]", "", each.split(".")[0]), 3), each))
        ]
        if grey
        else []
    )


def split_column(table: FoundTable) -> tuple[str, list[str], list[str]] | None:
    """Return a column that says train or test, and its values for each."""
    for column, cells in table.columns.items():
        values = set(cells)
        train = sorted(value for value in values if value.lower() in SPLIT_VALUES["train"])
        test = sorted(value for value in values if value.lower() in SPLIT_VALUES["test"] or value.lower().endswith("test"))
        if train and test and len(values) < 8:
            return column, train, test
    return None


def find_labels(survey: Survey, table: FoundTable) -> tuple[str | list[str] | None, str]:
    """Return the label column, or one-hot columns, of a table, and why; (None, "") without any."""
    sample, columns = survey.sample, table.columns
    wanted = [] if sample is None else sample.prediction_columns
    image = survey.image_column(table)
    others = [column for column in columns if image is None or column != image[0]]
    if len(wanted) > 1:
        if all(column in columns for column in wanted):
            return wanted, "the sample's columns are columns of the table"
        if begun := _columns_begun(wanted, others):
            return begun, f"the sample's columns ({first_few(wanted, 3)}) are their beginnings"
        names = set(wanted)
        for column in others:
            if len(set(columns[column]) & names) > len(names) / 2:
                return column, "its values are the sample's columns"
    if len(wanted) == 1 and (same := [column for column in others if _folded(column) == _folded(wanted[0])]):
        return wanted[0] if wanted[0] in same else same[0], "the sample's column has its name"
    if sample is not None and sample.cells:
        cells = {part for cell in sample.cells for part in (cell, *cell.split())}
        for column in sorted(others, key=lambda column: LABEL_NAMES.match(column) is None):
            values = Counter(columns[column])
            if len(values) > 1 and cells & set(values) and max(values.values()) > 1 and not is_measure(columns[column]):
                return column, "the sample's cells are among its values"
    named = [column for column in others if LABEL_NAMES.match(column)]
    if named:
        return named[0], "by its name"
    one_hot = [column for column in others if _is_one_hot(set(columns[column]))]
    if len(one_hot) > 1:
        return one_hot, "columns of 0 and 1 (or blank and -1, which count as 0)"
    for column in others:
        if 1 < len(set(columns[column])) < len(columns[column]) / 2 and not is_measure(columns[column]):
            return column, "a guess: its values recur"
    return None, ""


def _folded(column: str) -> str:
    """Return a column's name without case and marks: ClassId is class_id."""
    return re.sub("[^a-z0-9]", "", column.lower())


def _is_one_hot(values: set[str]) -> bool:
    plain = {"0", "1", "0.0", "1.0"}
    return values <= plain or (values <= plain | {"-1", "-1.0", ""} and bool(values & {"1", "1.0"}) and len(values) > 1)


def _columns_begun(wanted: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Return the columns that are the `wanted` ones with one and the same ending, of several that called mean; [] without any."""
    of_first = [column.removeprefix(wanted[0]) for column in columns if column != wanted[0] and is_beginning(wanted[0], column)]
    endings = [ending for ending in of_first if all(name + ending in columns for name in wanted)]
    chosen = next((ending for ending in endings if "mean" in ending.lower()), next(iter(endings), None))
    return [] if chosen is None else [name + chosen for name in wanted]


def is_sure(why: str) -> bool:
    """Return whether a reason of `find_labels` is the sample submission."""
    return "sample's" in why


def join_labels(survey: Survey, table: FoundTable) -> tuple[FoundTable, tuple[FoundTable, str] | None]:
    """Return the table with the columns of another one that has the labels, and that table with the name of the key of both.

    Only where the sample submission shows no labels in the table itself. The key is a column of both that names each row of the
    other table once; every row of the table has a match.
    """
    if is_sure(find_labels(survey, table)[1]):
        return table, None
    for other in survey.tables:
        if other is table or re.search("test", other.path, re.IGNORECASE):
            continue
        for key in [column for column in other.columns if column in table.columns]:
            row_of = {cell: i for i, cell in enumerate(other.columns[key])}
            if len(row_of) < len(other) or not row_of.keys() >= set(table.columns[key]):
                continue
            rows = [row_of[cell] for cell in table.columns[key]]
            added = {name: [cells[i] for i in rows] for name, cells in other.columns.items() if name not in table.columns}
            joined = replace(table, columns=table.columns | added)
            if is_sure(find_labels(survey, joined)[1]):
                return joined, (other, key)
    return table, None


def is_measure(cells: Sequence[str]) -> bool:
    return all(is_number(cell) for cell in cells) and any("." in cell and not cell.endswith(".0") for cell in cells)


def test_table(survey: Survey, train: FoundTable) -> FoundTable | None:
    """Return the table that lists what the sample asks for: one called test that has its ids and the images' column."""
    assert survey.sample is not None
    asked = {image_stem(name) for name in survey.sample.ids}
    for table in survey.tables:
        if table is train or not re.search("test|query", table.path, re.IGNORECASE):
            continue
        if any(asked <= {image_stem(cell) for cell in cells} for cells in table.columns.values()):
            return table
    return None


def image_root(cells: Sequence[str], images: Sequence[str]) -> str:
    """Return the folder that cells with folders are relative to, else the deepest one that holds all images."""
    if cells and "/" in cells[0] and images:
        cell = cells[0].replace("\\", "/")
        found = [image for image in images if f"/{image}".endswith(f"/{cell}")]
        if found:
            return found[0].removesuffix(cell).rstrip("/") or "."
    return common_folder(images)


def is_ambiguous(survey: Survey, names: Sequence[str]) -> bool:
    return any(len(survey.stems.get(image_stem(name), [])) > 1 for name in names)


def group_pattern(cells: Sequence[str]) -> tuple[str, str, bool] | None:
    """Return a regular expression of the groups that the names of images carry, why, and whether it is sure; None without any.

    Groups are names that differ in the last part only, after a mark: a side (10_left, 10_right), which is sure, else a number or a
    letter (scene3_12), where groups are of several images mostly and there are at least five.
    """
    stems = [image_stem(cell) for cell in cells]
    pairs = [match.groups() for stem in stems if (match := re.fullmatch("(.+?)[_-]+(" + LAST_PARTS + ")", stem, re.IGNORECASE))]
    if len(pairs) < 0.9 * len(stems) or not pairs:
        return None
    sizes = Counter(group for group, _ in pairs)
    if len(sizes) < 5 or sum(n for n in sizes.values() if n > 1) < 0.3 * len(stems):
        return None
    example = next(group for group, n in sizes.items() if n > 1)
    parts = sorted({part.lower() for _, part in pairs})
    named = first_few([stem for stem in stems if stem.startswith(example)], 2)
    if set(parts) <= set(SIDES):
        return f"([^/]+)[_-]({'|'.join(sorted({part for _, part in pairs}))})\\b", f"{named} are of one subject", True
    shortest = "[0-9]+" if all(part.isdigit() for part in parts) else "[0-9a-zA-Z]+"
    return f"([^/]+)[_-]{shortest}(\\.|$)", f"{len(sizes):,} beginnings of names recur, such as {named}", False
