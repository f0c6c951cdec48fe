"""Methods of combining models, fitted on out-of-fold scores: averages, fitted weights, stacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from lib.scores.averaging import AVERAGES, Members, WeightedAverage, majority_vote, mean_logits, mean_probabilities
from lib.scores.decisions import Adjustment, AdjustmentOptions, fit_adjustment, fit_temperature
from lib.scores.out_of_fold import OutOfFold, crossfit
from lib.scores.stacking import ESTIMATORS, StackedClassifier, StackedRegressor
from lib.scores.weights import greedy_weights, score_weights, simplex_weights
from lib.tables.target import Target

# --- methods ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """A way of combining models."""

    fit: Callable[[OutOfFold], WeightedAverage | StackedClassifier | StackedRegressor]
    """Returns the fitted method. Raises FlukeError where the method can't be used."""
    fitted: bool = True
    """False for the averages with equal weights, which need no targets."""
    stack: bool = False
    """Whether logits of the rows of the fit are overconfident."""


def equal_average(name: str, count: int, target: Target) -> WeightedAverage:
    """Return one of AVERAGES with equal weights for `count` members."""
    return WeightedAverage(AVERAGES[name], np.full(count, 1 / count), target)


def _average(name: str, data: OutOfFold) -> WeightedAverage:
    return equal_average(name, len(data.members), data.target)


def _vote(data: OutOfFold) -> WeightedAverage:
    return WeightedAverage(majority_vote, score_weights(data), data.target)


def _calibrated_mean(fit_weights: Callable[[OutOfFold], np.ndarray], data: OutOfFold) -> WeightedAverage:
    if data.target.numeric:
        return WeightedAverage(mean_logits, fit_weights(data), data.target)
    # Calibrated first: an overconfident member's mistakes cost so much log-loss that noise, mixed in, would lessen it.
    temperatures = np.array([fit_temperature(m, data.targets, data.target) for m in data.members])
    calibrated = replace(data, members=[m / t for m, t in zip(data.members, temperatures)])
    return WeightedAverage(mean_probabilities, fit_weights(calibrated), data.target, temperatures)


def _stack(kind: str, data: OutOfFold) -> StackedClassifier | StackedRegressor:
    classifier, regressor = ESTIMATORS[kind]
    return StackedRegressor(regressor(), data) if data.target.numeric else StackedClassifier(classifier(), data)


METHODS = {name: Method(partial(_average, name), fitted=False) for name in AVERAGES} | {
    "weighted": Method(_vote),
    "greedy": Method(partial(_calibrated_mean, greedy_weights)),
    "optimal": Method(partial(_calibrated_mean, simplex_weights)),
    "stack_lr": Method(partial(_stack, "linear"), stack=True),
    "stack_gb": Method(partial(_stack, "boosting"), stack=True),
}

NUMBER_METHODS = ("mean", "greedy", "optimal", "stack_lr", "stack_gb")
"""Methods for numbers, which have no votes and no probabilities."""

# --- combinations -----------------------------------------------------------------------------------------------------------------


@dataclass
class Combination:
    """A fitted method, then an adjustment of its logits. Calls: members -> logits (n, C) float32."""

    method: WeightedAverage | StackedClassifier | StackedRegressor
    adjust: Adjustment | None = None

    def __call__(self, members: Members) -> np.ndarray:
        logits = self.method(members)
        return self.adjust(logits) if self.adjust else logits


def fit_combination(method: str, data: OutOfFold, options: AdjustmentOptions) -> Combination:
    """Fit one of METHODS and then, on its logits, what `options` ask for.

    A stack's logits are cross-fitted for the adjustment, because those of the stack's own training rows are overconfident.
    """
    entry = METHODS[method]
    fitted = entry.fit(data)
    if not options.any:
        return Combination(fitted)
    logits = crossfit(lambda rows: entry.fit(data.take(rows)), data.members, data.folds) if entry.stack else fitted(data.members)
    return Combination(fitted, fit_adjustment(logits, data.targets, data.target, options, data.metric))
