"""The boxes of a table's images, from columns of the table or from MegaDetector's JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lib.config.recipe import Data
from lib.errors import FlukeError, first_few
from lib.files import read_json
from lib.tables.box import Box
from lib.tables.readers import read_columns, read_header
from lib.tables.table import Table


def add_boxes(table: Table, data: Data, required: bool = False) -> Table:
    """Return the table with the boxes that data.box_columns or data.detections say; a note counts images without one.

    A table without these columns keeps whole images, with a note, unless they are `required`. Raises FlukeError for cells that are
    no boxes, and for a file that is no result of MegaDetector.
    """
    if data.box_columns:
        found = _from_columns(table, data, required)
    elif data.detections is not None:
        found = _from_detections(Path(data.root) / data.detections, table.names, data.detection_confidence)
    else:
        return table
    if found is None:
        note = f"no columns {', '.join(data.box_columns)} (data.box_columns) here: whole images are read"
        return replace(table, notes=(*table.notes, note))
    without = sum(box is None for box in found)
    notes = (*table.notes, f"{without:,} of {len(found):,} images have no box and are read whole") if without else table.notes
    return replace(table, boxes=found, notes=notes)


def _from_columns(table: Table, data: Data, required: bool) -> list[Box | None] | None:
    """Return the boxes in the columns of the table's file; None where it is a folder or lacks them."""
    if table.lines is None or (not required and not set(data.box_columns) <= set(read_header(table.source))):
        return None
    columns, lines = read_columns(table.source, {f"data.box_columns {name}": name for name in data.box_columns})
    cells = dict(zip(lines.tolist(), zip(*columns.values())))
    found: list[Box | None] = []
    wrong: list[str] = []
    for i, line in enumerate(table.lines.tolist()):
        try:
            found.append(_make_box(cells[line], data.box_form))
        except ValueError as error:
            wrong.append(f"{table.describe_row(i)}: {error}")
    if wrong:
        raise FlukeError(f"{table.source}: {len(wrong):,} rows hold no box (data.box_columns): {first_few(wrong, 3)}.")
    numbers = [value for box in found if box is not None for value in box[:4]]
    if numbers and max(numbers) <= 1:  # no animal is a pixel wide
        return [None if box is None else box._replace(relative=True) for box in found]
    return found


def _make_box(cells: Sequence[str], form: str) -> Box | None:
    """Return the box in the cells of a row, None where they are blank. Raises ValueError for something else."""
    if not any(cell.strip() for cell in cells):
        return None
    x, y, third, fourth, *more = map(float, cells)
    angle = more[0] if more else 0.0
    width, height = (third, fourth) if form == "size" else (third - x, fourth - y)
    if not all(map(math.isfinite, (x, y, width, height, angle))) or width <= 0 or height <= 0:
        raise ValueError(f"{width:g} wide and {height:g} high")
    return Box(x, y, width, height, angle)


def _from_detections(path: Path, names: Sequence[str], least: float) -> list[Box | None]:
    """Return the most confident animal that MegaDetector found in each image, None where it has less than `least` confidence."""
    content = read_json(path)
    try:
        animal = {key for key, name in content.get("detection_categories", {"1": "animal"}).items() if name == "animal"}
        by_file = {_posix(image["file"]): _best(image.get("detections") or [], animal, least) for image in content["images"]}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FlukeError(f"{path}: is not a result of MegaDetector ({error!r}); data.detections names its JSON file.") from None
    by_name: dict[str, list[str]] = {}
    for file in by_file:
        by_name.setdefault(file.rpartition("/")[2], []).append(file)
    found: list[Box | None] = []
    missing: list[str] = []
    for name in map(_posix, names):
        alike = by_name.get(name.rpartition("/")[2], [])
        if name not in by_file and len(alike) != 1:
            missing.append(name)
            continue
        found.append(by_file[name] if name in by_file else by_file[alike[0]])
    if missing:
        raise FlukeError(f"{path}: lacks {len(missing):,} of the images ({first_few(missing)}); run MegaDetector on them too.")
    return found


def _best(detections: list[dict[str, Any]], animal: set[str], least: float) -> Box | None:
    sure = [one for one in detections if str(one["category"]) in animal and float(one["conf"]) >= least]
    if not sure:
        return None
    x, y, width, height = map(float, max(sure, key=lambda one: float(one["conf"]))["bbox"])
    return Box(x, y, width, height, relative=True)


def _posix(name: str) -> str:
    return name.replace("\\", "/")
