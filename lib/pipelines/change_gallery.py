"""Changes to a saved gallery: rows added and removed without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lib.errors import FlukeError, first_few
from lib.files import lock_folder, write_text
from lib.pipelines.answering import refit
from lib.pipelines.gallery_files import content_hashes, table_columns
from lib.pipelines.retrieval_session import EmbeddedTable, RetrievalSession, single_labels
from lib.process import announce
from lib.retrieval.gallery import CHANGES, Gallery, open_gallery
from lib.retrieval.rows import GalleryRows
from lib.tables import loading
from lib.tables.table import Table
from lib.tables.target import ONE_LABEL
from lib.training.distributed import run_on_main


def add_to_gallery(session: RetrievalSession, path: Path, image_dir: Path | None) -> dict[str, Any]:
    """Add the images of the labelled table `path` to the saved gallery, without rows of data.new_label.

    Returns the gallery's numbers of images and individuals. Raises FlukeError for a table without labels or without known
    individuals, and for images that the gallery has already.
    """
    table = _load_labelled(session, path, image_dir)
    open_gallery(session.gallery_folder)  # fails before the lock would create its folder
    rows = session.embed(table, "test")
    return run_on_main(session.accelerator, lambda: _add(session, path, rows)) or {}


def _load_labelled(session: RetrievalSession, path: Path, image_dir: Path | None) -> Table:
    d = session.recipe.data
    table = loading.load_images(path, image_dir or Path(d.root) / d.image_dir, d, (), ONE_LABEL)
    if table.labels is None:
        raise FlukeError(f"--add {path}: has no column {d.label_column!r} (data.label_column) of names; add it.")
    table = table.take(single_labels(table) != (d.new_label or ""))
    if not len(table):
        raise FlukeError(f"--add {path}: every row is labelled {d.new_label}; add individuals with names.")
    return table


def _add(session: RetrievalSession, path: Path, rows: EmbeddedTable) -> dict[str, Any]:
    names = rows.table.names
    with lock_folder(session.gallery_folder):
        gallery = open_gallery(session.gallery_folder)
        if repeated := sorted(set(names) & set(gallery.rows.names.tolist())):
            raise FlukeError(
                f"--add {path}: {len(repeated):,} of its images are in the gallery already ({first_few(repeated)}); leave them out."
            )
        ids = gallery.rows.ids.max() + 1 + np.arange(len(names))
        paths = [str(file.absolute()) for file in rows.table.paths]
        d = session.recipe.data
        details = table_columns(rows.table, (d.image_column, d.label_column))
        added = GalleryRows(ids, names, rows.labels, paths, content_hashes(rows.table.paths), details)
        gallery.add(rows.embeddings, added, session.model)
        return _save(session, gallery, f"added {len(names):,} images of {path}")


def remove_from_gallery(session: RetrievalSession, names: list[str]) -> dict[str, Any]:
    """Remove individuals or images, by name, from the saved gallery; `individual:12` and `image:12` tell the two apart.

    Returns the gallery's numbers of images and individuals. Raises FlukeError for names that it lacks or that are of
    both kinds, and when no image would remain.
    """
    open_gallery(session.gallery_folder)  # fails before the lock would create its folder
    return run_on_main(session.accelerator, lambda: _remove(session, names)) or {}


def _remove(session: RetrievalSession, names: list[str]) -> dict[str, Any]:
    with lock_folder(session.gallery_folder):
        gallery = open_gallery(session.gallery_folder)
        rows = gallery.rows
        removed = np.zeros(len(rows), bool)
        missing: list[str] = []
        both: list[str] = []
        for name in dict.fromkeys(names):
            kinds = {"individual": rows.labels, "image": rows.names}
            kind, _, rest = name.partition(":")
            asked = {kind: rest} if kind in kinds and rest in kinds[kind] else dict.fromkeys(kinds, name)
            found = [each for each in (kinds[kind] == value for kind, value in asked.items()) if each.any()]
            if len(found) > 1 and (found[0] != found[1]).any():
                both.append(name)
            (missing if not found else []).append(name)
            removed |= np.logical_or.reduce([removed, *found])
        if missing:
            what = f"{len(missing):,} names are no individual or image of {session.gallery_folder} ({first_few(sorted(missing))})"
            raise FlukeError(f"--remove: {what}; give names that it holds.")
        if both:
            raise FlukeError(f"--remove {both[0]}: is an individual and an image; say individual:{both[0]} or image:{both[0]}.")
        gallery.remove(rows.ids[removed])
        return _save(session, gallery, f"removed {removed.sum():,} images: {' '.join(names)}")


def _save(session: RetrievalSession, gallery: Gallery, change: str) -> dict[str, Any]:
    """Save the gallery, append `change` to its list of changes, and return the gallery's numbers of images and individuals."""
    refit(session, gallery)
    changes = session.gallery_folder / CHANGES
    write_text(changes, (changes.read_text(encoding="utf-8") if changes.exists() else "") + change + "\n")
    gallery.save(session.gallery_folder)
    size = {"images": len(gallery.rows), "individuals": len(gallery.identities)}
    session.log(f"{session.gallery_folder}: {change}; now {size['images']:,} images of {size['individuals']:,} individuals")
    announce([session.gallery_folder], f"python scripts/retrieve.py --gallery {session.gallery_folder} --queries FOLDER")
    return size
