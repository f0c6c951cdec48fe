"""Check image files before training: find those that can't be read, describe their sizes."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tqdm import tqdm

from lib.errors import FlukeError
from lib.images import checked
from lib.images.decoding import decode
from lib.images.loader import ImageLoader, useful_workers
from lib.images.near_duplicates import SIDE, make_thumbnail
from lib.images.opening import open_image
from lib.process import progress_bar_options
from lib.tables.image_path import parts_of

WORTH_REMEMBERING = 1000
"""Images from which on the readable ones are remembered (lib/images/checked.py)."""


def find_unreadable(
    paths: Sequence[Path],
    workers: int | None,
    check: Literal["decode", "header"],
    stop: Callable[[], None] = lambda: None,
    thumbnails: torch.Tensor | None = None,
) -> dict[int, str]:
    """Return {position in `paths`: reason} of every file that can't be read, in order.

    `workers` processes check (0: this one; None: one per core). `stop` is called once per batch and may raise. `decode` decodes
    each file: a JPEG at 1/8 of its size, which reads all of its data in a third of the time. `header` only opens it, ten times
    as fast, and misses truncated files. Of many files, those that were readable before and haven't changed are not read again.
    `thumbnails`, uint8 (n, 3, near_duplicates.SIDE, the same), is filled with those of the readable images; all are decoded then.
    """
    if thumbnails is not None:
        return _check(paths, workers, "thumbnail", stop, thumbnails)
    if len(paths) >= WORTH_REMEMBERING:
        marks = checked.fingerprints(paths, check)
        new = np.flatnonzero(~checked.known_readable(marks))
        found = _check([paths[i] for i in new.tolist()], workers, check, stop)
        checked.remember(np.delete(marks, new[list(found)]))
        return {int(new[position]): reason for position, reason in found.items()}
    return _check(paths, workers, check, stop)


def _check(
    paths: Sequence[Path], workers: int | None, check: str, stop: Callable[[], None], thumbnails: torch.Tensor | None = None
) -> dict[int, str]:
    collate = partial(_check_batch, check=CHECKS[check])
    workers = useful_workers(workers, len(paths))
    reasons: list[str | None] = []
    with tqdm(total=len(paths), desc="checking images", unit="", delay=2, **progress_bar_options()) as bar:
        for batch, found in ImageLoader(paths, workers, batch_size=32, collate_fn=collate):
            stop()
            if thumbnails is not None:
                readable = [len(reasons) + i for i, reason in enumerate(batch) if reason is None]
                thumbnails[readable] = found
            reasons += batch
            bar.update(len(batch))
    return {position: reason for position, reason in enumerate(reasons) if reason is not None}


def describe_sizes(paths: Sequence[Path], limit: int = 200) -> str:
    """Describe the images' sizes from the headers of at most `limit` of them, evenly spaced; unreadable files are left out."""
    sampled = [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, min(limit, len(paths))).astype(int))]
    sizes = []
    with warnings.catch_warnings(action="ignore"):
        for path in sampled:
            with contextlib.suppress(FlukeError), open_image(path) as source:
                sizes.append(source.size)
    if not sizes:
        return "no image can be opened"
    short, long = np.sort(np.array(sizes), axis=1).T
    ranges = [f"{a.min():,} to {a.max():,}" if a.min() < a.max() else f"{a.min():,}" for a in (short, long)]
    return f"short side {ranges[0]} px, long side {ranges[1]} px (sizes of {len(sizes):,} images)"


def _read_header(path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        for part in parts_of(path):
            open_image(part).close()


def _read_data(path: Path) -> None:
    decode(path, short_side=1)


def _read_thumbnail(path: Path) -> torch.Tensor:
    return make_thumbnail(decode(path, short_side=SIDE))


CHECKS: dict[str, Callable[[Path], torch.Tensor | None]] = {
    "decode": _read_data,
    "header": _read_header,
    "thumbnail": _read_thumbnail,
}
"""Function that raises FlukeError for a file that it finds unreadable, by data.check; `thumbnail` decodes and returns one."""


def _check_batch(paths: Sequence[Path], check: Callable[[Path], torch.Tensor | None]) -> tuple[list[str | None], torch.Tensor]:
    """Return, for each file, why it can't be read (None if it can), and the thumbnails of the others where the check makes them."""
    reasons: list[str | None] = []
    thumbnails = []
    for path in paths:
        try:
            thumbnails.append(check(path))
            reasons.append(None)
        except FlukeError as error:
            reasons.append(str(error).removeprefix(f"{path}: ").removesuffix("."))
    made = [thumbnail for thumbnail in thumbnails if thumbnail is not None]
    return reasons, torch.stack(made) if made else torch.empty(0, 3, SIDE, SIDE, dtype=torch.uint8)
