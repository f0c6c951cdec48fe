"""A catalogue's own errors: photographs unlike the others of their individual, one animal under two names, two under one.

No labelled error is needed: errors are made up (a photograph compared with another individual's, an individual cut in two, two
thrown together), and their scores compared with those of the catalogue as it is. By Bayes' rule, with EXPECTED as the share of
errors, the probability of an error is EXPECTED * f(score of made-up errors) / f(score as it is).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage

from lib.retrieval.calibration import fit_probability
from lib.retrieval.similarity import Floats

EXPECTED = 0.05
"""Share of errors among photographs, and among individuals, before the photographs are looked at."""
SHRINKAGE = 10.0
"""Of the covariance within individuals, in units of its mean variance (benchmarks/catalogue_errors.py compares others)."""
_PARTS = 5
_LEAST = 4  # images of an individual that is looked at for two animals
_BLOCK = 4_000_000  # scores held at a time


class Suspicion(NamedTuple):
    """A possible error."""

    kind: str
    """photograph, sighting, two names or two animals."""
    probability: float
    individual: str
    other: str
    """The individual that it may belong to; "" for two animals under one name."""
    images: tuple[int, ...]
    """Positions of the images to move: the photograph, all of the smaller individual, or the smaller group."""


class _Space(NamedTuple):
    """n images in a space that was fitted without the individuals of one part."""

    vectors: Floats
    """(n, d)"""
    mean: NDArray[np.float64]
    """(n,) mean of the similarities of each image to all, and their standard deviation."""
    deviation: NDArray[np.float64]


def find_errors(embeddings: Floats, labels: NDArray[np.str_], sightings: NDArray[np.str_] | None = None) -> list[Suspicion]:
    """Return all possible errors of a catalogue of n images, the most probable first.

    embeddings (n, d), labels (n,), sightings (n,): photographs that were taken together, "" for none. A sighting under two names is
    an error of one of its photographs, unless a fifth of the sightings are, which then show several animals. Those of one sighting
    and name are judged together, by the other sightings of their individual: they are alike whatever their name is. An individual
    with one image is looked at for a double only.
    """
    names, code = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        return []
    vectors = _directions(embeddings - embeddings.mean(axis=0))
    unit = _group(code, sightings)
    scores, own = _photograph_scores(vectors, code, unit)
    found = _photographs(scores, own, names, code, sightings, unit)
    found += _two_names(scores, names, code)
    found += _two_animals(vectors, names, code)
    return sorted(found, key=lambda each: -each.probability)


def error_probabilities(observed: NDArray[np.float64], made_up: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probability of an error for each of the observed scores (n,), where those of errors (m,) are mostly lower."""
    is_error = np.arange(len(observed) + len(made_up)) >= len(observed)
    odds = fit_probability(-np.concatenate([observed, made_up]), is_error, 0.5)(-observed)
    return np.minimum(EXPECTED * odds / np.maximum(1 - odds, 1e-9), 1.0)


def _directions(vectors: NDArray[Any]) -> Floats:
    """Scale vectors (n, d) to length 1, those of length 0 left as they are."""
    return (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def _group(code: NDArray[np.int64], sightings: NDArray[np.str_] | None) -> NDArray[np.int64]:
    """Return a number (n,) for the photographs of one sighting and name; each is alone where sightings are unknown."""
    alone = np.arange(len(code))
    if sightings is None:
        return alone
    _, sighting = np.unique(np.where(sightings == "", np.char.add("\0", alone.astype(str)), sightings), return_inverse=True)
    return np.unique(np.stack([code, sighting]), axis=1, return_inverse=True)[1].reshape(-1)


def _photograph_scores(
    vectors: Floats, code: NDArray[np.int64], unit: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean similarity (n, C) of each image to those of each individual, itself left out, and that to its own individual
    without its `unit` (n,), (n,); NaN where none is left.

    A similarity is in standard deviations above the mean of either image's similarities, in a space that hasn't seen the image's
    individual: else the images of one individual would be near because the space was fitted to them.
    """
    count = code.max() + 1
    part = np.random.default_rng(0).permutation(count) % min(_PARTS, count)
    sizes = np.bincount(code, minlength=count)
    scores, own = np.empty((len(code), count)), np.empty(len(code))
    for number in range(part.max() + 1):
        rows = np.flatnonzero(part[code] == number)
        space = _fit_space(vectors, code, part[code] != number)
        for block in np.array_split(rows, -(-len(rows) * count // _BLOCK)):
            scores[block] = _block_scores(space, code, sizes, block)
            own[block] = _own_scores(space, code, unit, block)
    return scores, own


def _fit_space(vectors: Floats, code: NDArray[np.int64], fitted: NDArray[np.bool_]) -> _Space:
    """Return the images in the space in which images of one individual, of those `fitted` (n,), scatter alike in all directions."""
    x = vectors[fitted].astype(np.float64)
    _, own = np.unique(code[fitted], return_inverse=True)
    means = np.zeros((own.max(initial=0) + 1, x.shape[1]))
    np.add.at(means, own, x)
    within = x - (means / np.bincount(own)[:, None])[own] if len(x) else x
    covariance = within.T @ within
    scale = np.trace(covariance) / len(covariance)
    values, directions = np.linalg.eigh(covariance + (SHRINKAGE * scale or 1.0) * np.eye(len(covariance)))
    found = _directions(vectors @ (directions / np.sqrt(values)))
    centre = found.mean(axis=0)
    mean = found @ centre
    spread = np.einsum("nd,nd->n", found @ (found.T @ found / len(found) - np.outer(centre, centre)), found)
    return _Space(found, mean.astype(np.float64), np.sqrt(np.maximum(spread, 1e-12)).astype(np.float64))


def _block_scores(space: _Space, code: NDArray[np.int64], sizes: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the mean similarity (b, C) of images `rows` (b,) to those of each individual, themselves left out."""
    weight = 1 / space.deviation
    plain, scaled = (np.zeros((len(sizes), space.vectors.shape[1])) for _ in range(2))
    np.add.at(plain, code, space.vectors)
    np.add.at(scaled, code, space.vectors * weight[:, None])
    shift = np.bincount(code, space.mean * weight, len(sizes))
    own = np.arange(len(rows)), code[rows]

    def summed(sums: NDArray[np.float64], left_out: NDArray[np.float64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = space.vectors[rows] @ sums.T
        found[own] -= left_out
        return found

    n = np.broadcast_to(sizes, (len(rows), len(sizes))).astype(np.float64)
    n[own] -= 1
    mine = (summed(plain, np.ones(len(rows))) - n * space.mean[rows, None]) * weight[rows, None]
    theirs = summed(scaled, weight[rows]) - shift
    theirs[own] += (space.mean * weight)[rows]
    with np.errstate(invalid="ignore", divide="ignore"):
        return (mine + theirs) / n / np.sqrt(2)


def _own_scores(space: _Space, code: NDArray[np.int64], unit: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the mean similarity (b,) of images `rows` (b,) to those of their individual that are of another `unit` (n,)."""
    weight, x = 1 / space.deviation, space.vectors[rows]

    def summed(groups: NDArray[np.int64], values: NDArray[Any]) -> NDArray[np.float64]:
        """Return the sums of `values` (n, ...) over the group of each of the rows."""
        sums = np.zeros((groups.max() + 1, *values.shape[1:]))
        np.add.at(sums, groups, values)
        return sums[groups[rows]]

    def others(values: NDArray[Any]) -> NDArray[np.float64]:
        return summed(code, values) - summed(unit, values)

    n = others(np.ones(len(code))).round()
    mine = (np.einsum("bd,bd->b", x, others(space.vectors)) - n * space.mean[rows]) * weight[rows]
    theirs = np.einsum("bd,bd->b", x, others(space.vectors * weight[:, None])) - others(space.mean * weight)
    return np.where(n > 0, (mine + theirs) / np.maximum(n, 1) / np.sqrt(2), np.nan)


def _pool(values: NDArray[np.float64], unit: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the mean of values (n, ...) over the unit (n,) of each."""
    sums = np.zeros((unit.max() + 1, *values.shape[1:]))
    np.add.at(sums, unit, values)
    return (sums / np.bincount(unit).reshape(-1, *[1] * (values.ndim - 1)))[unit]


def _judge(own: NDArray[np.float64], scores: NDArray[np.float64], code: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the probability (n,) that images are of another individual, by their score with their own, `own` (n,); 0 for NaN.

    scores (n, C): with all individuals, one of which is drawn as an error.
    """
    rows, probability = np.flatnonzero(np.isfinite(own)), np.zeros(len(own))
    if len(rows):
        count = scores.shape[1]
        drawn = (code[rows] + np.random.default_rng(1).integers(1, count, len(rows))) % count
        probability[rows] = error_probabilities(own[rows], scores[rows, drawn])
    return probability


def _photographs(
    scores: NDArray[np.float64],
    own: NDArray[np.float64],
    names: NDArray[np.str_],
    code: NDArray[np.int64],
    sightings: NDArray[np.str_] | None,
    unit: NDArray[np.int64],
) -> list[Suspicion]:
    """Return each photograph that has others of its individual, with the individual that it is most like.

    own (n,): its score with its individual's images of other units (n,). Where there are none, those of its unit judge it.
    """
    mine = scores[np.arange(len(code)), code]
    if not np.isfinite(mine).any() or len(names) < 2:
        return []
    together = _pool(np.nan_to_num(scores), unit)  # NaN are of images' own individuals, which aren't drawn
    probability = np.where(np.isfinite(own), _judge(_pool(own, unit), together, code), _judge(mine, scores, code))
    together[np.arange(len(code)), code] = -np.inf
    best = together.argmax(axis=1)
    partner = _conflicts(code, sightings)
    found = []
    for row in range(len(code)):
        other, sure, kind = int(best[row]), probability[row], "photograph"
        if len(against := partner.get(row, ())):  # one of them is wrong: by the odds of either
            odds, most = (p / max(1 - p, 1e-6) + 1e-6 for p in (sure, probability[against].max()))
            sure, kind, other = odds / (odds + most), "sighting", int(code[against][probability[against].argmin()])
        if sure > 0:
            found.append(Suspicion(kind, float(sure), str(names[code[row]]), str(names[other]), (row,)))
    return found


def _conflicts(code: NDArray[np.int64], sightings: NDArray[np.str_] | None) -> dict[int, NDArray[np.int64]]:
    """Return, by image, those of its sighting that have another name; {} where a fifth of the sightings have several names."""
    if sightings is None:
        return {}
    order = np.argsort(sightings, kind="stable")
    groups = np.split(order, np.flatnonzero(sightings[order][1:] != sightings[order][:-1]) + 1)
    several = [group for group in groups if len(group) > 1 and sightings[group[0]] != ""]
    mixed = [group for group in several if len(np.unique(code[group])) > 1]
    if len(mixed) > 0.2 * len(several):
        return {}
    return {int(row): group[code[group] != code[row]] for group in mixed for row in group}


def _two_names(scores: NDArray[np.float64], names: NDArray[np.str_], code: NDArray[np.int64]) -> list[Suspicion]:
    """Return each individual with the one that it is most like: whether both are one animal."""
    count = len(names)
    if count < 3:
        return []
    order = np.argsort(code, kind="stable")
    starts = np.searchsorted(code[order], np.arange(count))
    sizes = np.bincount(code, minlength=count)
    both = np.add.reduceat(np.nan_to_num(scores[order]), starts, axis=0) / sizes[:, None]
    within = both[np.arange(count), np.arange(count)][sizes > 1]
    np.fill_diagonal(both, -np.inf)
    both = (both + both.T) / 2
    nearest = both.argmax(axis=1)
    best = both[np.arange(count), nearest]
    if not len(within):
        return []
    probability = error_probabilities(-best, -within)
    pairs = {(min(a, b), max(a, b)): a for a, b in enumerate(nearest.tolist())}
    found = []
    for a, b in pairs:
        small, large = sorted((a, b), key=lambda one: (sizes[one], one))
        sure = float(probability[pairs[a, b]])
        found.append(
            Suspicion("two names", sure, str(names[small]), str(names[large]), tuple(np.flatnonzero(code == small).tolist()))
        )
    return found


def _two_animals(vectors: Floats, names: NDArray[np.str_], code: NDArray[np.int64]) -> list[Suspicion]:
    """Return each individual of at least _LEAST images with the smaller of its two groups: whether it is another animal."""
    rows_of = [np.flatnonzero(code == one) for one in range(len(names))]
    large = [one for one, rows in enumerate(rows_of) if len(rows) >= _LEAST]
    parted = [(one, *_cut(vectors, rows_of[one])) for one in large]
    kept = [(one, gap, rows) for one, gap, rows in parted if len(rows) > 1]
    rng = np.random.default_rng(2)
    made_up = []
    for one in large:
        other = large[(large.index(one) + int(rng.integers(1, max(len(large), 2)))) % len(large)]
        if other != one:
            half = [rng.permutation(rows_of[each])[: -(-len(rows_of[each]) // 2)] for each in (one, other)]
            made_up.append(_cut(vectors, np.concatenate(half))[0])
    if not kept or not made_up:
        return []
    gaps = np.array([gap for _, gap, _ in kept])
    probability = error_probabilities(-gaps, -np.array(made_up))
    return [
        Suspicion("two animals", float(sure), str(names[one]), "", tuple(rows.tolist()))
        for sure, (one, _, rows) in zip(probability, kept)
    ]


def _cut(vectors: Floats, rows: NDArray[np.int64]) -> tuple[float, NDArray[np.int64]]:
    """Cut images in two groups by average linkage; return the distance between them less that within, and the smaller group."""
    x = vectors[rows].astype(np.float64)
    group = fcluster(linkage(x, "average"), 2, "maxclust")
    distance = np.sqrt(np.maximum(2 - 2 * x @ x.T, 0))
    across = group[:, None] != group
    within = ~across & ~np.eye(len(x), dtype=bool)
    gap = float(distance[across].mean() - distance[within].mean()) if across.any() and within.any() else 0.0
    small = min(np.unique(group), key=lambda one: ((group == one).sum(), one))
    return gap, rows[group == small]
