"""What a gallery's folder holds besides rows and vectors: the networks that made them, and how images are told to be the same."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from lib.config.command_line import dump
from lib.config.recipe import Recipe
from lib.errors import FlukeError
from lib.files import atomic_write, read_json, write_text
from lib.run_folder import RunFolder
from lib.tables.readers import read_columns, read_header
from lib.tables.table import Table

_ENDS = 65536  # bytes that are read at each end of a file


def content_hashes(paths: Sequence[Path]) -> np.ndarray:
    """Return a hash of the size, the first and the last 64 KiB of each file, (n,) str; "" for a file that can't be read.

    Compressed photographs that agree in these are the same; reading whole files would take as long as embedding them.
    """
    return np.array([_content_hash(path) for path in paths], np.str_)


def _content_hash(path: Path) -> str:
    try:
        with open(path, "rb") as handle:
            size = os.fstat(handle.fileno()).st_size
            digest = hashlib.blake2b(str(size).encode() + b" " + handle.read(_ENDS), digest_size=16)
            if size > _ENDS:
                handle.seek(max(_ENDS, size - _ENDS))
                digest.update(handle.read(_ENDS))
            return digest.hexdigest()
    except OSError:
        return ""


def table_columns(table: Table, used: Sequence[str | None]) -> dict[str, np.ndarray]:
    """Return the columns of a table's file, (n,) str by name, but those `used` otherwise; {} for a folder."""
    if table.lines is None:
        return {}
    header = read_header(table.source)
    names = [name for name in header if name and name not in used and header.count(name) == 1]
    columns, lines = read_columns(table.source, {name: name for name in names})
    at = np.searchsorted(lines, table.lines)
    return {name: np.array(columns[name], np.str_)[at] for name in names}


def sighting_column(recipe: Recipe) -> str:
    """Return the column of a gallery that holds the images' sightings: folds.group_column, or "group" where it has no name."""
    return recipe.folds.group_column or "group"


def save_networks(folder: Path, runs: Sequence[RunFolder], recipes: Sequence[Recipe]) -> None:
    """Keep each run's weights and recipe in the gallery's folder, so that it can be asked when the run is gone."""
    for number, (run, recipe) in enumerate(zip(runs, recipes)):
        kept = _network(folder, number)
        if run.weights == kept.weights:
            continue
        kept.weights.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(kept.weights) as temporary:
            try:
                os.link(run.weights, temporary)  # runs replace their weights by another file, so that this one stays
            except OSError:
                shutil.copyfile(run.weights, temporary)
        write_text(kept.recipe, dump(recipe))


def find_networks(folder: Path) -> list[RunFolder]:
    """Return the networks in a gallery's folder. Raises FlukeError where there are none."""
    found: list[RunFolder] = []
    while (run := _network(folder, len(found))).weights.exists() and run.recipe.exists():
        found.append(run)
    if not found:
        raise FlukeError(f"{folder}: holds no network; name the run that made the gallery with --run.")
    return found


def combination(folder: Path) -> Literal["concat", "mean"]:
    """Return how a gallery's networks were combined. Raises FlukeError where there is no gallery."""
    return "mean" if (read_json(folder / "gallery.json").get("about") or {}).get("combine") == "mean" else "concat"


def _network(folder: Path, number: int) -> RunFolder:
    return RunFolder(folder / "networks" / str(number))
