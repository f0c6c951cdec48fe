"""scripts/submit.py, with a recorded client in place of Kaggle's."""

import csv
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from scipy.stats import spearmanr

from lib.errors import FlukeError
from scripts import submit, train_classifier

CLIENT = """#!{python}
import json, sys
from pathlib import Path
log = Path({log!r})
calls = json.loads(log.read_text()) if log.exists() else []
calls.append(sys.argv[1:])
log.write_text(json.dumps(calls))
if sys.argv[2] == "submissions":
    messages = [call[call.index("-m") + 1] for call in calls if call[1] == "submit"]
    scores = {scores!r}
    print("Warning: a newer version is there")
    print(json.dumps([{{"description": m, "publicScore": scores[i], "privateScore": ""}} for i, m in enumerate(messages)][::-1]))
"""


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an executable `kaggle` that notes its calls in calls.json."""
    folder = tmp_path / "bin"
    folder.mkdir()
    scores = ["0.5", "0.6", "0.55", "0.7", "0.65"]
    (folder / "kaggle").write_text(CLIENT.format(python=sys.executable, log=str(folder / "calls.json"), scores=scores))
    (folder / "kaggle").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.fixture
def run(arguments: Callable[..., list[str]], tmp_path: Path, no_report: None) -> Path:
    train_classifier.main(arguments(tmp_path / "first", train_epochs=1))
    return tmp_path / "first"


def test_a_submission_is_checked_described_handed_in_and_noted(run: Path, client: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = submit.main(["--run", str(run), "--competition", "leaves"])
    metrics = json.loads((run / "metrics.json").read_text())
    handed_in, _ = json.loads((client / "calls.json").read_text())
    assert handed_in[:4] == ["competitions", "submit", "leaves", "-f"]
    assert handed_in[4] == str(run / "submission.csv")
    message = handed_in[6]
    low, high = metrics["interval"]
    assert message.startswith(f"first; accuracy {metrics['accuracy']:.4f} ({low:.4f} to {high:.4f})")
    assert (row["public"], row["validation"]) == ("0.5", metrics["accuracy"])
    assert "13 rows" in capsys.readouterr().out
    (run / "submission.csv").write_text("image,label\nx.png,ant\n")
    with pytest.raises(FlukeError, match="rows missing"):
        submit.main(["--run", str(run), "--competition", "leaves"])
    with open(run.parent / "submissions.csv", newline="") as handle:
        assert [line["public"] for line in csv.DictReader(handle)] == ["0.5"]


def test_validation_and_leaderboard_are_compared_from_five_submissions_on(
    run: Path, client: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    validation = [0.4, 0.5, 0.6, 0.7, 0.8]
    metrics = json.loads((run / "metrics.json").read_text())
    for i, value in enumerate(validation):
        (run / "metrics.json").write_text(json.dumps(metrics | {"accuracy": value}))
        submit.main(["--run", str(run), "--competition", "leaves", "--message", f"attempt {i}"])
    expected = spearmanr(validation, [0.5, 0.6, 0.55, 0.7, 0.65]).statistic
    assert f"rank correlation {expected:.2f} (" in capsys.readouterr().out
    assert (run.parent / "submissions.png").exists()


def test_without_a_client_the_command_is_said(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FlukeError, match="isn't installed .* would be called with: kaggle competitions submit leaves -f"):
        submit.main(["--run", str(run), "--competition", "leaves"])
