"""Is it somebody new? The threshold for the new label with its whole curve, the share of strangers, probabilities, pairs to verify.

All of it is fitted on validation queries that are like the test's: a known individual's query comes from another sighting (group)
than its gallery images, an unknown one's individual is not in the gallery at all. Scores of near-identical images on both sides
would put the threshold too high.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from lib.errors import FlukeError
from lib.retrieval.gallery import Metric, check_embeddings

Floats = NDArray[np.float64]
By = Literal["map@k", "share", "far"]

# Shares of strangers that a contest may have, equally probable before its queries are seen.
NEW_SHARES = np.linspace(0.05, 0.7, 66)


class ThresholdCurve(NamedTuple):
    """What each threshold does, lowest first; between two of them nothing changes. All (t,) float64."""

    thresholds: Floats
    known: Floats
    """MAP@k of the queries whose individual is in the gallery."""
    new: Floats
    """MAP@k of the others, for which the new label is right."""
    known_rejected: Floats
    """Share of known queries whose first answer is the new label (false rejections)."""
    new_rejected: Floats
    """Share of new queries whose first answer is the new label; 1 minus it is the false acceptance rate."""

    def map_at_k(self, share: float) -> Floats:
        """MAP@k at each threshold for queries of which `share` are new: the two kinds are re-weighted to it."""
        return (1 - share) * self.known + share * self.new


def threshold_curve(scores: ArrayLike, right: ArrayLike, known: ArrayLike, k: int = 5) -> ThresholdCurve:
    """MAP@k at every threshold in one sorted sweep.

    scores (q, m) of each query's identities, best first, -inf for none; right (q, m) bool: is it the query's individual; known (q,)
    bool: is that individual in the gallery. A query's average precision is a step function of the threshold: the new label moves
    down one place at each score that it falls to, and the right name moves up one at its own score. The steps of all queries,
    sorted and summed, are the curve: O(qk log qk), not O(q^2 k^2). Raises FlukeError without known or without new queries.
    """
    scores, right, known = np.asarray(scores, np.float64)[:, :k], np.asarray(right, bool)[:, :k], np.asarray(known, bool)
    if known.all() or not known.any():
        kind = "new individuals" if len(known) and known.all() else "known individuals"
        raise FlukeError(f"No validation query is of {kind}: a threshold for the new label needs both kinds; or set a number.")
    values = np.unique(scores[np.isfinite(scores)])
    if not values.size:
        raise FlukeError("No validation query has a neighbour; a threshold for the new label can't be fitted.")
    margin = values[-1] - values[0] or 1.0
    thresholds = np.concatenate([[values[0] - margin], (values[1:] + values[:-1]) / 2, [values[-1] + margin]])
    place = np.arange(1, scores.shape[1] + 1)  # of a name without the new label before it
    later = np.where(place < k, 1 / (place + 1), 0)

    def sweep(start: float, steps: Floats, at: Floats) -> Floats:
        """The sum that begins at `start` above all scores and gains `steps` where the threshold falls to `at`."""
        gained = np.bincount(np.searchsorted(values, at), steps, minlength=len(values))
        return start + np.append(np.cumsum(gained[::-1])[::-1], 0)

    first = right & (right.cumsum(axis=1) == 1) & known[:, None] & np.isfinite(scores)
    column = first.nonzero()[1]
    known_map = sweep(later[column].sum(), (1 / place - later)[column], scores[first]) / known.sum()
    finite = np.isfinite(scores) & ~known[:, None]
    new_map = sweep(float((~known).sum()), (later - 1 / place)[finite.nonzero()[1]], scores[finite]) / (~known).sum()
    rejected = [np.searchsorted(np.sort(scores[kind, 0]), thresholds) / kind.sum() for kind in (known, ~known)]
    return ThresholdCurve(thresholds, known_map, new_map, *rejected)


def fit_threshold(curve: ThresholdCurve, by: By, share: float, far: float = 0.05) -> float:
    """The threshold for the new label: a name needs this score, or more, to stand before it.

    by map@k: the best MAP@k where `share` of the queries are new. share: `share` of the first answers are the new label. far: the
    lowest threshold at which at most `far` of the new queries are given a name first (false acceptance rate).
    """
    if by == "map@k":
        best = np.argmax(curve.map_at_k(share))
    elif by == "share":
        best = np.argmin(np.abs((1 - share) * curve.known_rejected + share * curve.new_rejected - share))
    else:
        best = np.argmax(1 - curve.new_rejected <= far)
    return float(curve.thresholds[best])


def crossfit_thresholds(
    scores: NDArray[Any],
    right: NDArray[np.bool_],
    known: NDArray[np.bool_],
    fit: Callable[[ThresholdCurve], float],
    k: int = 5,
    groups: NDArray[Any] | None = None,
    parts: int = 5,
    seed: int = 0,
) -> Floats:
    """(q,) thresholds to judge labelled queries by: each is fitted (`fit`, of a curve) on the other parts of them, so that none of
    the queries has chosen its own.

    scores, right, known as `threshold_curve` takes them. Parts are drawn at random, the known and the new spread evenly, `groups`
    (q,) whole. A part without which either kind is lacking gets the threshold of all.
    """
    unit = np.arange(len(known)) if groups is None else np.unique(groups, return_inverse=True)[1]
    kind = np.zeros(unit.max() + 1, bool)
    kind[unit[known]] = True
    part = np.empty(len(kind), np.int64)
    part[np.lexsort((np.random.default_rng(seed).random(len(kind)), kind))] = np.arange(len(kind)) % parts
    found = np.empty(len(known))
    for number in range(parts):
        mine = part[unit] == number
        others = ~mine if known[~mine].any() and not known[~mine].all() else slice(None)
        found[mine] = fit(threshold_curve(scores[others], right[others], known[others], k))
    return found


def estimate_new_share(scores: ArrayLike, known: ArrayLike, unlabelled: ArrayLike) -> float:
    """The share of new individuals among unlabelled queries, from their best scores alone (prior shift, Saerens et al. 2002).

    scores (q,) best score of each validation query, known (q,) bool, unlabelled (t,) best scores of the queries to be answered.
    Validation gives the odds that a score is a stranger's; the share that makes the unlabelled scores most likely would be the
    maximum of their likelihood, but where strangers hardly differ that maximum is anywhere. So this is the posterior mean over
    5 to 70%: MAP@k is linear in the share, hence its threshold maximises expected MAP@k.
    """
    stranger = fit_probability(-np.asarray(scores), ~np.asarray(known, bool), prior=0.5)(-np.asarray(unlabelled))
    likelihood = np.log(NEW_SHARES[:, None] * stranger + (1 - NEW_SHARES[:, None]) * (1 - stranger)).sum(axis=1)
    posterior = np.exp(likelihood - likelihood.max())
    return float(posterior @ NEW_SHARES / posterior.sum())


def new_share_costs(curve: ThresholdCurve, threshold: float, shares: ArrayLike = (0.1, 0.3, 0.6)) -> list[dict[str, float]]:
    """What a wrong share costs: for each share of new queries, MAP@k at `threshold`, at the best threshold for it, and the loss."""
    at = int(np.searchsorted((curve.thresholds[1:] + curve.thresholds[:-1]) / 2, threshold))
    rows = []
    for share in np.asarray(shares).tolist():
        values = curve.map_at_k(share)
        best = int(values.argmax())
        rows.append({"share": share, "map": values[at], "best_map": values[best], "best_threshold": curve.thresholds[best]})
    return [{name: float(value) for name, value in row.items()} | {"loss": float(row["best_map"] - row["map"])} for row in rows]


class Logistic(NamedTuple):
    """A probability from a score: 1 / (1 + exp(-(slope * score + intercept))). Two plain numbers."""

    slope: float
    intercept: float

    def __call__(self, scores: ArrayLike) -> Floats:
        """Probabilities, of the shape of `scores`; 0 for -inf."""
        return expit(self.slope * np.asarray(scores, np.float64) + self.intercept)


def fit_probability(scores: ArrayLike, right: ArrayLike, prior: float | None = None) -> Logistic:
    """Platt's calibration (1999): the probability that an answer with this score is right.

    scores (n,) finite, right (n,) bool. The targets are Platt's, (n+ + 1) / (n+ + 2) and 1 / (n- + 2), so that separable or
    one-sided data give finite numbers. prior: re-weight right and wrong as if this share were right; None: as they are.
    """
    scores, right = np.asarray(scores, np.float64), np.asarray(right, bool)
    if not len(scores) or not np.isfinite(scores).all():
        raise FlukeError("A probability is fitted to scores that are finite, one answer at least.")
    n_right, n_wrong = right.sum(), (~right).sum()
    target = np.where(right, (n_right + 1) / (n_right + 2), 1 / (n_wrong + 2))
    weight = np.ones(len(scores))
    if prior is not None and n_right and n_wrong:
        weight = np.where(right, prior / n_right, (1 - prior) / n_wrong) * len(scores)
    middle, spread = scores.mean(), scores.std() or 1.0
    scaled = np.tile((scores - middle) / spread, 2)[:, None]
    fit = LogisticRegression(C=1e6, tol=1e-8, max_iter=1000)
    fit.fit(scaled, np.repeat([1, 0], len(scores)), sample_weight=np.concatenate([weight * target, weight * (1 - target)]))
    slope = float(fit.coef_[0, 0] / spread)
    return Logistic(slope, float(fit.intercept_[0] - slope * middle))


def pair_scores(
    embeddings: ArrayLike,
    labels: ArrayLike,
    metric: Metric,
    groups: ArrayLike | None = None,
    new_label: str | None = None,
    limit: int = 1_000_000,
    seed: int = 0,
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Is A the same as B: `same` (p,) bool and `scores` (p,) float32 of all pairs of rows, or of about `limit` drawn ones.

    embeddings (n, d), labels (n,). Pairs within a group (a sighting) are left out, for they are easier than any that will be
    asked, and so are pairs of two new individuals, for nobody knows whether they are the same. Drawn pairs are half same, half
    different, if there are enough. lib.verification makes the ROC of them; `fit_probability(scores, same, prior=0.5)`
    the probability of one pair, same and different being equally probable beforehand.
    """
    vectors = check_embeddings(embeddings, "pairs", metric, None)
    labels = np.asarray(labels, np.str_)
    n = len(labels)
    if n * (n - 1) // 2 <= limit:
        a, b = np.triu_indices(n, 1)
    else:
        rng = np.random.default_rng(seed)
        by_label = np.argsort(labels, kind="stable")
        steps = range(1, np.unique(labels, return_counts=True)[1].max())
        near = [(by_label[:-step], by_label[step:]) for step in steps]
        near = [(a[same], b[same]) for a, b in near if (same := labels[a] == labels[b]).any()]
        a, b = (np.concatenate(side) for side in zip(*near)) if near else np.empty((2, 0), int)
        kept = rng.permutation(len(a))[: limit // 2]
        far = rng.integers(n, size=(2, limit // 2))
        far = far[:, labels[far[0]] != labels[far[1]]]
        a, b = np.concatenate([a[kept], far[0]]), np.concatenate([b[kept], far[1]])
    same = labels[a] == labels[b]
    fair = ~(same & (labels[a] == new_label)) if new_label is not None else np.ones(len(a), bool)
    if groups is not None:
        groups = np.asarray(groups)
        fair &= groups[a] != groups[b]
    a, b, same = a[fair], b[fair], same[fair]
    scores = np.empty(len(a), np.float32)
    for start in range(0, len(a), 65536):
        one, other = vectors[a[start : start + 65536]], vectors[b[start : start + 65536]]
        scores[start : start + 65536] = (
            np.einsum("pd,pd->p", one, other) if metric == "cosine" else -np.square(one - other).sum(axis=1)
        )
    return same, scores
