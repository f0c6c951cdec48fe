"""Cut points between ordered classes, on the expected place in the order, fitted for quadratic weighted kappa."""

from __future__ import annotations

import numpy as np
from scipy.special import softmax

ROUNDS = 20
"""Most passes over all cut points; a handful are enough."""


def expected_place(logits: np.ndarray) -> np.ndarray:
    """Return the mean class index, (n,) float64, of the probabilities of logits (n, C)."""
    return softmax(logits.astype(np.float64), axis=1) @ np.arange(logits.shape[1])


def cut_at(logits: np.ndarray, cut_points: np.ndarray) -> np.ndarray:
    """Return logits (n, C) float32 whose argmax is the class between the cut points (C - 1,), increasing, that a row falls into."""
    k = np.arange(logits.shape[1])
    return (np.outer(expected_place(logits), k) - np.concatenate([[0], np.cumsum(cut_points)])).astype(np.float32)


def fit_cut_points(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the cut points, (C - 1,) increasing, with the best quadratic kappa of logits (n, C) and class indices `targets` (n,).

    Coordinate ascent: each cut in turn moves to its best position among the rows' expected places, between its neighbours, until
    none gains. It begins at rounding (0.5, 1.5, ...) and at the shares of the classes; the better end is taken. A cut lies halfway
    between two neighbouring rows.
    """
    classes = logits.shape[1]
    place = expected_place(logits)
    order = np.argsort(place, kind="stable")
    v, y = place[order], targets[order].astype(np.float64)
    rounding = np.searchsorted(v, np.arange(classes - 1) + 0.5)
    shares = np.searchsorted(np.sort(y), np.arange(1, classes))
    starts = [_ascend(v, y, start.astype(np.int64), classes) for start in (rounding, shares)]
    best = max(starts, key=lambda found: found[0])[1]
    # positions to numbers: a cut that no row is above or below keeps a margin of half a class
    padded = np.concatenate([[v[0] - 1], v, [v[-1] + 1]])
    return np.maximum.accumulate((padded[best] + padded[best + 1]) / 2)


def _ascend(v: np.ndarray, y: np.ndarray, cuts: np.ndarray, classes: int) -> tuple[float, np.ndarray]:
    """Return the best kappa and the positions (C - 1,) in the sorted places `v` (n,): rows before position k are of class k or
    less."""
    allowed = np.concatenate([[True], v[1:] > v[:-1], [True]])  # equal places are not separated
    cuts = np.array([_nearest(allowed, cut) for cut in cuts])
    best = _kappa(cuts, y, classes)
    for _ in range(ROUNDS):
        before = best
        for k in range(classes - 1):
            low, high = cuts[k - 1] if k else 0, cuts[k + 1] if k + 1 < classes - 1 else len(v)
            tries = low + np.flatnonzero(allowed[low : high + 1])
            values = _kappas(cuts, k, tries, y, classes)
            if len(tries) and values.max() > best + 1e-12:
                best, cuts[k] = float(values.max()), tries[int(values.argmax())]
        if best <= before:
            break
    return best, cuts


def _nearest(allowed: np.ndarray, position: int) -> int:
    found = np.flatnonzero(allowed)
    return int(found[np.abs(found - position).argmin()])


def _kappa(cuts: np.ndarray, y: np.ndarray, classes: int) -> float:
    return float(_kappas(cuts, 0, cuts[:1], y, classes)[0])


def _kappas(cuts: np.ndarray, k: int, tries: np.ndarray, y: np.ndarray, classes: int) -> np.ndarray:
    """Return the quadratic kappa with cut `k` at each of the positions `tries`, the others where they are."""
    n = len(y)
    sums = np.concatenate([[0], np.cumsum(y)])  # of the classes of the first rows
    others = np.delete(cuts, k)
    # A row's given class is the number of cuts at or before it, so sums over given classes are sums over cuts.
    above, total_y = n - tries, sums[-1]
    given = (n - others).sum() + above
    product = (total_y - sums[others]).sum() + (total_y - sums[tries])
    # (number of cuts before a row)^2 = sum over its cuts of (2 * rank of the cut - 1)
    ranks = 2 * np.arange(1, classes) - 1
    squares = (np.delete(ranks, k) * (n - others)).sum() + ranks[k] * above
    observed = squares - 2 * product + (y**2).sum()
    expected = squares + (y**2).sum() - 2 * given * total_y / n
    return 1 - np.divide(observed, expected, out=np.ones(len(tries)), where=expected > 1e-12)
