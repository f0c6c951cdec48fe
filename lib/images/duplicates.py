"""Files with the same bytes: the same photograph under two names, which must not be on both sides of a split."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from lib.tables.image_path import ImagePath, files_of
from lib.tables.pixels import load_pixels

TAIL = 4096
"""Bytes at the end of a file that are compared before the whole file is read."""


def find_identical(paths: Sequence[Path], stop: Callable[[], None] = lambda: None) -> list[list[int]]:
    """Return the sets of positions in `paths`, ascending, whose images have the same bytes in all of their files.

    Images of different numbers of files are compared by as many as the one with fewer has.
    """
    if any(getattr(path, "array", None) is not None for path in paths):
        return _find_identical_pixels(paths)
    most = max((len(files_of(path)) for path in paths), default=1)
    if most == 1:
        return _find_identical_files(paths, stop)
    of_image: list[tuple[int, ...]] = [()] * len(paths)
    for channel in range(most):
        files = [files_of(path)[min(channel, len(files_of(path)) - 1)] for path in paths]
        number = {i: k for k, same in enumerate(_find_identical_files(files, stop)) for i in same}
        of_image = [(*known, number.get(i, -1 - i)) for i, known in enumerate(of_image)]
    sets: dict[tuple[int, ...], list[int]] = {}
    for i, known in enumerate(of_image):
        sets.setdefault(known, []).append(i)
    return sorted(same for same in sets.values() if len(same) > 1)


def _find_identical_pixels(paths: Sequence[Path]) -> list[list[int]]:
    """Return the sets of positions in `paths`, ascending, whose pixels, of cells of a table, are equal."""
    sets: dict[bytes, list[int]] = {}
    for i, path in enumerate(paths):
        if isinstance(path, ImagePath) and path.array is not None:
            digest = hashlib.blake2b(load_pixels(path.array, path.row, path.channels).tobytes()).digest()
            sets.setdefault(digest, []).append(i)
    return sorted(same for same in sets.values() if len(same) > 1)


def _find_identical_files(paths: Sequence[Path], stop: Callable[[], None]) -> list[list[int]]:
    """Return the sets of positions in `paths`, ascending, whose files have the same bytes.

    Only files of equal size and equal last bytes are read as a whole, and links to one file aren't read. `stop` is called once per
    file that is read and may raise. Files that can't be read are in no set.
    """
    of_file: dict[tuple[int, int], list[int]] = {}  # the positions that link to a file, by device and inode
    by_size: dict[int, list[tuple[int, int]]] = {}
    for position, path in enumerate(paths):
        try:
            found = os.stat(path)
        except OSError:
            continue
        file = (found.st_dev, found.st_ino)
        if file in of_file and found.st_ino:  # Windows may not number its files
            of_file[file].append(position)
            continue
        of_file[file] = [position]
        by_size.setdefault(found.st_size, []).append(file)

    def digest(file: tuple[int, int], tail: bool) -> bytes:
        stop()
        try:
            with open(paths[of_file[file][0]], "rb") as handle:
                if tail:
                    handle.seek(-min(TAIL, os.fstat(handle.fileno()).st_size), os.SEEK_END)
                return hashlib.file_digest(handle, "blake2b").digest()
        except OSError:
            return repr(file).encode()  # in no set

    same: list[list[int]] = []
    for size, files in by_size.items():
        sets = [files]
        for tail in (True, False) if size > TAIL else (False,):
            sets = [part for each in sets for part in _split(each, partial(digest, tail=tail))]
        same += [sorted(position for file in each for position in of_file[file]) for each in sets]
    return sorted(positions for positions in same if len(positions) > 1)


def _split(files: list[tuple[int, int]], digest: Callable[[tuple[int, int]], bytes]) -> list[list[tuple[int, int]]]:
    """Return the files in sets of equal digest; one file alone needs none."""
    if len(files) == 1:
        return [files]
    parts: dict[bytes, list[tuple[int, int]]] = {}
    for file in files:
        parts.setdefault(digest(file), []).append(file)
    return list(parts.values())
