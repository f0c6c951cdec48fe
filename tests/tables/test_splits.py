"""Splits: exact sizes, stratified, grouped, a training image for every class, reproducible."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from lib.config.recipe import Data, Folds
from lib.errors import FlukeError
from lib.tables.loading import load_train
from lib.tables.splits import (
    assign_folds,
    describe_copies,
    describe_folds,
    describe_split,
    keep_split,
    keep_together,
    split_holdout,
    split_identities,
    write_copies,
    write_folds,
)
from lib.tables.table import Table
from lib.tables.target import ONE_LABEL, SEVERAL_LABELS


def table(
    labels: list[tuple[str, ...]], groups: list[str] | None = None, folds: list[int] | None = None, multi: bool = False
) -> Table:
    names = [f"{i}.jpg" for i in range(len(labels))]
    return Table(
        rows=np.arange(len(labels)),
        names=names,
        paths=[Path(name) for name in names],
        labels=labels,
        classes=tuple(sorted({label for each in labels for label in each})),
        groups=None if groups is None else np.array(groups),
        target=SEVERAL_LABELS if multi else ONE_LABEL,
        folds=None if folds is None else np.array(folds),
    )


def table_of_sizes(sizes: list[int], seed: int = 0) -> Table:
    labels = [(f"c{k}",) for k, size in enumerate(sizes) for _ in range(size)]
    return table([labels[i] for i in np.random.RandomState(seed).permutation(len(labels))])


def load_real(shared: Path, name: str) -> Table:
    data = {
        "fashion79": {
            "root": "",
            "train_csv": "fashion79/train.csv",
            "image_dir": "fashion",
            "label_column": "labels",
            "label_separator": " ",
        },
        "nyala": {"root": "nyala", "image_dir": "train", "image_column": "Image", "label_column": "Id"},
    }[name]
    folds = Folds(group_csv="sightings.csv" if name == "nyala" else None)
    return load_train(Data(**data | {"root": str(shared / "data" / str(data["root"]))}), folds)  # type: ignore[arg-type]


# --- hold-out ---------------------------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=12), st.floats(0.05, 0.9), st.booleans(), st.integers(0, 3))
def test_holdout_is_exact_stratified_and_leaves_each_class_an_image(
    sizes: list[int], share: float, stratify: bool, seed: int
) -> None:
    t = table_of_sizes(sizes)
    n, count = len(t), round(len(t) * share)
    if not 0 < count < n or sum(sizes) == len(sizes):
        return
    train, held = split_holdout(t, Folds(holdout=share, stratify=stratify, seed=seed))
    assert sorted([*train, *held]) == list(range(n))
    assert train.tolist() == sorted(train)
    assert len(held) == min(count, sum(size - 1 for size in sizes))
    assert set(t.take(train).counts()) == set(t.classes)
    by_number = split_holdout(t, Folds(holdout=count, stratify=stratify, seed=seed))[1]
    np.testing.assert_array_equal(held, by_number)
    if stratify and all(size - 1 >= size * count / n for size in sizes):  # no class is too small for its share
        got = t.take(held).counts()
        assert all(abs(got[f"c{k}"] - size * count / n) < 1 for k, size in enumerate(sizes))


def test_shares_of_small_classes_are_rounded_cumulatively() -> None:
    """Each of 100 classes of two images has a share of 0.4 images; rounded one by one, none would be held out."""
    t = table_of_sizes([2] * 100 + [300])
    held = t.take(split_holdout(t, Folds(holdout=0.2))[1]).counts()
    assert held["c100"] == 60
    assert sum(held.values()) == 100


def test_larger_classes_make_up_for_classes_of_one_image_in_proportion() -> None:
    t = table_of_sizes([1] * 40 + [10] * 4 + [100])
    held = t.take(split_holdout(t, Folds(holdout=0.2))[1]).counts()  # 36 of the 140 rows that may be held out
    assert all(2 <= held[f"c{k}"] <= 3 for k in range(40, 44))
    assert 25 <= held["c44"] <= 26


def test_classes_of_one_image_stay_in_training_and_are_named() -> None:
    t = table_of_sizes([1, 1, 30, 20])
    train, held = split_holdout(t, Folds(holdout=0.5))
    assert len(held) == 26
    assert set(t.take(held).counts()) == {"c2", "c3"}
    description = describe_split(t, train, held)
    assert "26 rows to train on, 26 held out" in description
    assert "2 classes, too small for this share, are in training only: 'c0', 'c1'" in description


def test_unstratified_rows_are_drawn_from_the_whole_table() -> None:
    t = table([("a",) if i < 500 else ("b",) for i in range(1000)])
    held = split_holdout(t, Folds(holdout=300, stratify=False))[1]
    assert len(held) == 300
    assert 440 < held.mean() < 560
    assert t.take(held).counts()["a"] != 150  # the number in a stratified hold-out


@pytest.mark.parametrize("holdout", [0.001, 10.0, 11.0])
def test_impossible_holdouts(holdout: float) -> None:
    with pytest.raises(FlukeError, match=r"folds.holdout .* of the 10 images"):
        split_holdout(table_of_sizes([5, 5]), Folds(holdout=holdout))
    with pytest.raises(FlukeError, match="no row can be held out"):
        split_holdout(table_of_sizes([1, 1, 1]), Folds(holdout=0.4))


def test_grouped_holdout(shared: Path) -> None:
    t = load_real(shared, "nyala")
    assert t.groups is not None
    for seed in range(3):
        train, held = split_holdout(t, Folds(seed=seed))
        assert not set(t.groups[train]) & set(t.groups[held])
        assert abs(len(held) - 0.2 * len(t)) <= 2
        assert set(t.take(train).counts()) == set(t.classes)
        sizes, got = t.counts(), t.take(held).counts()
        off = [abs(got[label] - 0.2 * size) for label, size in sizes.items()]
        assert max(off) <= 4  # a group has up to 4 images
        shares = pd.Series(sizes).to_frame("n").assign(held=pd.Series(got)).fillna(0)
        small = shares[shares.n <= 6].sum()
        assert 0.1 < small.held / small.n < 0.3


def test_whole_groups_come_as_near_to_the_share_as_possible() -> None:
    t = table([(f"c{i // 100}",) for i in range(200)], groups=[f"g{i // 10}" for i in range(200)])
    assert len(split_holdout(t, Folds(holdout=12))[1]) == 10
    sizes = [6, 1, 1, 1, 1, 1, 1]
    t = table([("a",)] * 12, groups=[f"g{g}" for g, size in enumerate(sizes) for _ in range(size)])
    assert np.bincount(assign_folds(t, Folds(n=2))).tolist() == [6, 6]


def test_groups_of_several_classes_keep_each_class_in_training() -> None:
    random = np.random.default_rng(0)
    for seed in range(20):
        n = 60
        t = table([(f"c{k}",) for k in random.integers(0, 6, n)], groups=[f"g{g}" for g in random.integers(0, 15, n)])
        assert t.groups is not None
        train, held = split_holdout(t, Folds(holdout=0.3, seed=seed))
        assert set(t.take(train).counts()) == set(t.classes)
        assert not set(t.groups[train]) & set(t.groups[held])


# --- folds ------------------------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=12), st.integers(2, 6), st.integers(0, 3))
def test_fold_sizes_differ_by_one_row_in_all_and_per_class(sizes: list[int], n: int, seed: int) -> None:
    t = table_of_sizes(sizes)
    if len(t) < n:
        return
    fold = assign_folds(t, Folds(n=n, seed=seed))
    assert fold.dtype == np.int64
    assert np.ptp(np.bincount(fold, minlength=n)) <= 1
    for k in range(len(sizes)):
        in_class = np.array([labels == (f"c{k}",) for labels in t.labels or []])
        assert np.ptp(np.bincount(fold[in_class], minlength=n)) <= 1


@pytest.mark.filterwarnings("ignore:The least populated class:UserWarning")
def test_grouped_folds_are_as_even_as_those_of_scikit_learn(shared: Path) -> None:
    t = load_real(shared, "nyala")
    y = t.targets()

    def unevenness(fold: np.ndarray) -> float:
        return float(
            np.abs(np.array([np.bincount(y[fold == f], minlength=len(t.classes)) for f in range(5)]) - np.bincount(y) / 5).sum()
        )

    ours = assign_folds(t, Folds(n=5))
    theirs = np.zeros(len(t), dtype=np.int64)
    for f, (_, held) in enumerate(StratifiedGroupKFold(5).split(y, y, t.groups)):
        theirs[held] = f
    assert unevenness(ours) <= 1.02 * unevenness(theirs)
    assert np.ptp(np.bincount(ours)) <= 4
    assert len(set(zip(t.groups, ours))) == len(set(t.groups))  # type: ignore[arg-type]


def test_classes_with_fewer_images_than_folds_are_described() -> None:
    t = table_of_sizes([1, 3, 20])
    fold = assign_folds(t, Folds(n=5))
    description = describe_folds(t, fold)
    assert "1 classes are in some of the folds only: 'c1'" in description
    assert "1 classes are in one fold only, whose model never trains on them: 'c0'" in description
    with pytest.raises(FlukeError, match="has only 2 groups"):
        assign_folds(table([("a",), ("b",), ("a",)], groups=["g", "g", "h"]), Folds(n=3))


def test_recorded_folds_of_a_seed() -> None:
    """A change of these values changes every user's folds."""
    t = table_of_sizes([2, 3, 7, 12])
    assert assign_folds(t, Folds(n=3, seed=5)).tolist() == GOLDEN_FOLDS
    assert split_holdout(t, Folds(holdout=0.25, seed=5))[1].tolist() == GOLDEN_HELD
    m = table([("a", "b") if i % 3 else ("b", "c") if i % 4 else () for i in range(24)], multi=True)
    assert assign_folds(m, Folds(n=3, seed=5)).tolist() == GOLDEN_MULTI
    assert assign_folds(t, Folds(n=3, seed=6)).tolist() != GOLDEN_FOLDS
    assert assign_folds(m, Folds(n=3, seed=6)).tolist() != GOLDEN_MULTI
    assert split_holdout(t, Folds(holdout=0.25, seed=6))[1].tolist() != GOLDEN_HELD


GOLDEN_FOLDS = [2, 1, 0, 2, 1, 1, 0, 0, 2, 0, 0, 1, 1, 0, 2, 1, 1, 2, 1, 2, 0, 0, 2, 2]
GOLDEN_HELD = [2, 10, 17, 18, 20, 23]
GOLDEN_MULTI = [0, 0, 0, 0, 1, 2, 1, 2, 2, 2, 1, 1, 2, 0, 1, 2, 0, 2, 1, 1, 1, 0, 0, 2]


# --- several labels per image -----------------------------------------------------------------------------------------------------


def test_several_labels_are_stratified(shared: Path) -> None:
    t = load_real(shared, "fashion79")
    y = t.targets()
    train, held = split_holdout(t, Folds(holdout=1000))
    assert len(held) == 1000
    assert len(train) == len(t) - 1000
    share = 1000 / len(t)
    random = np.random.default_rng(0).permutation(len(t))[:1000]

    def off(rows: np.ndarray) -> float:
        return float(np.abs(y[rows].sum(axis=0) / y.sum(axis=0) - share).mean())

    assert off(held) < 0.1 * off(random)
    assert abs(held.mean() / len(t) - 0.5) < 0.03  # from the whole table, not from its beginning or end
    fold = assign_folds(t, Folds(n=5))
    for f in range(5):
        assert abs((fold == f).sum() - len(t) / 5) < 10
        assert np.abs(y[fold == f].sum(axis=0) / y.sum(axis=0) - 0.2).mean() < 0.01


def test_several_labels_with_groups_and_rare_labels() -> None:
    random = np.random.default_rng(1)
    labels = [tuple(f"l{k}" for k in range(6) if random.random() < 0.3) for _ in range(200)]
    labels[7] += ("once",)
    t = table(labels, groups=[f"g{i // 3}" for i in range(200)], multi=True)
    assert t.groups is not None
    for stratify in (True, False):
        train, held = split_holdout(t, Folds(holdout=0.25, stratify=stratify))
        assert not set(t.groups[train]) & set(t.groups[held])
        assert 44 <= len(held) <= 52
        assert 7 in train
        fold = assign_folds(t, Folds(n=4, stratify=stratify))
        assert len(set(zip(t.groups, fold))) == len(set(t.groups))
        assert set(fold) == {0, 1, 2, 3}
    sizes = np.minimum(1 + random.exponential(6, 100).astype(int), 40)
    many = [tuple(f"l{k}" for k in range(6) if random.random() < 0.1 * k) for _ in range(sizes.sum())]
    t = table(many, groups=[f"g{g}" for g, size in enumerate(sizes) for _ in range(size)], multi=True)
    fold = assign_folds(t, Folds(n=5))
    assert len(set(zip(t.groups, fold))) == 100  # type: ignore[arg-type]
    assert np.abs(np.bincount(fold) / len(t) - 0.2).max() < 0.01
    at_random = np.random.default_rng(0).integers(5, size=100)[np.repeat(np.arange(100), sizes)]
    y = t.targets()[:, 1:]
    off = [np.mean([np.abs(y[f == k].sum(0) / y.sum(0) - 0.2) for k in range(5)]) for f in (fold, at_random)]
    assert off[0] < 0.3 * off[1]
    one = table([("a",) if i % 4 else () for i in range(40)], multi=True)
    assert Counter(one.take(assign_folds(one, Folds(n=5)) == 2).labels) == {("a",): 6, (): 2}  # type: ignore[arg-type]


# --- the user's own folds ---------------------------------------------------------------------------------------------------------


def test_written_folds_are_read_back(tmp_path: Path) -> None:
    names = ["a,1.jpg", 'b"2.jpg', "ü 3.jpg", "d.jpg", "e.jpg", "f.jpg"]
    for name in names:
        (tmp_path / name).touch()
    pd.DataFrame({"image": names, "label": list("xyxyxy")}).to_csv(tmp_path / "train.csv", index=False)
    t = load_train(Data(root=str(tmp_path)), Folds())
    fold = assign_folds(t, Folds(n=3))
    write_folds(tmp_path / "folds.csv", t, fold)
    own = load_train(Data(root=str(tmp_path)), Folds(csv="folds.csv"))
    np.testing.assert_array_equal(assign_folds(own, Folds(n=3, seed=9)), fold)
    train, held = split_holdout(own, Folds(csv="folds.csv"))
    np.testing.assert_array_equal(held, np.flatnonzero(fold == 0))
    assert len(train) + len(held) == 6
    with pytest.raises(FlukeError, match=r"folds.n 5 needs the folds 0 to 4 \(found: 0, 1, 2\)"):
        assign_folds(own, Folds(n=5))
    with pytest.raises(FlukeError, match="0 of 4 rows are in fold 0"):
        split_holdout(table([("a",)] * 4, folds=[1, 1, 2, 2]), Folds())
    t = table([("a",), ("a",), ("b",)], folds=[1, 1, 0])
    assert "1 classes are held out whole, so the model never trains on them: 'b'" in describe_split(t, *split_holdout(t, Folds()))


def test_no_identity_is_unknown_without_a_new_label() -> None:
    labels = [(name,) for name in "aabbccdd" for _ in range(2)]
    names = [str(i) for i in range(16)]
    table = Table(np.arange(16), names, [Path(name) for name in names], labels, tuple("abcd"), None, ONE_LABEL)
    train, _ = split_identities(table, Folds(unknown=0.5, holdout=0.25), None, False)
    assert {labels[i] for i in train} == {(name,) for name in "abcd"}
    train, _ = split_identities(table, Folds(unknown=0.5, holdout=0.25), "new", False)
    assert len({labels[i] for i in train}) == 2


# --- identical images -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grouped", [False, True])
def test_sets_are_joined_with_the_groups_that_they_touch(grouped: bool) -> None:
    groups = [f"g{i // 3}" for i in range(30)] if grouped else None
    sets = [[0, 7], [7, 20], [28, 29], [5, 11]]
    joined = keep_together(table([("x",)] * 30, groups), sets)
    assert joined.groups is not None
    unit = [{i} for i in range(30)] if groups is None else [{j for j in range(30) if groups[j] == groups[i]} for i in range(30)]
    changed = True
    while changed:  # brute force: units that share a row or a set become one
        changed = False
        for i in range(30):
            touched = set(unit[i]).union(*(same for same in sets if unit[i] & set(same)))
            touched = touched.union(*(unit[j] for j in touched))
            changed |= touched != unit[i]
            unit[i] = touched
    assert all((joined.groups[i] == joined.groups[j]) == (j in unit[i]) for i in range(30) for j in range(30))


def test_a_table_without_identical_images_stays_as_it_is() -> None:
    plain = table([("x",), ("y",)] * 5)
    assert keep_together(plain, []) is plain


def test_identical_images_stay_on_one_side_and_classes_keep_their_shares() -> None:
    plain = table_of_sizes([100, 60, 40])
    position = {label: np.flatnonzero([row == (label,) for row in plain.labels or []]) for label in plain.classes}
    sets = [position[label][i : i + 2].tolist() for label in plain.classes for i in (0, 5, 9)]
    joined = keep_together(plain, sets)
    for seed in range(10):
        _, held_out = split_holdout(joined, Folds(holdout=0.2, seed=seed))
        fold = assign_folds(joined, Folds(n=5, seed=seed))
        assert all(np.isin(same, held_out).sum() in (0, 2) and len(set(fold[same])) == 1 for same in sets)
        for label, size in zip(plain.classes, (100, 60, 40)):
            assert abs(np.isin(position[label], held_out).sum() - 0.2 * size) <= 2
            assert np.ptp(np.bincount(fold[position[label]], minlength=5)) <= 2


def test_a_run_goes_on_with_its_split_alone(tmp_path: Path) -> None:
    """An image that changes sides, appears or vanishes is named."""
    named = lambda names: replace(table([("x",)] * len(names)), names=list(names))  # noqa: E731
    keep_split(tmp_path / "split.csv", named("ab"), named("c"), begun=False)
    assert (tmp_path / "split.csv").read_text() == "image,side\na,train\nb,train\nc,held out\n"
    keep_split(tmp_path / "split.csv", named("ba"), named("c"), begun=True)
    for train, held_out, changed in (("ac", "b", "b, c"), ("ab", "cd", "d"), ("a", "c", "b"), ("abc", "", "c")):
        with pytest.raises(FlukeError, match=rf"{len(changed.split(','))} images were .* \({changed}\)"):
            keep_split(tmp_path / "split.csv", named(train), named(held_out), begun=True)


def test_contradicting_labels_come_first(tmp_path: Path) -> None:
    some = table([("x",), ("x",), ("y",), ("x",)])
    write_copies(tmp_path / "duplicates.csv", some, [[0, 1], [2, 3]])
    assert (tmp_path / "duplicates.csv").read_text() == "set,image,label\n0,2.jpg,y\n0,3.jpg,x\n1,0.jpg,x\n1,1.jpg,x\n"
    assert "1 have several labels: '2.jpg' 'y' = '3.jpg' 'x'" in describe_copies(some, [[0, 1], [2, 3]], "files")
    own = table([("x",), ("x",), ("y",), ("x",)], folds=[0, 1, 1, 1])
    assert "folds.csv puts 1 of them into several folds" in describe_copies(own, [[0, 1], [2, 3]], "files")


@pytest.mark.parametrize("seed", range(3))
def test_a_holdout_of_several_labels_is_exact_and_stratified(seed: int) -> None:
    """Each label gives its share, much nearer than a random draw would."""
    rng = np.random.default_rng(seed)
    drawn = rng.random((600, 5)) < [0.5, 0.3, 0.1, 0.05, 0.03]
    drawn[:, 0] |= ~drawn.any(axis=1)
    labels = [tuple("abcde"[c] for c in np.flatnonzero(row)) for row in drawn]
    train, held_out = split_holdout(table(labels, multi=True), Folds(holdout=0.2, seed=seed))
    assert (len(train), len(held_out)) == (480, 120)
    assert (np.abs(drawn[held_out].sum(axis=0) - 0.2 * drawn.sum(axis=0)) <= [6, 6, 2.5, 2, 2]).all()  # the rare ones exactly
