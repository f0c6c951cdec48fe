"""Datasets, order and loaders: what is seen when is a function of (seed, epoch, row), never of workers, processes or
interruptions."""

from __future__ import annotations

import atexit
import hashlib
import itertools
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from lib.config.recipe import Train
from lib.errors import FlukeError
from lib.images.decoding import decode


def derive_seed(*parts: int) -> int:
    """A 63-bit seed that is a function of the integers given, the same on every machine and Python."""
    return int.from_bytes(hashlib.blake2b(repr(tuple(map(int, parts))).encode(), digest_size=8).digest(), "big") >> 1


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


class RandomOrder:
    """The rows of an epoch, in order: a permutation, or draws with replacement in proportion to `weights`.

    Calls: epoch -> (n,) int64 positions, a pure function of (seed, epoch), the same on every process.
    """

    def __init__(self, n: int, seed: int, weights: np.ndarray | None = None):
        self.n, self.seed, self.weights = n, seed, weights

    def __call__(self, epoch: int) -> np.ndarray:
        generator = np.random.default_rng(derive_seed(self.seed, epoch))
        if self.weights is None:
            return generator.permutation(self.n)
        return generator.choice(self.n, self.n, p=self.weights / self.weights.sum())


class ClassGroupOrder:
    """The rows of an epoch for batches of P classes x K images: groups of one class, shuffled and laid end to end.

    Calls: epoch -> (count * batch_size,) int64 positions, a pure function of (seed, epoch), the same on every process. Every class
    comes in every epoch. No group is split over two batches: what would stick out of a batch waits for another epoch, and the last
    batch is filled with the epoch's first groups. A class with fewer than K images is a group of its size; never an image paired
    with itself, unless `singles` is repeat. targets (n,) int64; those below 0 (no name) are groups of one. Raises FlukeError when
    nothing is left.
    """

    def __init__(self, targets: np.ndarray, k: int, batch_size: int, singles: str, seed: int):
        self.k, self.batch_size, self.singles, self.seed = k, batch_size, singles, seed
        self.members = [np.flatnonzero(targets == label) for label in np.unique(targets[targets >= 0])]
        if singles == "drop":
            self.members = [rows for rows in self.members if len(rows) > 1]
        self.alone = np.flatnonzero(targets < 0)
        total = sum(max(len(rows), k if singles == "repeat" and len(rows) == 1 else 1) for rows in self.members) + len(self.alone)
        if total < 2 or not self.members:
            raise FlukeError("train.sampler pk: no class has two training images; set train.singles to once or repeat.")
        self.batch_size = min(batch_size, total)
        self.n = -(-total // self.batch_size) * self.batch_size

    def __call__(self, epoch: int) -> np.ndarray:
        generator = np.random.default_rng(derive_seed(self.seed, epoch))
        groups: list[np.ndarray] = [self.alone[i : i + 1] for i in range(len(self.alone))]
        for rows in self.members:
            if len(rows) == 1 and self.singles == "repeat":
                groups.append(np.repeat(rows, self.k))
                continue
            shuffled = generator.permutation(rows)
            groups += [shuffled[i : i + self.k] for i in range(0, len(rows), self.k)]
        order = [groups[i] for i in generator.permutation(len(groups))]
        epoch_rows: list[int] = []
        for group in itertools.chain(order, itertools.cycle(order)):
            room = self.batch_size - len(epoch_rows) % self.batch_size
            epoch_rows.extend(group[:room].tolist())
            if len(epoch_rows) == self.n:
                return np.array(epoch_rows)
        raise AssertionError("unreachable: the groups go round")


def sampling_weights(targets: np.ndarray, power: float, factors: np.ndarray | None = None) -> np.ndarray:
    """Weights (n,) float64 for sampler: weighted: (images of the row's class) ** -power, times the class's of `factors` (C,); with
    several labels the largest of the row's labels; a row without any counts as of a class of all rows."""
    one = targets.ndim == 1
    counts = np.bincount(targets, minlength=0 if factors is None else len(factors)) if one else targets.sum(0)
    weights = np.maximum(counts, 1.0) ** -power * (1.0 if factors is None else factors)
    if one:
        return weights[targets]
    return np.where(targets.any(1), np.where(targets > 0, weights, 0.0).max(1), len(targets) ** -power)


def count_earlier(rows: np.ndarray) -> np.ndarray:
    """How often each of `rows` (n,) has come before, (n,) int64: 0 where it comes first."""
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    out = np.empty(len(rows), np.int64)
    out[order] = np.arange(len(rows)) - np.searchsorted(ordered, ordered)
    return out


class ShardedBatches(Sampler[list[tuple[int, int, int]]]):
    """This process's share of each batch of an epoch, from batch `start` on; every process has a share of every batch.

    `batch_size` counts the images of all processes. A last, smaller batch is left out (BatchNorm on one image has no variance; the
    next epoch's order is another), unless it is the only one.
    """

    def __init__(self, order: Callable[[int], np.ndarray], n: int, batch_size: int, rank: int = 0, world: int = 1):
        batch_size = min(batch_size, n // world * world)
        self.order, self.share, self.rank, self.world = order, batch_size // world, rank, world
        self.count = n // batch_size
        """Batches an epoch."""
        self.epoch, self.start = 0, 0

    def __len__(self) -> int:
        return self.count - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        rows = self.order(self.epoch)
        times = count_earlier(rows)
        for batch in range(self.start, self.count):
            first = (batch * self.world + self.rank) * self.share
            mine = slice(first, first + self.share)
            yield [(self.epoch, row, time) for row, time in zip(rows[mine].tolist(), times[mine].tolist())]


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


def check_batch_size(t: Train, rows: int, world: int) -> None:
    """Raise FlukeError unless a batch divides among the processes and there are rows for one."""
    if t.batch_size % world:
        raise FlukeError(f"train.batch_size {t.batch_size} counts all processes' images; {world} processes can't share it equally.")
    if rows < 2 * world:
        raise FlukeError(f"{rows} training rows are too few for {world} process{'es' if world > 1 else ''}.")
