"""Records of files that hold images inside: TensorFlow's TFRecord, BSON, and tables with pixels in their cells.

The formats are read by a few lines of our own, because TensorFlow and MongoDB's driver are hundreds of megabytes for two loops.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.errors import FlukeError
from lib.tables.readers import delimiter_of, read_header

ROWS_AT_ONCE = 512
Record = dict[str, Any]
"""Values by name: bytes, str, int, float, arrays (a plane of pixels), lists of those."""


def read_packed(path: Path, shape: Sequence[int] | None = None) -> Iterator[Record]:
    """Yield the records of a packed file, by its suffix; `shape` is the height and width of pixels in columns (None: square).

    Raises FlukeError for another kind of file and for a damaged one."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise FlukeError(f"{path}: unknown kind of file; there are {', '.join(READERS)}.")
    if not path.is_file():
        raise FlukeError(f"{path}: no such file.")
    try:
        yield from reader(path) if shape is None else _read_pixel_table(path, shape)
    except (struct.error, IndexError, UnicodeDecodeError, ValueError, KeyError) as error:
        raise FlukeError(f"{path}: damaged, or not of the kind that its name says ({error}).") from None


# --- TFRecord ---------------------------------------------------------------------------------------------------------------------


def _read_tfrecord(path: Path) -> Iterator[Record]:
    """Yield the tf.train.Example of each record; checksums are not compared."""
    with path.open("rb") as file:
        while head := file.read(12):
            (length,) = struct.unpack("<Q", head[:8])
            data = file.read(length)
            if len(data) < length or len(file.read(4)) < 4:
                raise ValueError("cut short")
            yield _example(data)


def _example(data: bytes) -> Record:
    record: Record = {}
    for _, features in _fields(data):
        for _, entry in _fields(features):
            parts = dict(_fields(entry))
            values = [value for kind, packed in _fields(parts[2]) for value in _list(kind, packed)]
            record[parts[1].decode()] = values[0] if len(values) == 1 else values
    return record


def _list(kind: int, data: bytes) -> list[Any]:
    """Return the values of a BytesList (1), FloatList (2) or Int64List (3)."""
    values: list[Any] = []
    for _, value in _fields(data):
        if kind == 1:
            values.append(value)
        elif kind == 2:
            values += struct.unpack(f"<{len(value) // 4}f", value)
        elif isinstance(value, int):
            values.append(_signed(value))
        else:
            at = 0
            while at < len(value):
                number, at = _varint(value, at)
                values.append(_signed(number))
    return values


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yield number and value of the fields of a protocol buffer: int for a varint, else bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            length, at = _varint(data, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"unknown wire type {wire}")
        if at + length > len(data):
            raise ValueError("cut short")
        yield number, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value, at, shift = value | (byte & 127) << shift, at + 1, shift + 7
        if byte < 128:
            return value, at


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


# --- BSON -------------------------------------------------------------------------------------------------------------------------


def _read_bson(path: Path) -> Iterator[Record]:
    with path.open("rb") as file:
        while head := file.read(4):
            (length,) = struct.unpack("<i", head)
            body = file.read(length - 4)
            if len(body) < length - 4:
                raise ValueError("cut short")
            yield _document(body)


def _document(data: bytes) -> Record:
    """Return the elements of a document, without its length (bsonspec.org, version 1.1)."""
    record: Record = {}
    at = 0
    while data[at]:
        kind, end = data[at], data.index(0, at + 1)
        name, at = data[at + 1 : end].decode(), end + 1
        if kind in FIXED:
            form, size = FIXED[kind]
            record[name] = struct.unpack(form, data[at : at + size])[0] if form else None
            at += size
            continue
        (length,) = struct.unpack("<i", data[at : at + 4])
        if kind == 2:
            record[name] = data[at + 4 : at + 3 + length].decode()
            at += 4 + length
        elif kind in (3, 4):
            inside = _document(data[at + 4 : at + length])
            record[name] = list(inside.values()) if kind == 4 else inside
            at += length
        elif kind == 5:
            record[name] = data[at + 5 : at + 5 + length]
            at += 5 + length
        else:
            raise ValueError(f"element of unknown type {kind}")
    return record


FIXED: dict[int, tuple[str, int]] = {
    1: ("<d", 8),
    7: ("12s", 12),
    8: ("?", 1),
    9: ("<q", 8),
    10: ("", 0),
    16: ("<i", 4),
    18: ("<q", 8),
}
"""Types of BSON with a fixed size: struct format ("" for null) and bytes."""


# --- pixels in tables -------------------------------------------------------------------------------------------------------------


def _read_json(path: Path) -> Iterator[Record]:
    """Yield records whose lists of numbers are square planes of pixels (statoil's band_1, band_2)."""
    for record in json.loads(path.read_text(encoding="utf-8-sig")):
        yield {name: _plane(value) if isinstance(value, list) else value for name, value in record.items()}


def _read_pixel_table(path: Path, shape: Sequence[int] | None = None) -> Iterator[Record]:
    """Yield the rows of a CSV or Parquet file whose columns pixel0, pixel1, ... (any prefix, or none) are a picture of `shape`."""
    header = read_header(path)
    prefixes: dict[str, list[str]] = {}
    for column in header:
        prefixes.setdefault(column.rstrip("0123456789"), []).append(column)
    prefix, pixels = max(prefixes.items(), key=lambda item: len(item[1]))
    if len(pixels) < 16:
        raise FlukeError(f"{path}: has no columns of pixels (found {len(pixels)} columns {prefix!r}...).")
    height, width = shape or (math.isqrt(len(pixels)),) * 2
    if height * width != len(pixels):
        raise FlukeError(
            f"{path}: {len(pixels):,} columns {prefix!r}... are no pictures of {height} x {width}; set --shape HEIGHT WIDTH."
        )
    of_pixels = set(pixels)
    others = [column for column in header if column not in of_pixels]
    for part in _parts(path):
        planes = part[pixels].to_numpy(np.float64).reshape(-1, height, width)
        for i, plane in enumerate(planes):
            yield {column: str(part[column].iloc[i]) for column in others} | {prefix or "pixels": plane}


def _parts(path: Path) -> Iterator[pd.DataFrame]:
    """Yield the rows of a table, a few at a time, whose cells are numbers, or text as it is."""
    if path.suffix.lower() == ".csv":
        header = pd.read_csv(path, nrows=0, sep=delimiter_of(path)).columns
        text = {column: str for column in header if not str(column)[-1:].isdigit()}
        yield from pd.read_csv(path, sep=delimiter_of(path), dtype=text, keep_default_na=False, chunksize=ROWS_AT_ONCE)
        return
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(path).iter_batches(ROWS_AT_ONCE):
        yield batch.to_pandas()


def _plane(values: Any) -> Any:
    """Return a square array (side, side) of a list of numbers; other lists as they are."""
    array = np.array(values)
    side = math.isqrt(array.size)
    return array.reshape(side, side) if array.dtype.kind in "iuf" and side > 3 and side * side == array.size else values


READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".tfrec": _read_tfrecord,
    ".tfrecord": _read_tfrecord,
    ".tfrecords": _read_tfrecord,
    ".bson": _read_bson,
    ".json": _read_json,
    ".csv": _read_pixel_table,
    ".parquet": _read_pixel_table,
}
