"""Local scores of pairs of images: how many points of one lie where those of the other say."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from lib.matching.geometry import find_inliers
from lib.matching.keypoints import KeptImage, KeypointOptions, Keypoints, load_keypoints, load_opencv
from lib.process import progress_bar_options

PROBED = 20
"""Pairs that are timed before the others."""
SHOWN = 60
"""Matches of a pair that are drawn; keypoints are in the order of their strength."""
MatchedPoints = np.ndarray
"""(m, 4) float: x and y in one image and in the other, each centred in a square of side 1."""


def score_pair(a: Keypoints, b: Keypoints) -> float:
    """Return the local score of two images: the logarithm of 1 + the number of matches that one homography explains."""
    return float(np.log1p(len(find_inliers(a, b))))


def score_images(
    images: Sequence[KeptImage],
    pairs: np.ndarray,
    options: KeypointOptions,
    workers: int,
    log: Callable[[str], None] = lambda text: None,
) -> np.ndarray:
    """Return the local scores (p,) of pairs (p, 2) of positions in `images`.

    Threads do, because OpenCV and matrix products release Python's lock. Says before how long the pairs will take. Raises
    FlukeError.
    """
    load_opencv()
    if not len(pairs):
        return np.empty(0)
    used = np.unique(pairs).tolist()
    with ThreadPoolExecutor(max(1, workers)) as pool:
        keypoints = _load(images, used, options, pool)

        def score(pair: list[int]) -> float:
            return score_pair(keypoints[pair[0]], keypoints[pair[1]])

        begun = time.perf_counter()
        rows = pairs.tolist()
        first = list(pool.map(score, rows[:PROBED]))
        rest = len(rows) - len(first)
        if rest > 0:
            minutes = (time.perf_counter() - begun) / len(first) * rest / 60
            log(f"matching: {len(rows):,} pairs of {len(used):,} images, about {minutes:.1f} minutes")
        others = tqdm(pool.map(score, rows[PROBED:], chunksize=1), "matching", rest, **progress_bar_options())
        return np.array([*first, *others])


def keep_keypoints(images: Sequence[KeptImage], options: KeypointOptions, workers: int) -> None:
    """Keep the keypoints of images on disk, so that the images themselves are needed no more. Raises FlukeError."""
    load_opencv()
    with ThreadPoolExecutor(max(1, workers)) as pool:
        found = pool.map(lambda image: len(load_keypoints(image, options).points), images)
        list(tqdm(found, "keypoints", len(images), **progress_bar_options()))


def match_points(images: Sequence[KeptImage], pairs: np.ndarray, options: KeypointOptions, workers: int) -> list[MatchedPoints]:
    """Return the matches that one homography explains of pairs (p, 2) of positions in `images`. Raises FlukeError."""
    load_opencv()
    with ThreadPoolExecutor(max(1, workers)) as pool:
        keypoints = _load(images, np.unique(pairs).tolist(), options, pool)

        def match(pair: list[int]) -> MatchedPoints:
            a, b = keypoints[pair[0]], keypoints[pair[1]]
            at = find_inliers(a, b)[:SHOWN]
            return np.hstack([_in_square(a, at[:, 0]), _in_square(b, at[:, 1])])

        return list(tqdm(pool.map(match, pairs.tolist()), "matched points", len(pairs), **progress_bar_options()))


def _in_square(found: Keypoints, at: np.ndarray) -> np.ndarray:
    return 0.5 + (found.points[at] - np.array(found.size) / 2) / max(found.size)


def _load(images: Sequence[KeptImage], used: list[int], options: KeypointOptions, pool: ThreadPoolExecutor) -> dict[int, Keypoints]:
    found = pool.map(lambda i: load_keypoints(images[i], options), used)
    return dict(zip(used, tqdm(found, "keypoints", len(used), **progress_bar_options())))
