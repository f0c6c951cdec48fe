"""Packed cache: images decoded and downscaled once, in one memory-mapped file that all tables, folds and runs share.

A folder holds the images of one size, made by one version of the decoders. `pictures.bin` is only appended to: a header line, then
the images' bytes one after the other, each as rows of RGB (or of the recipe's channels). `pictures.npz` is the index: the key of
each image, a hash of its file's path, size and time of change, where its bytes begin, and its height and width. A changed file is a
new image. A build that is killed goes on behind the last images that the index knows. Neither file is unpickled or executed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

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
from lib.images.opening import open_image
from lib.process import progress_bar_options
from lib.tables.box import Box
from lib.tables.image_path import files_of

HEADER = 128  # bytes before the first image
VERSION = f"fluke-cache 2, Pillow {PIL.__version__}, torchvision {torchvision.__version__}"
"""In the folder's name, because another version of Pillow or torchvision may produce other pixels."""
SAVE_SECONDS = 20.0
"""Seconds after which a build saves its index."""
BATCH = 16
"""Images of a batch."""
ENTRY = np.dtype([("key", np.uint64), ("offset", np.int64), ("height", np.int32), ("width", np.int32)])
"""What the index holds of an image."""


class ImageCache:
    """Cached images of some rows, opened by `open_cache`. Pickles without the pixels, so that DataLoader workers map the file."""

    def __init__(self, path: Path, entries: np.ndarray, channels: int = 3) -> None:
        """Map the file `path` (.bin) for the images of `entries` (n,) ENTRY, all of `channels` channels."""
        self.path, self.entries, self.channels = path, entries, channels
        self.bytes = np.memmap(path, dtype=np.uint8, mode="r")

    def __reduce__(self) -> tuple[Any, ...]:
        return ImageCache, (self.path, self.entries, self.channels)

    def __len__(self) -> int:
        return len(self.entries)

    def take(self, rows: Sequence[int]) -> ImageCache:
        """Return a cache of the images at these positions, in this order."""
        return ImageCache(self.path, self.entries[np.asarray(rows, dtype=np.int64)], self.channels)

    def get(self, i: int) -> torch.Tensor:
        """Return a copy of image i in the layout of `decode`: uint8 (channels, height, width)."""
        _, offset, height, width = self.entries[i].tolist()
        pixels = np.array(self.bytes[offset : offset + self.channels * height * width]).reshape(height, width, self.channels)
        return torch.from_numpy(pixels).permute(2, 0, 1)


def open_cache(
    cache_dir: Path,
    paths: Sequence[Path],
    short_side: int,
    workers: int | None,
    stop: Callable[[], None] = lambda: None,
    boxes: Sequence[Box | None] | None = None,
) -> ImageCache:
    """Open the cache of the images `paths`, in that order, with short sides of at most `short_side` pixels (never enlarged).

    Of an image with a box it holds that part. `workers` processes decode the images that it lacks; meanwhile `stop` is called once
    per batch and may raise. Of several processes that open it at once, one builds it and the others wait. Raises FlukeError for
    unreadable images (with their number and the first of them), a folder that can't be written, and a disk that is too small.
    """
    channels = getattr(paths[0], "channels", 3) if paths else 3
    kind = f"{short_side}px" + (f"-{channels}channels" if channels != 3 else "")
    path = cache_dir / f"{kind}-{hashlib.sha256(VERSION.encode()).hexdigest()[:8]}" / "pictures.bin"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".lock").touch()
    except OSError as error:
        raise FlukeError(f"data.cache_dir {cache_dir}: can't be written ({error.strerror}); name another folder.") from None
    parts = list(zip(paths, boxes or [None] * len(paths)))
    keys = np.array([_key(path, box) for path, box in parts], np.uint64)
    with wait_for_lock(path.with_suffix(".lock")):
        index = _load_index(path, channels)
        new = np.setdiff1d(keys, index["key"])
        if len(new):
            first = np.sort(np.unique(keys, return_index=True)[1])  # of files that are in several rows
            missing = first[np.isin(keys[first], new)]
            images = Missing(keys[missing], [parts[i] for i in missing], short_side, channels)
            index = _build(path, index, images, workers, stop)
    by_key = index[np.argsort(index["key"])]
    return ImageCache(path, by_key[np.searchsorted(by_key["key"], keys)], channels)


def _key(path: Path, box: Box | None) -> int:
    """Return a hash of a file's path, size and time of change, and the box; decoding reports a file that isn't there."""
    text = os.path.abspath(path)
    for name in map(os.path.abspath, files_of(path)):
        with contextlib.suppress(OSError):
            stat = os.stat(name)
            text += ("" if name == text else f"\n{name}") + f"\n{stat.st_size} {stat.st_mtime_ns}"
    text += "" if box is None else f"\n{tuple(box)}"
    return int.from_bytes(hashlib.blake2b(os.fsencode(text), digest_size=8).digest(), "little")


def _load_index(path: Path, channels: int) -> np.ndarray:
    """Return the entries (n,) ENTRY of a cache; none where it is missing or damaged, or is another program's file."""
    try:
        with path.with_suffix(".npz").open("rb") as file, np.load(file, allow_pickle=False) as stored:
            index = stored["entries"]
        with path.open("rb") as file:
            start = file.read(HEADER)
    except Exception:  # np.load may raise anything for another program's file
        return np.zeros(0, ENTRY)
    usable = index.dtype == ENTRY and index.ndim == 1 and start == _header() and _end(index, channels) <= path.stat().st_size
    return index if usable else np.zeros(0, ENTRY)


def _end(index: np.ndarray, channels: int) -> int:
    """Return the number of bytes up to the end of the last image."""
    return int((index["offset"] + channels * index["height"].astype(np.int64) * index["width"]).max(initial=HEADER))


def _header() -> bytes:
    return f"{VERSION}\n".encode().ljust(HEADER, b"\0")


class Missing(NamedTuple):
    """n images that a cache lacks."""

    keys: np.ndarray
    """(n,) uint64, as `_key` returns them."""
    files: list[tuple[Path, Box | None]]
    """(n,) the files, and the part of each that is kept."""
    short_side: int
    """Pixels of the shorter side."""
    channels: int


def _build(path: Path, index: np.ndarray, images: Missing, workers: int | None, stop: Callable[[], None]) -> np.ndarray:
    """Append images to the cache, and return its index; what was appended is kept if it raises."""
    keys, files, short_side, channels = images
    needed = _estimate_bytes([file for file, _ in files], short_side, channels)
    require_free(path.parent, needed / 1e6)
    if not len(index):
        path.unlink(missing_ok=True)  # processes that have mapped a damaged file keep it
        path.write_bytes(_header())
    loader = ImageLoader(files, workers, batch_size=BATCH, collate_fn=partial(_decode_batch, short_side=short_side))
    parts, faults, done = [index], [], 0
    title = f"caching images at {short_side} px ({needed / 1e9:.1f} GB)"
    with path.open("r+b") as file, tqdm(total=len(files), desc=title, unit="", **progress_bar_options()) as bar:

        def save() -> np.ndarray:
            """Save and return the index of the images that are on the disk."""
            file.flush()
            os.fsync(file.fileno())
            written = np.concatenate(parts)
            written = written[written["height"] > 0]  # without the unreadable ones
            with atomic_write(path.with_suffix(".npz")) as temporary, temporary.open("wb") as handle:
                np.savez(handle, entries=written)
            return written

        file.seek(_end(index, channels))
        file.truncate()  # bytes of a build that was killed before it saved its index
        saved = time.monotonic()
        try:
            for pixels, sizes, batch_faults in loader:
                stop()
                parts.append(_entries(keys[done : done + len(sizes)], sizes, file.tell(), channels))
                file.write(pixels.numpy().data)
                faults += batch_faults
                done += len(sizes)
                bar.update(len(sizes))
                if time.monotonic() - saved > SAVE_SECONDS:
                    save()
                    saved = time.monotonic()
        finally:
            index = save()
    if faults:
        raise FlukeError(f"{len(faults)} of {len(files)} images can't be cached: {' '.join(faults[:3])}")
    return index


def _entries(keys: np.ndarray, sizes: Sequence[tuple[int, int]], offset: int, channels: int) -> np.ndarray:
    """Return the index entries of images that are written one after the other from `offset` on."""
    entries = np.zeros(len(keys), ENTRY)
    entries["key"] = keys
    entries["height"], entries["width"] = np.array(sizes).T
    lengths = [channels * height * width for height, width in sizes]
    entries["offset"] = offset + np.cumsum([0, *lengths[:-1]])
    return entries


def _estimate_bytes(paths: Sequence[Path], short_side: int, channels: int, limit: int = 200) -> float:
    """Return about how many bytes the images will take, by the headers of `limit` of them."""
    sampled = [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, min(limit, len(paths))).astype(int))]
    areas = []
    for path in sampled:
        try:
            with open_image(path) as source:
                areas.append(source.width * source.height * min(1, short_side / min(source.size)) ** 2)
        except FlukeError:  # reported when it is decoded
            continue
    return channels * len(paths) * float(np.mean(areas)) if areas else 0.0


def _decode_batch(
    paths: Sequence[tuple[Path, Box | None]], short_side: int
) -> tuple[torch.Tensor, list[tuple[int, int]], list[str]]:
    """Return the images' pixels as one flat tensor, their (height, width), 0 of unreadable files, and the messages of these.

    One tensor, because each tensor is handed over between processes separately.
    """
    flat, sizes, faults = [torch.empty(0, dtype=torch.uint8)], [], []
    for path, box in paths:
        try:
            image = decode(path, short_side, box)
        except FlukeError as error:
            faults.append(str(error))
            sizes.append((0, 0))
            continue
        height, width = image.shape[-2:]
        if (scale := short_side / min(height, width)) < 1:
            image = F.resize(image, [round(side * scale) for side in (height, width)], antialias=True)
        flat.append(image.permute(1, 2, 0).reshape(-1))
        sizes.append((image.shape[-2], image.shape[-1]))
    return torch.cat(flat), sizes, faults
