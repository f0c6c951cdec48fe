"""Local scores (retrieval.local): keypoints of a gallery's images lie in its folder, those of others in the user's cache."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lib.config.recipe import Recipe
from lib.errors import FlukeError
from lib.matching.keypoints import KeptImage, KeypointOptions, load_opencv
from lib.matching.scoring import MatchedPoints, keep_keypoints, match_points, score_images
from lib.pipelines.features import store_folder
from lib.pipelines.gallery_files import content_hashes
from lib.pipelines.retrieval_session import RetrievalSession
from lib.retrieval.gallery import Gallery
from lib.retrieval.held_out import HeldOut
from lib.retrieval.local_fusion import Fusion
from lib.retrieval.local_search import LocalSearch
from lib.retrieval.rows import GalleryRows
from lib.tables.box import read_box, write_boxes
from lib.tables.image_path import cut_path
from lib.tables.table import Table


def read_options(recipe: Recipe) -> tuple[KeypointOptions, int]:
    """Return how keypoints are found, and the number of threads. Raises FlukeError without OpenCV or the folder of masks."""
    load_opencv()
    r, workers = recipe.retrieval, recipe.data.workers
    masks = None if r.local_masks is None else Path(recipe.data.root) / r.local_masks
    if masks is not None and not masks.is_dir():
        raise FlukeError(f"{masks}: no such folder of masks; correct retrieval.local_masks.")
    return KeypointOptions(r.local_size, r.local_keypoints, masks), (os.cpu_count() or 1) if workers is None else workers


def images_of(recipe: Recipe, table: Table) -> list[KeptImage]:
    """Return the images of a table, whose keypoints are kept in the user's cache."""
    folder = store_folder(recipe) / "keypoints"
    return [KeptImage(path, content, folder) for path, content in zip(table.pictures, content_hashes(table.paths).tolist())]


def name_files(recipe: Recipe, held_out: HeldOut, table: Table) -> HeldOut:
    """Return held-out queries, rows of `table`, with their files, which local scores need."""
    if recipe.retrieval.local == "none":
        return held_out
    at = {row: i for i, row in enumerate(table.rows.tolist())}
    images = table.take([at[row] for row in held_out.ids.tolist()])
    paths, boxes = [str(path.absolute()) for path in images.paths], write_boxes(images.boxes, len(images))
    return held_out._replace(files=np.stack([paths, content_hashes(images.paths), boxes], axis=1))


def match_held_out(session: RetrievalSession, gallery: Gallery, held_out: HeldOut) -> LocalSearch | None:
    """Return the local scores of held-out queries; the keypoints of all images of the gallery are kept in its folder.

    None without retrieval.local. Raises FlukeError for a gallery that was made without.
    """
    if session.recipe.retrieval.local == "none":
        return None
    if held_out.files is None:
        raise FlukeError(
            f"{session.gallery_folder}: was built without local scores; build it again with --retrieval.local "
            f"{session.recipe.retrieval.local}."
        )
    options, workers = read_options(session.recipe)
    keep_keypoints(_images_of_rows(session, gallery.rows), options, workers)
    folder = session.gallery_folder / "keypoints"
    images = [KeptImage(cut_path(Path(path), read_box(box)), content, folder) for path, content, box in held_out.files.tolist()]
    return _search(session, gallery, images)


def match_queries(session: RetrievalSession, gallery: Gallery, table: Table, fusion: Fusion | None) -> LocalSearch | None:
    """Return the local scores of queries, weighted as `fusion` says; None without one."""
    return None if fusion is None else _search(session, gallery, images_of(session.recipe, table), fusion)


def find_points(
    session: RetrievalSession, rows: GalleryRows, table: Table, pairs: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], MatchedPoints]:
    """Return the matched points of pairs of a query's position and a row id of the gallery."""
    options, workers = read_options(session.recipe)
    images = [*images_of(session.recipe, table), *_images_of_rows(session, rows)]
    asked = np.array(pairs, np.int64).reshape(-1, 2)
    at = np.stack([asked[:, 0], len(table) + rows.positions(asked[:, 1])], axis=1)
    return dict(zip(pairs, match_points(images, at, options, workers)))


def _search(session: RetrievalSession, gallery: Gallery, images: list[KeptImage], fusion: Fusion | None = None) -> LocalSearch:
    options, workers = read_options(session.recipe)
    of_rows = _images_of_rows(session, gallery.rows)

    def match(queries: np.ndarray, ids: np.ndarray) -> np.ndarray:
        pairs = np.stack([queries, len(images) + gallery.rows.positions(ids)], axis=1)
        return score_images([*images, *of_rows], pairs, options, workers, session.log)

    return LocalSearch(match, session.recipe.retrieval.local_candidates, fusion)


def _images_of_rows(session: RetrievalSession, rows: GalleryRows) -> list[KeptImage]:
    folder, paths = session.gallery_folder / "keypoints", [rows.picture(i) or Path() for i in range(len(rows))]
    return [KeptImage(path, content, folder) for path, content in zip(paths, rows.hashes.tolist())]
