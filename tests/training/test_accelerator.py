"""Which precision a run computes in, and what says so."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from lib.errors import FlukeError
from lib.scores.score_file import load_scores
from lib.training.accelerator import choose_precision
from scripts import predict, train_classifier

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(("wanted", "device", "has_bf16", "environment", "before", "chosen"), [
    ("auto", CPU, True, "no", None, "fp32"),
    ("auto", GPU, True, "no", None, "bf16"),
    ("auto", GPU, False, "no", None, "fp16"),  # a T4 emulates bf16
    ("auto", GPU, True, "no", "fp32", "fp32"),  # of the resumed run
    ("auto", GPU, False, "no", "bf16", "fp16"),
    ("auto", CPU, True, "no", "fp16", "fp32"),
    ("fp32", GPU, True, "no", "bf16", "fp32"),
    ("bf16", CPU, True, "no", None, "bf16"),
    ("auto", CPU, True, "bf16", "fp32", "bf16"),
    ("fp16", GPU, True, "bf16", None, "bf16"),
])  # fmt: skip
def test_which_precision(
    wanted: str, device: torch.device, has_bf16: bool, environment: str, before: str | None, chosen: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16 or including_emulation)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", environment)
    assert choose_precision(wanted, device, before)[0] == chosen


@pytest.mark.parametrize(("wanted", "environment", "names"), [
    ("fp16", "no", "train.precision fp16"), ("auto", "fp8", "mixed_precision of accelerate fp8"),
])  # fmt: skip
def test_precision_that_the_device_lacks(wanted: str, environment: str, names: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", environment)
    with pytest.raises(FlukeError, match=f"{names}: not possible on this device \\(cpu\\); choose one of fp32, bf16"):
        choose_precision(wanted, CPU)


def test_precision_is_part_of_the_recipe(
    arguments: Callable, tmp_path: Path, no_report: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """What the launcher chose stands in recipe.yaml, which repeats the run; prediction uses it as well."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    train_classifier.main(arguments(tmp_path / "first", train_max_minutes=0.01))
    assert "precision: bf16, as mixed_precision of accelerate says, not train.precision auto" in capsys.readouterr().out
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    recipe = tmp_path / "first/recipe.yaml"
    assert yaml.safe_load(recipe.read_text())["train"]["precision"] == "bf16"
    train_classifier.main([*arguments(tmp_path / "first"), "--resume"])
    train_classifier.main(["--cfg", str(recipe), "--out", str(tmp_path / "again"), "--train.max_minutes", "null"])
    train_classifier.main(arguments(tmp_path / "fp32"))
    first, again, fp32 = (load_scores(tmp_path / name / "scores_test.npz").logits for name in ("first", "again", "fp32"))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, fp32)
    predict.main(["--run", str(tmp_path / "first"), "--out", str(tmp_path / "predicted")])
    assert np.array_equal(load_scores(tmp_path / "predicted/scores_test.npz").logits, first)
