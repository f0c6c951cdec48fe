"""Stacks of classifiers on other models' scores."""

import numpy as np
import pytest

from lib.errors import FlukeError
from lib.scores.combination import METHODS
from lib.scores.decisions import AdjustmentOptions
from lib.scores.evaluation import evaluate_combination
from tests.scores.synthetic import members, out_of_fold


def test_stacks_correct_what_weights_can_not():
    """A member confuses two classes with each other: a stack corrects it."""
    z, targets = members(n=600, skills=(1.5,))
    swapped = [z[0][:, [1, 0, 2, 3, 4, 5]]]
    for method in ("stack_lr", "stack_gb"):
        report = evaluate_combination(method, out_of_fold(swapped, targets), AdjustmentOptions()).report
        assert report["gain_interval"][0] > 0
        assert "fitted_score" not in report  # a stack's score on its training rows means nothing


def test_too_many_classes_for_a_stack_are_refused():
    z = [np.zeros((4, 501), np.float32)]
    with pytest.raises(FlukeError, match=r"at most 500 classes \(found 501\); use greedy"):
        METHODS["stack_lr"].fit(out_of_fold(z, np.arange(4)))
