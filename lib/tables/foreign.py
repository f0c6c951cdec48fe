"""What a file is that isn't what its name says: told by its first bytes, so that a message can say how to get the right one."""

from __future__ import annotations

import mmap
from pathlib import Path

KINDS = {
    b"version https://git-lfs": "a Git LFS pointer; fetch the file itself: git lfs pull",
    b"PK\x03\x04": "a ZIP archive, as Excel's .xlsx are; unpack it, or save it as CSV",
    b"\x1f\x8b": "a gzip archive; unpack it",
    b"7z\xbc\xaf": "a 7z archive; unpack it",
    b"Rar!": "a RAR archive; unpack it",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save it as CSV",
    b"\x89PNG": "a PNG image, not a table",
    b"\xff\xd8\xff": "a JPEG image, not a table",
    b"%PDF": "a PDF, neither table nor image",
    b"\xff\xfe": "UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "UTF-16 text; save it as UTF-8",
}
"""Kinds of files by their first bytes."""


def describe_foreign(path: Path) -> str | None:
    """Return what a file is that is neither a table nor an image, and what to do; None where it isn't recognized."""
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError:
        return None
    if kind := next((kind for magic, kind in KINDS.items() if start.startswith(magic)), None):
        return kind
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "a web page, as downloads without a login give; download the file again"
    if start[1::2].count(0) > len(start) // 3 or start[::2].count(0) > len(start) // 3:
        return "UTF-16 text; save it as UTF-8"
    return None


def find_nul(path: Path) -> int | None:
    """Return the position in bytes of the first NUL in a file, None where it has none. Raises OSError."""
    with path.open("rb") as file:
        if not file.seek(0, 2):
            return None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return None if (at := data.find(b"\0")) < 0 else at
