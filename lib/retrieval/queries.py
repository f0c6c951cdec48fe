"""Queries: images whose individuals are asked of a gallery, with what their search respects."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lib.retrieval.local_search import LocalSearch
from lib.retrieval.rows import LeftOut
from lib.retrieval.similarity import Floats, Ints


@dataclass(frozen=True)
class Queries:
    """q images that are asked of a gallery, embedded by the gallery's model."""

    embeddings: NDArray[np.floating]
    """(q, d)"""
    left_out: LeftOut | None = None
    """Images of the gallery that don't answer; None: all answer."""
    encounters: NDArray[np.str_] | None = None
    """(q,) photographs that are asked together, "" for one alone; None: all are alone."""
    viewpoints: NDArray[np.str_] | None = None
    """(q,) retrieval.orientation_column, "" where unknown; None: images of all viewpoints are compared."""
    local: LocalSearch | None = None
    """Local scores of these queries, by their positions."""
    positions: Ints | None = None
    """(q,) positions in `local`; None: 0 to q - 1."""

    def __len__(self) -> int:
        return len(self.embeddings)

    def take(self, rows: Ints) -> Queries:
        """Return the queries at positions `rows`."""
        return Queries(
            self.embeddings[rows],
            None if self.left_out is None else self.left_out.take(rows),
            None if self.encounters is None else self.encounters[rows],
            None if self.viewpoints is None else self.viewpoints[rows],
            self.local,
            rows if self.positions is None else self.positions[rows],
        )

    def within(self, rows: Ints) -> Queries:
        """Return the queries for a part of their gallery: its images at positions `rows`."""
        return (
            self if self.left_out is None else replace(self, left_out=LeftOut(self.left_out.of_query, self.left_out.of_row[rows]))
        )

    def hidden_counts(self) -> Ints:
        """Return the number of images that are left out of each query's answers, (q,)."""
        return np.zeros(len(self), np.int64) if self.left_out is None else self.left_out.counts()

    def rescore(self, scores: Floats, ids: Ints) -> Floats:
        """Return the scores (q, k) of images with row ids (q, k), best first, with local scores where the queries have them."""
        if self.local is None:
            return scores
        return self.local.rescore(np.arange(len(self)) if self.positions is None else self.positions, scores, ids)
