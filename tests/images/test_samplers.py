"""Order of the rows: functions of seed and epoch, the same on any number of processes, and from any batch on."""

import functools
import operator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from lib.config.recipe import Train
from lib.errors import FlukeError
from lib.images.samplers import (
    ClassGroupOrder,
    RandomOrder,
    ShardedBatches,
    check_batch_size,
    count_repeats,
    derive_seed,
    sampling_weights,
    share_with_partner,
)


def test_derived_seeds_are_fixed_and_distinct() -> None:
    assert [derive_seed(), derive_seed(0), derive_seed(0, 1, 2)] == [5460801731388113703, 7210762507766007076, 1772749440416956875]
    assert derive_seed(np.int64(3), 4) == derive_seed(3, 4)
    seeds = {derive_seed(a, b, c) for a in range(10) for b in range(10) for c in range(100)}
    assert len(seeds) == 10_000
    assert all(0 <= seed < 2**63 for seed in seeds)


@given(st.integers(1, 60), st.integers(0, 5), st.integers(0, 3), st.booleans())
def test_order_depends_on_seed_and_epoch_alone(n: int, epoch: int, seed: int, weighted: bool) -> None:
    weights = np.arange(1.0, n + 1) if weighted else None
    order = RandomOrder(n, seed, weights)
    first = order(epoch)
    order(epoch + 1)
    np.random.seed(0)  # the global generator has no influence
    assert np.array_equal(order(epoch), first)
    assert np.array_equal(RandomOrder(n, seed, weights)(epoch), first)
    if not weighted:
        assert sorted(first) == list(range(n))
    if n > 12:
        assert not np.array_equal(order(epoch + 1), first)
        assert not np.array_equal(RandomOrder(n, seed + 1, weights)(epoch), first)


def positions_of(batches: ShardedBatches) -> list[list[int]]:
    return [[position for _, position, _ in batch] for batch in batches]


@given(st.integers(1, 5), st.integers(1, 60), st.integers(1, 6), st.integers(0, 3))
def test_shares_of_all_processes_are_the_batches_of_one(num_processes: int, n: int, share: int, epoch: int) -> None:
    if n < num_processes:
        return
    order, size = RandomOrder(n, 1), share * num_processes
    ranks = [ShardedBatches(order, n, size, rank, num_processes) for rank in range(num_processes)]
    for each in ranks:
        each.epoch = epoch
    shares = [positions_of(each) for each in ranks]
    assert len({tuple(map(len, each)) for each in shares}) == 1  # every process has an equal share of every batch
    joined = [functools.reduce(operator.iadd, parts, []) for parts in zip(*shares)]
    assert {each.size for each in ranks} == {len(batch) for batch in joined}
    expected = order(epoch).tolist()
    if n >= size:
        one = ShardedBatches(order, n, size)
        one.epoch = epoch
        assert joined == positions_of(one)
    seen = functools.reduce(operator.iadd, joined, [])
    assert seen == expected[: len(seen)]  # each row at most once
    assert n - len(seen) < size
    assert len(seen) > 0
    assert all(e == epoch for each in ranks for batch in each for e, _, _ in batch)


@given(st.integers(2, 60), st.integers(1, 8), st.integers(0, 9), st.integers(1, 2))
def test_resuming_at_a_batch_skips_the_batches_before(n: int, size: int, start: int, num_processes: int) -> None:
    size *= num_processes
    for rank in range(num_processes):
        complete, resumed = (ShardedBatches(RandomOrder(n, 3), n, size, rank, num_processes) for _ in range(2))
        complete.epoch = resumed.epoch = 4
        resumed.start = min(start, resumed.count)
        assert list(resumed) == list(complete)[resumed.start :]
        assert len(resumed) == len(positions_of(resumed))


def test_weighted_rows_are_drawn_in_proportion_to_their_weights() -> None:
    targets = np.repeat([0, 1, 2], [80, 15, 5])
    for power, share in [
        (1.0, [1 / 3, 1 / 3, 1 / 3]),
        (0.0, [0.8, 0.15, 0.05]),
        (0.5, np.sqrt([80, 15, 5]) / np.sqrt([80, 15, 5]).sum()),
    ]:
        order = RandomOrder(100, 0, sampling_weights(targets, power))
        drawn = np.concatenate([targets[order(epoch)] for epoch in range(100)])
        assert chisquare(np.bincount(drawn), 10_000 * np.asarray(share)).pvalue > 1e-3


@given(st.lists(st.integers(0, 6), max_size=30))
def test_repeats_are_counted(drawn: list[int]) -> None:
    assert count_repeats(np.array(drawn, int)).tolist() == [drawn[:i].count(row) for i, row in enumerate(drawn)]


@given(st.lists(st.integers(-1, 4), min_size=1, max_size=40), st.integers(1, 9))
def test_share_of_images_with_a_partner_in_their_batch(targets: list[int], size: int) -> None:
    batches = [targets[i : i + size] for i in range(0, len(targets), size)]
    labeled = [(target, batch) for batch in batches for target in batch if target >= 0]
    expected = sum(batch.count(target) > 1 for target, batch in labeled) / max(len(labeled), 1)
    assert share_with_partner(np.array(targets), size) == pytest.approx(expected)


def test_row_with_several_labels_has_the_weight_of_the_rarest() -> None:
    targets = np.array([[1, 1], [1, 0], [1, 0], [0, 0]], np.float32)
    assert np.allclose(sampling_weights(targets, 1.0), [1, 1 / 3, 1 / 3, 1 / 4])
    assert np.allclose(sampling_weights(targets, 1.0, np.array([2.0, 1.0])), [1, 2 / 3, 2 / 3, 1 / 4])
    assert np.allclose(sampling_weights(targets, 0.0, np.array([0.2, 0.5])), [0.5, 0.2, 0.2, 1])
    one = np.array([0, 0, 0, 1, 2, 2])
    assert np.allclose(sampling_weights(one, 1.0, np.array([6.0, 1.0, 1.0, 1.0])), [2, 2, 2, 1, 0.5, 0.5])


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=8),
    st.integers(1, 5),
    st.integers(2, 16),
    st.sampled_from(["once", "repeat", "drop"]),
    st.integers(0, 3),
)
def test_class_groups_fill_whole_batches_without_repeats(
    sizes: list[int], k: int, batch_size: int, singles: str, unlabeled: int
) -> None:
    targets = np.concatenate([np.repeat(np.arange(len(sizes)), sizes), np.full(unlabeled, -1)])
    try:
        order = ClassGroupOrder(targets, k, batch_size, singles, 0)
    except FlukeError:
        assert singles == "drop"
        assert max(sizes) == 1
        return
    epoch = order(2)
    assert np.array_equal(epoch, ClassGroupOrder(targets, k, batch_size, singles, 0)(2))
    assert len(epoch) == order.n
    assert order.n % order.batch_size == 0
    for i in range(0, order.n, order.batch_size):
        batch = epoch[i : i + order.batch_size]
        repeated = {row for row in batch if (batch == row).sum() > 1}
        if singles != "repeat" and order.n <= len(targets):
            assert not repeated  # never an image paired with itself


def test_every_class_has_k_images_in_every_epoch() -> None:
    targets = np.repeat(np.arange(10), 8)
    order = ClassGroupOrder(targets, 4, 16, "once", 0)
    for epoch in range(5):
        batches = targets[order(epoch)].reshape(-1, 16)
        assert set(batches.ravel()) == set(range(10))
        assert all((np.bincount(batch)[np.unique(batch)] % 4 == 0).all() for batch in batches)


def test_table_without_a_class_of_two_images_is_refused() -> None:
    with pytest.raises(FlukeError, match="no class has two training images; set train.singles to once or repeat"):
        ClassGroupOrder(np.arange(5), 4, 8, "drop", 0)


def test_batch_size_that_processes_cannot_share_is_refused() -> None:
    check_batch_size(Train(batch_size=8), 100, 2)
    with pytest.raises(FlukeError, match=r"train.batch_size: 9 images of all processes can't be shared equally by 2 processes"):
        check_batch_size(Train(batch_size=9), 100, 2)
    with pytest.raises(FlukeError, match="training rows: 3 are too few for 2 processes"):
        check_batch_size(Train(batch_size=2), 3, 2)


def test_class_groups_are_shuffled_anew_in_each_epoch() -> None:
    order = ClassGroupOrder(np.repeat(np.arange(20), 4), 2, 8, "once", 0)
    epochs = [order(epoch).tolist() for epoch in range(4)]
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert [rows[0] // 4 for rows in epochs] != [0] * 4  # neither the classes nor the rows within one keep the table's order
    assert len({frozenset(rows[rows.index(0) & ~1 : (rows.index(0) & ~1) + 2]) for rows in epochs}) > 1
    assert ClassGroupOrder(np.repeat(np.arange(20), 4), 2, 8, "once", 1)(0).tolist() != epochs[0]
