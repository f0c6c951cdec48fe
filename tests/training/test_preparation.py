"""What is said of a network that learns nothing, and when training has to end."""

from typing import Any

import pytest

from lib.training import time_budget
from lib.training.preparation import note_no_progress
from lib.training.time_budget import TimeBudget


def history(values: list[float], metric: str, loss: float = 0.5) -> list[dict[str, Any]]:
    return [{"epoch": i + 1, metric: value, "loss": loss} for i, value in enumerate(values)]


@pytest.mark.parametrize(("metric", "chance", "values", "said"), [
    ("accuracy", 0.3, [0.2, 0.3, 0.1], True), ("accuracy", 0.3, [0.2, 0.4, 0.1], False),
    ("log_loss", 1.0, [1.3, 1.2, 1.1], True), ("log_loss", 1.0, [1.3, 0.9, 1.1], False),
])  # fmt: skip
def test_a_metric_that_stays_at_chance_is_said_after_three_epochs(
    metric: str, chance: float, values: list[float], said: bool
) -> None:
    at_chance = {metric: chance, "loss": 1.0}
    assert note_no_progress(history(values[:2], metric), metric, at_chance) == ""
    note = note_no_progress(history(values, metric), metric, at_chance)
    assert (f"{metric} {values[-1]:.4f} is no better than by chance" in note) == said
    assert note_no_progress(history([*values, values[-1]], metric), metric, at_chance) == ""  # once is enough
    assert "the validation loss 2.00 is above that of a uniform guess (1.00)" in note_no_progress(
        history(values, metric, loss=2.0), metric, at_chance
    )


def test_a_validation_that_is_interrupted_fits_twice_before_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 held-out images and 50 of the test at 0.1 s: 2 * 10 + 5 s, times 1.3, and 5 s for files are 37.5 s."""
    clock = [0.0]
    monkeypatch.setattr(time_budget.time, "monotonic", lambda: clock[0])
    budget = TimeBudget(100.0, 100, 50)
    budget.measure_steps(20.0, 10, 80)  # an image with its backward pass: 0.25 s
    assert budget.seconds_left(4, 1) == pytest.approx(4 * 2 + 0.25 * 150)
    budget.measure_validation(10.0, 100)
    budget.measure_steps(20.0, 10, 80)  # the validation's time per image stays
    for clock[0], spent in ((62.0, False), (63.0, True)):
        assert budget.is_spent() == spent
    assert not TimeBudget(None, 100, 50).is_spent()
