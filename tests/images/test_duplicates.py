"""Files with the same bytes."""

import os
from pathlib import Path

import numpy as np
import pytest

from lib.errors import Interrupted
from lib.images.duplicates import TAIL, find_identical


def test_sets_are_those_of_a_comparison_of_all_pairs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    contents = [bytes(rng.integers(0, 3, rng.integers(0, 4), dtype=np.uint8)) for _ in range(60)]  # many of equal size
    paths = [tmp_path / f"{i}" for i in range(60)]
    for path, content in zip(paths, contents):
        path.write_bytes(content)
    found = find_identical(paths)
    expected = {tuple(j for j in range(60) if contents[j] == contents[i]) for i in range(60)}
    assert {tuple(same) for same in found} == {same for same in expected if len(same) > 1}


def test_only_files_of_equal_size_are_read_and_missing_ones_are_left_out(tmp_path: Path) -> None:
    for name, content in {"a": b"1", "b": b"12", "c": b"21", "d": b"12"}.items():
        (tmp_path / name).write_bytes(content)
    read = []
    assert find_identical([tmp_path / name for name in ("a", "b", "gone", "c", "d")], lambda: read.append(1)) == [[1, 4]]
    assert len(read) == 3


def test_large_files_are_compared_as_a_whole_and_links_to_one_file_are_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    content = rng.bytes(3 * TAIL)
    other_start, other_end = rng.bytes(TAIL) + content[TAIL:], content[:-TAIL] + rng.bytes(TAIL)
    for name, written in {"a": content, "b": other_start, "c": other_end, "d": content}.items():
        (tmp_path / name).write_bytes(written)
    os.link(tmp_path / "b", tmp_path / "e")
    assert find_identical([tmp_path / name for name in "abcde"]) == [[0, 3], [1, 4]]


def test_comparing_can_be_stopped(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_bytes(b"same")

    def stop() -> None:
        raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        find_identical([tmp_path / "a", tmp_path / "b"], stop)
