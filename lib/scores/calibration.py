"""The temperature of one run: fitted on its held-out rows, judged on rows that it was not fitted on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lib.metrics import registry
from lib.scores.decisions import fit_temperature
from lib.scores.out_of_fold import inner_folds
from lib.tables.target import Target


@dataclass(frozen=True)
class Calibration:
    """A temperature, which divides the logits that become probabilities in a submission; saved scores stay as they are."""

    temperature: float
    """1 where no fitted one lowers the log loss of other rows."""
    log_loss: float
    """Mean negative log-probability of the targets, of the logits as they are."""
    log_loss_calibrated: float
    """The same with a temperature that was fitted without the row's fold."""
    ece: float | None = None
    """One label: expected calibration error of the logits as they are (lib/metrics/classification.py)."""
    ece_calibrated: float | None = None
    """The same with a temperature that was fitted without the row's fold."""


def fit_calibration(logits: np.ndarray, targets: np.ndarray, target: Target, groups: np.ndarray | None = None) -> Calibration:
    """Return the temperature (Guo et al. 2017) of `logits` (n, C) with encoded `targets`; rows of `groups` (n,) stay together.

    It is 1 where cross-fitting over five folds finds that it doesn't lower the log loss.
    """
    fold = inner_folds(target.strata(targets), groups=groups)
    crossfitted = np.empty_like(logits)
    for k in np.unique(fold):
        own, others = fold == k, fold != k
        t = fit_temperature(logits[others], targets[others], target) if others.any() else 1.0
        crossfitted[own] = logits[own] / t
    before, after = (-float(target.log_likelihood(each, targets).mean()) for each in (logits, crossfitted))
    helps = after < before
    error = None if target.several else registry.METRICS["ece"].function
    return Calibration(
        fit_temperature(logits, targets, target) if helps else 1.0,
        before,
        after if helps else before,
        None if error is None else error(logits, targets),
        None if error is None else error(crossfitted if helps else logits, targets),
    )
