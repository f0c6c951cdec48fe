"""Pixels in the cells of a table: read once, and kept as an array of small images beside other caches of the user.

Cells are numbers, a column per pixel (pixel0, pixel1, ...), or lists of numbers, a column per channel (JSON lists, or text as in
"70 80 82").
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.config.recipe import Data
from lib.errors import FlukeError, first_few
from lib.files import atomic_write, write_json
from lib.tables import json_tables
from lib.tables.image_path import count_channels, make_image_path, max_pixels
from lib.tables.labels import expand_columns
from lib.tables.readers import JsonReader, ParquetReader, delimiter_of, read_header, reader_of
from lib.tables.regression_target import is_number

FIELD = "data.pixel_columns"
MOST_OTHER_COLUMNS = 4096
"""Columns of one name and a number, more of which are pixels, of whatever shape."""
LEAST_PIXELS = 64
"""Numbers in a row, or in a cell, that look like a picture."""


def pixel_paths(source: Path, data: Data, rows: np.ndarray) -> list[Path]:
    """Return a path for the image of each of `rows` (positions) of the table `source`. Raises FlukeError.

    Values that aren't whole numbers from 0 to 255 are scaled by the range of the training table, each channel by its own.
    """
    array = _store(source, data)
    channels, limit = count_channels(data), max_pixels(data)
    return [make_image_path(array / str(row), channels, limit, array=array, row=row) for row in rows.tolist()]


def load_pixels(array: Path, row: int, channels: int) -> np.ndarray:
    """Return an image of a kept array as uint8 (channels, H, W); a grey one has equal channels. Raises FlukeError."""
    try:
        planes = np.array(_open(array)[row])
    except (OSError, ValueError, IndexError) as error:
        raise FlukeError(f"{array}: pixels of {FIELD} can't be read ({error}); delete the file.") from None
    if len(planes) == 1:
        return np.repeat(planes, channels, axis=0)
    if len(planes) != channels:
        raise FlukeError(f"{FIELD}: gives images of {len(planes)} channels; set data.channels: {len(planes)} (now {channels}).")
    return planes


@lru_cache(maxsize=8)
def _open(array: Path) -> np.ndarray:
    opened: np.ndarray = np.load(array, mmap_mode="r", allow_pickle=False)
    return opened


def _store(source: Path, data: Data) -> Path:
    """Return the file of the table's pixels, uint8 (n, C, H, W), which is written where it is missing."""
    train = Path(data.root) / (data.train_csv or "")
    is_train = os.path.realpath(source) == os.path.realpath(train)
    known = None if is_train else json.loads(_store(train, data).with_suffix(".json").read_text())
    try:
        status = source.stat()
    except OSError as error:
        raise FlukeError(f"{source}: {error.strerror or error}.") from None
    about = [os.path.abspath(source), status.st_size, status.st_mtime_ns, data.pixel_columns, data.pixel_shape, known]
    name = hashlib.blake2b(json.dumps(about).encode(), digest_size=12).hexdigest()
    cache = data.cache_dir or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(cache) / "fluke" / "pixels" / f"{name}.npy"
    if path.exists() and path.with_suffix(".json").exists():
        return path
    values = _read(source, data)
    if known is None:
        whole = bool((values == np.rint(values)).all() and values.min() >= 0 and 1 < values.max() <= 255)
        axes = (0, 2, 3)
        known = {"low": values.min(axes).tolist(), "high": values.max(axes).tolist(), "whole": whole}
    if not known["whole"]:
        low, high = (np.array(known[key], np.float32)[:, None, None] for key in ("low", "high"))
        if len(low) != values.shape[1]:
            raise FlukeError(f"{source}: has {values.shape[1]} columns of pixels, but {train} has {len(low)} ({FIELD}).")
        values = 255 * (values - low) / np.maximum(high - low, 1e-12)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path.with_suffix(".json"), known)
    with atomic_write(path) as temporary, open(temporary, "wb") as handle:
        np.save(handle, np.rint(np.clip(values, 0, 255)).astype(np.uint8))
    return path


def _read(source: Path, data: Data) -> np.ndarray:
    """Return the pixels of a table, float32 (n, C, H, W). Raises FlukeError for what is no picture of the shape."""
    table = _read_columns(source, data.pixel_columns)
    first = table.iloc[0, 0]
    if not isinstance(first, str | list | np.ndarray):
        planes = [table.to_numpy(np.float32)]
    else:
        planes = [_lists(source, str(column), table[column].tolist()) for column in table]
    found = planes[0].shape[1]
    side = math.isqrt(found)
    height, width = data.pixel_shape or (side, side)
    if any(plane.shape[1] != height * width for plane in planes):
        counts = first_few(sorted({plane.shape[1] for plane in planes}))
        raise FlukeError(f"{source}: {counts} pixels are no picture of {height} x {width} ({FIELD}); set data.pixel_shape.")
    return np.stack([plane.reshape(-1, height, width) for plane in planes], axis=1)


def find_pixel_columns(source: Path) -> tuple[list[str], int]:
    """Return what data.pixel_columns would be for a table, [] for one without pixels, and the number of pixels of a picture."""
    reader = reader_of(source)
    if reader is JsonReader:
        records = json_tables.parse(source)
        lists = {name: value for name, value in (records[0] if records else {}).items() if isinstance(value, list)}
        long = [name for name, value in lists.items() if len(value) >= LEAST_PIXELS]
        return long, len(lists[long[0]]) if long else 0
    header = read_header(source)
    prefixes = Counter(column.rstrip("0123456789") for column in header if column[-1:].isdigit())
    prefix, count = prefixes.most_common(1)[0] if prefixes else ("", 0)
    if list(prefixes.values()).count(count) > 1:
        count = 0  # margin1, ..., shape1, ...: kinds of features
    if count >= LEAST_PIXELS and math.isqrt(count) ** 2 == count and prefix:
        return [f"{prefix}*"], count
    if count >= MOST_OTHER_COLUMNS:
        return [f"{prefix}[0-9]*"], count
    if reader is ParquetReader:
        return [], 0
    first = pd.read_csv(source, sep=delimiter_of(source), nrows=1, dtype=str, keep_default_na=False)
    cells = {str(column): re.findall(r"[^\s,\[\]]+", str(first[column].iloc[0])) for column in first if len(first)}
    long = [column for column, parts in cells.items() if len(parts) >= LEAST_PIXELS and all(map(is_number, parts))]
    return long, len(cells[long[0]]) if long else 0


def _read_columns(source: Path, patterns: Sequence[str]) -> pd.DataFrame:
    """Return the columns of pixels, in the order of `patterns` and of the file, with cells as numbers, text or lists."""
    reader = reader_of(source)
    if reader is JsonReader:
        records = json_tables.parse(source)
        header = list(dict.fromkeys(key for record in records for key in record))
    else:
        header = reader.header(source)
    columns = [c for pattern in patterns for c in expand_columns(source, header, [pattern], FIELD, least=1)]
    if reader is JsonReader:
        return pd.DataFrame({column: [record.get(column) for record in records] for column in columns})
    if reader is ParquetReader:
        return pd.read_parquet(source, columns=columns)
    try:
        return pd.read_csv(source, usecols=columns, sep=delimiter_of(source))[columns]
    except ValueError as error:
        raise FlukeError(f"{source}: pixels can't be read ({str(error).splitlines()[0]}).") from None


def _lists(source: Path, column: str, cells: list[Any]) -> np.ndarray:
    """Return a column of lists of numbers as float32 (n, pixels). Raises FlukeError for lists of other lengths and other cells."""
    rows, wrong = [], []
    for i, cell in enumerate(cells):
        try:
            with warnings.catch_warnings(action="error"):  # NumPy warns of what is no number
                text = cell.strip("[] ").replace(",", " ") if isinstance(cell, str) else None
                rows.append(np.asarray(cell, np.float32) if text is None else np.fromstring(text, np.float32, sep=" "))
        except (TypeError, ValueError, DeprecationWarning):
            rows.append(np.zeros(0, np.float32))
        if len(rows[-1]) != len(rows[0]) or not len(rows[-1]):
            wrong.append(f"{reader_of(source).unit} {i + (2 if reader_of(source).unit == 'line' else 1)} ({len(rows[-1])})")
    if wrong:
        raise FlukeError(
            f"{source}: {len(wrong):,} cells of {column} don't hold {len(rows[0])} numbers as the first does: {first_few(wrong)}."
        )
    return np.stack(rows)
