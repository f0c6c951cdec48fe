"""Local scores of pairs of images: how many points of one lie where those of the other say."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lib.matching.geometry import find_inliers
from lib.matching.keypoints import KeypointOptions, Keypoints, load_keypoints, load_opencv
from lib.process import progress_bar_options

PROBED = 20
"""Pairs that are timed before the others."""


def score_pair(a: Keypoints, b: Keypoints) -> float:
    """Return the local score of two images: the logarithm of 1 + the number of matches that one homography explains."""
    return float(np.log1p(len(find_inliers(a, b))))


def score_images(
    paths: Sequence[Path],
    contents: Sequence[str],
    pairs: np.ndarray,
    options: KeypointOptions,
    folder: Path,
    workers: int,
    log: Callable[[str], None] = lambda text: None,
) -> np.ndarray:
    """Return the local scores (p,) of pairs (p, 2) of positions in `paths`; keypoints are kept in `folder`, one file per image.

    contents: a hash of each file. Threads do, because OpenCV and matrix products release Python's lock. Says before how long the
    pairs will take. Raises FlukeError.
    """
    load_opencv()
    used = np.unique(pairs).tolist()
    with ThreadPoolExecutor(max(1, workers)) as pool:
        found = pool.map(lambda i: load_keypoints(paths[i], options, folder, contents[i]), used)
        keypoints = dict(zip(used, tqdm(found, "keypoints", len(used), **progress_bar_options())))

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
