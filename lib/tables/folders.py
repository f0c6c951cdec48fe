"""Images in folders: what a folder holds, and the paths of the images that a table names.

Each folder is listed once, because a disk access per row costs seconds for 100,000 rows, and minutes on a network disk.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from PIL import Image

from lib.errors import FlukeError, first_few
from lib.files import safe_join

# Raster formats only: Pillow's others include EPS, which starts Ghostscript, and containers that hide a second format.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
"""Formats of images, under Pillow's names."""
IMAGE_SUFFIXES = {suffix for suffix, name in Image.registered_extensions().items() if name in IMAGE_FORMATS}
IMAGE_SUFFIXES |= {".npy", ".dcm", ".dicom"}
"""File suffixes of images, in lower case: of these formats, NumPy arrays and DICOM."""


def list_images(folder: Path) -> tuple[list[str], list[str], list[str]]:
    """Return the sorted names of a folder's images, sub-folders and other files, without hidden ones. Raises FlukeError."""
    files, folders = _scan(folder)
    visible = sorted(name for name in files if not name.startswith("."))
    images = [name for name in visible if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]
    return images, sorted(f for f in folders if not f.startswith(".")), sorted(set(visible) - set(images))


def find_images(folder: Path, names: Sequence[str], trusted: Sequence[Path] = ()) -> tuple[list[Path], dict[int, str]]:
    """Return the paths (n) of the images that a table names, and {position: reason} for missing ones.

    A name is a path relative to `folder`, also with Windows's backslashes. Without such a file, it stands for the image in the same
    folder whose name differs only in its extension or in its Unicode form (macOS decomposes accents). Links may lead into the
    folders `trusted`. Raises FlukeError when `folder` is missing, a name leads out of it, or several images match a name.
    """
    listings = {"": _Listing(_scan(folder)[0])}
    paths: list[Path] = []
    missing: dict[int, str] = {}
    ambiguous: list[str] = []
    for i, written in enumerate(names):
        name = written if "\\" not in written or (folder / written).exists() else written.replace("\\", "/")
        cut = name.rfind("/") + 1
        parent, file = name[:cut], name[cut:]
        if parent not in listings:
            sub_folder = safe_join(folder, parent, trusted)
            listings[parent] = _Listing(_scan(sub_folder)[0] if sub_folder.is_dir() else {})
        matches = listings[parent].find(file)
        if len(matches) > 1:
            ambiguous.append(f"{name!r} ({', '.join(sorted(matches))})")
        elif not matches:
            safe_join(folder, written, trusted)  # "leads out of the folder" is a better message than "no such file"
            missing[i] = "no such file"
        found = matches[0] if len(matches) == 1 else file
        is_link = listings[parent].files.get(found, False)
        paths.append(safe_join(folder, parent + found, trusted) if is_link else folder / (parent + found))
    if ambiguous:
        raise FlukeError(
            f"{folder}: {len(ambiguous):,} image names match several files: {first_few(ambiguous)}; add the extension to each name."
        )
    return paths, missing


def walk_images(folder: Path, without: Sequence[Path] = ()) -> list[str]:
    """Return the sorted names of all images below a folder, relative to it, without hidden ones and the folders `without`."""
    excluded = {os.path.realpath(path) for path in without}
    names = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [
            name for name in folders if not name.startswith(".") and os.path.realpath(os.path.join(parent, name)) not in excluded
        ]
        prefix = os.path.relpath(parent, folder).replace(os.sep, "/")
        images = [name for name in files if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")]
        names += images if prefix == "." else [f"{prefix}/{name}" for name in images]
    return sorted(names)


def find_deeper(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Return {name: its path relative to `folder`} of the images of `names` that lie further down, with or without extension.

    Raises FlukeError for names that several files in different folders have.
    """
    by_file, by_stem = defaultdict(list), defaultdict(list)
    for path in walk_images(folder):
        file = path.rpartition("/")[2]
        by_file[file].append(path)
        by_stem[image_stem(file)].append(path)
    found, ambiguous = {}, []
    for name in names:
        file = name.replace("\\", "/").rpartition("/")[2]
        matches = by_file.get(file) or by_stem.get(file) or by_stem.get(image_stem(file), [])
        if len(matches) > 1:
            ambiguous.append(f"{name!r} ({', '.join(matches[:3])})")
        elif matches:
            found[name] = matches[0]
    if ambiguous:
        raise FlukeError(
            f"{folder}: {len(ambiguous):,} image names are in several folders: {first_few(ambiguous)}; write the folder "
            "before each name, or name the folder with data.image_dir or test_dir."
        )
    return found


def find_by_pattern(folder: Path, pattern: str) -> dict[str, list[str]]:
    """Return {name: its files below `folder`} for a pattern with {name} and *: "{name}-*.jpg"; "*" stands for no folder."""
    before, _, after = pattern.partition("{name}")
    expression = re.compile("(?:.*/)?" + _as_expression(before) + "(?P<name>[^/]+?)" + _as_expression(after))
    files: dict[str, list[str]] = defaultdict(list)
    for path in walk_images(folder):
        if match := expression.fullmatch(path):
            files[match["name"]].append(path)
    return files


def _as_expression(pattern: str) -> str:
    return "[^/]*".join(map(re.escape, pattern.split("*")))


def image_stem(name: str) -> str:
    """Return an image's name without folder and extension; "img.0012" has none, because ".0012" is not an image's extension."""
    file = name.rpartition("/")[2]
    stem, suffix = os.path.splitext(file)
    return stem if suffix.lower() in IMAGE_SUFFIXES else file


class _Listing:
    """The files of one folder, {name: whether it is a symbolic link}."""

    def __init__(self, files: dict[str, bool]) -> None:
        self.files = files

    def find(self, file: str) -> list[str]:
        """Return the file of that name, else those whose names differ only in Unicode form, else also in the extension."""
        if file in self.files:
            return [file]
        form = unicodedata.normalize("NFC", file)
        return self._by_form.get(form) or self._by_stem.get(image_stem(form), [])

    @cached_property
    def _by_form(self) -> dict[str, list[str]]:
        by_form = defaultdict(list)
        for file in self.files:
            by_form[unicodedata.normalize("NFC", file)].append(file)
        return by_form

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        by_stem = defaultdict(list)
        for file in self.files:
            by_stem[image_stem(unicodedata.normalize("NFC", file))].append(file)
        return by_stem


def _scan(folder: Path) -> tuple[dict[str, bool], list[str]]:
    """Return a folder's files, {name: whether it is a symbolic link}, and its sub-folders. Raises FlukeError."""
    files, folders = {}, []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    folders.append(entry.name)
                else:
                    files[entry.name] = entry.is_symlink()
        "".join([*files, *folders]).encode()
    except OSError as error:
        raise FlukeError(f"{folder}: is not a folder that can be read ({error.strerror}); check its path.") from None
    except UnicodeEncodeError:
        raise FlukeError(f"{folder}: holds file names that aren't UTF-8; rename them.") from None
    return files, folders
