"""Thresholds for the new label: their whole curve on labelled queries, the rules that choose one, and cross-fitting.

The queries have to resemble the test's: a known individual's query comes from another sighting (group) than its gallery images, and
a new one's individual isn't in the gallery at all. Scores of near-identical images on both sides would put the threshold too high.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lib.errors import FlukeError

Floats = NDArray[np.float64]
By = Literal["map@k", "share", "far", "open_set"]

_PARTS = 5  # of cross-fitting


class LabelledScores(NamedTuple):
    """Scores of q queries whose identities are known."""

    scores: NDArray[Any]
    """(q, m) scores of each query's identities, best first, -inf for none."""
    is_right: NDArray[np.bool_]
    """(q, m) whether it is the query's identity."""
    in_gallery: NDArray[np.bool_]
    """(q,) whether the gallery has the query's identity; without it the new label is right."""

    @property
    def best_scores(self) -> NDArray[Any]:
        """The highest score of each query, (q,)."""
        return self.scores[:, 0]

    def take(self, index: Any) -> LabelledScores:
        """Return the queries that `index` selects."""
        return LabelledScores(self.scores[index], self.is_right[index], self.in_gallery[index])

    @property
    def both_kinds(self) -> bool:
        """Whether the gallery has some of the queries' identities and lacks others."""
        return bool(self.in_gallery.any() and not self.in_gallery.all())


class ThresholdCurve(NamedTuple):
    """Metrics at each threshold, lowest first; between two thresholds nothing changes. All (t,) float64."""

    thresholds: Floats
    known: Floats
    """MAP@k of the queries whose individual is in the gallery."""
    new: Floats
    """MAP@k of the others, for which the new label is right."""
    known_rejected: Floats
    """Share of known queries whose first answer is the new label (false rejections)."""
    new_rejected: Floats
    """Share of new queries whose first answer is the new label; 1 minus it is the false acceptance rate."""
    known_named: Floats
    """Share of known queries whose first answer is their name."""

    def map_at_k(self, share: float) -> Floats:
        """Return MAP@k at each threshold for queries of which `share` are new: the two kinds are re-weighted to it."""
        return (1 - share) * self.known + share * self.new


def threshold_curve(queries: LabelledScores, k: int = 5) -> ThresholdCurve:
    """Compute MAP@k at every threshold in one sorted sweep.

    A query's average precision is a step function of the threshold: the new label moves down one place at each score that it falls
    to, and the right name moves up one at its own score. The steps of all queries, sorted and summed, are the curve: O(qk log qk),
    not O(q^2 k^2). Raises FlukeError without known or without new queries.
    """
    scores, is_right = np.asarray(queries.scores, np.float64)[:, :k], np.asarray(queries.is_right, bool)[:, :k]
    known = np.asarray(queries.in_gallery, bool)
    if known.all() or not known.any():
        kind = "new individuals" if len(known) and known.all() else "known individuals"
        raise FlukeError(
            f"No validation query is of {kind}, but a threshold for the new label needs both; hold out both (folds.unknown), or "
            "set retrieval.threshold to a number."
        )
    values = np.unique(scores[np.isfinite(scores)])
    if not values.size:
        raise FlukeError(
            "No validation query has a neighbour, so a threshold for the new label can't be fitted; search more cells with "
            "retrieval.search, or use retrieval.factory Flat."
        )
    margin = values[-1] - values[0] or 1.0
    thresholds = np.concatenate([[values[0] - margin], (values[1:] + values[:-1]) / 2, [values[-1] + margin]])
    place = np.arange(1, scores.shape[1] + 1)  # of a name without the new label before it
    later = np.where(place < k, 1 / (place + 1), 0)

    def sweep(start: float, steps: Floats, at: Floats) -> Floats:
        """Return the sum that is `start` above all scores and gains `steps` where the threshold falls to `at`."""
        gained = np.bincount(np.searchsorted(values, at), steps, minlength=len(values))
        return start + np.append(np.cumsum(gained[::-1])[::-1], 0)

    first = is_right & (is_right.cumsum(axis=1) == 1) & known[:, None] & np.isfinite(scores)
    column = first.nonzero()[1]
    known_map = sweep(later[column].sum(), (1 / place - later)[column], scores[first]) / known.sum()
    finite = np.isfinite(scores) & ~known[:, None]
    new_map = sweep(float((~known).sum()), (later - 1 / place)[finite.nonzero()[1]], scores[finite]) / (~known).sum()
    known_rejected, new_rejected = (np.searchsorted(np.sort(scores[kind, 0]), thresholds) / kind.sum() for kind in (known, ~known))
    right = np.sort(scores[known & is_right[:, 0], 0])
    known_named = (len(right) - np.searchsorted(right, thresholds)) / known.sum()
    return ThresholdCurve(thresholds, known_map, new_map, known_rejected, new_rejected, known_named)


RULES: dict[str, Callable[[ThresholdCurve, float, float], np.intp]] = {
    # the best MAP@k where `share` of the queries are new
    "map@k": lambda curve, share, far: np.argmax(curve.map_at_k(share)),
    # `share` of the first answers are the new label
    "share": lambda curve, share, far: np.argmin(np.abs((1 - share) * curve.known_rejected + share * curve.new_rejected - share)),
    # the lowest threshold at which at most `far` of the new queries get a name first (false acceptance rate)
    "far": lambda curve, share, far: np.argmax(1 - curve.new_rejected <= far + 1e-9),  # 1 - 0.95 > 0.05 in floats
    # the best geometric mean of the shares of known and of new queries that are answered right
    "open_set": lambda curve, share, far: np.argmax(curve.known_named * curve.new_rejected),
}
"""retrieval.threshold_by: how a position on the curve is chosen, given the share of new queries and retrieval.far."""


def fit_threshold(curve: ThresholdCurve, by: By, share: float, far: float = 0.05) -> float:
    """Return the score that a name needs to precede the new label, chosen on the curve by the rule `by` of RULES."""
    return float(curve.thresholds[RULES[by](curve, share, far)])


def crossfit_thresholds(
    queries: LabelledScores, fit: Callable[[ThresholdCurve], float], k: int = 5, groups: NDArray[Any] | None = None, seed: int = 0
) -> Floats:
    """Return thresholds (q,) to evaluate labelled queries at: each is fitted (`fit`, of a curve) on the other parts of the queries.

    Hence no query takes part in the choice of its own threshold. The 5 parts are drawn at random, known and new queries spread
    evenly, groups (q,) kept together. A part without which one kind is missing gets the threshold of all queries.
    """
    known = queries.in_gallery
    unit = np.arange(len(known)) if groups is None else np.unique(groups, return_inverse=True)[1]
    unit_known = np.zeros(unit.max() + 1, bool)
    unit_known[unit[known]] = True
    part = np.empty(len(unit_known), np.int64)
    part[np.lexsort((np.random.default_rng(seed).random(len(unit_known)), unit_known))] = np.arange(len(unit_known)) % _PARTS
    thresholds = np.empty(len(known))
    for number in range(_PARTS):
        held_out = part[unit] == number
        others = queries.take(~held_out)
        thresholds[held_out] = fit(threshold_curve(others if others.both_kinds else queries, k))
    return thresholds


def new_share_costs(curve: ThresholdCurve, threshold: float, shares: ArrayLike = (0.1, 0.3, 0.6)) -> list[dict[str, float]]:
    """Compute, for each share of new queries, MAP@k at `threshold`, at the best threshold for that share, and the loss."""
    at = int(np.searchsorted((curve.thresholds[1:] + curve.thresholds[:-1]) / 2, threshold))
    rows = []
    for share in np.asarray(shares).tolist():
        values = curve.map_at_k(share)
        best = int(values.argmax())
        rows.append({"share": share, "map": values[at], "best_map": values[best], "best_threshold": curve.thresholds[best]})
    return [{name: float(value) for name, value in row.items()} | {"loss": float(row["best_map"] - row["map"])} for row in rows]
