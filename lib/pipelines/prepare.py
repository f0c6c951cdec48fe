"""Write a first recipe from what lies in a contest's folder."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from lib.config import command_line
from lib.config.draft import Draft
from lib.config.schema import PATH as SCHEMA
from lib.errors import FlukeError, first_few
from lib.files import write_text
from lib.images.checking import describe_sizes
from lib.pipelines.prepare_lists import describe_folder_lists, describe_table_lists
from lib.pipelines.prepare_long import read_long_form
from lib.pipelines.prepare_table import describe_table_fields
from lib.process import announce
from lib.submission.choice import check_sample
from lib.tables.folders import image_stem
from lib.tables.guesses import GROUP_NAMES, choose_train_table
from lib.tables.loading import load_test, load_train
from lib.tables.sample import load_sample
from lib.tables.survey import Survey, common_folder, is_number, survey_folder
from lib.tables.table import describe_table

PARTS_OF_IMAGES = "predictionstring|prediction_string|encodedpixels|encoded_pixels|bbox|bboxes|rle|segmentation"
"""Names of columns that hold boxes or masks."""
NEGATIVE_NAMES = re.compile(
    "^(cover|normal|healthy|negative|clean|background|real|benign|no|non|not|without|0)([^a-z]|$)", re.IGNORECASE
)
"""Names of folders of the class that a probability isn't of."""


def prepare_recipe(folder: Path, out: Path) -> str:
    """Write a recipe for the contest in `folder` to `out`, load its tables once, and return the recipe's text.

    Raises FlukeError when nothing to train on is found, or `out` exists.
    """
    if out.exists():
        raise FlukeError(f"{out}: exists; name another file with --out, or delete it.")
    survey = survey_folder(folder)
    draft = Draft(
        notes=[f"Written by scripts/prepare.py from {folder}: {len(survey.images):,} images, tables: {len(survey.tables)}"]
    )
    draft.notes += survey.notes
    draft.set("data.root", str(folder))
    parts = _asks_for_parts(survey)
    if parts is not None:
        draft.notes.append(parts)
        survey = replace(survey, sample=None, sample_path=None)
    survey = read_long_form(survey, draft)
    train = choose_train_table(survey)
    try:
        if train is None:
            if not describe_folder_lists(survey, draft):
                _describe_folders(survey, draft)
        else:
            describe_table_fields(survey, train, draft)
            describe_table_lists(survey, train, draft)
    except FlukeError:
        if parts is not None:
            raise FlukeError(f"{folder}: {parts}.") from None
        raise
    if survey.sample_path is not None:
        draft.set("data.sample_submission", survey.sample_path)
    else:
        data = draft.fields["data"]
        one = "numbers" if data.get("task", [None])[0] == "number" else "labels" if "label_separator" in data else "label"
        form = "scores" if "label_columns" in data else one
        draft.set("predict.submission", form, "no sample submission was found: this form is written")
    if survey.images:
        _describe_size(survey, draft)
    draft.hint("model", "name: tf_efficientnet_lite0  # any model of timm; the default is resnet18")
    text = draft.text(Path(os.path.relpath(SCHEMA, out.resolve().parent)).as_posix())
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, text)
    print(text)
    _check(out)
    script = "train_embedding" if "new_label" in draft.fields["data"] else "train_classifier"
    announce([out], f"accelerate launch scripts/{script}.py --cfg {out} --out runs/first")
    if script == "train_embedding":
        clusters = survey.sample is not None and survey.sample.prediction_columns == ["cluster"]
        print(f"then: python scripts/{'discover' if clusters else 'retrieve'}.py --run runs/first")
    return text


def _asks_for_parts(survey: Survey) -> str | None:
    """Return what to say of a sample submission that asks for boxes or masks; None for another."""
    columns = [] if survey.sample is None else survey.sample.prediction_columns
    parts = [name for name in columns if re.fullmatch(PARTS_OF_IMAGES, name, re.IGNORECASE)]
    if not parts:
        return None
    return f"{survey.sample_path}, column {parts[0]}, asks for boxes or masks; only labels of whole images are learnt and written"


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


def _describe_folders(survey: Survey, draft: Draft) -> None:
    """Set the fields of class folders, or of labels in file names. Raises FlukeError where neither is found."""
    draft.set("data.train_csv", None)
    asked = set() if survey.sample is None else {image_stem(name) for name in survey.sample.ids}
    by_folder = Counter(image.rpartition("/")[0] for image in survey.images)
    tests = [image for image in survey.images if image_stem(image) in asked]
    test_dir = common_folder([image for image in tests if re.search("test", image, re.IGNORECASE)] or tests) if tests else None
    named = [image for image in survey.images if re.search("(^|[/_-])test", image.rpartition("/")[0], re.IGNORECASE)]
    if test_dir is None and named:
        test_dir = common_folder(named)
    parents: dict[str, set[str]] = {}
    for folder in by_folder:
        parent, _, name = folder.rpartition("/")
        if folder and (test_dir is None or not (folder == test_dir or folder.startswith(test_dir + "/"))):
            parents.setdefault(parent or ".", set()).add(name)
    classes = max(parents, key=lambda parent: (len(parents[parent]), "train" in parent), default=None)
    if classes is not None and len(parents[classes]) > 1:
        draft.set("data.train_dir", classes, f"{len(parents[classes])} class folders: {first_few(sorted(parents[classes]), 4)}")
        if not _describe_negative_folder(sorted(parents[classes]), survey, draft):
            cells = [] if survey.sample is None else survey.sample.cells
            longest = max((len(cell.split()) for cell in cells if set(cell.split()) <= parents[classes]), default=0)
            if longest > 1:
                draft.set("train.metric", f"map@{longest}", f"a guess: the sample's cells are {longest} labels")
            else:
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


def _describe_negative_folder(folders: list[str], survey: Survey, draft: Draft) -> bool:
    """Set the fields of two classes where the sample holds numbers and one folder is called like the negative class.

    Returns whether that is so; where no folder is called so, a hint shows how the classes are merged.
    """
    cells = [] if survey.sample is None else survey.sample.cells
    if not cells or set(cells) & set(folders) or not all(map(is_number, cells)):
        return False
    negative = [folder for folder in folders if NEGATIVE_NAMES.search(folder)]
    merged = {folder: "0" if folder in negative else "1" for folder in folders}
    if len(negative) != 1:
        draft.hint("data", f"class_map: {merged}  # the sample's cells are numbers: say which folders are 0 and which are 1")
        return False
    draft.set("data.class_map", merged, f"a guess: the sample's cells are numbers, and {negative[0]!r} is called like class 0")
    draft.set("train.metric", "roc_auc", "a guess; weighted_auc and log_loss want probabilities as well")
    return True


def _group_by_table(survey: Survey, draft: Draft) -> None:
    """Take groups from a table that lists the images of the class folders."""
    for table in survey.tables:
        column = survey.image_column(table)
        group = next((name for name in table.columns if GROUP_NAMES.search(name)), None)
        if column is not None and group is not None and column[1] == 1:
            draft.set("data.join_csv", table.path)
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
