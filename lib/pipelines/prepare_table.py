"""The fields of a recipe for a contest whose training images are listed in a table."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from lib.config.draft import Draft
from lib.pipelines.prepare_labels import describe_labels
from lib.tables.folders import image_stem
from lib.tables.guesses import (
    GROUP_NAMES,
    channel_patterns,
    group_pattern,
    image_pattern,
    image_root,
    is_ambiguous,
    join_labels,
    split_column,
    test_table,
)
from lib.tables.survey import FoundTable, Survey, common_folder, folder_of


def describe_table_fields(survey: Survey, table: FoundTable, draft: Draft) -> None:
    """Set the fields of a training table, its images, its labels, the test and the groups."""
    draft.set("data.train_csv", table.path, f"{len(table):,} rows")
    table, joined = join_labels(survey, table)
    if joined is not None:
        other, key = joined
        draft.set("data.join_csv", other.path, "has the labels of these rows")
        draft.set("data.join_key", key)
        if len(set(table.columns[key])) < len(table):
            draft.set("folds.group_column", key, "the rows of one share a label: they stay on one side of a split")
    column = survey.image_column(table)
    if table.pixels:
        _describe_pixels(survey, table, draft)
        return
    if column is not None:
        images = survey.images_of(table.columns[column[0]])
        draft.set("data.image_column", column[0], f"its cells name {column[1]:.0%} of the rows' images")
    else:
        name, pattern = image_pattern(survey, table) or ("", "")
        images = [image for image in survey.images if any(image_stem(image).startswith(cell) for cell in table.columns[name][:50])]
        draft.set("data.image_column", name, "a row has several images, whose names begin with it")
        if channels := channel_patterns(survey, table, name):
            draft.set(
                "data.channels", channels, "grey files with the same endings in each row; image_pattern takes them one by one"
            )
        else:
            draft.set("data.image_pattern", pattern)
    cells = table.columns[column[0]] if column is not None else []
    folder = _folder_of(survey, cells, "train")
    draft.set("data.image_dir", folder or image_root(cells, images))
    split = split_column(table)
    if split is not None:
        draft.set("data.train_where", {split[0]: split[1]}, "the table holds training and test rows")
        draft.set("data.test_where", {split[0]: split[2]})
    describe_labels(survey, table, draft)
    _describe_test(survey, table, draft, split is not None)
    _suggest_groups(survey, table, draft)


def _describe_pixels(survey: Survey, table: FoundTable, draft: Draft) -> None:
    """Set the fields of a table whose cells hold the pixels, of its labels and of the test's."""
    draft.set("data.pixel_columns", list(table.pixels), f"pictures of {table.side} x {table.side} pixels in the table's cells")
    lists = not table.pixels[0].endswith("*")
    if lists and len(table.pixels) != 3:
        draft.set("data.channels", len(table.pixels), "one per column; 1 is grey")
    draft.set("data.size", max(32, -(-table.side // 32) * 32), "the images are small")
    ids = set() if survey.sample is None else {survey.sample.columns[survey.sample.id_column]}
    if named := [name for name in table.columns if name in ids and len(set(table.columns[name])) == len(table)]:
        draft.set("data.image_column", named[0], "names the rows, as in the sample")
    split = split_column(table)
    if split is not None:
        draft.set("data.train_where", {split[0]: split[1]}, "the table holds training and test rows")
        draft.set("data.test_where", {split[0]: split[2]})
    others = [other for other in survey.tables if other.pixels == table.pixels and re.search("test", other.path, re.IGNORECASE)]
    if split is None and others:
        draft.set("data.test_csv", others[0].path, "has the same columns of pixels")
    describe_labels(survey, table, draft)


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
    table = test_table(survey, train)
    names_are_images = len(asked) > 0.9 * len(sample.ids) and not is_ambiguous(survey, sample.ids)
    if table is not None:
        column = survey.image_column(table)
        draft.set("data.test_csv", table.path, f"{len(table):,} rows")
        cells = table.columns[column[0]] if column is not None else []
        if same := survey.images_of(table.columns.get(draft.fields["data"]["image_column"][0], [])):
            cells = table.columns[draft.fields["data"]["image_column"][0]]
            folder = _folder_of(survey, cells, "test")
            draft.set("data.test_dir", folder or image_root(cells, same))
        elif column is not None:
            draft.set("data.test_image_column", column[0], f"names the images of {table.path}")
            found = survey.images_of(cells)
            draft.set("data.test_dir", _folder_of(survey, cells, "test") or image_root(cells, found))
        elif _has_several_files(draft):
            name = draft.fields["data"]["image_column"][0]
            starts = tuple(table.columns.get(name, [])[:50])
            found = [image for image in survey.images if starts and image_stem(image).startswith(starts)]
            draft.set("data.test_dir", common_folder(found))
        _set_id_column(sample.ids, table, draft)
    elif (folder := _folder_of(survey, sample.ids, "test")) is not None:
        draft.set("data.test_dir", folder, "holds the images that the sample lists")
    elif names_are_images:
        draft.set("data.test_dir", common_folder(asked), "holds the images that the sample lists")
    elif _has_several_files(draft):
        starts = tuple(sample.ids[:50])
        found = [image for image in survey.images if image_stem(image).startswith(starts)]
        draft.set("data.test_dir", common_folder(found))


def _folder_of(survey: Survey, names: Sequence[str], word: str) -> str | None:
    """Return the folder of images whose names, written without folders, images of other folders have too."""
    written_with_folder = any("/" in name for name in names)
    return folder_of(survey.images, names, word) if names and not written_with_folder and is_ambiguous(survey, names) else None


def _has_several_files(draft: Draft) -> bool:
    """Return whether a row's cell is only the beginning of the names of its files."""
    return bool({"image_pattern", "channels"} & draft.fields["data"].keys())


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
    taken = {data[key][0] for key in ("image_column", "label_column") if key in data}
    chosen = draft.fields.get("folds", {}).get("group_column", [None])[0]
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
    cells = table.columns.get(data["image_column"][0], []) if "image_column" in data and not _has_several_files(draft) else []
    names = {image_stem(cell) for cell in cells}
    for other in survey.tables:
        if other is table or survey.image_column(other) is None or "test" in other.path.lower():
            continue
        image = survey.image_column(other)
        if image is None or not names <= {image_stem(cell) for cell in other.columns[image[0]]}:
            continue
        columns = [name for name, cells in other.columns.items() if GROUP_NAMES.search(name) and len(set(cells)) < len(other)]
        if columns:
            draft.set("data.join_csv", other.path)
            draft.set("folds.group_column", columns[0], "images of one stay on one side of a split")
            return
    if data.get("new_label") is None and (found := group_pattern(cells)) is not None:
        pattern, why, sure = found
        if sure:
            draft.set("folds.group_pattern", pattern, f"{why}: they stay on one side of a split")
        else:
            draft.hint("folds", f"group_pattern: {json.dumps(pattern)}  # {why}; if they show one thing, keep them together")
