"""Cut points against every possible choice of them."""

import itertools
import warnings

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from lib.scores.cut_points import cut_at, expected_place, fit_cut_points
from lib.scores.decided import decide_out_of_fold, decision_options
from lib.tables.target import ONE_LABEL, ORDINAL


def kappa(targets: np.ndarray, given: np.ndarray, classes: int) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # undefined where all are of one class
        return float(np.nan_to_num(cohen_kappa_score(targets, given, weights="quadratic", labels=range(classes))))


@pytest.mark.parametrize("seed", range(30))
def test_no_other_cut_points_have_a_better_kappa(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, classes = int(rng.integers(4, 12)), int(rng.integers(2, 5))
    logits, targets = rng.normal(size=(n, classes)).astype(np.float32), rng.integers(0, classes, n)
    logits = np.round(logits) if seed % 3 == 0 else logits
    cuts, place = fit_cut_points(logits, targets), expected_place(logits)
    given = cut_at(logits, cuts).argmax(axis=1)
    assert given.tolist() == (place[:, None] > cuts).sum(axis=1).tolist()
    values = np.unique(place)
    between = [values[0] - 1, *(values[1:] + values[:-1]) / 2, values[-1] + 1]
    every = itertools.combinations_with_replacement(between, classes - 1)
    best = max(kappa(targets, (place[:, None] > np.array(choice)).sum(axis=1), classes) for choice in every)
    assert kappa(targets, given, classes) == pytest.approx(best)


def test_a_rows_class_does_not_depend_on_its_own_fold() -> None:
    rng = np.random.default_rng(0)
    logits, targets, folds = rng.normal(size=(60, 4)).astype(np.float32), rng.integers(0, 4, 60), np.arange(60) % 3
    changed = np.where(folds == 1, 3 - targets, targets)
    before, after = (decide_out_of_fold(logits, y, ORDINAL, "quadratic_kappa", folds) for y in (targets, changed))
    assert np.array_equal(before[folds == 1], after[folds == 1])
    assert not np.array_equal(before[folds != 1], after[folds != 1])


def test_an_epoch_chosen_by_the_loss_is_handed_in_as_the_targets_metric_wants_it() -> None:
    """A single run and a k-fold run alike: the loss says nothing of what a contest wants."""
    assert decision_options("loss", ORDINAL).cut_points
    assert not decision_options("loss", ONE_LABEL).any
