"""Files with the same bytes: the same photograph under two names, which must not be on both sides of a split."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path


def find_identical(paths: Sequence[Path], stop: Callable[[], None] = lambda: None) -> list[list[int]]:
    """Return the sets of positions in `paths`, ascending, whose files have the same bytes.

    Only files of equal size are read. `stop` is called once per file that is read and may raise. Files that can't be read are in no
    set.
    """
    by_size: dict[int, list[int]] = {}
    for position, path in enumerate(paths):
        try:
            by_size.setdefault(os.stat(path).st_size, []).append(position)
        except OSError:
            continue
    by_content: dict[tuple[int, bytes], list[int]] = {}
    for size, positions in by_size.items():
        for position in positions if len(positions) > 1 else []:
            stop()
            try:
                with open(paths[position], "rb") as file:
                    digest = hashlib.file_digest(file, "blake2b").digest()
            except OSError:
                continue
            by_content.setdefault((size, digest), []).append(position)
    return [same for same in by_content.values() if len(same) > 1]
