"""Dataset of images and loaders of batches. What an item holds depends on (seed, epoch, position) alone: not on the number of
workers or processes, nor on interruptions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lib.images.augmentation import Transform, decode_side
from lib.images.cache import ImageCache
from lib.images.decoding import decode
from lib.images.loader import ImageLoader, count_workers, useful_workers
from lib.images.samplers import ShardedBatches, derive_seed
from lib.tables.box import Box


class ImageDataset(Dataset[tuple[Any, ...]]):
    """Decoded, transformed images and their targets.

    An index is (epoch, position, repeat), where `repeat` counts how often the epoch has had that position before. An item is (uint8
    (C, side, side) image, target, position). During the transform, torch's default generator is seeded with (seed, epoch, position,
    repeat) and then restored: augmentation is the same in any worker, and differs when a row is repeated in an epoch.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        transform: Transform,
        targets: np.ndarray | None = None,
        seed: int = 0,
        cache: ImageCache | None = None,
        mirrored: bool = False,
        boxes: Sequence[Box | None] | None = None,
    ):
        """Read from `cache`, which holds the images of `paths` in that order, or, without one, from the files.

        With `mirrored`, the same images follow once more, flipped left to right: as other individuals. `targets` has one entry per
        position. `boxes` are the parts of the files that are read.
        """
        self.boxes = boxes
        self.paths, self.transform, self.seed, self.cache = paths, transform, seed, cache
        self.short_side = decode_side(transform)
        self.length = len(paths) * (2 if mirrored else 1)
        self.targets = torch.zeros(self.length, dtype=torch.int64) if targets is None else torch.from_numpy(targets)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: tuple[int, int, int]) -> tuple[Tensor, Tensor, int]:
        epoch, position, repeat = index
        flipped, row = divmod(position, len(self.paths))
        box = None if self.boxes is None else self.boxes[row]
        image = self.cache.get(row) if self.cache is not None else decode(self.paths[row], self.short_side, box)
        state = torch.get_rng_state()
        torch.default_generator.manual_seed(derive_seed(self.seed, epoch, position, repeat))
        if flipped:
            image = image.flip(-1)
        try:
            return self.transform(image), self.targets[position], position
        finally:
            torch.set_rng_state(state)


class FeatureDataset(Dataset[tuple[Any, ...]]):
    """Features of a frozen backbone, in place of images without augmentation; indices and items as of ImageDataset."""

    def __init__(self, features: np.ndarray, targets: np.ndarray | None = None):
        """`features` (n, D) float32, `targets` with one entry per row."""
        self.features = torch.from_numpy(features)
        self.targets = torch.zeros(len(features), dtype=torch.int64) if targets is None else torch.from_numpy(targets)

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: tuple[int, int, int]) -> tuple[Tensor, Tensor, int]:
        _, position, _ = index
        return self.features[position], self.targets[position], position


Images = ImageDataset | FeatureDataset


def make_train_loader(images: Images, batches: ShardedBatches, workers: int | None) -> ImageLoader:
    """Return a loader of one process's batches (uint8 images (B, C, H, W) or features (B, D), targets, positions).

    The order is that of `batches`: set its `epoch` and `start` before iterating.
    """
    return ImageLoader(images, workers, batch_sampler=batches, persistent_workers=count_workers(workers) > 0)


def make_eval_loader(
    images: Images, batch_size: int, workers: int | None, rank: int = 0, num_processes: int = 1, passes: int = 1
) -> ImageLoader:
    """Return a loader of one process's share of all positions, dealt out in order, in batches of equal size on all processes.

    Where their number is no multiple of `num_processes`, the last position is repeated, because a gather needs equally many rows
    from each process: the caller drops repeated rows. `passes` is how often the loader will be iterated, by the same workers.
    """
    n = len(images)
    padded = list(range(n)) + [n - 1] * (-n % num_processes)
    positions = padded[rank::num_processes]
    batches = [[(0, position, 0) for position in positions[i : i + batch_size]] for i in range(0, len(positions), batch_size)]
    workers = min(useful_workers(workers, passes * len(positions)), len(batches))
    return ImageLoader(images, workers, batch_sampler=batches, persistent_workers=workers > 0)
