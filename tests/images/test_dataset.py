"""Items and batches of images: functions of seed, epoch and position, whatever the number of workers and processes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lib.config.recipe import Data, Model
from lib.images.augmentation import make_eval_transform, make_train_transform
from lib.images.cache import open_cache
from lib.images.dataset import ImageDataset, make_eval_loader, make_train_loader
from lib.images.samplers import ClassGroupOrder, RandomOrder, ShardedBatches
from lib.models.network import Network, NetworkSpec
from lib.tables.target import ONE_LABEL
from lib.training.inference import InferenceOptions, predict


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    for i in range(13):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return [folder / f"{i}.png" for i in range(13)]


AUGMENT = Data(size=16, augment=[{"RandomResizedCrop": {}}, "RandomHorizontalFlip", {"ColorJitter": {"brightness": 0.5}}])


def test_augmentation_depends_on_seed_epoch_and_position_alone(paths: list[Path]) -> None:
    def augmented(workers: int, start: int = 0, epoch: int = 3, seed: int = 5) -> dict[int, torch.Tensor]:
        images = ImageDataset(paths, make_train_transform(AUGMENT), seed=seed)
        batches = ShardedBatches(RandomOrder(13, 1), 13, 4)
        batches.epoch, batches.start = epoch, start
        return {int(row): x for xs, _, positions in make_train_loader(images, batches, workers) for row, x in zip(positions, xs)}

    torch.manual_seed(1)
    first = augmented(0)
    torch.manual_seed(2)
    for other in (augmented(2), augmented(0, start=2)):
        assert all(torch.equal(first[row], x) for row, x in other.items())
    for other in (augmented(0, epoch=4), augmented(0, seed=6)):
        assert any(not torch.equal(first[row], x) for row, x in other.items() if row in first)


def test_reading_an_image_restores_the_random_state(paths: list[Path]) -> None:
    before = torch.get_rng_state()
    ImageDataset(paths, make_train_transform(AUGMENT))[0, 3, 0]
    assert torch.equal(torch.get_rng_state(), before)


def test_mirrored_images_follow_flipped(paths: list[Path], tmp_path: Path) -> None:
    for cache in (None, open_cache(tmp_path, paths, 20, 0)):
        images = ImageDataset(paths, make_eval_transform(AUGMENT), cache=cache, mirrored=True)
        assert len(images) == 26
        assert torch.equal(images[0, 13 + 4, 0][0], images[0, 4, 0][0].flip(-1))


@pytest.mark.parametrize("n", [1, 3, 4, 5, 13])
@pytest.mark.parametrize("workers", [0, 2])
def test_predictions_are_complete_and_in_order(n: int, workers: int, paths: list[Path]) -> None:
    torch.manual_seed(0)
    spec = NetworkSpec(Model("test_vit", pretrained=False, kwargs={"img_size": 16}), ("a", "b"), ONE_LABEL, 16, "squash")
    network = Network(spec)
    images = ImageDataset(paths[:n], make_eval_transform(AUGMENT))
    outputs = predict([network], images, Accelerator(cpu=True), InferenceOptions(4, workers))[0]
    network.eval()
    with torch.inference_mode():
        expected = torch.cat([network(images[0, i, 0][0][None])["output"] for i in range(n)]).numpy()
    assert outputs.dtype == np.float32
    assert np.allclose(outputs, expected, atol=1e-5)


def test_repeated_row_is_augmented_differently(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(tmp_path / "a.png")
    images = ImageDataset([tmp_path / "a.png"] * 3, make_train_transform(Data(size=16, augment=["RandomResizedCrop"])))
    batches = ShardedBatches(RandomOrder(3, 0, np.array([0.0, 1.0, 0.0])), 3, 3)
    (batch,) = batches
    assert [row for _, row, _ in batch] == [1, 1, 1]
    drawn = [images[index][0] for index in batch]
    assert not any(torch.equal(drawn[i], drawn[j]) for i, j in [(0, 1), (0, 2), (1, 2)])
    assert torch.equal(images[batch[2]][0], drawn[2])
    repeated = ClassGroupOrder(np.array([0, 1, 1]), 3, 5, "repeat", 0)
    assert {(row, repeat) for _, row, repeat in next(iter(ShardedBatches(repeated, 5, 5)))} >= {(0, 0), (0, 1), (0, 2)}


@given(st.integers(1, 50), st.integers(1, 8), st.integers(1, 5))
def test_evaluation_covers_every_row_on_any_number_of_processes(n: int, batch_size: int, num_processes: int) -> None:
    paths = [Path(str(i)) for i in range(n)]
    loaders = [
        make_eval_loader(ImageDataset(paths, make_eval_transform(AUGMENT)), batch_size, 0, rank, num_processes)
        for rank in range(num_processes)
    ]
    batches = [[[row for _, row, _ in batch] for batch in loader.batch_sampler] for loader in loaders]  # type: ignore[attr-defined]
    assert len({tuple(map(len, each)) for each in batches}) == 1  # a gather needs equally many rows from each
    assert {row for each in batches for batch in each for row in batch} == set(range(n))
    assert sum(len(batch) for each in batches for batch in each) == n + (-n % num_processes)
