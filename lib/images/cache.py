"""Packed cache: the images of one table, decoded and downscaled once, in one memory-mapped file.

`pictures.bin` holds a header line (magic and key), then the images' bytes one after the other, each as rows of RGB. `pictures.npz`
holds the key and the height and width of each image. Neither file is unpickled or executed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
import torchvision
from torchvision.transforms.v2 import functional as F
from tqdm import tqdm

from lib.errors import FlukeError
from lib.files import atomic_write, require_free, wait_for_lock
from lib.images.decoding import decode
from lib.images.loader import ImageLoader
from lib.process import is_main_process

HEADER = 128  # bytes before the first image
# Part of the key, because another version of Pillow or torchvision may produce other pixels.
VERSION = f"fluke-cache 1, Pillow {PIL.__version__}, torchvision {torchvision.__version__}"


class ImageCache:
    """Cached images of some rows, opened by `open_cache`. Pickles as its path, so that DataLoader workers map the file."""

    def __init__(self, path: Path, key: str, rows: np.ndarray | None = None) -> None:
        """Map the file `path` (.bin) for the images at positions `rows` (n,) int; None: all.

        Raises ValueError or OSError when the file or its index is incomplete or has another key.
        """
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
        """Return a cache of the images at these positions, in this order."""
        return ImageCache(self.path, self.key, self.rows[np.asarray(rows, dtype=np.int64)])

    def get(self, i: int) -> torch.Tensor:
        """Return a copy of image i in the layout of `decode`: uint8 (3, height, width)."""
        row = self.rows[i]
        height, width = self.sizes[row]
        pixels = np.array(self.bytes[self.offsets[row] : self.offsets[row + 1]]).reshape(height, width, 3)
        return torch.from_numpy(pixels).permute(2, 0, 1)


def open_cache(
    cache_dir: Path, paths: Sequence[Path], short_side: int, workers: int | None, stop: Callable[[], None] = lambda: None
) -> ImageCache:
    """Open the cache of the images `paths`, in that order, with short sides of at most `short_side` pixels (never enlarged).

    `workers` processes build it if it is missing or damaged, or if an image, `short_side` or the decoder has changed; meanwhile
    `stop` is called once per batch and may raise. Of several processes that open it at once, one builds it and the others wait.
    Raises FlukeError for unreadable images (with their number and the first of them), a folder that can't be written, and a disk
    that is too small.
    """
    key, name = _cache_key(paths, short_side)
    path = cache_dir / name / "pictures.bin"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".lock").touch()
    except OSError as error:
        raise FlukeError(f"data.cache_dir {cache_dir}: can't be written ({error.strerror}); name another folder.") from None
    with wait_for_lock(path.with_suffix(".lock")):
        # Missing, stale, truncated or another program's file: np.load may raise anything for the last.
        with contextlib.suppress(Exception):
            return ImageCache(path, key)
        _build(path, key, paths, short_side, workers, stop)
        return ImageCache(path, key)


def _cache_key(paths: Sequence[Path], short_side: int) -> tuple[str, str]:
    """Return a hash of all that the pixels depend on, and the name of the cache's folder.

    The name depends only on the paths and the size, so that a cache of changed images replaces the old one, while caches of other
    tables and sizes stay.
    """
    names = [os.path.abspath(path) for path in paths]
    name = _hash([names, short_side])
    return _hash([VERSION, name, [_size_and_time(name) for name in names]]), f"{short_side}px-{name[:16]}"


def _size_and_time(name: str) -> tuple[int, int] | None:
    try:
        stat = os.stat(name)
    except OSError:
        return None  # decoding reports it
    return stat.st_size, stat.st_mtime_ns


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _header(key: str) -> bytes:
    return f"fluke-cache {key}\n".encode().ljust(HEADER, b"\0")


def _build(path: Path, key: str, paths: Sequence[Path], short_side: int, workers: int | None, stop: Callable[[], None]) -> None:
    for old in (*path.parent.glob(".*.tmp"), path):  # left by a killed build, and the cache to be replaced: frees their space
        old.unlink(missing_ok=True)
    require_free(path.parent, len(paths) * 3 * short_side**2 * 4 / 3 / 1e6)  # as if all were 4:3
    loader = ImageLoader(paths, workers, batch_size=8, collate_fn=partial(_decode_batch, short_side=short_side))
    sizes: list[tuple[int, int]] = []
    faults: list[str] = []
    bar = tqdm(total=len(paths), desc=f"caching images at {short_side} px", unit="", leave=False, disable=not is_main_process())
    with atomic_write(path) as temporary, temporary.open("wb") as file, bar:
        file.write(_header(key))
        for pixels, batch_sizes, batch_faults in loader:
            stop()
            file.write(pixels.numpy().data)
            sizes += batch_sizes
            faults += batch_faults
            bar.update(len(batch_sizes) + len(batch_faults))
        if faults:
            raise FlukeError(f"{len(faults)} of {len(paths)} images can't be cached: {' '.join(faults[:3])}")
    with atomic_write(path.with_suffix(".npz")) as temporary, temporary.open("wb") as file:
        np.savez(file, key=np.array(key), sizes=np.array(sizes, dtype=np.int32).reshape(-1, 2))


def _decode_batch(paths: Sequence[Path], short_side: int) -> tuple[torch.Tensor, list[tuple[int, int]], list[str]]:
    """Return the images' pixels as one flat tensor, their (height, width), and the messages of unreadable files.

    One tensor, because each tensor is handed over between processes separately.
    """
    flat, sizes, faults = [torch.empty(0, dtype=torch.uint8)], [], []
    for path in paths:
        try:
            image = decode(path, short_side)
        except FlukeError as error:
            faults.append(str(error))
            continue
        height, width = image.shape[-2:]
        if (scale := short_side / min(height, width)) < 1:
            image = F.resize(image, [round(side * scale) for side in (height, width)], antialias=True)
        flat.append(image.permute(1, 2, 0).reshape(-1))
        sizes.append((image.shape[-2], image.shape[-1]))
    return torch.cat(flat), sizes, faults
