"""Test images that are damaged: each needs an answer, so what there is of them is decoded where the recipe allows it."""

from __future__ import annotations

from dataclasses import replace

from lib.errors import FlukeError, first_few
from lib.images.decoding import decode
from lib.tables.filters import drop_unreadable
from lib.tables.image_path import salvage_path
from lib.tables.table import Table


def require_test_images(table: Table, unreadable: dict[int, str], on_unreadable: str) -> Table:
    """Return the table of test images, with those of `unreadable`, {position: reason}, to be decoded as far as they go.

    A note names them. Raises FlukeError unless data.on_unreadable is drop, and for files of which nothing can be decoded.
    """
    if not unreadable:
        return table
    if on_unreadable != "drop":
        try:
            return drop_unreadable(table, unreadable, "error", what="test")
        except FlukeError as error:
            raise FlukeError(f"{error} Damaged files are decoded as far as they go with data.on_unreadable: drop.") from None
    paths, reasons = list(table.paths), {}
    for i, reason in unreadable.items():
        paths[i] = salvage_path(paths[i])
        try:
            decode(paths[i], short_side=1)
        except FlukeError:
            reasons[i] = reason
    table = drop_unreadable(table, reasons, "error", what="test")
    damaged = first_few(table.describe_row(i) for i in sorted(unreadable))
    note = f"data.on_unreadable: {len(unreadable):,} damaged images are decoded as far as they go: {damaged}"
    return replace(table, paths=paths, notes=(*table.notes, note))
