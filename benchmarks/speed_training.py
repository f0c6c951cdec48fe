"""The trainings that benchmarks/speed.py compares: an epoch of EfficientNet-Lite0 at 128 px, from files to optimizer steps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BATCH_SIZE = 32
CROP = (0.5, 1.0)
"""Share of the area of random crops."""


def timed(batches: Iterator[int]) -> float:
    """Return units per second of what yields the number of units of each batch; the first batch starts the clock."""
    next(batches)
    began, done = time.perf_counter(), 0
    for units in batches:
        done += units
    return done / (time.perf_counter() - began)


def measure_train(side: str, data: Path, share: float, folder: Path) -> float:
    """Images per second of an epoch, with one worker process that reads the images."""
    paths = sorted((data / "fashion" / "images").glob("*.jpg"))[: int(640 * share) // BATCH_SIZE * BATCH_SIZE]
    if side == "fluke":
        return _fluke_epoch(paths, folder)
    return {"bare": _bare_epoch, "report 2": _report_epoch, "timm": _timm_epoch, "fastai": _fastai_epoch}[side](paths)


def _targets(paths: list[Path]) -> list[int]:
    return [i % 10 for i in range(len(paths))]


def _network_parts(paths: list[Path]) -> tuple[Any, Any, Any]:
    """Return recipe, task and network of a training on the images, as train_classifier makes them."""
    import numpy as np
    import torch

    from lib.config.recipe import Data, Model, Recipe, Train
    from lib.models.network import Network, NetworkSpec
    from lib.tables.table import Table
    from lib.tables.target import ONE_LABEL
    from lib.training.tasks import make_task

    classes = tuple("abcdefghij")
    labels = [(classes[i],) for i in _targets(paths)]
    table = Table(np.arange(len(paths)), [p.name for p in paths], paths, labels, classes, None, ONE_LABEL)
    augment: list[Any] = [{"RandomResizedCrop": {"scale": list(CROP)}}, "RandomHorizontalFlip"]
    recipe = Recipe(
        data=Data(size=128, workers=1, augment=augment),
        model=Model(name="tf_efficientnet_lite0", pretrained=False),
        train=Train(epochs=1, batch_size=BATCH_SIZE),
    )
    task = make_task(recipe, ONE_LABEL, table, table.take(slice(20)))
    torch.manual_seed(0)
    network = Network(NetworkSpec(recipe.model, classes, ONE_LABEL, 128, "squash"), recipe.objective)
    network.objective = task.make_loss(network.width)
    return recipe, task, network


def _fluke_epoch(paths: list[Path], folder: Path) -> float:
    from lib.images.augmentation import make_eval_transform, make_train_transform
    from lib.images.dataset import ImageDataset
    from lib.run_folder import RunFolder
    from lib.training.accelerator import keep_memory, make_accelerator
    from lib.training.distributed import StopSignal
    from lib.training.loop import Datasets, Trainer
    from lib.training.run import Run

    keep_memory()
    recipe, task, network = _network_parts(paths)
    accelerator = make_accelerator("fp32", folder)
    images = Datasets(
        ImageDataset(paths, make_train_transform(recipe.data), task.targets),
        ImageDataset(paths[:2], make_eval_transform(recipe.data)),
    )
    with StopSignal(accelerator) as stop:
        trainer = Trainer(Run(accelerator, RunFolder(folder), lambda line: None, stop), recipe, task, network, images, 0)
        step, seen = trainer.train_step, []

        def train_step(*batch: Any) -> bool:
            stepped = step(*batch)
            seen.append(time.perf_counter())
            return stepped

        trainer.train_step = train_step  # type: ignore[method-assign]
        trainer.train_epoch()
        _wait()
        return (len(seen) - 1) * BATCH_SIZE / (time.perf_counter() - seen[0])


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _wait() -> None:
    """Wait until a GPU is done."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _steps(model: Any, loader: Any) -> Iterator[int]:
    """Take optimizer steps as tutorials do."""
    import torch

    model.to(_device()).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loss_of = torch.nn.CrossEntropyLoss()
    for images, targets in loader:
        images, targets = images.to(_device()), targets.to(_device())
        optimizer.zero_grad()
        loss = loss_of(model(images), targets)
        loss.backward()
        optimizer.step()
        loss.item()
        yield len(images)


def _make_model() -> Any:
    import timm

    return timm.create_model("tf_efficientnet_lite0", num_classes=10)


def _report_epoch(paths: list[Path]) -> float:
    from torch.utils.data import DataLoader
    from torchvision import transforms

    steps = [transforms.RandomResizedCrop(128, scale=CROP), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    transform = transforms.Compose([*steps, transforms.Normalize([0.5] * 3, [0.5] * 3)])
    loader = DataLoader(_Pictures(paths, transform), BATCH_SIZE, shuffle=True, num_workers=1)
    return timed(_steps(_make_model(), loader))


class _Pictures:
    """Images read by PIL, as a dataset of PyTorch's and timm's loaders."""

    def __init__(self, paths: list[Path], transform: Any = None):
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        from PIL import Image

        return self.transform(Image.open(self.paths[i]).convert("RGB")), i % 10


def _timm_epoch(paths: list[Path]) -> float:
    from timm.data import create_loader

    loader = create_loader(
        _Pictures(paths), (3, 128, 128), BATCH_SIZE, is_training=True, use_prefetcher=False, num_workers=1, scale=CROP, hflip=0.5
    )
    return timed(_steps(_make_model(), loader))


def _fastai_epoch(paths: list[Path]) -> float:
    from fastai.vision.all import Callback, CrossEntropyLossFlat, Flip, ImageDataLoaders, Learner, Normalize, RandomResizedCrop

    loaders = ImageDataLoaders.from_lists(
        paths[0].parent,
        [*paths, *paths[:2]],
        [str(i) for i in (*_targets(paths), 0, 1)],
        valid_pct=2 / (len(paths) + 2),
        bs=BATCH_SIZE,
        num_workers=1,
        item_tfms=RandomResizedCrop(128, min_scale=CROP[0]),
        batch_tfms=[Flip(), Normalize.from_stats([0.5] * 3, [0.5] * 3)],
        device=_device(),
    )
    seen = []

    class Clock(Callback):
        def after_batch(self) -> None:
            if self.learn.training:
                seen.append(time.perf_counter())

    learner = Learner(loaders, _make_model(), loss_func=CrossEntropyLossFlat(), cbs=Clock())
    with learner.no_bar(), learner.no_logging():
        learner.fit(1, 1e-3)
    return (len(seen) - 1) * BATCH_SIZE / (seen[-1] - seen[0])


def _bare_epoch(paths: list[Path]) -> float:
    import torch
    from torch.utils.data import DataLoader

    from lib.images.augmentation import make_train_transform
    from lib.images.dataset import ImageDataset
    from lib.images.samplers import ShardedBatches
    from lib.training.accelerator import keep_memory

    keep_memory()
    recipe, task, network = _network_parts(paths)
    images = ImageDataset(paths, make_train_transform(recipe.data), task.targets)
    order = task.make_order()
    loader = DataLoader(images, batch_sampler=list(ShardedBatches(order, order.n, BATCH_SIZE)), num_workers=1)
    model = network.to(_device()).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)

    def steps() -> Iterator[int]:
        for batch, targets, _ in loader:
            batch, targets = batch.to(_device()), targets.to(_device())
            model(batch.contiguous(memory_format=torch.channels_last), targets)["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()
            yield len(batch)
        _wait()

    return timed(steps())
