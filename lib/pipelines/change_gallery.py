"""Changes to a saved gallery: rows added and removed without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lib.errors import FlukeError, first_few
from lib.files import lock_folder, write_text
from lib.pipelines.retrieval_job import EmbeddedTable, RetrievalJob, single_labels
from lib.retrieval.gallery import CHANGES, Gallery, GalleryRows, open_gallery
from lib.tables import loading
from lib.tables.table import Table
from lib.tables.target import ONE_LABEL
from lib.training.distributed import run_on_main


def add_to_gallery(job: RetrievalJob, path: Path, image_dir: Path | None) -> dict[str, Any]:
    """Add the images of the labelled table `path` to the saved gallery, without rows of data.new_label.

    Returns the gallery's numbers of images and individuals. Raises FlukeError for a table without labels or without known
    individuals, and for images that the gallery has already.
    """
    table = _load_labelled(job, path, image_dir)
    open_gallery(job.gallery_folder)  # fails before the lock would create its folder
    rows = job.embed(table, "test")
    return run_on_main(job.accelerator, lambda: _add(job, path, rows)) or {}


def _load_labelled(job: RetrievalJob, path: Path, image_dir: Path | None) -> Table:
    d = job.recipe.data
    table = loading.load_images(path, image_dir or Path(d.root) / d.image_dir, d, (), ONE_LABEL)
    if table.labels is None:
        raise FlukeError(f"--add {path}: has no column {d.label_column!r} (data.label_column) of names; add it.")
    table = table.take(single_labels(table) != (d.new_label or ""))
    if not len(table):
        raise FlukeError(f"--add {path}: every row is labelled {d.new_label}; add individuals with names.")
    return table


def _add(job: RetrievalJob, path: Path, rows: EmbeddedTable) -> dict[str, Any]:
    names = rows.table.names
    with lock_folder(job.gallery_folder):
        gallery = open_gallery(job.gallery_folder)
        if repeated := sorted(set(names) & set(gallery.rows.names.tolist())):
            raise FlukeError(
                f"--add {path}: {len(repeated):,} of its images are in the gallery already ({first_few(repeated)}); leave them out."
            )
        ids = gallery.rows.ids.max() + 1 + np.arange(len(names))
        gallery.add(rows.embeddings, GalleryRows(ids, names, rows.labels), job.model)
        return _save(job, gallery, f"added {len(names):,} images of {path}")


def remove_from_gallery(job: RetrievalJob, names: list[str]) -> dict[str, Any]:
    """Remove individuals or images, by name, from the saved gallery.

    Returns the gallery's numbers of images and individuals. Raises FlukeError for names that it lacks, and when no image would
    remain.
    """
    open_gallery(job.gallery_folder)  # fails before the lock would create its folder
    return run_on_main(job.accelerator, lambda: _remove(job, names)) or {}


def _remove(job: RetrievalJob, names: list[str]) -> dict[str, Any]:
    with lock_folder(job.gallery_folder):
        gallery = open_gallery(job.gallery_folder)
        rows = gallery.rows
        if missing := sorted(set(names) - set(rows.labels.tolist()) - set(rows.names.tolist())):
            raise FlukeError(
                f"--remove: {len(missing):,} names are no individual or image of {job.gallery_folder} ({first_few(missing)}); give "
                "names that it holds."
            )
        removed = np.isin(rows.labels, names) | np.isin(rows.names, names)
        gallery.remove(rows.ids[removed])
        return _save(job, gallery, f"removed {removed.sum():,} images: {' '.join(names)}")


def _save(job: RetrievalJob, gallery: Gallery, change: str) -> dict[str, Any]:
    """Save the gallery, append `change` to its list of changes, and return the gallery's numbers of images and individuals."""
    changes = job.gallery_folder / CHANGES
    write_text(changes, (changes.read_text(encoding="utf-8") if changes.exists() else "") + change + "\n")
    gallery.save(job.gallery_folder)
    size = {"images": len(gallery.rows), "individuals": len(gallery.identities)}
    job.log(f"{job.gallery_folder}: {change}; now {size['images']:,} images of {size['individuals']:,} individuals")
    job.log(f"next: search it with --gallery {job.gallery_folder}")
    return size
