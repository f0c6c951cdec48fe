"""Processes that read images, by the ways in which Python starts them: fork (Linux), spawn (Windows, macOS), forkserver (3.14)."""

import json
import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lib.images import loader
from scripts import train_classifier
from tests.conftest import ROOT

RUN = """
import multiprocessing, sys, time
if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    from lib.images import loader
    loader.WORTH_A_WORKER = loader.WORTH_AN_IMPORT = 4  # so that workers read these few images
    from scripts import train_classifier
    train_classifier.main(sys.argv[2:])
"""


@pytest.mark.parametrize(
    ("method", "images", "expected"), [("fork", 700, 5), ("fork", 100, 0), ("spawn", 700, 0), ("spawn", 2500, 2)]
)
def test_workers_are_started_where_they_pay(method: str, images: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: method)
    assert loader.useful_workers(8, images) == expected
    assert loader.useful_workers(1, images) == min(1, expected)
    assert loader.useful_workers(0, images) == 0


@pytest.mark.slow
@pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="this process forks")
def test_a_run_is_the_same_however_its_workers_start(arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run.py").write_text(RUN)
    command = [sys.executable, str(tmp_path / "run.py"), "spawn", *arguments(tmp_path / "spawn", data_workers=1, train_epochs=1)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    subprocess.run(command, check=True, env=environment, capture_output=True, timeout=300)
    for constant in ("WORTH_A_WORKER", "WORTH_AN_IMPORT"):
        monkeypatch.setattr(loader, constant, 4)
    train_classifier.main(arguments(tmp_path / "fork", data_workers=1, train_epochs=1))
    fork, spawn = (json.loads((tmp_path / method / "metrics.json").read_text()) for method in ("fork", "spawn"))
    assert fork == spawn
