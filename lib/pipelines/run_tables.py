"""The tables of a run: rows to train on, held-out rows and test rows, and their images as datasets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from lib.config.recipe import Recipe
from lib.errors import did_you_mean
from lib.images.augmentation import Transform, cache_side
from lib.images.cache import open_cache
from lib.images.checking import describe_sizes, find_unreadable
from lib.images.dataset import ImageDataset
from lib.images.duplicates import find_identical
from lib.images.near_duplicates import SIDE, find_copies
from lib.pipelines.readable import require_test_images
from lib.submission.choice import check_sample
from lib.tables import filters, loading, splits
from lib.tables.extra import group_copies, join_extra, load_extra
from lib.tables.sample import Sample, load_sample
from lib.tables.table import Table, describe_table
from lib.tables.target import Target
from lib.training.distributed import broadcast_from_main, run_on_main
from lib.training.run import Run


@dataclass(frozen=True)
class Fold:
    """One fold of a k-fold run; the k-fold run loads the tables and predicts the test images."""

    train: Table
    """All n training rows, whose images were checked."""
    of_row: np.ndarray
    """(n,) fold of each row."""
    number: int
    """The fold to hold out."""
    images_to_predict: int
    """Test images that the k-fold run has to predict after this fold, before the fold's deadline."""
    extra: Table | None = None
    """Rows for training only, of all folds."""


@dataclass(frozen=True)
class ContestTables:
    """The tables that a recipe names, without unreadable images."""

    train: Table
    test: Table | None
    extra: Table | None
    """Rows for training only (data.extra_csv)."""


@dataclass(frozen=True)
class Splits:
    """The tables of a run."""

    train: Table
    val: Table
    test: Table | None
    cached: Table | None
    """All rows whose images share one cache, so that folds and splits of a table don't make one each; None: each table its own."""
    own: Table
    """`train` without rows for training only."""
    images_to_predict: int = 0
    """Test images to predict after the training and before the run's deadline, by the run or by the k-fold run it is a fold of."""
    answers: Sequence[str] = ()
    """What a submission has to answer for: names or ids of all test images, in a dry run too."""


def load_tables(recipe: Recipe, run: Run, target: Target) -> ContestTables:
    """Return the recipe's tables, without unreadable images if it says so. Raises FlukeError.

    A classifier of data.only_classes keeps the rows of other classes. Its split is then the one of a run on all classes, and its
    scores of the held-out rows can be combined with that run's.
    """
    d = recipe.data
    train = loading.load_train(d, recipe.folds, keep_others=target.outputs == "logits")
    extra = load_extra(d, recipe.folds, train, identities=target.outputs == "embeddings")
    test = loading.load_test(d, train.classes, train.target)

    tables = [table for table in (train, extra, test) if table is not None]
    paths = [path for table in tables for path in table.paths]
    thumbnails = torch.zeros(len(paths), 3, SIDE, SIDE, dtype=torch.uint8) if d.duplicates == "near" else None
    check = partial(run.check_signal, "checking images")
    unreadable = broadcast_from_main(run.accelerator, lambda: find_unreadable(paths, d.workers, d.check, check, thumbnails))
    ends = np.cumsum([0, *map(len, tables)])
    bad = [{i - start: unreadable[i] for i in unreadable if start <= i < end} for start, end in pairwise(ends.tolist())]
    train = filters.drop_unreadable(train, bad[0], d.on_unreadable)
    if extra is not None:
        extra = filters.drop_unreadable(extra, bad[1], d.on_unreadable)
    if test is not None:
        test = require_test_images(test, bad[-1], d.on_unreadable)
    if d.duplicates != "off":
        readable = np.delete(np.arange(len(paths)), sorted(unreadable))
        found = thumbnails[readable] if thumbnails is not None else None
        train, extra = _keep_copies_together(run, ContestTables(train, test, extra), found)
    run.log(describe_table(train.take(train.in_classes())))
    run.log(f"  {describe_sizes(train.paths)}; unreadable: {len(bad[0]):,}")
    for what, table in (("extra", extra), ("test", test)):
        if table is not None:
            run.log("\n".join([f"{what}: {len(table):,} images of {table.source}", *(f"  {note}" for note in table.notes)]))
    return ContestTables(train, test, extra)


def _keep_copies_together(run: Run, tables: ContestTables, thumbnails: torch.Tensor | None) -> tuple[Table, Table | None]:
    """Return the training rows and the extra ones with the copies of an image in one group each; logs, lists and counts copies.

    Copies are files with the same bytes and, with `thumbnails` of all tables' images, uint8 (n, 3, SIDE, SIDE), similar ones.
    Raises FlukeError for an extra image that has the bytes of a training image.
    """
    train, test, extra = tables.train, tables.test, tables.extra
    trained = len(train) + (0 if extra is None else len(extra))
    paths = train.paths + (extra.paths if extra is not None else []) + (test.paths if test is not None else [])
    stop = partial(run.check_signal, "comparing images")

    def find() -> tuple[list[list[int]], list[list[int]]]:
        identical = find_identical(paths, stop)
        return identical, identical if thumbnails is None else find_copies(paths, thumbnails, identical, stop)

    identical, found = broadcast_from_main(run.accelerator, find)
    sets = [within for same in found if len(within := [i for i in same if i < len(train)]) > 1]
    in_test = sum(i >= trained for same in found if same[0] < len(train) for i in same)
    what = "files under several names" if thumbnails is None else "photographs, copied or edited"
    if sets:
        run.log(splits.describe_copies(train, sets, what))
        run_on_main(run.accelerator, lambda: splits.write_copies(run.folder.duplicates, train, sets))
    if in_test:
        same = "training images, byte for byte" if thumbnails is None else "copies of training images"
        run.log(f"duplicates: {in_test:,} test images are {same}")
    if extra is not None:
        return group_copies(train, extra, _within(identical, trained), _within(found, trained))
    return train if train.folds is not None else splits.keep_together(train, sets), None


def _within(sets: list[list[int]], n: int) -> list[list[int]]:
    """Return the sets of two and more positions below `n`."""
    return [within for same in sets if len(within := [i for i in same if i < n]) > 1]


def load_splits(recipe: Recipe, run: Run, target: Target, fold: Fold | None) -> Splits:
    """Return the rows to train on, to validate on and to predict. Raises FlukeError."""
    loaded = ContestTables(fold.train, None, fold.extra) if fold else load_tables(recipe, run, target)
    table, test, extra = loaded.train, loaded.test, loaded.extra
    answers = [] if test is None else test.answers
    train_rows, val_rows = _split_rows(recipe, run, target, table, fold)
    if target.outputs == "logits":
        train_rows = train_rows[table.in_classes()[train_rows]]
    if limit := recipe.train.limit_rows:
        train_rows = evenly_spaced(train_rows, limit)
        val_rows = val_rows if fold else evenly_spaced(val_rows, limit)  # the table of all folds was cut before
        test = test.take(evenly_spaced(np.arange(len(test)), limit)) if test is not None else None
        extra = extra.take(evenly_spaced(np.arange(len(extra)), limit)) if extra is not None else None
    run.log(splits.describe_split(table, train_rows, val_rows))
    cached = table if fold else table.take(np.union1d(train_rows, val_rows))
    own, held_out = table.take(train_rows), table.take(val_rows)
    train, said = join_extra(own, extra, held_out, identities=target.outputs == "embeddings")
    if extra is not None:
        run.log(said)
        cached = cached.join(extra)
    to_predict = fold.images_to_predict if fold else 0 if test is None else len(test)
    return Splits(train, held_out, test, None if limit else cached, own, to_predict, answers)


def _split_rows(recipe: Recipe, run: Run, target: Target, table: Table, fold: Fold | None) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the rows to train on and of the held-out ones."""
    d = recipe.data
    if target.outputs == "embeddings":
        if d.new_label is not None and d.new_label not in (counts := table.counts()):
            hint = did_you_mean(d.new_label, counts)
            run.log(f"note: no training image has the label {d.new_label!r} (data.new_label){hint}")
        of_fold = (fold.of_row, fold.number) if fold else None
        return splits.split_identities(table, recipe.folds, d.new_label, d.new_rows == "negatives", of_fold)
    if fold is None:
        return splits.split_holdout(table, recipe.folds)
    return np.flatnonzero(fold.of_row != fold.number), np.flatnonzero(fold.of_row == fold.number)


def find_sample(recipe: Recipe, run: Run, train: Table, answers: Sequence[str]) -> Sample | None:
    """Return the sample submission to fill, None without one and in a dry run (train.limit_rows), which fills none.

    `answers` are the names or ids of all test images, if there are any. Raises FlukeError for a sample that predictions won't fit.
    """
    whole = replace(recipe, train=replace(recipe.train, limit_rows=None))
    sample = load_sample(whole, answers, train.classes)
    if sample is not None and answers:
        run.log(check_sample(sample, recipe.predict, answers, train.classes, train.target, recipe.train.metric))
        if recipe.train.limit_rows is not None:
            run.log("dry run (train.limit_rows): the sample submission fits; none is written, because not all images are predicted")
    return None if recipe.train.limit_rows is not None else sample


def evenly_spaced(rows: np.ndarray, n: int) -> np.ndarray:
    """Return `n` of `rows`, evenly spaced, so that a dry run meets every part of the table."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(n, len(rows))).astype(int))]


def group_list(table: Table) -> list[str] | None:
    """Return the groups of a table's rows as a score file holds them."""
    return None if table.groups is None else [str(group) for group in table.groups]


def make_dataset(
    recipe: Recipe,
    table: Table,
    transform: Transform,
    targets: np.ndarray | None = None,
    cached: Table | None = None,
    stop: Callable[[], None] = lambda: None,
) -> ImageDataset:
    """Return the images of a table, read through the cache if the recipe has one.

    The cache is that of the images of `cached`, of which the table is a part (None: of the table). `targets` longer than the table
    say that its mirrored images follow. `stop` is called while a cache is built and may raise.
    """
    d = recipe.data
    cache = None
    if d.cache_dir is not None:
        short_side = d.cache_size or cache_side(d)
        paths, boxes = (table.paths, table.boxes) if cached is None else (cached.paths, cached.boxes)
        position = {path: i for i, path in enumerate(paths)}
        whole = open_cache(Path(d.cache_dir), paths, short_side, d.workers, stop, boxes)
        cache = whole.take([position[path] for path in table.paths])
    mirrored = targets is not None and len(targets) > len(table)
    return ImageDataset(table.paths, transform, targets, recipe.train.seed, cache, mirrored, table.boxes)


@dataclass(frozen=True)
class FoldTables:
    """What the folds share."""

    train: Table
    of_row: np.ndarray
    """(n,) fold of each training row."""
    test: Table | None
    sample: Sample | None
    extra: Table | None = None
    """Rows for training only."""
