"""--json: the last line of every script's stdout is a result that docs/result.schema.json describes."""

import importlib
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from lib import process
from lib.errors import Interrupted
from tests.conftest import ROOT

SCHEMA = json.loads((ROOT / "docs" / "result.schema.json").read_text())
SCRIPTS = sorted(path.stem for path in (ROOT / "scripts").glob("*.py"))


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Run a script as a program with --json and return its last line; what comes before names the same files and command."""

    def run(main: str | Callable[[list[str] | None], Any], *argv: str) -> dict[str, Any]:
        name = main if isinstance(main, str) else "made_up"
        monkeypatch.setattr("sys.argv", [f"scripts/{name}.py", *argv, "--json"])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            process.run_script(importlib.import_module(f"scripts.{name}").main if isinstance(main, str) else main)
        out, err = capsys.readouterr()
        *lines, last = out.splitlines()
        result: dict[str, Any] = json.loads(last)
        jsonschema.validate(result, SCHEMA)
        assert (result["script"], result["exit_code"]) == (name, exit_info.value.code)
        if exit_info.value.code == 0:
            assert result["next"] is None or f"next: {result['next']}" in lines[-2:], lines
            assert all(Path(file).exists() for file in result["files"])
        else:
            assert result["error"] in err
        return result

    return run


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_answers_a_typo_in_json(script: str, call: Callable[..., dict[str, Any]]) -> None:
    result = call(script, "--no_such_option", "1")
    assert result["exit_code"] == 2
    assert "--no_such_option" in result["error"]


def test_from_the_data_to_a_bundle(
    call: Callable[..., dict[str, Any]], arguments: Callable[..., list[str]], contest: Path, tmp_path: Path, no_report: None
) -> None:
    """Each script's next command can be followed by the one after it."""
    prepared = call("prepare", str(contest), "--out", str(tmp_path / "recipe.yaml"))
    assert prepared["files"] == [str(tmp_path / "recipe.yaml")]
    assert "scripts/train_classifier.py" in prepared["next"]

    first, cv = tmp_path / "first", tmp_path / "cv"
    trained = call("train_classifier", *arguments(first, train_epochs=1))
    saved = json.loads((first / "metrics.json").read_text())
    assert (trained["metric"], trained["value"]) == ("accuracy", saved["accuracy"])
    assert trained["interval"] == saved["interval"]
    assert trained["metrics"]["log_loss"] == saved["log_loss"]
    assert str(first / "submission.csv") in trained["files"]
    assert trained["next"] == f"python scripts/submit.py --run {first} --competition NAME"

    part = call("kfold", *arguments(cv, folds_n=2, train_epochs=1), "--only", "0")
    assert "--resume" in part["next"]
    again = shlex.split(part["next"])
    folds = call("kfold", *again[again.index("scripts/kfold.py") + 1 :])
    assert (folds["metric"], folds["value"]) == ("accuracy", json.loads((cv / "cv.json").read_text())["pooled"])

    predicted = call("predict", "--run", str(first), "--out", str(tmp_path / "predicted"))
    assert predicted["next"].endswith(f"--file {tmp_path / 'predicted' / 'submission.csv'}")
    combined = call("ensemble", "--runs", str(cv), "--method", "mean", "--out", str(tmp_path / "ensemble"))
    assert combined["value"] == json.loads((tmp_path / "ensemble" / "ensemble.json").read_text())["estimate"]
    compared = call("compare", str(cv), str(cv), "--out", str(tmp_path / "compared"))
    assert [Path(file).name for file in compared["files"]] == ["compare.csv", "compare.html"]
    packed = call("bundle", "--runs", str(cv), "--out", str(tmp_path / "bundle"), "--wheels")
    assert str(tmp_path / "bundle" / "notebook.ipynb") in packed["files"]
    answered = call("run_bundle", "--bundle", str(tmp_path / "bundle"), "--data", str(contest), "--out", str(tmp_path / "s.csv"))
    assert answered["files"] == [str(tmp_path / "s.csv")]
    assert answered["next"] is None  # not that of a step, whose folder is gone


def test_individuals(
    call: Callable[..., dict[str, Any]], arguments: Callable[..., list[str]], tmp_path: Path, no_report: None
) -> None:
    run = tmp_path / "individuals"
    argv = arguments(run, train_epochs=1, objective_name="arcface", data_new_label="new", data_sample_submission="null")
    trained = call("train_embedding", *argv)
    assert trained["next"] == f"python scripts/retrieve.py --run {run}"
    assert trained["metric"] is not None


def test_an_interrupted_run_says_how_to_go_on(call: Callable[..., dict[str, Any]]) -> None:
    def main(argv: list[str] | None) -> None:
        raise Interrupted("Stopped by a signal in epoch 3")

    result = call(main, "--cfg", "a recipe.yaml")
    assert result["exit_code"] == 75
    assert result["next"] == "accelerate launch scripts/made_up.py --cfg 'a recipe.yaml' --json --resume"


def test_what_goes_on_without_resume_names_its_folder(call: Callable[..., dict[str, Any]]) -> None:
    def main(argv: list[str] | None) -> None:
        raise Interrupted("Stopped by a signal while probing", ("--out", "runs/probe"))

    assert call(main, "--models", "a")["next"] == "accelerate launch scripts/made_up.py --models a --json --out runs/probe"
    assert call(main, "--out", "x")["next"] == "accelerate launch scripts/made_up.py --out x --json"


def test_a_fault_of_the_program_has_a_line_and_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(argv: list[str] | None) -> None:
        raise KeyError("oops")

    monkeypatch.setattr("sys.argv", ["scripts/x.py", "--json"])
    with pytest.raises(KeyError):
        process.run_script(main)
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    jsonschema.validate(result, SCHEMA)
    assert (result["exit_code"], result["error"]) == (1, "KeyError: 'oops'")


def test_undefined_numbers_are_null(call: Callable[..., dict[str, Any]]) -> None:
    found = {
        "metric": "auc",
        "auc": float("nan"),
        "loss": np.float32(0.5),
        "rows": 3,
        "done": True,
        "interval": [float("nan"), 1.0],
    }
    result = call(lambda argv: found)
    assert (result["value"], result["interval"]) == (None, [None, 1.0])
    assert result["metrics"] == {"auc": None, "loss": 0.5, "rows": 3}


def test_the_other_processes_print_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("sys.argv", ["scripts/x.py", "--json"])

    def main(argv: list[str] | None) -> None:
        process.announce(["a"], "b")

    with pytest.raises(SystemExit):
        process.run_script(main)
    assert capsys.readouterr().out == ""


def test_the_documents_list_every_exit_code_and_key() -> None:
    text = (ROOT / "docs" / "programs.md").read_text(encoding="utf-8")
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)} == set(process.EXIT_CODES)
    assert set(SCHEMA["properties"]["exit_code"]["enum"]) == set(process.EXIT_CODES)
    assert all(f"`{key}`" in text for key in SCHEMA["properties"])
