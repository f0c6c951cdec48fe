"""Write the images of packed files, and a table of what else their records hold."""

from __future__ import annotations

import csv
import glob
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lib.errors import FlukeError
from lib.files import atomic_write
from lib.process import announce, progress_bar_options
from lib.tables.unpacking import Record, read_packed

MAGIC = {b"\xff\xd8": ".jpg", b"\x89PNG": ".png", b"RIFF": ".webp", b"GIF8": ".gif", b"BM": ".bmp"}


def unpack(patterns: Sequence[str], out: Path, shape: Sequence[int] | None = None) -> int:
    """Write OUT/images/ and OUT/table.csv from the records of all files; returns the number of images. Raises FlukeError.

    The table has one row per image: its name, its file, and the record's numbers and texts. Planes of pixels (at most three)
    become the channels of one .npy image, each scaled from its range over all files to 0 ... 255.
    """
    files = sorted({path for pattern in patterns for path in (glob.glob(pattern) or [pattern])})
    if out.exists() and any(out.iterdir()):
        raise FlukeError(f"{out}: is not empty; name another folder with --out.")
    ranges = _plane_ranges(files, shape)
    (out / "images").mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    used: set[str] = set()
    for file in files:
        for record in tqdm(read_packed(Path(file), shape), desc=Path(file).name, unit="", **progress_bar_options()):
            values = {name: _text(value) for name, value in record.items() if _is_value(value)}
            name = _record_name(values, len(rows), used)
            pictures = list(_pictures(record, ranges))
            if not pictures:
                raise FlukeError(f"{file}: record {name} holds no image (its fields: {', '.join(record)}).")
            for i, (suffix, data) in enumerate(pictures):
                image = f"{name}{f'-{i}' if len(pictures) > 1 else ''}{suffix}"
                (out / "images" / image).write_bytes(data) if isinstance(data, bytes) else np.save(out / "images" / image, data)
                rows.append({"image": image, "file": Path(file).stem, **values})
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with atomic_write(out / "table.csv") as temporary, open(temporary, "w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{len(rows):,} images; table.csv has the columns {', '.join(columns)}")
    announce([out / "images", out / "table.csv"], f"python scripts/prepare.py {out}")
    return len(rows)


def _record_name(values: dict[str, str], number: int, used: set[str]) -> str:
    """Return a file name for a record: its id, else its number; never one that was used."""
    key = next((name for name in values if re.fullmatch("_?id|image_?(id|name)?|name", name, re.IGNORECASE)), None)
    name = re.sub(r"[^\w.-]", "_", values[key]) if key is not None and values[key] else str(number)
    if name.startswith(".") or name in used:
        name = f"{number}_{name.lstrip('.')}"
    used.add(name)
    return name


def _pictures(record: Record, ranges: dict[str, tuple[float, float]]) -> Iterator[tuple[str, Any]]:
    """Yield suffix and content of each image of a record: encoded files at any depth, and its planes as one array."""
    planes = [(value - ranges[name][0]) / max(ranges[name][1] - ranges[name][0], 1e-12) for name, value in _planes(record)]
    if planes:
        if len(planes) == 2:
            planes.append(np.mean(planes, axis=0))  # images have three channels
        scaled = [np.rint(255 * plane).astype(np.uint8) for plane in planes[:3]]
        yield ".npy", scaled[0] if len(scaled) == 1 else np.stack(scaled, axis=-1)
    for value in record.values():
        yield from _encoded(value)


def _encoded(value: Any) -> Iterator[tuple[str, bytes]]:
    if isinstance(value, bytes):
        suffix = next((suffix for start, suffix in MAGIC.items() if value.startswith(start)), None)
        if suffix is not None:
            yield suffix, value
    elif isinstance(value, list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _encoded(part)


def _planes(record: Record) -> list[tuple[str, np.ndarray]]:
    return [(name, value) for name, value in record.items() if isinstance(value, np.ndarray)]


def _plane_ranges(files: Sequence[str], shape: Sequence[int] | None) -> dict[str, tuple[float, float]]:
    """Return the lowest and highest value of each plane over all files; only files that may hold planes are read."""
    found: dict[str, tuple[float, float]] = {}
    for file in files:
        if Path(file).suffix.lower() in (".json", ".csv", ".parquet"):
            for record in read_packed(Path(file), shape):
                for name, plane in _planes(record):
                    low, high = found.get(name, (np.inf, -np.inf))
                    found[name] = min(low, float(plane.min())), max(high, float(plane.max()))
    return found


def _is_value(value: Any) -> bool:
    if isinstance(value, bytes):
        return not any(value.startswith(start) for start in MAGIC) and len(value) < 200
    return isinstance(value, str | int | float)


def _text(value: Any) -> str:
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)
