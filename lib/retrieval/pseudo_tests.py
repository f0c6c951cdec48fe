"""Pseudo-tests: held-out photographs grouped as the test is; the threshold, and what they say of it.

Their individuals are partly known, and partly such as the model has never seen, in several shares and numbers of photographs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

from lib.retrieval.calibration import Logistic, fit_probability
from lib.retrieval.counting import CountRatio, fit_count
from lib.retrieval.discovery import Grouping, Images, Known, find_places, group_images
from lib.retrieval.individual_folds import IndividualFold
from lib.retrieval.local_fusion import Fusion, LocalScores
from lib.retrieval.merge_probability import MergeProbability, measure_merges

NEW_SHARES = (0.1, 0.4, 0.8)
"""Shares of photographs of new individuals in the pseudo-tests."""
KEPT = (0.54, 0.77, 1.0)
"""Shares of each individual's photographs that are kept: 0.7, 1 and 1.3 times the middle one."""
THRESHOLDS = np.round(np.concatenate([np.arange(-0.5, 1.0001, 0.01), np.arange(1.05, 8, 0.05)]), 2)
"""Similarities; with local scores they exceed 1."""
BORROWED = 20
"""Held-out individuals that a part needs to trust its own threshold as much as the one of all parts."""


@dataclass(frozen=True)
class PseudoTest:
    """Held-out images grouped as the test is, with their true individuals."""

    fold: int
    new_share: float
    grouping: Grouping
    images: Images
    labels: np.ndarray
    """(n,) str"""
    scores: np.ndarray
    """(THRESHOLDS,) adjusted Rand index at each threshold."""
    images_of_one: float
    """Images per individual of the fold, learnt or held out, before some are left out."""


def make_pseudo_tests(
    folds: Sequence[IndividualFold],
    views: int = 1,
    size_penalty: float = 0.0,
    local: tuple[Fusion, LocalScores] | None = None,
    seed: int = 0,
) -> list[PseudoTest]:
    """Return pseudo-tests of each fold: of each of NEW_SHARES with each of KEPT, grouped as the test is.

    size_penalty: that of Nodes. local: local scores of the folds' images, and what they add to cosines.

    Without new individuals among the held-out images, or without known ones, the share is what it is.
    """
    tests = []
    for number, fold in enumerate(folds):
        rng = np.random.default_rng((seed, number))
        known = Known.of(fold.images.take(fold.learnt), fold.labels[fold.learnt], views)
        rows = np.union1d(fold.learnt, fold.held_out)
        of_one = len(rows) / len(np.unique(fold.labels[rows]))
        for share, rows in _draw(fold, known, rng):
            images, labels = fold.images.take(rows), fold.labels[rows]
            added = None if local is None else add_local(*local, fold, rows, known)
            grouping = group_images(images, known, size_penalty=size_penalty, added=added)
            scores = _score_cuts(labels, grouping)
            tests.append(PseudoTest(number, share, grouping, images, labels, scores, of_one))
    return tests


def add_local(fusion: Fusion, scores: LocalScores, fold: IndividualFold, rows: np.ndarray, known: Known) -> csr_array | None:
    """Return what local scores add between the known individuals of a fold's learnt images, and its images at `rows`."""
    k, elements = len(known.names), np.full(len(fold.labels), -1)
    elements[fold.learnt] = np.searchsorted(known.names, fold.labels[fold.learnt])
    elements[rows] = k + np.arange(len(rows))
    return fusion.additions(fold.images.embeddings, scores, elements, k, k + len(rows))


def _draw(fold: IndividualFold, known: Known, rng: np.random.Generator) -> list[tuple[float, np.ndarray]]:
    """Return shares of new individuals with the positions of the images drawn for them; individuals are left out whole."""
    labels, drawn = fold.labels[fold.held_out], []
    is_new = ~np.isin(np.unique(labels), known.names)
    shares: tuple[float, ...] = NEW_SHARES
    if is_new.all() or not is_new.any():
        shares = (float(is_new.all()),)
    for share in shares:
        for kept in KEPT:
            rows = [rng.permutation(fold.held_out[labels == name]) for name in np.unique(labels)]
            rows = [of_one[: max(1, round(kept * len(of_one)))] for of_one in rows]
            order = rng.permutation(len(rows))
            sides = [[rows[i] for i in order if is_new[i] == new] for new in (True, False)]
            sizes = [np.cumsum([len(of_one) for of_one in side]) for side in sides]
            if 0 < share < 1:  # the side that is too large loses individuals
                total = min(sizes[0][-1] / share, sizes[1][-1] / (1 - share))
                for side, size, part in zip(sides, sizes, (share, 1 - share)):
                    del side[int(np.searchsorted(size, part * total - 0.5)) + 1 :]
            chosen = np.sort(np.concatenate([*sides[0], *sides[1]])) if sides[0] or sides[1] else np.array([], int)
            if len(chosen) >= 4:
                drawn.append((share, chosen))
    return drawn


def _score_cuts(labels: np.ndarray, grouping: Grouping) -> np.ndarray:
    """Return the adjusted Rand index at each of THRESHOLDS; cuts with as many clusters are the same."""
    scores: dict[int, float] = {}
    found = []
    for clusters in grouping.cuts(THRESHOLDS):
        number = len(np.unique(clusters))
        if number not in scores:
            scores[number] = float(adjusted_rand_score(labels, clusters))
        found.append(scores[number])
    return np.array(found)


def regret_of(tests: Sequence[PseudoTest]) -> np.ndarray:
    """Return the mean loss of adjusted Rand index at each threshold, (THRESHOLDS,), against each test's best one."""
    return np.asarray(np.mean([test.scores.max() - test.scores for test in tests], axis=0))


def choose_threshold(regret: np.ndarray) -> float:
    """Return the threshold of the least regret; of equals the highest up to 1, which merges least."""
    best = THRESHOLDS[regret <= regret.min() + 1e-9]
    return float(best[best <= 1].max(initial=best[0]))


@dataclass(frozen=True)
class Fit:
    """A threshold with what the pseudo-tests say of it."""

    threshold: float
    metrics: dict[str, float]
    """Means over the pseudo-tests, each at the threshold of the other folds, and of the best threshold of each
    (`best_adjusted_rand`)."""
    count: CountRatio
    probability: Logistic
    """That an image is in the right cluster, from its margin."""
    merge_probability: MergeProbability


def fit(tests: Sequence[PseudoTest], pooled: np.ndarray | None = None) -> Fit:
    """Return the threshold of the pseudo-tests, their metrics, and what is fitted at it.

    pooled: the regret (THRESHOLDS,) of all parts, to which a part with few held-out individuals is shrunk (BORROWED).
    """

    def threshold_without(fold: int | None) -> float:
        used = [test for test in tests if test.fold != fold] or list(tests)
        regret = regret_of(used)
        if pooled is not None:
            individuals = len({label for test in used for label in test.labels.tolist()})
            regret = (individuals * regret + BORROWED * pooled) / (individuals + BORROWED)
        return choose_threshold(regret)

    threshold = threshold_without(None)
    others = {fold: threshold_without(fold) for fold in {test.fold for test in tests}}
    rows, margins, right = [], [], []
    for test in tests:
        rows.append({**_measure(test, others[test.fold]), "best_adjusted_rand": test.scores.max(), "new": test.new_share})
        clusters, individual = test.grouping.cut(threshold)
        margins.append(find_places(test.images, test.grouping, clusters, individual).margin(threshold))
        right.append(is_right(test.labels, clusters, individual, test.grouping.known))
    model = fit_probability(np.concatenate(margins), np.concatenate(right))
    metrics = {str(name): float(value) for name, value in pd.DataFrame(rows).drop(columns="new").mean().items()}
    for share in sorted({row["new"] for row in rows}):
        for name in ("adjusted_rand", "best_adjusted_rand"):
            metrics[f"{name}_{share:.0%}_new"] = float(np.mean([row[name] for row in rows if row["new"] == share]))
    count = fit_count([(test.grouping, test.labels) for test in tests], threshold, max(test.images_of_one for test in tests))
    merge_probability, of_merges = measure_merges([(test.fold, test.grouping, test.labels) for test in tests])
    return Fit(threshold, metrics | of_merges, count, model, merge_probability)


def _measure(test: PseudoTest, threshold: float) -> dict[str, float]:
    clusters = test.grouping.cut(threshold)[0]
    precision, recall = pair_scores(test.labels, clusters)
    return {
        "adjusted_rand": float(test.scores[np.abs(THRESHOLDS - threshold).argmin()]),
        "adjusted_mutual_information": float(adjusted_mutual_info_score(test.labels, clusters)),
        "pair_precision": precision,
        "pair_recall": recall,
    }


def is_right(labels: np.ndarray, clusters: np.ndarray, individual: np.ndarray, known: Known) -> np.ndarray:
    """Return whether each image is called by its name, or in a cluster of which most images are of its individual, (n,) bool."""
    right = np.zeros(len(labels), bool)
    for cluster in np.unique(clusters):
        rows = np.flatnonzero(clusters == cluster)
        names, counts = np.unique(labels[rows], return_counts=True)
        name = known.names[individual[rows[0]]] if individual[rows[0]] >= 0 else names[counts.argmax()]
        right[rows] = labels[rows] == name
        if individual[rows[0]] < 0:
            right[rows] &= ~np.isin(labels[rows], known.names)  # a known individual was called new
    return right


def pair_scores(labels: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    """Return the precision and the recall of pairs of images in one cluster, NaN without a pair."""

    def pairs(values: np.ndarray) -> float:
        counts = np.unique(values, return_counts=True)[1].astype(float)
        return float((counts * (counts - 1) / 2).sum())

    both = pairs(np.array([f"{label}\0{cluster}" for label, cluster in zip(labels, clusters)]))
    given, true = pairs(clusters), pairs(labels)
    return both / given if given else np.nan, both / true if true else np.nan
