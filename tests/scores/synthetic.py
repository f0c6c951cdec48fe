"""Logits of made-up models with known skill, for tests of combinations."""

import numpy as np

from lib.scores.out_of_fold import OutOfFold, inner_folds
from lib.tables.target import ONE_LABEL, SEVERAL_LABELS


def members(n=1500, classes=6, skills=(1.6, 1.2, 0.8), seed=0):
    """Return logits of one model per skill, the truth plus independent noise, and the true classes."""
    rng = np.random.default_rng(seed)
    targets = rng.choice(classes, size=n, p=np.arange(1, classes + 1) / (classes * (classes + 1) / 2))
    truth = np.eye(classes)[targets]
    return [(2 * skill * truth + rng.normal(size=(n, classes))).astype(np.float32) for skill in skills], targets


def labels(n=800, classes=5, skills=(1.5, 1.0), seed=0):
    """Return the same for several labels per image."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((n, classes)) < np.linspace(0.1, 0.5, classes)).astype(int)
    return [(2 * skill * (targets - 0.7) + rng.normal(size=targets.shape)).astype(np.float32) for skill in skills], targets


def out_of_fold(z, targets, metric="accuracy", folds=None, groups=None) -> OutOfFold:
    """Return members a, b, c, ... with random folds unless `folds` are given."""
    target = SEVERAL_LABELS if targets.ndim == 2 else ONE_LABEL
    folds = inner_folds(target.strata(targets), groups=groups) if folds is None else folds
    return OutOfFold(list("abcdefgh")[: len(z)], z, target, targets, metric, folds, groups)
