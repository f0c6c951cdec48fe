"""Local scores of the candidate pairs of labelled images and queries (retrieval.local), and what they add."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from lib.errors import FlukeError
from lib.matching.keypoints import KeypointOptions, load_opencv
from lib.matching.scoring import score_images
from lib.pipelines.discovery_inputs import DiscoveryInputs
from lib.pipelines.features import store_folder
from lib.pipelines.gallery_files import content_hashes
from lib.pipelines.retrieval_session import RetrievalSession
from lib.retrieval.discovery import Images
from lib.retrieval.local_fusion import Fusion, LocalScores
from lib.retrieval.pair_model import find_candidates


def match_images(session: RetrievalSession, inputs: DiscoveryInputs) -> LocalScores | None:
    """Return the local scores of candidate pairs, positions of labelled images and then of queries; None without retrieval.local.

    A labelled image's candidates are labelled ones, as in the pseudo-tests; a query's are of both kinds; all are of its part.
    Raises FlukeError.
    """
    r = session.recipe.retrieval
    if r.local == "none":
        return None
    load_opencv()
    n = len(inputs.labels)
    both, parts = join_images(inputs), np.concatenate([inputs.parts, inputs.query_parts])
    pairs = []
    for part in np.unique(parts):
        rows = np.flatnonzero(parts == part)
        for of, among in ((rows[rows < n], rows[rows < n]), (rows[rows >= n], rows)):
            if len(of) and len(among) > 1:
                pairs.append(find_candidates(both, of, among, r.local_candidates))
    every = np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0)
    masks = None if r.local_masks is None else Path(session.recipe.data.root) / r.local_masks
    if masks is not None and not masks.is_dir():
        raise FlukeError(f"{masks}: no such folder of masks; correct retrieval.local_masks.")
    options = KeypointOptions(r.local_size, r.local_keypoints, masks)
    paths = [*inputs.labelled_table.paths, *inputs.query_table.paths]
    workers = session.recipe.data.workers
    workers = (os.cpu_count() or 1) if workers is None else workers
    folder = store_folder(session.recipe) / "keypoints"
    return LocalScores(every, score_images(paths, content_hashes(paths).tolist(), every, options, folder, workers, session.log))


def join_images(inputs: DiscoveryInputs) -> Images:
    """Return the labelled images and then the queries, whose links and photographs have other numbers."""
    labelled, queries = inputs.labelled, inputs.queries
    links = queries.links + labelled.links.max(initial=-1) + 1
    photographs = np.where(queries.photographs < 0, -1, queries.photographs + labelled.photographs.max(initial=-1) + 1)
    return Images(
        np.concatenate([labelled.embeddings, queries.embeddings]),
        np.concatenate([labelled.links, links]),
        np.concatenate([labelled.views, queries.views]),
        np.concatenate([labelled.photographs, photographs]),
    )


def add_to_answer(
    fusion: Fusion, scores: LocalScores, inputs: DiscoveryInputs, rows: np.ndarray, labelled: np.ndarray, known: np.ndarray
) -> csr_array | None:
    """Return what local scores add between the individuals `known` (k,) of images at `labelled`, and the queries at `rows`."""
    k, elements = len(known), np.full(len(inputs.labels) + len(inputs.query_parts), -1)
    elements[labelled] = np.searchsorted(known, inputs.labels[labelled])
    elements[len(inputs.labels) + rows] = k + np.arange(len(rows))
    return fusion.additions(join_images(inputs).embeddings, scores, elements, k, k + len(rows))
