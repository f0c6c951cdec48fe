"""The order of the training rows: functions of (seed, epoch), the same on every process."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator

import numpy as np
from torch.utils.data import Sampler

from lib.config.recipe import Train
from lib.errors import FlukeError


def derive_seed(*parts: int) -> int:
    """A 63-bit seed that is a function of the integers given, the same on every machine and Python."""
    return int.from_bytes(hashlib.blake2b(repr(tuple(map(int, parts))).encode(), digest_size=8).digest(), "big") >> 1


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


def check_batch_size(t: Train, rows: int, world: int) -> None:
    """Raise FlukeError unless a batch divides among the processes and there are rows for one."""
    if t.batch_size % world:
        raise FlukeError(f"train.batch_size {t.batch_size} counts all processes' images; {world} processes can't share it equally.")
    if rows < 2 * world:
        raise FlukeError(f"{rows} training rows are too few for {world} process{'es' if world > 1 else ''}.")
