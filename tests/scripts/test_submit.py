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
from lib.pipelines.submit import COLUMNS, _find_scores, _find_submission
from lib.run_folder import RunFolder
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
    earlier = [{"competition": "birds", "validation": 0.9, "public": 0.1}, {"competition": "leaves", "public": 0.1}]
    with open(run.parent / "submissions.csv", "w", newline="") as handle:  # of another contest, and of a run without validation
        writer = csv.DictWriter(handle, COLUMNS)
        writer.writeheader()
        writer.writerows(earlier)
    metrics = json.loads((run / "metrics.json").read_text())
    for i, value in enumerate(validation):
        (run / "metrics.json").write_text(json.dumps(metrics | {"accuracy": value}))
        submit.main(["--run", str(run), "--competition", "leaves", "--message", f"attempt {i}"])
    expected = spearmanr(validation, [0.5, 0.6, 0.55, 0.7, 0.65]).statistic
    said = capsys.readouterr().out
    assert f"rank correlation {expected:.2f} (" in said
    assert "over 5 submissions" in said
    assert (run.parent / "submissions.png").exists()


def test_the_scores_are_those_of_the_submission_with_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [{"description": "theirs", "publicScore": 0.9}, {"description": "mine", "publicScore": 0.7, "privateScore": 0.6}]
    monkeypatch.setattr("lib.pipelines.submit.call_client", lambda command: json.dumps(listed))
    assert _find_scores("leaves", "mine") == {"public": "0.7", "private": "0.6"}
    assert _find_scores("leaves", "not listed yet") == {"public": "", "private": ""}


def test_the_models_of_all_rows_are_handed_in_where_there_are_some(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    with pytest.raises(FlukeError, match=r"holds no submission\.csv"):
        _find_submission(folder)
    for path in (folder.submission, folder.final.submission):
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
        assert _find_submission(folder) == path


def test_without_a_client_the_command_is_said(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FlukeError, match="isn't installed .* would be called with: kaggle competitions submit leaves -f"):
        submit.main(["--run", str(run), "--competition", "leaves"])
