"""scripts/tune.py on the tiny contest and on digits."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import load_file

from lib.config.command_line import load_recipe
from lib.errors import FlukeError
from lib.metrics.intervals import corrected_for_choice
from lib.metrics.registry import METRICS
from lib.pipelines.trials import FAILED, FINISHED, Plan
from lib.pipelines.tune import measure_choice
from lib.scores.alignment import encode_targets
from lib.scores.score_file import load_scores
from lib.training import loop
from scripts import digits, train_classifier, tune
from tests.test_files import HOLD

pytest.importorskip("optuna")
pytestmark = pytest.mark.usefixtures("no_report")
SPACE = "optim.lr: {low: 1.0e-5, high: 1.0e-1, log: true}\ntrain.batch_size: [8, 12]\n"


@pytest.fixture
def argv(arguments: Callable[..., list[str]], tmp_path: Path) -> Callable[..., list[str]]:
    (tmp_path / "space.yaml").write_text(SPACE)

    def make(trials: int, minutes: float = 60, **fields: object) -> list[str]:
        own = ["--space", str(tmp_path / "space.yaml"), "--minutes", str(minutes), "--trials", str(trials)]
        return [*arguments(tmp_path / "tuned", **fields), *own]

    return make


def test_each_trial_is_a_run_and_the_best_recipe_is_written(argv: Callable, tmp_path: Path, capsys) -> None:
    result = tune.main(argv(3))
    printed, out = capsys.readouterr().out, tmp_path / "tuned"
    table = pd.read_csv(out / "trials.csv")
    assert sorted(table["trial"]) == [0, 1, 2]
    assert (table["state"] == "finished").all()
    assert table["accuracy"].is_monotonic_decreasing
    assert result["accuracy"] == table["accuracy"][0]
    assert 0 <= result["flattery"] < 1
    own = table.set_index("trial").loc[0]
    assert (own["optim.lr"], own["train.batch_size"]) == (0.001, 8)  # the recipe as it is
    for row in table.to_dict("records"):
        recipe = load_recipe(Path(row["run"]) / "recipe.yaml")
        assert (recipe.optim.lr, recipe.train.batch_size) == (row["optim.lr"], row["train.batch_size"])
        assert (Path(row["run"]) / "submission.csv").exists()
    assert load_recipe(out / "best.yaml").optim.lr == table["optim.lr"][0]
    assert f"next: python scripts/compare.py {table['run'][0]} " in printed
    assert "The best of several looks better than it is, here by about" in printed
    held_out = [load_scores(Path(row["run"]) / "scores_val.npz") for row in table.to_dict("records")]
    logits, targets = [scores.logits for scores in held_out], encode_targets(held_out[0])
    losses = [METRICS["log_loss"].function(each, targets) for each in logits]
    flattery = max(corrected_for_choice("log_loss", logits, targets) - min(losses), 0.0)  # smaller is better
    assert measure_choice(table["run"].tolist(), "log_loss", False) == pytest.approx(flattery)
    assert flattery > 0
    # The study goes on where it was, with values that it hasn't drawn before.
    tune.main(argv(4))
    assert pd.read_csv(out / "trials.csv")["optim.lr"].nunique() == 4


def test_a_killed_trial_goes_on_exactly(
    argv: Callable, arguments: Callable, tmp_path: Path, killed_in_second_epoch: Callable, capsys
) -> None:
    with killed_in_second_epoch():
        tune.main(argv(1, train_epochs=3))
    capsys.readouterr()
    tune.main(argv(1, train_epochs=3))
    assert f"resuming {tmp_path / 'tuned' / 'trial-0000'} after epoch 1" in capsys.readouterr().out
    train_classifier.main(arguments(tmp_path / "whole", train_epochs=3))
    runs = (tmp_path / "tuned" / "trial-0000", tmp_path / "whole")
    found, whole = (load_file(run / "best" / "model.safetensors") for run in runs)
    assert all(found[name].equal(tensor) for name, tensor in whole.items())


def test_minutes_that_are_over_postpone_a_trial(argv: Callable, tmp_path: Path, capsys) -> None:
    with pytest.raises(FlukeError, match="No trial has finished; the same command with --out .* goes on"):
        tune.main(argv(1, minutes=1e-4))
    table = pd.read_csv(tmp_path / "tuned" / "trials.csv")
    assert table["state"].tolist() in (["unfinished"], [])
    assert tune.main(argv(1))["trials"] == 1


def test_a_trial_that_another_process_works_on_is_left_to_it(
    argv: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(loop.Trainer, "validate", lambda trainer: 1 / 0)
        tune.main(argv(1))
    held = str(tmp_path / "tuned" / "trial-0000")
    holder = subprocess.Popen([sys.executable, "-c", HOLD, held], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        tune.main(argv(2, train_epochs=1))
    finally:
        holder.kill()
        holder.communicate()
    assert pd.read_csv(tmp_path / "tuned" / "trials.csv")["state"].tolist() == ["finished", "unfinished"]


def test_hopeless_and_failing_trials_end_early(argv: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Scores are planted: a trial's is worse the higher its number; the first one's loss is not finite."""
    measured = loop.Trainer.validate

    def validate(trainer: loop.Trainer) -> dict[str, float]:
        number = int(trainer.run.folder.name.removeprefix("trial-"))
        if number == 0:
            raise trainer._not_finite()
        return measured(trainer) | {"accuracy": 1 - number / 10}

    monkeypatch.setattr(loop.Trainer, "validate", validate)
    tune.main(argv(7))
    table = pd.read_csv(tmp_path / "tuned" / "trials.csv").set_index("trial")
    assert table["state"].to_dict() == {0: "failed", **dict.fromkeys((1, 2, 3, 4), "finished"), 5: "pruned", 6: "pruned"}
    assert table["epochs"].to_dict() == {0: 0, 1: 2, 2: 2, 3: 2, 4: 2, 5: 1, 6: 1}
    assert "no longer finite" in table["note"][0]
    assert "below the median of other trials" in table["note"][5]
    assert "4 finished; 2 pruned; 1 failed" in capsys.readouterr().out


@pytest.mark.parametrize(("states", "trials"), [("ffoffoffo", 9), ("offfo", 4)])
def test_trials_that_fail_one_after_the_other_end_the_study(
    states: str, trials: int, argv: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_trial(plan: Plan, *_: object) -> tuple[str, float | None, str]:
        return (FAILED, None, "planted") if states[plan.number] == "f" else (FINISHED, 0.5, "")

    monkeypatch.setattr("lib.pipelines.tune._run_trial", run_trial)
    assert tune.main(argv(len(states)))["trials"] == trials


def test_a_fault_of_all_trials_stops_at_once_and_may_be_corrected(argv: Callable, tmp_path: Path) -> None:
    with pytest.raises(FlukeError, match="none.csv"):
        tune.main(argv(2, data_train_csv="none.csv"))
    assert tune.main(argv(1))["trials"] == 1
    with pytest.raises(FlukeError, match="is of another recipe: model.dropout"):
        tune.main(argv(1, model_dropout=0.5))
    (tmp_path / "space.yaml").write_text("optim.lr: [0.1, 0.2]")
    with pytest.raises(FlukeError, match="another search space"):
        tune.main(argv(1))


def test_without_optuna_a_sentence_says_what_to_install(argv: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(FlukeError, match=r'needs Optuna: pip install -e ".\[tune\]"'):
        tune.main(argv(1))


@pytest.mark.slow
@pytest.mark.skipif("KILLS" not in os.environ, reason="`make kills` runs it: six trials on digits, half a minute")
def test_a_learning_rate_that_is_ten_times_too_high_is_found(tmp_path: Path) -> None:
    digits.main(["--out", str(tmp_path / "data")])
    (tmp_path / "space.yaml").write_text("optim.lr: {low: 1.0e-4, high: 1.0e-1, log: true}")
    root = Path(__file__).parents[2]
    fields = ["--data.root", str(tmp_path / "data" / "classes"), "--data.size", "16", "--optim.lr", "0.03", "--train.epochs", "2"]
    own = ["--space", str(tmp_path / "space.yaml"), "--minutes", "60", "--trials", "6", "--out", str(tmp_path / "tuned")]
    result = tune.main(["--cfg", str(root / "recipes" / "digits.yaml"), *fields, *own, "--train.limit_rows", "320"])
    table = pd.read_csv(tmp_path / "tuned" / "trials.csv").set_index("trial")
    assert table["optim.lr"][0] == 0.03
    assert result["accuracy"] > table["accuracy"][0] + 0.1
    assert load_recipe(tmp_path / "tuned" / "best.yaml").optim.lr < 0.02
