"""Check image files before training: find those that can't be read, describe their sizes."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from lib.errors import FlukeError
from lib.images import checked
from lib.images.decoding import decode
from lib.images.loader import ImageLoader, count_workers
from lib.images.opening import open_image
from lib.process import is_main_process

WORTH_REMEMBERING = 1000
"""Images from which on the readable ones are remembered (lib/images/checked.py)."""
WORTH_A_WORKER = 128
"""Images for which starting a process, which imports torch where it isn't forked, pays."""


def find_unreadable(
    paths: Sequence[Path], workers: int | None, check: Literal["decode", "header"], stop: Callable[[], None] = lambda: None
) -> dict[int, str]:
    """Return {position in `paths`: reason} of every file that can't be read, in order.

    `workers` processes check (0: this one; None: one per core). `stop` is called once per batch and may raise. `decode` decodes
    each file: a JPEG at 1/8 of its size, which reads all of its data in a third of the time. `header` only opens it, ten times
    as fast, and misses truncated files. Of many files, those that were readable before and haven't changed are not read again.
    """
    if len(paths) >= WORTH_REMEMBERING:
        marks = checked.fingerprints(paths, check)
        new = np.flatnonzero(~checked.known_readable(marks))
        found = _check([paths[i] for i in new.tolist()], workers, check, stop)
        checked.remember(np.delete(marks, new[list(found)]))
        return {int(new[position]): reason for position, reason in found.items()}
    return _check(paths, workers, check, stop)


def _check(
    paths: Sequence[Path], workers: int | None, check: Literal["decode", "header"], stop: Callable[[], None]
) -> dict[int, str]:
    collate = partial(_find_reasons, check=CHECKS[check])
    workers = min(count_workers(workers), len(paths) // WORTH_A_WORKER)
    reasons: list[str | None] = []
    with tqdm(total=len(paths), desc="checking images", unit="", delay=2, leave=False, disable=not is_main_process()) as bar:
        for batch in ImageLoader(paths, workers, batch_size=32, collate_fn=collate):
            stop()
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
        open_image(path).close()


CHECKS: dict[str, Callable[[Path], Any]] = {"decode": partial(decode, short_side=1), "header": _read_header}
"""data.check: function that raises FlukeError for a file that it finds unreadable."""


def _find_reasons(paths: Sequence[Path], check: Callable[[Path], Any]) -> list[str | None]:
    """Return, for each file, why it can't be read; None if it can."""
    reasons: list[str | None] = []
    for path in paths:
        try:
            check(path)
            reasons.append(None)
        except FlukeError as error:
            reasons.append(str(error).removeprefix(f"{path}: ").removesuffix("."))
    return reasons
