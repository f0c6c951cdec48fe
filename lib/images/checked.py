"""Which image files were found readable before, so that a start on a large table doesn't read them all again.

A file is known by its path, size and time of change. The list is a convenience: where it can't be read or written, every file is
checked.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL

from lib.files import atomic_write
from lib.tables.image_path import ImagePath, files_of

MAX_KNOWN = 5_000_000
"""Files that the list holds at most (40 MB); a longer one starts anew."""


def list_path() -> Path:
    """Return the file of the list, in the user's folder for caches."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fluke" / "checked_images.npy"


def fingerprints(paths: Sequence[Path], check: str) -> np.ndarray:
    """Return a number for each file and kind of check, (n,) uint64, 0 for a file that isn't there."""
    found = np.zeros(len(paths), np.uint64)
    here = os.getcwd()
    for i, path in enumerate(paths):
        with contextlib.suppress(OSError):
            parts = [check, PIL.__version__]
            for file in files_of(path):
                status = os.stat(file)
                parts += [str(status.st_size), str(status.st_mtime_ns), f"{here}{os.sep}{file}"]
            text = " ".join(parts)
            if isinstance(path, ImagePath):
                text += f" {path.channels} {path.max_pixels}"
            found[i] = int.from_bytes(hashlib.blake2b(os.fsencode(text), digest_size=8).digest(), "little") or 1
    return found


def known_readable(marks: np.ndarray) -> np.ndarray:
    """Return which of the `marks` (n,) of `fingerprints` are in the list, (n,) bool."""
    return np.isin(marks, _load()) & (marks != 0)


def remember(marks: np.ndarray) -> None:
    """Add `marks` (n,) of readable files to the list."""
    known = _load()
    both = np.union1d(known, marks[marks != 0])
    if len(both) == len(known):
        return
    with contextlib.suppress(OSError):
        path = list_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary, open(temporary, "wb") as handle:
            np.save(handle, both if len(both) <= MAX_KNOWN else np.unique(marks))


def _load() -> np.ndarray:
    try:
        known = np.load(list_path())
    except (OSError, ValueError, EOFError):
        known = None
    usable = known is not None and known.dtype == np.uint64 and known.ndim == 1
    return known if usable else np.zeros(0, np.uint64)
