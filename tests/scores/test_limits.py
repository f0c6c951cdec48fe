"""What fitted weights and thresholds do at the ends of their range: worthless members, small numbers, rows without labels."""

import numpy as np
import pytest

from lib.errors import FlukeError
from lib.metrics.registry import METRICS
from lib.scores.decisions import fit_thresholds
from lib.scores.out_of_fold import OutOfFold
from lib.scores.weights import score_weights, simplex_weights
from lib.tables.target import REGRESSION
from tests.scores.synthetic import out_of_fold


def test_members_that_are_never_right_have_no_weights() -> None:
    targets = np.arange(40) % 2
    wrong = np.eye(2, dtype=np.float32)[1 - targets]
    with pytest.raises(FlukeError, match="no run has a accuracy above 0"):
        score_weights(out_of_fold([wrong, wrong], targets))


def test_each_number_counts_in_its_own_standard_deviations() -> None:
    """Of a small and a large number each member knows one: with errors in standard deviations both weigh alike."""
    rng = np.random.default_rng(0)
    targets = (rng.normal(size=(500, 2)) * [0.05, 20]).astype(np.float32)
    noise = rng.normal(size=targets.shape) * [0.05, 20]
    members = [(targets + noise * known).astype(np.float32) for known in ([0.1, 1], [1, 0.1])]
    data = OutOfFold(["a", "b"], members, REGRESSION, targets, "rmse", np.arange(500) % 5)
    assert simplex_weights(data) == pytest.approx([0.5, 0.5], abs=0.05)


def test_rows_without_labels_count_in_the_thresholds_of_a_mean_over_rows() -> None:
    """Twelve empty rows lost outweigh ten rows found."""
    logits = np.repeat([5.0, 1.0, 1.0, -3.0], [10, 10, 12, 50])[:, None]
    targets = np.repeat([1, 1, 0, 0], [10, 10, 12, 50])[:, None]
    found = fit_thresholds(logits, targets, "samples_f1")
    assert METRICS["samples_f1"].function(logits - found, targets) == pytest.approx(72 / 82)
