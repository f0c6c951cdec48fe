"""The fields of a recipe for a data set whose text files list the images for training and for the test (Food-101, NIH's X-rays)."""

from __future__ import annotations

import re

from lib.config.draft import Draft
from lib.tables.survey import FoundTable, Survey, common_folder

CALLED = "lists have no column names: the first column is called so"


def describe_folder_lists(survey: Survey, draft: Draft) -> bool:
    """Set the fields of class folders whose images are listed; return whether they are."""
    train = _find_list(survey, "train")
    if train is None:
        return False
    ((column, names),) = train.columns.items()
    images = survey.images_of(names)
    if not all("/" in name for name in names) or len({image.split("/")[-2] for image in images}) < 2:
        return False
    draft.set("data.train_csv", train.path, f"lists {len(train):,} images")
    draft.set("data.image_column", column, CALLED)
    draft.set("data.image_dir", images[0][: images[0].rfind(names[0])].rstrip("/") or ".")
    draft.set("data.label_pattern", "(?:^|/)([^/]+)/[^/]+$", f"the image's folder, such as {names[0].split('/')[-2]!r}")
    draft.set("train.metric", "accuracy", "a guess; macro_f1 and balanced_accuracy are for one label too")
    _describe_test(survey, train, draft)
    return True


def describe_table_lists(survey: Survey, table: FoundTable, draft: Draft) -> None:
    """Change the fields of a table whose rows are for training or for the test, as lists say."""
    train, column = _find_list(survey, "train"), survey.image_column(table)
    if column is None or not {"train_where", "join_csv", "test_csv"}.isdisjoint(draft.fields["data"]):
        return
    if train is not None and set(*train.columns.values()) < set(table.columns[column[0]]):
        name = next(iter(train.columns))
        draft.set("data.train_csv", train.path, f"lists {len(train):,} of the {len(table):,} images")
        draft.set("data.join_csv", table.path, "has the labels of the listed images")
        draft.set("data.join_key", [name, column[0]])
        draft.set("data.image_column", name, CALLED)
    _describe_test(survey, table if train is None else train, draft)


def _describe_test(survey: Survey, train: FoundTable, draft: Draft) -> None:
    """Set the fields of the list of test images in the folder of the training table, if there is one and no sample."""
    test = _find_list(survey, "test", beside=train)
    if test is None or survey.sample is not None:
        return
    ((column, names),) = test.columns.items()
    draft.set("data.test_csv", test.path, f"lists {len(test):,} images")
    draft.set("data.test_image_column", column)
    if "/" not in names[0] and (folder := common_folder(survey.images_of(names))) != ".":
        draft.set("data.test_dir", folder)


def _find_list(survey: Survey, word: str, beside: FoundTable | None = None) -> FoundTable | None:
    """Return the list that is called after `word`, in the folder of `beside` if that is given; of several the shortest name."""
    found = [each for each in survey.lists if re.search(rf"(^|[_/-]){word}", each.path, re.IGNORECASE) and each is not beside]
    if beside is not None:
        found = [each for each in found if common_folder([each.path]) == common_folder([beside.path])]
    return min(found, key=lambda each: len(each.path), default=None)
