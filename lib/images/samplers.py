"""Order of the training rows: functions of (seed, epoch), the same on every process."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator

import numpy as np
from torch.utils.data import Sampler

from lib.config.recipe import Train
from lib.errors import FlukeError


def derive_seed(*parts: int) -> int:
    """Return a 63-bit seed that is a function of the integers given, the same on every machine and Python version."""
    return int.from_bytes(hashlib.blake2b(repr(tuple(map(int, parts))).encode(), digest_size=8).digest(), "big") >> 1


class RandomOrder:
    """Random order of n rows: a permutation or, with `weights` (n,), draws with replacement in proportion to them.

    Calls: epoch -> (n,) int64 positions, a function of (seed, epoch).
    """

    def __init__(self, n: int, seed: int, weights: np.ndarray | None = None):
        self.n, self.seed, self.weights = n, seed, weights

    def __call__(self, epoch: int) -> np.ndarray:
        generator = np.random.default_rng(derive_seed(self.seed, epoch))
        if self.weights is None:
            return generator.permutation(self.n)
        return generator.choice(self.n, self.n, p=self.weights / self.weights.sum())


class ClassGroupOrder:
    """Order for batches of P classes x K images: groups of up to k images of one class, shuffled and concatenated.

    Calls: epoch -> (n,) int64 positions, n a multiple of the batch size, a function of (seed, epoch). Every class comes in every
    epoch. A group is never split between batches: its images that exceed a batch are left out of this epoch. The last batch is
    filled with the epoch's first groups. A class with fewer than k images forms a smaller group. `singles` says what becomes of a
    class with one image: once (a group of one), repeat (k copies, each with its own augmentation), or drop. Rows with a target
    below 0 (unlabeled) form groups of one. Raises FlukeError when no class is left.
    """

    def __init__(self, targets: np.ndarray, k: int, batch_size: int, singles: str, seed: int):
        self.k, self.singles, self.seed = k, singles, seed
        self.class_rows = [np.flatnonzero(targets == target) for target in np.unique(targets[targets >= 0])]
        if singles == "drop":
            self.class_rows = [rows for rows in self.class_rows if len(rows) > 1]
        self.unlabeled = np.flatnonzero(targets < 0)
        total = len(self.unlabeled) + sum(k if self._is_repeated(rows) else len(rows) for rows in self.class_rows)
        if total < 2 or not self.class_rows:
            raise FlukeError("train.sampler pk: no class has two training images; set train.singles to once or repeat.")
        self.batch_size = min(batch_size, total)
        self.n = -(-total // self.batch_size) * self.batch_size

    def _is_repeated(self, rows: np.ndarray) -> bool:
        return self.singles == "repeat" and len(rows) == 1

    def __call__(self, epoch: int) -> np.ndarray:
        generator = np.random.default_rng(derive_seed(self.seed, epoch))
        groups: list[np.ndarray] = [self.unlabeled[i : i + 1] for i in range(len(self.unlabeled))]
        for rows in self.class_rows:
            if self._is_repeated(rows):
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
        raise AssertionError("unreachable: the groups are cycled")


def sampling_weights(targets: np.ndarray, power: float, factors: np.ndarray | None = None) -> np.ndarray:
    """Return weights (n,) float64 for `train.sampler: weighted`: (images of the row's class) ** -power, times its class's factor.

    `targets` is (n,) int64, or (n, C) float32 for several labels per image; `factors` (C,). With several labels the largest weight
    of the row's labels counts; a row without labels counts as a class that all rows have.
    """
    one = targets.ndim == 1
    counts = np.bincount(targets, minlength=0 if factors is None else len(factors)) if one else targets.sum(0)
    weights = np.maximum(counts, 1.0) ** -power * (1.0 if factors is None else factors)
    if one:
        return weights[targets]
    return np.where(targets.any(1), np.where(targets > 0, weights, 0.0).max(1), len(targets) ** -power)


def share_with_partner(targets: np.ndarray, batch_size: int) -> float:
    """Return the share of an epoch's images that share their batch with another image of their class.

    `targets` (n,) int64 are those of the epoch's rows in their order; rows below 0 (unlabeled) don't count.
    """
    labeled = targets >= 0
    batch = np.arange(len(targets)) // batch_size
    _, group, sizes = np.unique(batch[labeled] * (targets.max() + 1) + targets[labeled], return_inverse=True, return_counts=True)
    return float((sizes[group] > 1).mean()) if labeled.any() else 0.0


def count_repeats(rows: np.ndarray) -> np.ndarray:
    """Return how often each of `rows` (n,) occurs before its place, (n,) int64: 0 at the first occurrence."""
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    out = np.empty(len(rows), np.int64)
    out[order] = np.arange(len(rows)) - np.searchsorted(ordered, ordered)
    return out


class ShardedBatches(Sampler[list[tuple[int, int, int]]]):
    """One process's share of each batch of an epoch, from batch `start` on: lists of indices (epoch, position, repeat).

    `batch_size` counts the images of all processes. A last, smaller batch is left out, unless it is the only one, because BatchNorm
    on one image has no variance; the next epoch's order leaves out other rows.
    """

    def __init__(self, order: Callable[[int], np.ndarray], n: int, batch_size: int, rank: int = 0, num_processes: int = 1):
        batch_size = min(batch_size, n // num_processes * num_processes)
        self.order, self.rank, self.num_processes = order, rank, num_processes
        self.share = batch_size // num_processes
        """Images per batch and process."""
        self.size = self.share * num_processes
        """Images per batch of all processes: fewer than `batch_size` where there are fewer rows."""
        self.count = n // batch_size
        """Batches per epoch."""
        self.epoch, self.start = 0, 0

    def __len__(self) -> int:
        return self.count - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        positions = self.order(self.epoch)
        repeats = count_repeats(positions)
        for batch in range(self.start, self.count):
            first = (batch * self.num_processes + self.rank) * self.share
            share = slice(first, first + self.share)
            yield [(self.epoch, *index) for index in zip(positions[share].tolist(), repeats[share].tolist())]


def check_batch_size(train: Train, rows: int, num_processes: int) -> None:
    """Raise FlukeError unless a batch divides among the processes and there are rows for at least one batch."""
    if train.images_per_batch % num_processes:
        raise FlukeError(
            f"train.batch_size: {train.images_per_batch} images of all processes can't be shared equally by "
            f"{num_processes} processes; set a multiple of {num_processes}."
        )
    if rows < 2 * num_processes:
        processes = "1 process" if num_processes == 1 else f"{num_processes} processes"
        raise FlukeError(f"training rows: {rows} are too few for {processes}; provide at least 2 per process.")
