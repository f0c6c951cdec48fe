"""Local scores of the candidate pairs of labelled images and queries (retrieval.local), and what they add."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from lib.matching.scoring import MatchedPoints, match_points, score_images
from lib.pipelines.discovery_inputs import DiscoveryInputs
from lib.pipelines.local_matching import images_of, read_options
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
    options, workers = read_options(session.recipe)
    n = len(inputs.labels)
    both, parts = join_images(inputs), np.concatenate([inputs.parts, inputs.query_parts])
    pairs = []
    for part in np.unique(parts):
        rows = np.flatnonzero(parts == part)
        for of, among in ((rows[rows < n], rows[rows < n]), (rows[rows >= n], rows)):
            if len(of) and len(among) > 1:
                pairs.append(find_candidates(both, of, among, r.local_candidates))
    every = np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0)
    images = [*images_of(session.recipe, inputs.labelled_table), *images_of(session.recipe, inputs.query_table)]
    return LocalScores(every, score_images(images, every, options, workers, session.log))


def match_pairs(session: RetrievalSession, inputs: DiscoveryInputs, pairs: list[tuple[int, int]]) -> list[MatchedPoints]:
    """Return the points that match of pairs of queries, or of labelled images, which count from -1 downwards; none without
    retrieval.local."""
    if session.recipe.retrieval.local == "none" or not pairs:
        return [np.empty((0, 4))] * len(pairs)
    options, workers = read_options(session.recipe)
    images = [*images_of(session.recipe, inputs.query_table), *images_of(session.recipe, inputs.labelled_table)]
    at = np.array(pairs)
    return match_points(images, np.where(at >= 0, at, len(inputs.query_parts) - 1 - at), options, workers)


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
