"""The tables of a run: rows to train on, held-out rows and test rows, and their images as datasets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
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
from lib.tables import filters, loading, splits
from lib.tables.sample import Sample
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


@dataclass(frozen=True)
class Splits:
    """The tables of a run."""

    train: Table
    val: Table
    test: Table | None
    cached: Table | None
    """All rows whose images share one cache, so that folds and splits of a table don't make one each; None: each table its own."""


def load_tables(recipe: Recipe, run: Run, target: Target) -> tuple[Table, Table | None]:
    """Return the training table, without unreadable images if the recipe says so, and the test table if there is one.

    A classifier of data.only_classes keeps the rows of other classes. Its split is then the one of a run on all classes, and its
    scores of the held-out rows can be combined with that run's.
    """
    d = recipe.data
    train_table = loading.load_train(d, recipe.folds, keep_others=target.outputs == "logits")
    test = loading.load_test(d, train_table.classes, train_table.target)

    paths = train_table.paths + (test.paths if test is not None else [])
    thumbnails = torch.zeros(len(paths), 3, SIDE, SIDE, dtype=torch.uint8) if d.duplicates == "near" else None
    check = partial(run.check_signal, "checking images")
    unreadable = broadcast_from_main(run.accelerator, lambda: find_unreadable(paths, d.workers, d.check, check, thumbnails))
    bad_train = {i: reason for i, reason in unreadable.items() if i < len(train_table)}
    bad_test = {i - len(train_table): reason for i, reason in unreadable.items() if i >= len(train_table)}
    readable = np.delete(np.arange(len(paths)), sorted(bad_train))
    train_table = filters.drop_unreadable(train_table, bad_train, d.on_unreadable)
    if test is not None:
        test = filters.drop_unreadable(test, bad_test, "error", what="test")
    if d.duplicates != "off":
        train_table = _keep_copies_together(run, train_table, test, thumbnails[readable] if thumbnails is not None else None)
    run.log(describe_table(train_table.take(train_table.in_classes())))
    run.log(f"  {describe_sizes(train_table.paths)}; unreadable: {len(bad_train):,}")
    if test is not None:
        run.log("\n".join([f"test: {len(test):,} images of {test.source}", *(f"  {note}" for note in test.notes)]))
    return train_table, test


def _keep_copies_together(run: Run, train: Table, test: Table | None, thumbnails: torch.Tensor | None) -> Table:
    """Return the training table with the copies of an image in one group each; logs and lists them, and counts those in the test.

    Copies are files with the same bytes and, with `thumbnails` of both tables' images, uint8 (n, 3, SIDE, SIDE), similar ones.
    """
    paths = train.paths + (test.paths if test is not None else [])
    stop = partial(run.check_signal, "comparing images")

    def find() -> list[list[int]]:
        identical = find_identical(paths, stop)
        return identical if thumbnails is None else find_copies(paths, thumbnails, identical, stop)

    found = broadcast_from_main(run.accelerator, find)
    sets = [within for same in found if len(within := [i for i in same if i < len(train)]) > 1]
    in_test = sum(i >= len(train) for same in found if same[0] < len(train) for i in same)
    what = "files under several names" if thumbnails is None else "photographs, copied or edited"
    if sets:
        run.log(splits.describe_copies(train, sets, what))
        run_on_main(run.accelerator, lambda: splits.write_copies(run.folder.duplicates, train, sets))
    if in_test:
        same = "training images, byte for byte" if thumbnails is None else "copies of training images"
        run.log(f"duplicates: {in_test:,} test images are {same}")
    return train if train.folds is not None else splits.keep_together(train, sets)


def load_splits(recipe: Recipe, run: Run, target: Target, fold: Fold | None) -> Splits:
    """Return the rows to train on, to validate on and to predict. Raises FlukeError."""
    table, test = (fold.train, None) if fold else load_tables(recipe, run, target)
    train_rows, val_rows = _split_rows(recipe, run, target, table, fold)
    if target.outputs == "logits":
        train_rows = train_rows[table.in_classes()[train_rows]]
    if limit := recipe.train.limit_rows:
        train_rows = evenly_spaced(train_rows, limit)
        val_rows = val_rows if fold else evenly_spaced(val_rows, limit)  # the table of all folds was cut before
        test = test.take(evenly_spaced(np.arange(len(test)), limit)) if test is not None else None
    run.log(splits.describe_split(table, train_rows, val_rows))
    cached = None if limit else table if fold else table.take(np.union1d(train_rows, val_rows))
    return Splits(table.take(train_rows), table.take(val_rows), test, cached)


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
        paths = table.paths if cached is None else cached.paths
        position = {path: i for i, path in enumerate(paths)}
        cache = open_cache(Path(d.cache_dir), paths, short_side, d.workers, stop).take([position[path] for path in table.paths])
    mirrored = targets is not None and len(targets) > len(table)
    return ImageDataset(table.paths, transform, targets, recipe.train.seed, cache, mirrored)


@dataclass(frozen=True)
class FoldTables:
    """What the folds share."""

    train: Table
    of_row: np.ndarray
    """(n,) fold of each training row."""
    test: Table | None
    sample: Sample | None
