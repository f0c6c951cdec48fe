"""Constraints between several fields of a recipe; the range of a single field stands at the field, in lib/config/recipe.py."""

from __future__ import annotations

from lib.config.recipe import Recipe
from lib.config.traits import LOSSES
from lib.errors import FlukeError

Table = list[tuple[object, str]]
"""Rows of a condition, truthy where fields contradict each other, and the sentence that says so."""


def check_constraints(recipe: Recipe) -> None:
    """Check all constraints. Raises FlukeError, in one sentence, for all that don't hold."""
    table = _tables(recipe) + _training(recipe) + _embeddings(recipe)
    if faults := [sentence for broken, sentence in table if broken]:
        raise FlukeError(f"The recipe contradicts itself: {'; '.join(faults)}.")


def _tables(recipe: Recipe) -> Table:
    """Constraints on data and folds."""
    d, f = recipe.data, recipe.folds
    folder, several = d.train_dir is not None, d.label_separator is not None
    numbers = d.task == "number"
    by_column, by_table = f.group_column is not None, f.group_csv is not None
    return [
        (d.label_columns and d.label_pattern, "set one of data.label_columns and data.label_pattern"),
        (d.label_columns and (folder or d.task == "number"), "data.label_columns are labels of data.train_csv"),
        (d.train_where and folder, "data.train_where needs data.train_csv"),
        (
            d.image_pattern and ("{name}" not in d.image_pattern or folder),
            "data.image_pattern needs data.train_csv, and holds {name}",
        ),
        (
            isinstance(d.channels, list) and (folder or d.image_pattern or any("{name}" not in each for each in d.channels)),
            "data.channels as files needs data.train_csv and no data.image_pattern, and each holds {name}",
        ),
        (
            d.pixel_columns and (folder or d.image_pattern or isinstance(d.channels, list)),
            "data.pixel_columns needs data.train_csv, and no data.image_pattern or channels as files",
        ),
        (d.row_pattern and (folder or d.pixel_columns), "data.row_pattern needs data.train_csv, and no data.pixel_columns"),
        (d.test_image_column is not None and d.test_csv is None, "data.test_image_column needs data.test_csv"),
        (d.pixel_shape and not d.pixel_columns, "data.pixel_shape needs data.pixel_columns"),
        (f.group_pattern and (by_column or by_table), "set one of folds.group_pattern, group_column and group_csv"),
        (d.box_columns and d.detections is not None, "set one of data.box_columns and data.detections"),
        (d.box_columns and (folder or len(d.box_columns) not in (4, 5)), "data.box_columns are 4 or 5 columns of data.train_csv"),
        ((d.train_csv is not None) == folder, "set exactly one of data.train_csv and data.train_dir (the other to null)"),
        (several and folder, "data.label_separator needs data.train_csv, not data.train_dir"),
        (
            several and (d.min_images > 1 or d.take or d.only_classes),
            "data.only_classes, min_images and take are for one label per image (data.label_separator null)",
        ),
        (d.task != "label" and several, f"data.task {d.task} is for one label per image (data.label_separator null)"),
        (
            d.order and (several or numbers),
            "data.order is for one label per image (data.label_separator null, data.task not number)",
        ),
        (d.number_columns and not numbers, "data.number_columns needs data.task number"),
        (
            numbers and (d.min_images > 1 or d.take or d.only_classes),
            "data.only_classes, min_images and take are for classes (data.task not number)",
        ),
        (
            by_column and folder and not by_table and d.join_csv is None,
            "folds.group_column needs data.train_csv, data.join_csv or folds.group_csv",
        ),
        (d.join_key and d.join_csv is None, "data.join_key needs data.join_csv"),
        (d.join_csv and by_table, "set one of data.join_csv and folds.group_csv"),
        (
            f.csv is not None and (by_column or by_table or f.group_pattern),
            "folds.csv excludes folds.group_column, group_csv and group_pattern",
        ),
    ]


def _training(recipe: Recipe) -> Table:
    """Constraints on model, objective and train."""
    o, weighted = recipe.objective, recipe.train.sampler == "weighted"
    return [
        (
            o.logit_adjustment and (weighted or o.class_weights != "none"),
            "objective.logit_adjustment, objective.class_weights and train.sampler weighted all correct class shares; use one",
        ),
        (
            recipe.data.task == "number" and (weighted or o.class_weights != "none" or o.logit_adjustment or o.label_smoothing),
            "objective.class_weights, logit_adjustment, label_smoothing and train.sampler weighted are for classes only",
        ),
        (recipe.model.head_from is not None and recipe.model.hidden, "model.head_from needs model.hidden []"),
        (recipe.train.sampler_factors and not weighted, "train.sampler_factors needs train.sampler weighted"),
    ]


def _embeddings(recipe: Recipe) -> Table:
    """Constraints on embeddings and retrieval."""
    d, o, r, tta = recipe.data, recipe.objective, recipe.retrieval, set(recipe.predict.tta)
    mirrored, flips = d.mirror_identities, any("RandomHorizontalFlip" in str(entry) for entry in d.augment)
    pairs = [name for name, traits in LOSSES.items() if traits.compares_pairs]
    return [
        (mirrored and flips, "data.mirror_identities excludes RandomHorizontalFlip in data.augment"),
        ("mirror" in tta and not mirrored, "predict.tta mirror needs data.mirror_identities; use hflip"),
        (mirrored and tta & {"hflip", "hvflip"}, "data.mirror_identities excludes hflip and hvflip in predict.tta; use mirror"),
        (
            d.new_rows == "negatives" and not {o.name, *o.also} & set(pairs),
            f"data.new_rows negatives needs a loss over pairs in objective.name or objective.also ({', '.join(pairs)})",
        ),
        (
            r.metric != "cosine" and (r.centre_weight or r.expand),
            "retrieval.centre_weight and retrieval.expand need retrieval.metric cosine",
        ),
        (r.metric != "cosine" and r.local != "none", "retrieval.local needs retrieval.metric cosine"),
    ]
