"""Changes to a saved gallery without training: rows added and removed, individuals renamed, merged and split, changes undone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.errors import FlukeError, did_you_mean, first_few
from lib.files import lock_folder
from lib.pipelines.answering import refit
from lib.pipelines.gallery_files import content_hashes, table_columns
from lib.pipelines.retrieval_session import EmbeddedTable, RetrievalSession, single_labels
from lib.process import announce
from lib.retrieval.gallery import Gallery, open_gallery
from lib.retrieval.history import save_change, undo_change
from lib.retrieval.rows import GalleryRows
from lib.tables import loading
from lib.tables.box import write_boxes
from lib.tables.table import Table
from lib.tables.target import ONE_LABEL
from lib.training.distributed import run_on_main


def add_to_gallery(session: RetrievalSession, path: Path, image_dir: Path | None) -> dict[str, Any]:
    """Add the images of the labelled table `path` to the saved gallery, without rows of data.new_label.

    Returns the gallery's numbers of images and individuals. Raises FlukeError for a table without labels or without known
    individuals, and for images that the gallery has already.
    """
    table = _load_labelled(session, path, image_dir)
    open_gallery(session.gallery_folder)
    rows = session.embed(table, "test")
    return _change(session, lambda gallery: _add(session, gallery, path, rows))


def _load_labelled(session: RetrievalSession, path: Path, image_dir: Path | None) -> Table:
    d = session.recipe.data
    table = loading.load_images(path, [image_dir or Path(d.root) / d.image_dir], d, (), ONE_LABEL)
    if table.labels is None:
        raise FlukeError(f"--add {path}: has no column {d.label_column!r} (data.label_column) of names; add it.")
    table = table.take(single_labels(table) != (d.new_label or ""))
    if not len(table):
        raise FlukeError(f"--add {path}: every row is labelled {d.new_label}; add individuals with names.")
    return table


def _change(session: RetrievalSession, apply: Callable[[Gallery], tuple[str, int]]) -> dict[str, Any]:
    """Change the saved gallery by `apply`, which returns the change in words and its number of images; fit its threshold again.

    Returns the gallery's numbers of images and individuals.
    """
    folder = session.gallery_folder

    def change() -> dict[str, Any]:
        with lock_folder(folder):
            gallery = open_gallery(folder)
            what, count = apply(gallery)
            refit(session, gallery)
            save_change(gallery, folder, what, count)
            return _report(session, gallery, what)

    open_gallery(folder)  # fails before the lock would create its folder
    return run_on_main(session.accelerator, change) or {}


def _report(session: RetrievalSession, gallery: Gallery, what: str) -> dict[str, Any]:
    size = {"images": len(gallery.rows), "individuals": len(gallery.identities)}
    session.log(f"{session.gallery_folder}: {what}; now {size['images']:,} images of {size['individuals']:,} individuals")
    announce([session.gallery_folder], f"python scripts/retrieve.py --gallery {session.gallery_folder} --queries FOLDER")
    return size


def _add(session: RetrievalSession, gallery: Gallery, path: Path, rows: EmbeddedTable) -> tuple[str, int]:
    names = rows.table.names
    if repeated := sorted(set(names) & set(gallery.rows.names.tolist())):
        raise FlukeError(
            f"--add {path}: {len(repeated):,} of its images are in the gallery already ({first_few(repeated)}); leave them out."
        )
    # some held-out queries are no rows of the gallery
    used = gallery.rows.ids if gallery.held_out is None else np.concatenate([gallery.rows.ids, gallery.held_out.ids])
    used = np.concatenate([used, np.array(gallery.index.reserved, np.int64)])
    ids = used.max() + 1 + np.arange(len(names))
    paths = [str(file.absolute()) for file in rows.table.paths]
    d = session.recipe.data
    details = table_columns(rows.table, (d.image_column, d.label_column))
    hashes, boxes = content_hashes(rows.table.paths), write_boxes(rows.table.boxes, len(names))
    added = GalleryRows(ids, names, rows.labels, paths, hashes, details, boxes)
    gallery.add(rows.embeddings, added, session.model)
    return f"add {len(names):,} images of {path}", len(names)


def remove_from_gallery(session: RetrievalSession, names: list[str]) -> dict[str, Any]:
    """Remove individuals or images, by name, from the saved gallery; `individual:12` and `image:12` tell the two apart.

    Returns the gallery's numbers of images and individuals. Raises FlukeError for names that it lacks or that are of
    both kinds, and when no image would remain.
    """
    return _change(session, lambda gallery: _remove(session, gallery, names))


def _remove(session: RetrievalSession, gallery: Gallery, names: list[str]) -> tuple[str, int]:
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
        there = [*gallery.identities.tolist(), *rows.names.tolist()]
        raise FlukeError(f"--remove: {what}{did_you_mean(missing[0], there, otherwise='; give names that it holds.')}")
    if both:
        raise FlukeError(f"--remove {both[0]}: is an individual and an image; say individual:{both[0]} or image:{both[0]}.")
    gallery.remove(rows.ids[removed])
    return f"remove {' '.join(names)}", int(removed.sum())


def rename_individual(session: RetrievalSession, old: str, new: str) -> dict[str, Any]:
    """Give an individual of the saved gallery another name.

    Returns the gallery's numbers of images and individuals. Raises FlukeError for a name that it lacks or has already.
    """

    def rename(gallery: Gallery) -> tuple[str, int]:
        chosen = _images_of(session, gallery, "--rename", old)
        _require_free_name(session, gallery, "--rename", new, f"; --merge {new} {old} makes one individual of both.")
        gallery.relabel(gallery.rows.ids[chosen], new)
        _rename_class(gallery, old, new)
        return f"rename {old} to {new}", int(chosen.sum())

    return _change(session, rename)


def merge_individuals(session: RetrievalSession, names: list[str]) -> dict[str, Any]:
    """Make one individual, with the first of `names`, of several in the saved gallery.

    Returns the gallery's numbers of images and individuals. Raises FlukeError for names that it lacks, and for less than two.
    """

    def merge(gallery: Gallery) -> tuple[str, int]:
        kept, *others = dict.fromkeys(names)
        if not others:
            raise FlukeError(f"--merge {kept}: is one individual; name two or more, first the one whose name they will have.")
        chosen = np.logical_or.reduce([_images_of(session, gallery, "--merge", name) for name in (kept, *others)])
        gallery.relabel(gallery.rows.ids[chosen], kept)
        for name in others:
            _rename_class(gallery, name, "")
        return f"merge {', '.join(others)} into {kept}", int(chosen.sum())

    return _change(session, merge)


def split_individual(session: RetrievalSession, new: str, images: list[str]) -> dict[str, Any]:
    """Give some images of one individual of the saved gallery a new name.

    Returns the gallery's numbers of images and individuals. Raises FlukeError for images that it lacks, of several individuals, or
    that are all of one individual's, and for a name that it has already.
    """

    def split(gallery: Gallery) -> tuple[str, int]:
        rows = gallery.rows
        chosen = _named_images(session, gallery, "--split", images)
        _require_free_name(session, gallery, "--split", new, f"; --move {new} gives images to it.")
        owners = np.unique(rows.labels[chosen])
        if len(owners) > 1:
            raise FlukeError(f"--split {new}: the images are of {len(owners)} individuals ({first_few(owners)}); split one.")
        if (rows.labels == owners[0]).sum() == chosen.sum():
            raise FlukeError(f"--split {new}: these are all images of {owners[0]}; --rename {owners[0]} {new} renames it.")
        gallery.relabel(rows.ids[chosen], new)
        return f"split {new} from {owners[0]}", int(chosen.sum())

    return _change(session, split)


def move_images(session: RetrievalSession, label: str, images: list[str]) -> dict[str, Any]:
    """Give images of the saved gallery the name of another of its individuals.

    Returns the gallery's numbers of images and individuals. Raises FlukeError for images or an individual that it lacks.
    """

    def move(gallery: Gallery) -> tuple[str, int]:
        _images_of(session, gallery, "--move", label)
        chosen = _named_images(session, gallery, "--move", images)
        gallery.relabel(gallery.rows.ids[chosen], label)
        return f"move {' '.join(images)} to {label}", int(chosen.sum())

    return _change(session, move)


def undo_last_change(session: RetrievalSession) -> dict[str, Any]:
    """Restore the saved gallery, with its threshold, as it was before the last change that isn't undone yet.

    Returns the gallery's numbers of images and individuals. Raises FlukeError where no change is left to undo.
    """
    folder = session.gallery_folder

    def undo() -> dict[str, Any]:
        with lock_folder(folder):
            undone = undo_change(folder)
            return _report(session, open_gallery(folder), f"undid {undone.what} ({undone.time})")

    open_gallery(folder)
    return run_on_main(session.accelerator, undo) or {}


def _rename_class(gallery: Gallery, old: str, new: str) -> None:
    """Note under which name the network's class centre of an individual is found now; "": under none."""
    classes: dict[str, str] = gallery.about.get("classes", {})
    trained = [name for name, now in classes.items() if now == old] or ([] if old in classes else [old])
    gallery.about = gallery.about | {"classes": classes | dict.fromkeys(trained, new)}


def _images_of(session: RetrievalSession, gallery: Gallery, option: str, name: str) -> NDArray[np.bool_]:
    """Return which rows are images of an individual, (n,). Raises FlukeError for one that the gallery lacks."""
    found: NDArray[np.bool_] = gallery.rows.labels == name
    if not found.any():
        hint = did_you_mean(name, gallery.identities.tolist(), otherwise="; give a name that it holds.")
        raise FlukeError(f"{option}: {session.gallery_folder} has no individual {name}{hint}")
    return found


def _named_images(session: RetrievalSession, gallery: Gallery, option: str, images: list[str]) -> NDArray[np.bool_]:
    """Return which rows have these image names, (n,). Raises FlukeError for one that the gallery lacks."""
    names = gallery.rows.names
    if missing := sorted(set(images) - set(names.tolist())):
        hint = did_you_mean(missing[0], names.tolist(), otherwise="; name images as its table does.")
        raise FlukeError(f"{option}: {session.gallery_folder} has no image {missing[0]}{hint}")
    return np.isin(names, images)


def _require_free_name(session: RetrievalSession, gallery: Gallery, option: str, name: str, hint: str) -> None:
    """Raise FlukeError for a name that can't become an individual's: blank, the new label, or one in use."""
    new_label = session.recipe.data.new_label
    if not name.strip() or name == new_label:
        raise FlukeError(f"{option}: {name!r} can't be an individual's name; data.new_label is {new_label!r}.")
    if (gallery.rows.labels == name).any():
        raise FlukeError(f"{option}: {session.gallery_folder} has an individual {name} already{hint}")
