"""Verification of pairs: the ROC of scores of same and different pairs, and its equal error rate."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import auc, roc_curve

from lib.errors import FlukeError
from lib.metrics.resampling import check_finite


class Verification(NamedTuple):
    """The ROC over all thresholds, highest first, and its summaries."""

    false_accept: NDArray[np.float64]
    """Share of the different pairs whose score reaches the threshold."""
    true_accept: NDArray[np.float64]
    """Share of the same pairs whose score reaches the threshold."""
    thresholds: NDArray[np.float64]
    auroc: float
    equal_error_rate: float
    """Rate at which false acceptances are as frequent as false rejections, interpolated."""
    equal_error_threshold: float
    """Highest threshold at which false acceptances are at least as frequent as false rejections."""


def verify_pairs(same: NDArray[Any], scores: NDArray[Any]) -> Verification:
    """Compute ROC and equal error rate of pairs: `same` (n,) bool, `scores` (n,) higher for more similar.

    Raises FlukeError without both kinds of pairs, and for scores that aren't finite.
    """
    check_finite(np.reshape(scores, (-1, 1)))
    if np.all(same) or not np.any(same):
        raise FlukeError(
            f"Verification needs pairs of the same and of different individuals ({len(same)}, all of one kind); hold out more rows."
        )
    false_accept, true_accept, thresholds = roc_curve(same, scores, drop_intermediate=False)
    gap = false_accept - (1 - true_accept)  # from -1, nothing accepted, to 1
    after = int(np.argmax(gap >= 0))
    share = gap[after] / (gap[after] - gap[after - 1])
    rate = false_accept[after] - share * (false_accept[after] - false_accept[after - 1])
    return Verification(
        false_accept, true_accept, thresholds, float(auc(false_accept, true_accept)), float(rate), float(thresholds[after])
    )
