"""Write a first recipe from what lies in a contest's folder."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lib.config import command_line
from lib.errors import FlukeError, first_few
from lib.files import write_text
from lib.images.checking import describe_sizes
from lib.submission.choice import check_sample
from lib.tables.folders import image_stem
from lib.tables.loading import load_test, load_train
from lib.tables.sample import load_sample
from lib.tables.survey import FoundTable, Survey, common_folder, is_number, splits_into_labels, survey_folder
from lib.tables.table import describe_table

SPLIT_VALUES = {"train": ("train", "training", "database"), "test": ("test", "query", "testing")}
"""Cells of a column that parts one table into training and test rows."""
LABEL_NAMES = re.compile("^(label|labels|target|class|category|category_id|species|identity|individual.*|breed|diagnosis|y)$", re.I)
GROUP_NAMES = re.compile("patient|subject|lesion|location|sequence|seq_id|session|burst|encounter|camera|driver", re.IGNORECASE)
NEW_NAMES = re.compile("^new[_ -]\\w+$", re.IGNORECASE)


@dataclass
class Draft:
    """A recipe in the making: fields by section, each with the comment beside it; hints are comments on a line of their own."""

    fields: dict[str, dict[str, tuple[Any, str]]] = field(default_factory=dict)
    hints: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def set(self, name: str, value: Any, why: str = "") -> None:
        section, key = name.split(".")
        self.fields.setdefault(section, {})[key] = (value, why)

    def hint(self, section: str, line: str) -> None:
        self.hints.setdefault(section, []).append(line)

    def text(self) -> str:
        """Return the recipe as YAML."""
        lines = ["# yaml-language-server: $schema=schema.json", *(f"# {note}" for note in self.notes)]
        for section in ("data", "model", "objective", "train", "folds", "predict"):
            entries = self.fields.get(section, {})
            if not entries and section not in self.hints:
                continue
            lines.append(f"{section}:" if entries else f"# {section}:")
            for key, (value, why) in entries.items():
                lines.append(f"  {key}: {json.dumps(value, ensure_ascii=False)}" + (f"  # {why}" if why else ""))
            lines += [f"  # {hint}" for hint in self.hints.get(section, [])]
        return "\n".join(lines) + "\n"


def prepare_recipe(folder: Path, out: Path) -> str:
    """Write a recipe for the contest in `folder` to `out`, load its tables once, and return the recipe's text.

    Raises FlukeError when nothing to train on is found, or `out` exists.
    """
    if out.exists():
        raise FlukeError(f"{out}: exists; name another file with --out, or delete it.")
    survey = survey_folder(folder)
    draft = Draft(
        notes=[f"Written by scripts/prepare.py from {folder}: {len(survey.images):,} images, {len(survey.tables)} tables"]
    )
    draft.notes += survey.notes
    draft.set("data.root", str(folder))
    train = _choose_train_table(survey)
    if train is None:
        _describe_folders(survey, draft)
    else:
        _describe_table(survey, train, draft)
    if survey.sample_path is not None:
        draft.set("data.sample_submission", survey.sample_path)
    else:
        form = "scores" if "label_columns" in draft.fields["data"] else "label"
        draft.set("predict.submission", form, "no sample submission was found: this form is written")
    _describe_size(survey, draft)
    draft.hint("model", "name: tf_efficientnet_lite0  # any model of timm; the default is resnet18")
    text = draft.text()
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, text)
    print(text)
    print(f"written: {out}")
    _check(out)
    embedding = "data" in draft.fields and "new_label" in draft.fields["data"]
    print(
        f"next: accelerate launch scripts/{'train_embedding' if embedding else 'train_classifier'}.py --cfg {out} --out runs/first"
    )
    return text


def _check(out: Path) -> None:
    """Load the written recipe's tables and say what they hold, or what doesn't fit."""
    recipe = command_line.parse(command_line.make_parser(""), ["--cfg", str(out)]).recipe
    try:
        train = load_train(recipe.data, recipe.folds)
        print(describe_table(train))
        test = load_test(recipe.data, train.classes, train.target)
        print("no test images" if test is None else describe_table(replace(test, labels=None), "test"))
        if test is not None and (sample := load_sample(recipe, test.answers, train.classes)) is not None:
            print(check_sample(sample, recipe.predict, test.answers, train.classes, train.target, recipe.train.metric))
    except FlukeError as error:
        print(f"the recipe doesn't fit yet: {error}")


# --- a table of training images ---------------------------------------------------------------------------------------------------


def _choose_train_table(survey: Survey) -> FoundTable | None:
    """Return the table that lists training images with labels; None without any."""
    asked = set() if survey.sample is None else {image_stem(name) for name in survey.sample.ids}
    best: tuple[float, FoundTable] | None = None
    for table in survey.tables:
        column = survey.image_column(table)
        share = column[1] if column is not None else 0.4 if _image_pattern(survey, table) else 0.0
        if not share or len(table.columns) < 2:
            continue
        cells = table.columns[column[0]] if column is not None else []
        answered = sum(image_stem(cell) in asked for cell in cells) / max(len(cells), 1)
        name = Path(table.path).name.lower() + " " + table.path.lower()
        has_label = _find_labels(survey, table)[0] is not None
        score = share + 2 * has_label + 0.5 * ("train" in name or "label" in name) - ("test" in name) - answered
        score += 0.1 * (_split_column(table) is not None)
        if has_label and (best is None or score > best[0]):
            best = score, table
    return None if best is None else best[1]


def _describe_table(survey: Survey, table: FoundTable, draft: Draft) -> None:
    """Set the fields of a training table, its images, its labels, the test and the groups."""
    draft.set("data.train_csv", table.path, f"{len(table):,} rows")
    column = survey.image_column(table)
    if column is not None:
        images = survey.images_of(table.columns[column[0]])
        draft.set("data.image_column", column[0], f"its cells name {column[1]:.0%} of the rows' images")
    else:
        name, pattern = _image_pattern(survey, table) or ("", "")
        images = [image for image in survey.images if any(image_stem(image).startswith(cell) for cell in table.columns[name][:50])]
        draft.set("data.image_column", name, "a row has several images, whose names begin with it")
        draft.set("data.image_pattern", pattern)
    folder = _image_root(table.columns[column[0]] if column is not None else [], images)
    draft.set("data.image_dir", folder)
    split = _split_column(table)
    if split is not None:
        draft.set("data.train_where", {split[0]: split[1]}, "the table holds training and test rows")
        draft.set("data.test_where", {split[0]: split[2]})
    _describe_labels(survey, table, draft)
    _describe_test(survey, table, draft, split is not None)
    _suggest_groups(survey, table, draft)


def _image_root(cells: Sequence[str], images: Sequence[str]) -> str:
    """Return the folder that cells with folders are relative to, else the deepest one that holds all images."""
    if cells and "/" in cells[0] and images:
        cell = cells[0].replace("\\", "/")
        found = [image for image in images if f"/{image}".endswith(f"/{cell}")]
        if found:
            return found[0].removesuffix(cell).rstrip("/") or "."
    return common_folder(images)


def _image_pattern(survey: Survey, table: FoundTable) -> tuple[str, str] | None:
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


def _split_column(table: FoundTable) -> tuple[str, list[str], list[str]] | None:
    """Return a column that says train or test, and its values for each."""
    for column, cells in table.columns.items():
        values = set(cells)
        train = sorted(value for value in values if value.lower() in SPLIT_VALUES["train"])
        test = sorted(value for value in values if value.lower() in SPLIT_VALUES["test"])
        if train and test and len(values) < 8:
            return column, train, test
    return None


# --- labels, metric and task ------------------------------------------------------------------------------------------------------


def _find_labels(survey: Survey, table: FoundTable) -> tuple[str | list[str] | None, str]:
    """Return the label column, or one-hot columns, of a table, and why; (None, "") without any."""
    sample, columns = survey.sample, table.columns
    wanted = [] if sample is None else sample.prediction_columns
    image = survey.image_column(table)
    others = [column for column in columns if image is None or column != image[0]]
    if len(wanted) > 1:
        if all(column in columns for column in wanted):
            return wanted, "the sample's columns are columns of the table"
        names = set(wanted)
        for column in others:
            if len(set(columns[column]) & names) > len(names) / 2:
                return column, "its values are the sample's columns"
    if len(wanted) == 1 and wanted[0] in others:
        return wanted[0], "the sample's column has its name"
    if sample is not None and sample.cells:
        cells = {part for cell in sample.cells for part in (cell, *cell.split())}
        for column in others:
            values = Counter(columns[column])
            if len(values) > 1 and cells & set(values) and max(values.values()) > 1 and not _is_measure(columns[column]):
                return column, "the sample's cells are among its values"
    named = [column for column in others if LABEL_NAMES.match(column)]
    if named:
        return named[0], "by its name"
    one_hot = [column for column in others if set(columns[column]) <= {"0", "1", "0.0", "1.0"}]
    if len(one_hot) > 1:
        return one_hot, "columns of 0 and 1"
    for column in others:
        if 1 < len(set(columns[column])) < len(columns[column]) / 2 and not _is_measure(columns[column]):
            return column, "a guess: its values recur"
    return None, ""


def _is_measure(cells: Sequence[str]) -> bool:
    return all(is_number(cell) for cell in cells) and any("." in cell and not cell.endswith(".0") for cell in cells)


def _describe_labels(survey: Survey, table: FoundTable, draft: Draft) -> None:
    """Set the fields of the labels, the task, and the metric that the sample suggests."""
    labels, why = _find_labels(survey, table)
    assert labels is not None
    split = _split_column(table)
    rows = range(len(table)) if split is None else [i for i, cell in enumerate(table.columns[split[0]]) if cell in split[1]]
    if isinstance(labels, list):
        draft.set("data.label_columns", labels, why)
        sums = Counter(sum(float(table.columns[column][i] or 0) > 0 for column in labels) for i in rows)
        if set(sums) != {1}:
            draft.set("data.label_separator", " ", f"{sum(n for k, n in sums.items() if k != 1):,} rows have no label or several")
            draft.set("objective.name", "bce")
        draft.set("train.metric", "roc_auc", "a guess; the sample's columns are probabilities, which log_loss wants as well")
        return
    cells = [table.columns[labels][i] for i in rows]
    filled = [cell for cell in cells if cell.strip()]
    draft.set(
        "data.label_column", labels, f"{why}; {len(set(filled)):,} values, such as {first_few(map(repr, sorted(set(filled))), 3)}"
    )
    strangers = [label for label, _ in Counter(filled).most_common() if NEW_NAMES.match(label)]
    if strangers:
        draft.set("data.new_label", strangers[0], "an individual that isn't known; null makes it a class like the others")
        draft.set("objective.name", "arcface")
        return
    answers = [] if survey.sample is None else survey.sample.cells
    new = next((cell for cell in dict.fromkeys(answers) if NEW_NAMES.match(cell)), None)
    if new is not None:
        draft.set("data.new_label", new, "the sample's answer for an individual that isn't known")
        draft.set("objective.name", "arcface")
        draft.set("predict.submission", "label")
        return
    separator = splits_into_labels(filled)
    if separator is not None:
        draft.set("data.label_separator", separator, "cells hold several labels")
        draft.set("objective.name", "bce")
        draft.set("train.metric", "micro_f1", "a guess; samples_f1, macro_f1 and f2_samples are for lists of labels too")
        return
    _describe_one_label(filled, answers, survey, draft)


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
    elif numeric and len(values) > 2 and (fractions or _is_measure(cells)):
        draft.set("data.task", "number", "the labels are numbers, and the sample's cells are fractions")
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


# --- test images and groups -------------------------------------------------------------------------------------------------------


def _describe_test(survey: Survey, train: FoundTable, draft: Draft, in_train: bool) -> None:
    """Set the fields of the test images and of the sample's ids."""
    sample = survey.sample
    if sample is None:
        tests = [image for image in survey.images if re.search("test", image.partition("/")[0], re.IGNORECASE)]
        if tests and not in_train:
            draft.set("data.test_dir", common_folder(tests), "by its name")
        return
    if in_train:
        _set_id_column(sample.ids, train, draft)
        return
    asked = survey.images_of(sample.ids)
    table = _test_table(survey, train)
    names_are_images = len(asked) > 0.9 * len(sample.ids) and not _is_ambiguous(survey, sample.ids)
    if table is not None:
        column = survey.image_column(table)
        draft.set("data.test_csv", table.path, f"{len(table):,} rows")
        cells = table.columns[column[0]] if column is not None else []
        if column is not None and column[0] == draft.fields["data"]["image_column"][0]:
            draft.set("data.test_dir", _image_root(cells, survey.images_of(cells)))
        elif column is None and "image_pattern" in draft.fields["data"]:
            name = draft.fields["data"]["image_column"][0]
            starts = tuple(table.columns.get(name, [])[:50])
            found = [image for image in survey.images if starts and image_stem(image).startswith(starts)]
            draft.set("data.test_dir", common_folder(found))
        _set_id_column(sample.ids, table, draft)
    elif names_are_images:
        draft.set("data.test_dir", common_folder(asked), "holds the images that the sample lists")
    elif "image_pattern" in draft.fields["data"]:
        starts = tuple(sample.ids[:50])
        found = [image for image in survey.images if image_stem(image).startswith(starts)]
        draft.set("data.test_dir", common_folder(found))


def _is_ambiguous(survey: Survey, names: Sequence[str]) -> bool:
    return any(len(survey.stems.get(image_stem(name), [])) > 1 for name in names)


def _test_table(survey: Survey, train: FoundTable) -> FoundTable | None:
    """Return the table that lists what the sample asks for: one called test that has its ids and the images' column."""
    assert survey.sample is not None
    asked = {image_stem(name) for name in survey.sample.ids}
    for table in survey.tables:
        if table is train or not re.search("test|query", table.path, re.IGNORECASE):
            continue
        if any(asked <= {image_stem(cell) for cell in cells} for cells in table.columns.values()):
            return table
    return None


def _set_id_column(ids: Sequence[str], table: FoundTable, draft: Draft) -> None:
    """Name the column of the sample's ids where they aren't the images' names."""
    name = draft.fields["data"]["image_column"][0]
    if {image_stem(cell) for cell in ids} <= {image_stem(cell) for cell in table.columns.get(name, [])}:
        return
    for column, cells in table.columns.items():
        if set(ids) <= set(cells):
            draft.set("data.id_column", column, "holds the sample's ids")
            if len(set(cells)) < len(cells):
                draft.hint("predict", "pool: max  # several images have one id; the mean of their probabilities is the default")
            return


def _suggest_groups(survey: Survey, table: FoundTable, draft: Draft) -> None:
    """Set a group column that is called like one, and suggest others in which values recur."""
    data = draft.fields["data"]
    taken = {data[key][0] for key in ("image_column", "label_column", "id_column") if key in data}
    chosen = None
    for column, cells in table.columns.items():
        values = len(set(cells))
        if column in taken or not 1 < values < 0.9 * len(cells) or any(not cell.strip() for cell in cells):
            continue
        if GROUP_NAMES.search(column) and values >= 5 and chosen is None:
            chosen = column
            draft.set("folds.group_column", column, f"{values:,} values: images of one stay on one side of a split")
        elif values >= 10 and re.search("id$|group", column, re.IGNORECASE):
            draft.hint(
                "folds", f"group_column: {column}  # {values:,} values recur; if images of one are alike, keep them together"
            )
    if chosen is not None:
        return
    names = {image_stem(cell) for cell in table.columns.get(data["image_column"][0], [])} if "image_pattern" not in data else set()
    for other in survey.tables:
        if other is table or survey.image_column(other) is None or "test" in other.path.lower():
            continue
        image = survey.image_column(other)
        if image is None or not names <= {image_stem(cell) for cell in other.columns[image[0]]}:
            continue
        columns = [name for name, cells in other.columns.items() if GROUP_NAMES.search(name) and len(set(cells)) < len(other)]
        if columns:
            draft.set("folds.group_csv", other.path)
            draft.set("folds.group_column", columns[0], "images of one stay on one side of a split")
            return


# --- folders instead of a table, and sizes ----------------------------------------------------------------------------------------


def _describe_folders(survey: Survey, draft: Draft) -> None:
    """Set the fields of class folders, or of labels in file names. Raises FlukeError where neither is found."""
    draft.set("data.train_csv", None)
    asked = set() if survey.sample is None else {image_stem(name) for name in survey.sample.ids}
    by_folder = Counter(image.rpartition("/")[0] for image in survey.images)
    tests = [image for image in survey.images if image_stem(image) in asked]
    test_dir = common_folder([image for image in tests if re.search("test", image, re.IGNORECASE)] or tests) if tests else None
    if test_dir is None and (named := [image for image in survey.images if re.search("test", image.partition("/")[0], re.I)]):
        test_dir = common_folder(named)
    parents: dict[str, set[str]] = {}
    for folder in by_folder:
        parent, _, name = folder.rpartition("/")
        if folder and (test_dir is None or not (folder == test_dir or folder.startswith(test_dir + "/"))):
            parents.setdefault(parent or ".", set()).add(name)
    classes = max(parents, key=lambda parent: (len(parents[parent]), "train" in parent), default=None)
    if classes is not None and len(parents[classes]) > 1:
        draft.set("data.train_dir", classes, f"{len(parents[classes])} class folders: {first_few(sorted(parents[classes]), 4)}")
        metric = "log_loss" if survey.sample is not None and len(survey.sample.prediction_columns) > 1 else "accuracy"
        draft.set("train.metric", metric, "a guess; macro_f1 and balanced_accuracy are for one label too")
        _group_by_table(survey, draft)
    else:
        training = [image for image in survey.images if test_dir is None or not image.startswith(test_dir + "/")]
        starts = Counter(re.match(r"[^\W\d_]*", image_stem(image)).group() for image in training)  # type: ignore[union-attr]
        starts = Counter({start: n for start, n in starts.items() if start and n > 1})
        if not 1 < len(starts) < len(training) / 2:
            raise FlukeError(
                f"{survey.folder}: no table names its images with labels, and they are in no class folders; see docs/contests.md."
            )
        draft.set("data.train_dir", common_folder(training))
        beginnings = "|".join(re.escape(start) for start in sorted(starts))
        draft.set("data.label_pattern", f"(?:^|/)({beginnings})[^/]*$", "file names begin with the label")
        cells = [] if survey.sample is None else survey.sample.cells
        fractions = any(is_number(cell) and not float(cell).is_integer() for cell in cells)
        if len(starts) == 2 and fractions:
            draft.set("data.order", sorted(starts), "the sample's column is the probability of the second")
            draft.set("train.metric", "log_loss", "a guess; roc_auc also wants probabilities")
        else:
            draft.set("train.metric", "accuracy", "a guess")
    if test_dir is not None:
        draft.set("data.test_dir", test_dir)


def _group_by_table(survey: Survey, draft: Draft) -> None:
    """Take groups from a table that lists the images of the class folders."""
    for table in survey.tables:
        column = survey.image_column(table)
        group = next((name for name in table.columns if GROUP_NAMES.search(name)), None)
        if column is not None and group is not None and column[1] == 1:
            draft.set("folds.group_csv", table.path)
            draft.set("folds.group_column", group, "images of one stay on one side of a split")
            return


def _describe_size(survey: Survey, draft: Draft) -> None:
    """Say how large the images are, and set a smaller size for small ones."""
    sampled = [survey.folder / image for image in survey.images]
    sizes = describe_sizes(sampled)
    draft.notes.append(sizes)
    short = re.search(r"short side [\d,]* to ([\d,]+)|short side ([\d,]+)", sizes)
    if short is not None and (side := int((short[1] or short[2]).replace(",", ""))) < 160:
        draft.set("data.size", max(32, -(-side // 32) * 32), "the images are small")
