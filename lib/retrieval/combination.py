"""Thresholds of single runs for their combined embeddings, where no row was held out by all runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lib.config.recipe import Retrieval
from lib.retrieval.gallery import Gallery, build_gallery
from lib.retrieval.queries import Queries
from lib.retrieval.rows import GalleryRows, LeftOut
from lib.retrieval.search import nearest_images

_SAMPLE = 1000  # rows


def combination_gap(
    parts: Sequence[np.ndarray], combined: Gallery, vectors: np.ndarray, rows: GalleryRows, groups: np.ndarray | None, r: Retrieval
) -> float:
    """Return how much lower the best score of the combined embeddings is than the mean of the runs' best scores.

    The runs' nearest images differ, above all for new individuals, so that the mean of their cosines reaches less high than each
    of them. The gap is the mean over a sample of the gallery's rows, asked once as a known individual (without their sighting) and
    once as a new one (without their individual). parts: embeddings (n, d_i) of `rows` by each run; vectors (n, d): combined.
    """
    sample = np.random.default_rng(0).permutation(len(rows))[:_SAMPLE]
    identity = np.unique(rows.labels, return_inverse=True)[1]
    sighting = np.arange(len(rows)) if groups is None else np.unique(groups, return_inverse=True)[1]
    galleries = [(build_gallery(part, rows, "", r.metric), part) for part in parts]
    gaps = []
    for code in (sighting, identity):

        def best(gallery: Gallery, embeddings: np.ndarray, code: np.ndarray = code) -> np.ndarray:
            of_row = np.full(len(gallery.rows), -2)
            of_row[gallery.rows.positions(rows.ids)] = code
            return nearest_images(gallery, Queries(embeddings[sample], LeftOut(code[sample], of_row)), 1)[0][:, 0]

        gap = np.mean([best(gallery, part) for gallery, part in galleries], axis=0) - best(combined, vectors)
        gaps.append(gap[np.isfinite(gap)].mean() if np.isfinite(gap).any() else 0.0)
    return float(np.mean(gaps))
