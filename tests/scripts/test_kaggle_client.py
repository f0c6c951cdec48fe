"""scripts/submit.py with Kaggle's real client (the extra `kaggle`) against a server on this machine.

With KAGGLE_API_ENVIRONMENT=LOCALHOST the client calls http://localhost (kagglesdk/kaggle_env.py). Its library, requests, asks the
proxy that http_proxy names: the server, on a free port.
"""

import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lib.errors import FlukeError
from lib.pipelines.kaggle import call_client
from scripts import submit, train_classifier


class Kaggle(BaseHTTPRequestHandler):
    """The four calls of a submission: start an upload, take the file, create the submission, list submissions."""

    calls: list[tuple[str, bytes]]
    refuses = False

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        name = self.path.rsplit("/", 1)[-1]
        self.calls.append((name, body))
        if self.refuses:
            self.answer(403, {"code": 403, "message": "You must accept this competition's rules"})
        elif name == "StartSubmissionUpload":
            self.answer(200, {"token": "t", "createUrl": "http://localhost/upload"})
        elif name == "CreateSubmission":
            self.answer(200, {"message": "Successfully submitted", "ref": 7})
        elif name == "ListSubmissions":
            created = next(json.loads(body) for call, body in self.calls if call == "CreateSubmission")
            row = {"ref": 7, "date": "2026-01-01T00:00:00Z", "status": "COMPLETE", "publicScore": "0.81"}
            self.answer(200, {"submissions": [row | {"description": created["submissionDescription"], "fileName": "s.csv"}]})
        else:
            self.answer(404, {"code": 404, "message": "not found"})

    def do_PUT(self) -> None:
        self.calls.append((self.path.rsplit("/", 1)[-1], self.rfile.read(int(self.headers["Content-Length"]))))
        self.answer(200, {})

    def answer(self, status: int, content: dict[str, object]) -> None:
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Kaggle]]:
    if shutil.which("kaggle") is None and not (Path(sys.executable).parent / "kaggle").exists():
        pytest.skip("Kaggle's client isn't installed")

    class Handler(Kaggle):
        calls: list[tuple[str, bytes]] = []  # noqa: RUF012

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{http.server_port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("KAGGLE_USERNAME", "nobody")
    monkeypatch.setenv("KAGGLE_KEY", "none")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("KAGGLE_CONFIG_DIR", raising=False)
    yield Handler
    http.shutdown()
    http.server_close()


def test_the_real_client_hands_in_and_reads_the_score(
    arguments: Callable[..., list[str]], server: type[Kaggle], tmp_path: Path, no_report: None
) -> None:
    train_classifier.main(arguments(tmp_path / "first", train_epochs=1))
    row = submit.main(["--run", str(tmp_path / "first"), "--competition", "leaves", "--wait", "0"])
    calls = dict(server.calls)
    assert calls["upload"] == (tmp_path / "first" / "submission.csv").read_bytes()
    created = json.loads(calls["CreateSubmission"])
    assert created["competitionName"] == "leaves"
    assert created["submissionDescription"] == row["message"]
    assert row["public"] == "0.81"


def test_a_refusal_is_one_sentence(server: type[Kaggle], tmp_path: Path) -> None:
    server.refuses = True
    (tmp_path / "s.csv").write_text("id,label\n1,a\n")
    with pytest.raises(FlukeError, match=r"Kaggle's client says: .*; the command was: kaggle competitions submit"):
        call_client(["competitions", "submit", "leaves", "-f", str(tmp_path / "s.csv"), "-m", "x"])


@pytest.mark.skipif(os.name != "posix", reason="the client is a script here")
def test_the_client_is_found_beside_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a virtual environment that isn't activated."""
    client = tmp_path / "kaggle"
    client.write_text("#!/bin/sh\necho here\n")
    client.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert call_client(["--version"]) == "here\n"
