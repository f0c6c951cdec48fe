"""A packed cache: the pictures of one table, decoded and scaled down once, in one memory-mapped file.

`pictures.bin` is a header line (magic and key) and the pictures' bytes, rows of RGB, one after the other; `pictures.npz` beside it
holds the key and every picture's height and width. Nothing in either is executed or unpickled.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
import torchvision
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import functional as F
from tqdm import tqdm

from lib.errors import FlukeError
from lib.files import atomic_write, require_free
from lib.images.decoding import decode
from lib.process import is_main_process

HEADER = 128  # bytes before the first picture
# Pillow and torchvision make the pixels; another version of theirs may make others.
VERSION = f"fluke-cache 1, Pillow {PIL.__version__}, torchvision {torchvision.__version__}"


class ImageCache:
    """A cache on disk, opened by `open_cache`. Pickles as its path, so that DataLoader workers map the file themselves."""

    def __init__(self, path: Path, key: str, rows: np.ndarray | None = None) -> None:
        """Map `path` (.bin); `rows` (n,) int are the pictures that are shown, in that order, None all. Raises ValueError or OSError
        when the file, or its index, is not complete or not that of `key`."""
        self.path, self.key = path, key
        with path.with_suffix(".npz").open("rb") as file, np.load(file, allow_pickle=False) as index:
            if str(index["key"]) != key:
                raise ValueError("another key")
            self.sizes = index["sizes"].astype(np.int64)
        self.offsets = HEADER + np.concatenate([[0], np.cumsum(3 * self.sizes.prod(axis=1))])
        self.bytes = np.memmap(path, dtype=np.uint8, mode="r")
        if bytes(self.bytes[:HEADER]) != _header(key) or len(self.bytes) != self.offsets[-1] or (self.sizes < 1).any():
            raise ValueError("not the file of this index")
        self.rows = np.arange(len(self.sizes)) if rows is None else rows

    def __reduce__(self) -> tuple[Any, ...]:
        return ImageCache, (self.path, self.key, self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Sequence[int]) -> ImageCache:
        """These of the pictures, in this order."""
        return ImageCache(self.path, self.key, self.rows[np.asarray(rows, dtype=np.int64)])

    def get(self, i: int) -> torch.Tensor:
        """Picture i as `lib.images.decode` gives it: uint8 (3, height, width), a copy."""
        i = self.rows[i]
        height, width = self.sizes[i]
        rows = np.array(self.bytes[self.offsets[i] : self.offsets[i + 1]]).reshape(height, width, 3)
        return torch.from_numpy(rows).permute(2, 0, 1)


def open_cache(cache_dir: Path, paths: Sequence[Path], short_side: int, workers: int) -> ImageCache:
    """The cache of `paths`, in that order, their short side at most `short_side` pixels (never enlarged); built by `workers`
    processes if it isn't there, or if an image, `short_side` or the decoder has changed since, or if the file is damaged.

    Processes that ask at once build one: the others wait. Raises FlukeError for unreadable images (all counted, the first ones
    named), for a folder that can't be written and for a disk that is too small.
    """
    key, name = _key(paths, short_side)
    path = cache_dir / name / "pictures.bin"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_suffix(".lock").open("w")
    except OSError as error:
        raise FlukeError(f"data.cache_dir {cache_dir}: can't be written ({error.strerror}); name another folder.") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel lets go of it when the process ends, however it ends
        # Not there, stale, cut off, foreign: np.load raises whatever a stranger's file makes it raise.
        with contextlib.suppress(Exception):
            return ImageCache(path, key)
        _build(path, key, paths, short_side, workers)
        return ImageCache(path, key)


def _key(paths: Sequence[Path], short_side: int) -> tuple[str, str]:
    """What the pixels depend on, hashed; and a folder name that depends only on which images and what size, so that changed images
    replace their old cache while those of other tables and sizes live on beside it."""
    names = [os.path.abspath(path) for path in paths]
    name = _hash([names, short_side])
    return _hash([VERSION, name, [_stamp(name) for name in names]]), f"{short_side}px-{name[:16]}"


def _stamp(name: str) -> tuple[int, int] | None:
    try:
        stat = os.stat(name)
    except OSError:
        return None  # decoding will say so
    return stat.st_size, stat.st_mtime_ns


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _header(key: str) -> bytes:
    return f"fluke-cache {key}\n".encode().ljust(HEADER, b"\0")


def _build(path: Path, key: str, paths: Sequence[Path], short_side: int, workers: int) -> None:
    for left in (*path.parent.glob(".*.tmp"), path):  # of a build that was killed, and what is replaced: room for the new one
        left.unlink(missing_ok=True)
    require_free(path.parent, len(paths) * 3 * short_side**2 * 4 / 3 / 1e6)  # as if all were 4:3
    loader: DataLoader[Any] = DataLoader(
        paths,  # type: ignore[arg-type]
        batch_size=8,
        num_workers=workers,
        collate_fn=partial(_decode_batch, short_side=short_side),
        generator=torch.Generator(),  # a DataLoader draws a seed, which must not move the job's random numbers
    )
    sizes: list[tuple[int, int]] = []
    faults: list[str] = []
    bar = tqdm(total=len(paths), desc=f"caching images at {short_side} px", unit="", leave=False, disable=not is_main_process())
    with atomic_write(path) as temporary, temporary.open("wb") as file, bar:
        file.write(_header(key))
        for pixels, some_sizes, some_faults in loader:
            file.write(pixels.numpy().data)
            sizes += some_sizes
            faults += some_faults
            bar.update(len(some_sizes) + len(some_faults))
        if faults:
            raise FlukeError(f"{len(faults)} of {len(paths)} images can't be cached: {' '.join(faults[:3])}")
    with atomic_write(path.with_suffix(".npz")) as temporary, temporary.open("wb") as file:
        np.savez(file, key=np.array(key), sizes=np.array(sizes, dtype=np.int32).reshape(-1, 2))


def _decode_batch(paths: Sequence[Path], short_side: int) -> tuple[torch.Tensor, list[tuple[int, int]], list[str]]:
    """Pictures of a batch as one flat tensor (one hand-over between processes), their (height, width), and what was unreadable."""
    flat, sizes, faults = [torch.empty(0, dtype=torch.uint8)], [], []
    for path in paths:
        try:
            picture = decode(path, short_side)
        except FlukeError as error:
            faults.append(str(error))
            continue
        height, width = picture.shape[-2:]
        if (scale := short_side / min(height, width)) < 1:
            picture = F.resize(picture, [round(side * scale) for side in (height, width)], antialias=True)
        flat.append(picture.permute(1, 2, 0).reshape(-1))
        sizes.append((picture.shape[-2], picture.shape[-1]))
    return torch.cat(flat), sizes, faults
