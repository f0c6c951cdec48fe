"""What is seen when: a function of (seed, epoch, row), the same for any number of workers and processes, and from any batch on."""

import functools
import operator
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import chisquare

from lib.config.recipe import Data, Model, Train
from lib.errors import FlukeError
from lib.images.augmentation import make_eval_transform, make_train_transform
from lib.images.dataset import ImageDataset, make_eval_loader, make_train_loader
from lib.images.samplers import (
    ClassGroupOrder,
    RandomOrder,
    ShardedBatches,
    check_batch_size,
    count_earlier,
    derive_seed,
    sampling_weights,
)
from lib.models.network import Network, NetworkSpec
from lib.training.inference import InferenceOptions, predict


def test_seeds_are_the_same_everywhere_and_all_differ() -> None:
    assert [derive_seed(), derive_seed(0), derive_seed(0, 1, 2)] == [5460801731388113703, 7210762507766007076, 1772749440416956875]
    assert derive_seed(np.int64(3), 4) == derive_seed(3, 4)
    seeds = {derive_seed(a, b, c) for a in range(10) for b in range(10) for c in range(100)}
    assert len(seeds) == 10_000
    assert all(0 <= seed < 2**63 for seed in seeds)


@given(st.integers(1, 60), st.integers(0, 5), st.integers(0, 3), st.booleans())
def test_order_is_a_function_of_seed_and_epoch(n: int, epoch: int, seed: int, weighted: bool) -> None:
    weights = np.arange(1.0, n + 1) if weighted else None
    order = RandomOrder(n, seed, weights)
    first = order(epoch)
    order(epoch + 1)
    np.random.seed(0)  # what others draw changes nothing
    assert np.array_equal(order(epoch), first)
    assert np.array_equal(RandomOrder(n, seed, weights)(epoch), first)
    if not weighted:
        assert sorted(first) == list(range(n))
    if n > 12:
        assert not np.array_equal(order(epoch + 1), first)
        assert not np.array_equal(RandomOrder(n, seed + 1, weights)(epoch), first)


def rows(batches: ShardedBatches) -> list[list[int]]:
    return [[row for _, row, _ in batch] for batch in batches]


@given(st.integers(1, 5), st.integers(1, 60), st.integers(1, 6), st.integers(0, 3))
def test_shares_of_all_processes_are_the_batches_of_one(world: int, n: int, share: int, epoch: int) -> None:
    if n < world:
        return
    order, size = RandomOrder(n, 1), share * world
    ranks = [ShardedBatches(order, n, size, rank, world) for rank in range(world)]
    for each in ranks:
        each.epoch = epoch
    shares = [rows(each) for each in ranks]
    assert len({tuple(map(len, each)) for each in shares}) == 1  # every process has as much of every batch
    joined = [functools.reduce(operator.iadd, parts, []) for parts in zip(*shares)]
    whole = order(epoch).tolist()
    if n >= size:
        one = ShardedBatches(order, n, size)
        one.epoch = epoch
        assert joined == rows(one)
    seen = functools.reduce(operator.iadd, joined, [])
    assert seen == whole[: len(seen)]  # each row at most once
    assert n - len(seen) < size
    assert len(seen) > 0
    assert all(e == epoch for each in ranks for batch in each for e, _, _ in batch)


@given(st.integers(2, 60), st.integers(1, 8), st.integers(0, 9), st.integers(1, 2))
def test_going_on_from_a_batch_skips_what_was_seen(n: int, size: int, start: int, world: int) -> None:
    size *= world
    for rank in range(world):
        whole, rest = (
            ShardedBatches(RandomOrder(n, 3), n, size, rank, world),
            ShardedBatches(RandomOrder(n, 3), n, size, rank, world),
        )
        whole.epoch = rest.epoch = 4
        rest.start = min(start, rest.count)
        assert list(rest) == list(whole)[rest.start :]
        assert len(rest) == len(rows(rest))


def test_weighted_rows_come_as_often_as_their_weights_say() -> None:
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
def test_times_before_count(drawn: list[int]) -> None:
    assert count_earlier(np.array(drawn, int)).tolist() == [drawn[:i].count(row) for i, row in enumerate(drawn)]


def test_a_row_that_comes_again_in_an_epoch_is_augmented_anew(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(tmp_path / "a.png")
    images = ImageDataset([tmp_path / "a.png"] * 3, make_train_transform(Data(size=16, augment=["RandomResizedCrop"])))
    batches = ShardedBatches(RandomOrder(3, 0, np.array([0.0, 1.0, 0.0])), 3, 3)
    (once,) = batches
    assert [row for _, row, _ in once] == [1, 1, 1]
    drawn = [images[index][0] for index in once]
    assert not any(torch.equal(drawn[i], drawn[j]) for i, j in [(0, 1), (0, 2), (1, 2)])
    assert torch.equal(images[once[2]][0], drawn[2])
    repeated = ClassGroupOrder(np.array([0, 1, 1]), 3, 5, "repeat", 0)
    assert {(row, time) for _, row, time in next(iter(ShardedBatches(repeated, 5, 5)))} >= {(0, 0), (0, 1), (0, 2)}


def test_weights_of_several_labels_are_those_of_the_rarest() -> None:
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
def test_batches_of_classes(sizes: list[int], k: int, batch_size: int, singles: str, nameless: int) -> None:
    targets = np.concatenate([np.repeat(np.arange(len(sizes)), sizes), np.full(nameless, -1)])
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


def test_every_class_comes_in_every_epoch_with_k_images() -> None:
    targets = np.repeat(np.arange(10), 8)
    order = ClassGroupOrder(targets, 4, 16, "once", 0)
    for epoch in range(5):
        batches = targets[order(epoch)].reshape(-1, 16)
        assert set(batches.ravel()) == set(range(10))
        assert all((np.bincount(batch)[np.unique(batch)] % 4 == 0).all() for batch in batches)


def test_no_class_with_two_images_is_refused() -> None:
    with pytest.raises(FlukeError, match="no class has two training images; set train.singles to once or repeat"):
        ClassGroupOrder(np.arange(5), 4, 8, "drop", 0)


def test_batches_that_do_not_divide() -> None:
    check_batch_size(Train(batch_size=8), 100, 2)
    with pytest.raises(FlukeError, match=r"train.batch_size 9 counts all processes' images; 2 processes can't share it equally"):
        check_batch_size(Train(batch_size=9), 100, 2)
    with pytest.raises(FlukeError, match="3 training rows are too few for 2 processes"):
        check_batch_size(Train(batch_size=2), 3, 2)


@given(st.integers(1, 50), st.integers(1, 8), st.integers(1, 5))
def test_prediction_covers_every_row_on_any_number_of_processes(n: int, batch_size: int, world: int) -> None:
    paths = [Path(str(i)) for i in range(n)]
    loaders = [
        make_eval_loader(ImageDataset(paths, make_eval_transform(AUGMENT)), batch_size, 0, rank, world) for rank in range(world)
    ]
    batches = [[[row for _, row, _ in batch] for batch in loader.batch_sampler] for loader in loaders]  # type: ignore[attr-defined]
    assert len({tuple(map(len, each)) for each in batches}) == 1  # a gather wants as many from each
    assert {row for each in batches for batch in each for row in batch} == set(range(n))
    assert sum(len(batch) for each in batches for batch in each) == n + (-n % world)


# --- images -----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(13):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return [folder / f"{i}.png" for i in range(13)]


AUGMENT = Data(size=16, augment=[{"RandomResizedCrop": {}}, "RandomHorizontalFlip", {"ColorJitter": {"brightness": 0.5}}])


def test_augmentation_is_a_function_of_seed_epoch_and_row(pictures: list[Path]) -> None:
    def seen(workers: int, start: int = 0, epoch: int = 3, seed: int = 5) -> dict[int, torch.Tensor]:
        images = ImageDataset(pictures, make_train_transform(AUGMENT), seed=seed)
        batches = ShardedBatches(RandomOrder(13, 1), 13, 4)
        batches.epoch, batches.start = epoch, start
        return {int(row): x for xs, _, positions in make_train_loader(images, batches, workers) for row, x in zip(positions, xs)}

    torch.manual_seed(1)
    first = seen(0)
    torch.manual_seed(2)
    for other in (seen(2), seen(0, start=2)):
        assert all(torch.equal(first[row], x) for row, x in other.items())
    for other in (seen(0, epoch=4), seen(0, seed=6)):
        assert any(not torch.equal(first[row], x) for row, x in other.items() if row in first)


def test_reading_an_image_leaves_the_random_state_as_it_was(pictures: list[Path]) -> None:
    before = torch.get_rng_state()
    ImageDataset(pictures, make_train_transform(AUGMENT))[0, 3, 0]
    assert torch.equal(torch.get_rng_state(), before)


def test_mirrored_individuals_are_flipped_pictures(pictures: list[Path]) -> None:
    twice = ImageDataset([*pictures, *pictures], make_eval_transform(AUGMENT), mirrored_from=13)
    assert torch.equal(twice[0, 13 + 4, 0][0], twice[0, 4, 0][0].flip(-1))


@pytest.mark.parametrize("n", [1, 3, 4, 5, 13])
@pytest.mark.parametrize("workers", [0, 2])
def test_predictions_are_complete_and_in_order(n: int, workers: int, pictures: list[Path]) -> None:
    torch.manual_seed(0)
    spec = NetworkSpec(Model("test_vit", pretrained=False, kwargs={"img_size": 16}), ("a", "b"), False, "classifier", 16, "squash")
    network = Network(spec)
    images = ImageDataset(pictures[:n], make_eval_transform(AUGMENT))
    found = predict([network], images, Accelerator(cpu=True), InferenceOptions(4, workers))[0]
    network.eval()
    with torch.inference_mode():
        alone = torch.cat([network(images[0, i, 0][0][None])["output"] for i in range(n)]).numpy()
    assert found.dtype == np.float32
    assert np.allclose(found, alone, atol=1e-5)
