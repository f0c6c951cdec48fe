"""Candidates of queries scored by points that match, too: the same function scores held-out queries and further ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lib.retrieval.local_fusion import Fusion, fuse_pairs
from lib.retrieval.pair_model import LabelledPairs
from lib.retrieval.similarity import Floats, Ints

FOLDS = 3
"""Parts of the individuals: local scores count where they help in each, weighted on the others."""
Match = Callable[[Ints, Ints], NDArray[np.floating]]
"""Local scores (p,) of p positions of queries with p row ids of a gallery."""


class LocalSearch:
    """Local scores of queries with the first `count` images that a gallery finds for each.

    Without a fusion the scores stay as they are, and the pairs are remembered, so that a fusion can be fitted on them.
    """

    def __init__(self, match: Match, count: int, fusion: Fusion | None = None):
        self.match, self.count, self.fusion = match, count, fusion
        self._known: dict[tuple[int, int], tuple[float, float]] = {}

    def rescore(self, queries: Ints, scores: Floats, ids: Ints) -> Floats:
        """Return the scores (q, k) of images, best first, of queries at positions (q,), with local scores of the first ones.

        ids (q, k): row ids, -1 for none. Every ranking with local scores is made here.
        """
        if self.fusion is not None and self.fusion.ratio == 0:
            return scores
        row, column = (ids[:, : self.count] >= 0).nonzero()
        pairs, cosines = list(zip(queries[row].tolist(), ids[row, column].tolist())), scores[row, column].astype(np.float64)
        unknown = [i for i, pair in enumerate(pairs) if pair not in self._known]
        if unknown:
            asked = np.array([pairs[i] for i in unknown], np.int64)
            values = self.match(asked[:, 0], asked[:, 1]).tolist()
            self._known |= {pairs[i]: (cosines[i], value) for i, value in zip(unknown, values)}
        if self.fusion is None:
            return scores
        rescored = scores.copy()
        rescored[row, column] = self.fusion.score_pairs(cosines, np.array([self._known[pair][1] for pair in pairs]))
        return rescored

    def fit(self, names: NDArray[np.str_], clusters: NDArray[np.str_], label_of: Callable[[Ints], NDArray[np.str_]]) -> LocalSearch:
        """Return the search with a fusion that is fitted on the remembered pairs.

        names (q,): the individual of each query; clusters (q,): what is independent, which weighs 1; label_of: the individuals of
        row ids.
        """
        if not self._known:
            return LocalSearch(self.match, self.count, Fusion(0.0, (0.0, 0.0), {}))
        pairs, features = np.array(list(self._known), np.int64), np.array(list(self._known.values()))
        same = names[pairs[:, 0]] == label_of(pairs[:, 1])
        code = np.unique(clusters, return_inverse=True)[1][pairs[:, 0]]
        weight = 1 / np.bincount(code)[code]
        parts = [(fold, code % FOLDS == fold) for fold in range(FOLDS)]
        found = [LabelledPairs(fold, features[part], same[part], weight[part]) for fold, part in parts if part.any()]
        fitted = LocalSearch(self.match, self.count, fuse_pairs(found))
        fitted._known = self._known
        return fitted
