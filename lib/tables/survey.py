"""What lies in a contest's folder: tables, images, the sample submission, and what each column of a table may be."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from lib.errors import FlukeError, first_few
from lib.tables import text_lists
from lib.tables.folders import image_stem, walk_images
from lib.tables.pixels import find_pixel_columns
from lib.tables.readers import READERS, read_columns, read_header
from lib.tables.sample import Sample, read_sample

TABLE_SUFFIXES = (".csv", ".tsv", *READERS)
SAMPLE_NAME = re.compile("sample|submission|benchmark", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class FoundTable:
    """A table of the folder, with all of its columns as text."""

    path: str
    """Relative to the folder."""
    columns: dict[str, list[str]]
    pixels: tuple[str, ...] = ()
    """Columns of pixels, which aren't among `columns`, as data.pixel_columns names them."""
    side: int = 0
    """Side of its square pictures."""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))


@dataclass(frozen=True, eq=False)
class Survey:
    """What a folder holds."""

    folder: Path
    images: list[str]
    """All images below the folder, relative to it."""
    tables: list[FoundTable]
    """Readable tables but the sample submission."""
    sample: Sample | None
    sample_path: str | None
    notes: list[str] = field(default_factory=list)
    """What was seen and left aside."""
    lists: list[FoundTable] = field(default_factory=list)
    """Text files that only name images, one per line."""

    @cached_property
    def stems(self) -> dict[str, list[str]]:
        """{name without folder and extension: images of that name}."""
        found: dict[str, list[str]] = {}
        for image in self.images:
            found.setdefault(image_stem(image), []).append(image)
        return found

    def images_of(self, cells: Sequence[str]) -> list[str]:
        """Return the images that the cells of a column name, one per cell that names any, in its folder if it has one."""
        found = []
        for cell in (cell.replace("\\", "/") for cell in cells):
            if same := self.stems.get(image_stem(cell)):
                endings = tuple(f"/{cell}{suffix}" for suffix in ("", *{os.path.splitext(image)[1] for image in same}))
                found.append(next((image for image in same if f"/{image}".endswith(endings)), same[0]))
        return found

    def image_column(self, table: FoundTable) -> tuple[str, float] | None:
        """Return the column whose cells name most images, and the share of its cells that do; None below a half."""
        shares = {column: len(self.images_of(cells)) / max(len(cells), 1) for column, cells in table.columns.items()}
        # Of equal ones, file names with an extension, or longer names, can't be numbers that happen to be image names.
        best = max(shares, key=lambda column: (shares[column], max(map(len, table.columns[column]), default=0)), default=None)
        return None if best is None or shares[best] < 0.5 else (best, shares[best])


def survey_folder(folder: Path) -> Survey:
    """Return what lies in `folder`. Raises FlukeError where there is neither an image nor a table."""
    if not folder.is_dir():
        raise FlukeError(f"{folder}: is not a folder; unpack the contest's archive there.")
    paths = sorted(
        os.path.relpath(os.path.join(parent, name), folder).replace(os.sep, "/")
        for parent, folders, files in os.walk(folder)
        for name in files
        if os.path.splitext(name)[1].lower() in (*TABLE_SUFFIXES, *text_lists.SUFFIXES)
        and not name.startswith(".")
        and not _is_deep(parent, folder)
    )
    tables, notes, samples = [], [], []
    for path in paths:
        try:
            header = read_header(folder / path)
            pixels, count = find_pixel_columns(folder / path)
            if math.isqrt(count) ** 2 != count:
                notes.append(f"{path}: {count:,} columns of pixels, no square pictures: write them as files by unpack.py --shape")
                continue
            once = Counter(header)
            kept = [name for name in header if once[name] == 1 and not any(fnmatchcase(name, each) for each in pixels)]
            columns = read_columns(folder / path, {name: name for name in kept})[0] if kept else {}
        except FlukeError as error:
            if path.lower().endswith(text_lists.SUFFIXES):
                continue  # most text files are no tables
            notes.append(f"{path}: not read ({str(error).removeprefix(f'{folder / path}: ')})")
            continue
        if SAMPLE_NAME.search(Path(path).name):
            samples.append(path)
        else:
            tables.append(FoundTable(path, columns, tuple(pixels), math.isqrt(count)))
    chosen = min(samples, key=lambda path: (not re.search("sub", path, re.IGNORECASE), path.count("/"), len(path)), default=None)
    images = walk_images(folder)
    sample = None if chosen is None else read_sample(folder / chosen)
    survey = _part_lists(Survey(folder, images, tables, sample, chosen, notes))
    tables = survey.tables
    seen = "".join(f" ({note})" for note in notes)
    if not images and not tables:
        raise FlukeError(f"{folder}: holds neither images nor tables; unpack the contest's archive there{seen}.")
    if not images and not any(table.pixels for table in tables):
        named = ", ".join(table.path for table in tables[:5])
        raise FlukeError(
            f"{folder}: holds tables ({named}) but no images; put them there as well, or packed files through unpack.py{seen}."
        )
    if len(samples) > 1:
        notes.append(f"other samples: {', '.join(path for path in samples if path != chosen)}")
    for i, table in enumerate(tables):
        if table.pixels and (column := survey.image_column(table)) is not None and column[1] > 0.9:
            notes.append(
                f"{table.path}: its columns {first_few(table.pixels)} count as features, because its rows have image files"
            )
            tables[i] = replace(table, pixels=())
    return survey


def _part_lists(survey: Survey) -> Survey:
    """Return the survey with text files that only name images apart, and without other texts."""
    tables, lists = [], []
    for table in survey.tables:
        is_text = table.path.lower().endswith(text_lists.SUFFIXES)
        if not is_text or (len(table.columns) > 1 and survey.image_column(table) is not None):
            tables.append(table)
        elif len(survey.images_of(next(iter(table.columns.values()), []))) == len(table) > 0:
            lists.append(table)
    return replace(survey, tables=tables, lists=lists)


def _is_deep(parent: str, folder: Path) -> bool:
    return os.path.relpath(parent, folder).count(os.sep) > 2


def folder_of(images: Sequence[str], names: Sequence[str], word: str) -> str | None:
    """Return the first folder, below the one of all images, that holds an image of each of `names`; None without any.

    Of several it is the one whose name holds `word`; None where none or several do. Where its images have names in common too, in
    folders of several sizes, it is the first of these.
    """
    stems: dict[str, set[str]] = {}
    above = "" if (common := common_folder(images)) == "." else f"{common}/"
    for image in images:
        top = image.removeprefix(above).partition("/")[0]
        stems.setdefault(above + top, set()).add(image_stem(image))
    wanted = {image_stem(name) for name in names}
    holding = [folder for folder, found in stems.items() if wanted <= found]
    called = [folder for folder in holding if re.search(word, folder, re.IGNORECASE)]
    chosen = next((some[0] for some in (holding, called) if len(some) == 1), None)
    if chosen is None:
        return None
    inside = [image for image in images if image.startswith(f"{chosen}/")]
    named = [image_stem(image) for image in inside if image_stem(image) in wanted]
    if len(named) == len(set(named)):
        return chosen
    sizes = sorted({image.removeprefix(f"{chosen}/").partition("/")[0] for image in inside})
    whole = [f"{chosen}/{size}" for size in sizes if wanted <= {image_stem(i) for i in inside if i.startswith(f"{chosen}/{size}/")}]
    return whole[0] if whole else folder_of(inside, names, word) if len(inside) < len(images) else chosen


def common_folder(images: Sequence[str]) -> str:
    """Return the deepest folder that holds all `images`, "." for the top."""
    folders = [image.rpartition("/")[0] for image in images]
    return os.path.commonpath(folders).replace(os.sep, "/") or "." if folders and all(folders) else "."


def is_number(cell: str) -> bool:
    """Return whether a cell is a finite number."""
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", cell.strip()) is not None


def splits_into_labels(cells: Sequence[str]) -> str | None:
    """Return the separator of cells that hold several labels, None where they hold one: parts recur far more often than cells."""
    filled = [cell for cell in cells if cell.strip()]
    for separator in ("|", ";", ",", " "):
        parts = Counter(part.strip() for cell in filled for part in cell.split(separator) if part.strip())
        several = sum(separator in cell.strip() for cell in filled)
        if several < len(filled) / 20 or not parts:
            continue
        alone = set(filled)
        if separator in "| " and all(part.isdigit() for part in parts):
            return separator  # "1 3 5" is no label by itself
        # "Common wheat" has a blank too, but "wheat" isn't a cell of its own, nor part of many different ones.
        if len(parts) < len(alone) and (
            all(is_number(part) for part in parts) or sum(part in alone for part in parts) > len(parts) / 3
        ):
            return separator
    return None
