"""Coverage of intervals, and their limits."""

from collections.abc import Callable

import numpy as np
import pytest

from lib.errors import FlukeError
from lib.metrics.intervals import bootstrap_interval, corrected_for_choice, gain_interval, interval_on_test
from lib.metrics.registry import METRICS
from tests.metrics.test_classification import single


def test_interval_of_a_mean_is_the_normal_one_and_repeats() -> None:
    values = np.random.default_rng(0).normal(size=2000)
    low, high = bootstrap_interval(values, n=4000)
    assert (low, high) == pytest.approx((values.mean() - 1.96 * 0.0224, values.mean() + 1.96 * 0.0224), abs=0.003)
    assert bootstrap_interval(values, n=4000) == (low, high)
    assert bootstrap_interval(values, n=4000, seed=1) != (low, high)
    narrow = bootstrap_interval(values, n=4000, level=0.5)
    assert low < narrow[0] < narrow[1] < high


def rare(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of about six positives, whose average precision rises with repeated rows."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((150, 12)) < 0.04).astype(int)
    return (rng.normal(size=(150, 12)) + targets).astype(np.float32), targets


def ordinary(seed: int) -> tuple[np.ndarray, np.ndarray]:
    return single(seed=seed)


@pytest.mark.parametrize(("name", "make"), [("accuracy", ordinary), ("macro_f1", ordinary), ("macro_map", rare)])
def test_intervals_have_their_nominal_coverage(name: str, make: Callable[[int], tuple[np.ndarray, np.ndarray]]) -> None:
    """95% intervals of 80 test sets, against the metric of 200 others together; at least 89% is within chance."""
    logits, targets = (np.concatenate(each) for each in zip(*(make(1000 + seed) for seed in range(200))))
    truth = METRICS[name].function(logits, targets)
    intervals = [bootstrap_interval((name, *make(seed)), n=150) for seed in range(80)]
    assert np.mean([low <= truth <= high for low, high in intervals]) >= 0.89


def test_an_estimate_has_less_than_half_of_the_bias_of_few_positives() -> None:
    """Over 80 test sets of six positives per label, against 200 others together; a metric without bias is estimated by itself."""
    name = "macro_map"
    samples = [rare(seed) for seed in range(80)]
    logits, targets = (np.concatenate(each) for each in zip(*(rare(1000 + seed) for seed in range(200))))
    truth = METRICS[name].function(logits, targets)
    plain = np.mean([METRICS[name].function(*sample) for sample in samples]) - truth
    estimated = np.mean([METRICS[name].estimate(*sample) for sample in samples]) - truth
    assert abs(estimated) < abs(plain) / 2
    assert METRICS["micro_map"].estimate(*samples[0]) == METRICS["micro_map"].function(*samples[0])


def test_bootstrap_intervals_stay_within_a_metrics_range() -> None:
    logits, targets = np.eye(5, dtype=np.float32)[np.arange(50) % 5], np.arange(50) % 5
    assert bootstrap_interval(("macro_f1", logits, targets)) == (1.0, 1.0)
    low, high = bootstrap_interval(("ece", 100 * logits, targets))
    assert 0 <= low <= high < 1e-9


def test_rows_of_a_group_are_drawn_together() -> None:
    """Each image four times, as a group: four times the rows carry no more information, and the interval is as wide."""
    logits, targets = single(200)
    once = bootstrap_interval(("accuracy", logits, targets))
    four = np.repeat(logits, 4, axis=0), np.repeat(targets, 4)
    groups = np.repeat([f"sighting {i}" for i in range(200)], 4)
    assert bootstrap_interval(("accuracy", *four), groups=groups) == pytest.approx(once, abs=0.005)
    ungrouped = bootstrap_interval(("accuracy", *four))
    assert ungrouped[1] - ungrouped[0] == pytest.approx((once[1] - once[0]) / 2, rel=0.1)


def test_values_that_are_not_finite_are_refused() -> None:
    logits, targets = single(20)
    logits[[3, 7], 2] = np.nan
    with pytest.raises(FlukeError, match="2 of 20"):
        bootstrap_interval(("accuracy", logits, targets))
    with pytest.raises(FlukeError, match="1 of 20"):
        bootstrap_interval(np.append(np.zeros(19), np.inf))


def test_gain_interval_is_paired_by_row() -> None:
    """40 more correct rows out of 1,000 are a certain gain when paired, though each score's own interval is wider."""
    targets = np.zeros(1000, int)
    base, better = np.tile([0.0, 1.0], (1000, 1)), np.tile([0.0, 1.0], (1000, 1))
    base[:500], better[:540] = [1.0, 0.0], [1.0, 0.0]
    low, high = gain_interval("accuracy", better, base, targets)
    sd = np.sqrt(0.04 * 0.96 / 1000)
    assert (low, high) == pytest.approx((0.04 - 1.96 * sd, 0.04 + 1.96 * sd), abs=0.0015)


def test_interval_on_test_covers_another_samples_score() -> None:
    """The mean of 400 draws, and whether its 95% interval on a test of 200 contains their mean."""
    rng = np.random.default_rng(0)
    ours, theirs = rng.random((4000, 400)).mean(axis=1), rng.random((4000, 200)).mean(axis=1)
    half = 1.96 * np.sqrt(1 / 12 / 400)
    held = [
        low <= t <= high
        for m, t in zip(ours, theirs)
        for low, high in [interval_on_test("accuracy", m, (m - half, m + half), 400, 200)]
    ]
    assert np.mean(held) == pytest.approx(0.95, abs=0.012)
    assert np.mean(np.abs(ours - theirs) <= half) < 0.8  # the interval as it is covers less


def test_intervals_on_test_stay_within_a_metrics_range() -> None:
    assert interval_on_test("accuracy", 0.99, (0.98, 0.998), 1000, 100)[1] == 1
    assert interval_on_test("macro_map", 0.01, (0.002, 0.02), 1000, 100)[0] == 0
    assert interval_on_test("log_loss", 1.2, (1.1, 1.3), 100, 100)[1] > 1.3


def test_the_best_of_equal_models_is_corrected_to_their_common_score() -> None:
    """30 models that are right on 70% of the rows: the best looks better by two standard errors, the corrected score doesn't."""
    rng, best, corrected = np.random.default_rng(0), [], []
    targets = rng.integers(0, 2, 300)
    for _ in range(10):
        right = rng.random((30, 300)) < 0.7
        logits = [np.eye(2)[np.where(each, targets, 1 - targets)] for each in right]
        best.append(right.mean(axis=1).max())
        corrected.append(corrected_for_choice("accuracy", logits, targets))
    assert np.mean(best) > 0.74
    assert abs(np.mean(corrected) - 0.7) < 0.01
    one_better = [np.eye(2)[targets], *logits]
    assert corrected_for_choice("accuracy", one_better, targets) == 1
    by_loss = corrected_for_choice("log_loss", [3 * each for each in logits], targets)
    assert 0.9 < by_loss < 1.2  # the mean is 0.3 * 3 + log(1 + exp(-3))
