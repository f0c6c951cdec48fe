"""Out-of-fold scores of several models: the data that combinations are fitted on, and cross-fitting on its folds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lib.errors import FlukeError
from lib.metrics.registry import METRICS
from lib.scores.averaging import Members
from lib.tables.target import Target


@dataclass(frozen=True)
class OutOfFold:
    """Out-of-fold scores of M models on the same n rows, with their targets."""

    names: Sequence[str]
    """M names of the models, for reports."""
    members: Members
    """M arrays (n, C) of logits."""
    target: Target
    targets: np.ndarray
    """The rows' labels as `target.encode` returns them."""
    metric: str
    """A name of METRICS that is computed from logits."""
    folds: np.ndarray
    """(n,): rows of one fold are left out together."""
    groups: np.ndarray | None = None
    """(n,): rows of one group stay in one fold and are resampled together; None: each row alone."""
    allow_empty: bool = False
    """Several labels: whether a submission may give a row no label (predict.allow_empty)."""

    def score(self, logits: np.ndarray) -> float:
        """Return the metric of `logits` (n, C), negated where lower is better."""
        return METRICS[self.metric].sign * METRICS[self.metric].function(logits, self.targets)

    def take(self, rows: np.ndarray) -> OutOfFold:
        """Return the rows at these positions. Rows of a single fold are assigned to new folds, because fits need two."""
        targets, folds = self.targets[rows], self.folds[rows]
        groups = None if self.groups is None else self.groups[rows]
        if len(np.unique(folds)) < 2:
            folds = inner_folds(self.target.strata(targets), groups=groups)
        return replace(self, members=[m[rows] for m in self.members], targets=targets, folds=folds, groups=groups)


def inner_folds(strata: np.ndarray, n: int = 5, seed: int = 0, groups: Sequence[str] | np.ndarray | None = None) -> np.ndarray:
    """Return a random fold, 0 to n - 1, for each row, (rows,).

    Folds are stratified by `strata` (rows,), or keep the rows of each of `groups` together.
    """
    rng = np.random.default_rng(seed)
    if groups is not None:
        unit = np.unique(groups, return_inverse=True)[1]
        return (rng.permutation(unit.max() + 1) % n)[unit]
    folds = np.empty(len(strata), dtype=np.int64)
    folds[np.lexsort((rng.random(len(strata)), strata))] = np.arange(len(strata)) % n
    return folds


def crossfit(fit_on: Callable[[np.ndarray], Callable[[Members], np.ndarray]], members: Members, folds: np.ndarray) -> np.ndarray:
    """Return out-of-fold logits (n, C) float32: `fit_on(rows)` fits on all folds but one and is applied to that one.

    `rows` are positions. Raises FlukeError for a single fold.
    """
    if len(np.unique(folds)) < 2:
        raise FlukeError("--runs: what is fitted is evaluated on left-out rows, which takes 2 folds or groups (found 1); add rows.")
    out = np.empty(members[0].shape, dtype=np.float32)
    for fold in np.unique(folds):
        held = folds == fold
        out[held] = fit_on(np.flatnonzero(~held))([m[held] for m in members])
    return out
