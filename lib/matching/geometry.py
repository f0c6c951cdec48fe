"""Matches between the keypoints of two images, and those of them that one homography explains."""

from __future__ import annotations

import numpy as np

from lib.matching.keypoints import Keypoints, load_opencv

RATIO = 0.85
"""Largest distance to the nearest descriptor, as a share of that to the second nearest (Lowe 2004)."""
PIXELS = 5.0
"""Largest distance of a matched point from where the homography puts it."""
LEAST = 5
"""Matches below which no geometry is looked for; four fix a homography."""


def match_keypoints(a: Keypoints, b: Keypoints) -> np.ndarray:
    """Return the matches (m, 2) of keypoints: nearest to each other, and clearly nearer than the second nearest."""
    if min(len(a.points), len(b.points)) < 2:
        return np.empty((0, 2), np.int64)
    similar = a.root @ b.root.T
    first = np.arange(len(similar))
    nearest = similar.argmax(axis=1)
    second = np.partition(similar, -2, axis=1)[:, -2]
    distances = [np.sqrt(np.maximum(2 - 2 * value, 0)) for value in (similar[first, nearest], second)]
    kept = (similar.argmax(axis=0)[nearest] == first) & (distances[0] < RATIO * distances[1])
    return np.stack([first[kept], nearest[kept]], axis=1)


def find_inliers(a: Keypoints, b: Keypoints) -> np.ndarray:
    """Return the matches (m, 2) that one homography explains (MAGSAC++, Barath et al. 2020)."""
    matches = match_keypoints(a, b)
    if len(matches) < LEAST:
        return np.empty((0, 2), np.int64)
    cv2 = load_opencv()
    source, target = a.points[matches[:, 0]], b.points[matches[:, 1]]
    _, mask = cv2.findHomography(source, target, cv2.USAC_MAGSAC, PIXELS, maxIters=1000, confidence=0.999)
    return matches[:0] if mask is None else matches[mask.ravel() > 0]
