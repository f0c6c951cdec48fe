"""Progress bars."""

import io
import sys

import pytest
from tqdm import tqdm

from lib.process import progress_bar_options


def test_a_log_file_isnt_filled_with_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    """The notebooks and batch systems that keep stderr in a file keep each update of a bar as text."""
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    for _ in tqdm(range(100_000), "images", **progress_bar_options()):
        pass
    assert sys.stderr.getvalue().count("images") <= 2


def test_one_process_shows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not progress_bar_options()["disable"]
    monkeypatch.setenv("RANK", "1")
    assert progress_bar_options()["disable"]
