"""Intervals of F1 where a label has a handful of positives, most of them missed."""

import numpy as np

from lib.metrics.intervals import bootstrap_interval
from lib.metrics.registry import METRICS


def draw(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ten labels of 2 to 20 positives in 100 rows; one positive in six is found."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((rows, 10)) < np.geomspace(0.02, 0.2, 10)).astype(np.float32)
    return (rng.normal(size=targets.shape) + 2 * targets - 3).astype(np.float32), targets


def test_intervals_of_f1_hold_where_most_positives_are_missed() -> None:
    """By the bootstrap alone 83% of these hundred hold."""
    truth = METRICS["macro_f1"].function(*draw(200_000, 1000))
    found = [bootstrap_interval(("macro_f1", *draw(100, seed)), n=150) for seed in range(100)]
    assert np.mean([low <= truth <= high for low, high in found]) >= 0.9


def test_rows_of_a_group_are_left_out_together() -> None:
    """Four copies of each row, as a group, carry no more information."""
    logits, targets = draw(100, 0)
    once = bootstrap_interval(("macro_f1", logits, targets))
    groups = np.repeat(np.arange(100), 4)
    low, high = bootstrap_interval(("macro_f1", logits[groups], targets[groups]), groups=groups)
    ungrouped = bootstrap_interval(("macro_f1", logits[groups], targets[groups]))
    assert high - low > 1.5 * (ungrouped[1] - ungrouped[0])
    assert high - low > 0.7 * (once[1] - once[0])


def test_one_group_has_no_spread() -> None:
    low, high = bootstrap_interval(("macro_f1", *draw(60, 0)), groups=np.zeros(60))
    assert low == high


def test_most_of_the_bias_of_f1_over_classes_is_gone() -> None:
    def classes(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        targets = rng.integers(0, 20, rows)
        logits = rng.normal(size=(rows, 20))
        logits[np.arange(rows), targets] += 2.5
        return logits.astype(np.float32), targets

    truth = METRICS["macro_f1"].function(*classes(200_000, 1000))
    samples = [classes(400, seed) for seed in range(120)]  # 20 rows of a class
    plain = np.mean([METRICS["macro_f1"].function(*each) for each in samples]) - truth
    estimated = np.mean([METRICS["macro_f1"].estimate(*each) for each in samples]) - truth
    assert plain < -0.003
    assert abs(estimated) < abs(plain) / 2
