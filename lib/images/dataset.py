"""Datasets, order and loaders: what is seen when is a function of (seed, epoch, row), never of workers, processes or
interruptions."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lib.images.decoding import decode
from lib.images.samplers import ShardedBatches, derive_seed


class ImageDataset(Dataset[tuple[Any, ...]]):
    """Decoded, transformed images by position.

    An index is (epoch, position, time), `time` counting how often the epoch has had the position before; an item is (uint8 (3,
    side, side) image, target, position). Before the transform, torch's default generator is seeded with (seed, epoch, position,
    time), so that augmentation is the same whoever works on the item and another for a row that comes again, and put back
    afterwards. Images from position `mirrored_from` on are flipped first: mirrored individuals.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        transform: Callable[[Any], Tensor],
        targets: np.ndarray | None = None,
        seed: int = 0,
        short_side: int | None = None,
        read: Callable[[int], Any] | None = None,
        mirrored_from: int | None = None,
    ):
        self.paths, self.transform, self.seed, self.short_side = paths, transform, seed, short_side
        self.targets = torch.zeros(len(paths), dtype=torch.int64) if targets is None else torch.from_numpy(targets)
        self.mirrored = len(paths) if mirrored_from is None else mirrored_from
        self.read = read
        """Reads the decoded image at a position from a cache; None: from its file."""

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: tuple[int, int, int]) -> tuple[Tensor, Tensor, int]:
        epoch, position, time = index
        image = self.read(position % self.mirrored) if self.read else decode(self.paths[position], self.short_side)
        state = torch.get_rng_state()
        torch.default_generator.manual_seed(derive_seed(self.seed, epoch, position, time))
        if position >= self.mirrored:
            image = image.flip(-1)
        try:
            return self.transform(image), self.targets[position], position
        finally:
            torch.set_rng_state(state)


def ignore_signals(worker: int) -> None:
    """Leave a signal that a whole group gets (Ctrl-C, a scheduler's SIGTERM) to the main process, which saves and needs the worker
    until then; a worker ends when the main process says so, or is gone."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


@atexit.register
def kill_workers() -> None:
    """End what an error left running: multiprocessing would send a SIGTERM, which `ignore_signals` workers don't hear, and wait
    for ever."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's would take it for a fault
    for worker in multiprocessing.active_children():
        worker.kill()


def make_train_loader(images: ImageDataset, batches: ShardedBatches, workers: int) -> DataLoader[Any]:
    """Batches of (uint8 (B, 3, H, W), targets, positions) for one process; set batches.epoch and .start before
    iterating."""
    return DataLoader(
        images,
        batch_sampler=batches,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=ignore_signals,
    )


def make_eval_loader(images: ImageDataset, batch_size: int, workers: int, rank: int = 0, world: int = 1) -> DataLoader[Any]:
    """Every position once, in order, dealt out to the processes in equal batches; the last positions come twice where n is no
    multiple of `world`, since a gather needs as many rows from each: whoever gathers drops what it has already."""
    n = len(images)
    padded = list(range(n)) + [n - 1] * (-n % world)
    mine = padded[rank::world]
    batches = [[(0, row, 0) for row in mine[i : i + batch_size]] for i in range(0, len(mine), batch_size)]
    return DataLoader(
        images, batch_sampler=batches, num_workers=workers, pin_memory=torch.cuda.is_available(), worker_init_fn=ignore_signals
    )
