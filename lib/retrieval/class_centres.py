"""Class centres: the weight vectors of an ArcFace objective, one or several per class, as a second source of scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lib.retrieval.ranking import Ranking
from lib.retrieval.similarity import normalize


class ClassCentres(NamedTuple):
    """Class weight vectors of an ArcFace objective."""

    vectors: np.ndarray
    """(C * k, d) float32, the k sub-centres of a class after one another."""
    classes: tuple[str, ...]
    """C names."""
    line: tuple[float, float] | None = None
    """Intercept and slope of a centre score by the neighbours' score, for classes without a centre; see `fit_line`."""

    def rename(self, names: Mapping[str, str]) -> ClassCentres:
        """Return the centres under other names: `names` of classes that were renamed since, "" for none."""
        taken = set(names.values())
        return self._replace(classes=tuple(names.get(name, "" if name in taken else name) for name in self.classes))

    def scores(self, queries: np.ndarray, class_list: NDArray[np.str_]) -> NDArray[np.float32]:
        """Return the cosine similarity (q, C) of queries (q, d) to the nearest centre of each name in `class_list` (C,); NaN for a
        name without a centre."""
        cosine = (normalize(queries) @ normalize(self.vectors).T).reshape(len(queries), len(self.classes), -1).max(axis=2)
        scores = np.full((len(queries), len(class_list)), np.nan, np.float32)
        column = {name: i for i, name in enumerate(self.classes)}
        trained = [i for i, name in enumerate(class_list.tolist()) if name in column]
        scores[:, trained] = cosine[:, [column[class_list[i]] for i in trained]]
        return scores


def make_class_centres(vectors: np.ndarray, classes: tuple[str, ...], mirrored: bool, mirror_tta: bool) -> ClassCentres:
    """Return the centres of C classes from an objective's weights.

    vectors (C * k, d), with `mirrored` followed by those of the C mirrored individuals, which are left out. With `mirror_tta`
    (predict.tta mirror), an embedding is that of the image and of its mirror image, concatenated, and so are the centres: each of
    the k sub-centres with each of the mirrored individual's k.
    """
    if not mirrored:
        return ClassCentres(vectors, classes)
    if not mirror_tta:
        return ClassCentres(vectors[: len(vectors) // 2], classes)
    plain, flipped = np.split(normalize(vectors), 2)
    k, d = len(plain) // len(classes), plain.shape[1]
    pairs = np.broadcast_arrays(plain.reshape(-1, k, 1, d), flipped.reshape(-1, 1, k, d))
    return ClassCentres(np.concatenate(pairs, axis=-1).reshape(-1, 2 * d), classes)


def fit_line(scores: NDArray[np.float32], ranking: Ranking) -> tuple[float, float] | None:
    """Return intercept and slope of centre scores (q, C) by the neighbours' scores of `ranking`, by least squares, NaN left out.

    It is fitted on held-out queries and stored, so that an answer doesn't depend on who else is asked. None without any score.
    """
    found = ranking.classes >= 0
    at = found.nonzero()[0], ranking.classes[found]
    there = ~np.isnan(scores[at])
    x, y = ranking.scores[found][there].astype(np.float64), scores[at][there].astype(np.float64)
    if not len(x):
        return None
    slope = ((x - x.mean()) * (y - y.mean())).mean() / max(x.var(), 1e-12)
    return float(y.mean() - slope * x.mean()), float(slope)


def estimate_missing_scores(scores: NDArray[np.float32], ranking: Ranking, line: tuple[float, float] | None) -> None:
    """Fill the NaN of centre scores (q, C) in place, by a `line` (see `fit_line`) on the neighbours' scores of `ranking`.

    A class that wasn't trained on has no centre, and the scores of its images are on another scale: higher, so that it would come
    first. It gets the centre score that trained classes with the same neighbours' score have.
    """
    missing = np.isnan(scores)
    if line is None or not missing.any():
        return
    found = ranking.classes >= 0
    lowest = np.where(found, ranking.scores, np.inf).min(axis=1)
    neighbour_scores = np.repeat(np.where(np.isfinite(lowest), lowest, -1)[:, None], scores.shape[1], axis=1)
    neighbour_scores[found.nonzero()[0], ranking.classes[found]] = ranking.scores[found]
    scores[missing] = line[0] + line[1] * neighbour_scores[missing]


def add_centres(ranking: Ranking, centre_scores: NDArray[Any], weight: float, topk: int) -> Ranking:
    """Rank all classes by (1 - weight) * neighbours' score + weight * centre score, and keep the best `topk`; -1 where there are
    fewer.

    So the winners of happywhale 2022 combined ArcFace's logits with nearest neighbours. centre_scores (q, C): cosine similarities,
    NaN for a class without a centre, which keeps its neighbours' score. `ranking`: cosine scores of all identities among the
    neighbours. An identity that isn't among them gets the lowest score there, more than it can have, so that neighbours don't
    outweigh an identity that only the centres find.
    """
    q, n_classes = centre_scores.shape
    found = ranking.classes >= 0
    lowest = ranking.scores.min(axis=1, where=found, initial=np.inf)
    blended = np.repeat(np.where(np.isfinite(lowest), lowest, -1)[:, None], n_classes, axis=1).astype(np.float32)
    matches = np.full((q, n_classes), -1, np.int64)
    at = found.nonzero()[0], ranking.classes[found]
    blended[at], matches[at] = ranking.scores[found], ranking.matches[found]
    blended += np.float32(weight) * np.where(np.isnan(centre_scores), 0, centre_scores - blended)
    order = np.argsort(-blended, axis=1, kind="stable")[:, :topk]
    scores, matches = np.take_along_axis(blended, order, 1), np.take_along_axis(matches, order, 1)
    none = (0, 0), (0, max(topk - n_classes, 0))
    return Ranking(
        np.pad(order, none, constant_values=-1),
        np.pad(scores, none, constant_values=-np.inf),
        np.pad(matches, none, constant_values=-1),
    )
