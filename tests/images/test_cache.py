"""Packed cache of decoded images."""

import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lib.errors import FlukeError, Interrupted
from lib.images import cache
from lib.images.cache import open_cache
from lib.images.decoding import decode
from tests.images.made_files import noise, save, smooth


@pytest.fixture
def photographs(tmp_path: Path) -> list[Path]:
    sizes = [(60, 90), (90, 60), (40, 40), (20, 30), (61, 200), (33, 47)] * 4
    folder = tmp_path / "photographs"
    folder.mkdir()
    return [save(folder / f"{i:02}.{'jpg' if i % 2 else 'png'}", smooth(h, w)) for i, (h, w) in enumerate(sizes)]


@pytest.mark.parametrize("workers", [0, 2])
def test_cached_images_are_the_decoded_ones_downscaled(tmp_path: Path, photographs: list[Path], workers: int) -> None:
    packed = open_cache(tmp_path / "cache", photographs, 32, workers)
    assert len(packed) == len(photographs)
    for i, path in enumerate(photographs):
        full, small = decode(path), packed.get(i)
        scale = min(1, 32 / min(full.shape[1:]))
        assert small.dtype == torch.uint8
        assert small.shape == (3, *(round(side * scale) for side in full.shape[1:]))
        assert small.stride(0) == 1, "not the memory layout of decode, so that resizing rounds differently"
        reference = torch.nn.functional.interpolate(full[None].float(), small.shape[1:], mode="bilinear", antialias=True)[0]
        assert (small.float() - reference).abs().max() <= (6 if scale < 1 else 0)
    packed.get(0).zero_()
    assert packed.get(0).any(), "get returned a view of the cache"


def test_cache_is_read_in_workers_and_after_pickling(tmp_path: Path, photographs: list[Path]) -> None:
    packed = open_cache(tmp_path / "cache", photographs, 32, 0)
    assert len(pickle.dumps(packed)) < 2000
    order = torch.randperm(len(photographs), generator=torch.Generator().manual_seed(0)).tolist()
    loader = DataLoader(order, batch_size=4, num_workers=2, collate_fn=Lookup(pickle.loads(pickle.dumps(packed))))
    read = [image for batch in loader for image in batch]
    for i, image in zip(order, read, strict=True):
        assert torch.equal(image, packed.get(i))


class Lookup:
    def __init__(self, packed: cache.ImageCache) -> None:
        self.packed = packed

    def __call__(self, positions: list[int]) -> list[torch.Tensor]:
        return [self.packed.get(i) for i in positions]


def count_builds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by one whenever a cache is built."""
    counted: list[int] = []
    build = cache._build
    monkeypatch.setattr(cache, "_build", lambda *args: (counted.append(1), build(*args)))
    return counted


def count_decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return a list that grows by each file that is decoded for a cache."""
    decoded: list[Path] = []
    monkeypatch.setattr(cache, "decode", lambda path, side, box: (decoded.append(path), decode(path, side))[1])
    return decoded


def test_only_images_that_no_other_table_has_and_changed_ones_are_decoded(
    tmp_path: Path, photographs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = count_decoded(monkeypatch)

    def fetch(paths: list[Path] = photographs, size: int = 32) -> list[Path]:
        decoded.clear()
        packed = open_cache(tmp_path / "cache", paths, size, 0)
        found = list(decoded)
        assert all(
            torch.equal(packed.get(i), open_cache(tmp_path / "alone", [path], size, 0).get(0)) for i, path in enumerate(paths)
        )
        return found

    assert fetch(photographs[3:9]) == photographs[3:9]
    assert fetch() == photographs[:3] + photographs[9:]
    assert fetch() == fetch(photographs[::-2]) == []
    assert fetch([photographs[0], *photographs[:2]], size=24) == photographs[:2]
    save(photographs[2], 255 - smooth(40, 40))
    os.utime(photographs[3], ns=(1, 1))
    assert fetch() == photographs[2:4]
    monkeypatch.setattr(cache, "VERSION", "another Pillow")
    assert fetch() == photographs


def test_a_build_that_is_stopped_or_killed_goes_on_where_it_was(
    tmp_path: Path, photographs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = count_decoded(monkeypatch)
    monkeypatch.setattr(cache, "BATCH", 4)
    calls = iter(range(100))

    def stop() -> None:
        if next(calls) == 3:
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        open_cache(tmp_path, photographs, 32, 0, stop)
    path = next(tmp_path.glob("*/pictures.bin"))
    with path.open("ab") as file:
        file.write(b"what a killed build wrote behind its index")
    decoded.clear()
    packed = open_cache(tmp_path, photographs, 32, 0)
    assert decoded == photographs[12:]
    assert len(path.read_bytes()) == 128 + sum(packed.get(i).numel() for i in range(len(packed)))
    reference = open_cache(tmp_path / "whole", photographs, 32, 0)
    assert all(torch.equal(packed.get(i), reference.get(i)) for i in range(len(packed)))


def test_the_index_is_saved_while_the_cache_is_built(
    tmp_path: Path, photographs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "BATCH", 4)
    monkeypatch.setattr(cache, "SAVE_SECONDS", -1.0)
    sizes = []

    def stop() -> None:
        if found := list(tmp_path.glob("*/pictures.npz")):
            sizes.append(len(np.load(found[0])["entries"]))

    open_cache(tmp_path, photographs, 32, 0, stop)
    assert sizes == [4, 8, 12, 16, 20]


def damage(path: Path, how: str) -> None:
    index = path.with_suffix(".npz")
    if how == "cut":
        os.truncate(path, path.stat().st_size - 1)
    elif how == "foreign":
        path.write_bytes(b"x" * path.stat().st_size)
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "gone":
        path.unlink()
    elif how == "index cut":
        os.truncate(index, 40)
    elif how == "index text":
        index.write_text("<html>")
    elif how == "index gone":
        index.unlink()
    elif how == "index pickle":
        np.savez(index, entries=np.array([Exploit()], dtype=object))


class Exploit:
    def __reduce__(self) -> tuple:
        return exec, ("raise SystemExit('a pickle was executed')",)


@pytest.mark.parametrize("how", ["cut", "foreign", "empty", "gone", "index cut", "index text", "index gone", "index pickle"])
def test_damaged_cache_is_rebuilt(tmp_path: Path, photographs: list[Path], how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_cache(tmp_path, photographs, 32, 0)
    expected = [first.get(i) for i in range(len(first))]
    damage(first.path, how)
    decoded = count_decoded(monkeypatch)
    again = open_cache(tmp_path, photographs, 32, 0)
    assert decoded == photographs
    assert all(torch.equal(again.get(i), image) for i, image in enumerate(expected))
    assert sorted(p.name for p in first.path.parent.iterdir()) == ["pictures.bin", "pictures.lock", "pictures.npz"]


def test_unreadable_files_are_named_and_the_others_kept(
    tmp_path: Path, photographs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_text("not an image")
    with pytest.raises(FlukeError, match=r"2 of 26 images can't be cached: .*bad\.jpg: not an image.* .*gone\.jpg: no such file"):
        open_cache(tmp_path / "cache", [*photographs[:5], bad, tmp_path / "gone.jpg", *photographs[5:]], 32, 2)
    decoded = count_decoded(monkeypatch)
    packed = open_cache(tmp_path / "cache", photographs, 32, 0)
    assert decoded == []
    reference = open_cache(tmp_path / "whole", photographs, 32, 0)
    assert all(torch.equal(packed.get(i), reference.get(i)) for i in range(len(packed)))


def test_the_space_needed_is_that_of_the_images_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [save(tmp_path / f"{i}.png", smooth(40, 200)) for i in range(8)]
    asked = []
    monkeypatch.setattr(cache, "require_free", lambda folder, megabytes: asked.append(megabytes))
    packed = open_cache(tmp_path / "cache", paths, 32, 0)
    assert asked == [pytest.approx(sum(packed.get(i).numel() for i in range(8)) / 1e6)]


def test_lack_of_disk_space_is_reported_before_the_build(
    tmp_path: Path, photographs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("usage", (), {"free": 50_000}))
    with pytest.raises(FlukeError, match="too little disk space"):
        open_cache(tmp_path / "cache", photographs, 32, 0)


def test_cache_folder_that_is_a_file_is_refused(tmp_path: Path, photographs: list[Path]) -> None:
    with pytest.raises(FlukeError, match=r"data\.cache_dir .*can't be written"):
        open_cache(photographs[0], photographs, 32, 0)


def open_and_compare(folder: Path, paths: list[Path], log: Path) -> None:
    build = cache._build

    def counted(*args: object) -> np.ndarray:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        return build(*args)

    cache._build = counted
    packed = open_cache(folder, paths, 32, 0)
    expected = [int(decode(path, 32).shape[1] >= 1) for path in paths]
    read = [int(packed.get(i).any()) for i in range(len(packed))]
    with log.open("a") as file:
        file.write("good\n" if read == expected else "bad\n")


def test_processes_that_open_a_cache_at_once_build_it_once(tmp_path: Path, photographs: list[Path]) -> None:
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=open_and_compare, args=(tmp_path / "c", photographs * 5, tmp_path / "log")) for _ in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    lines = (tmp_path / "log").read_text().split()
    assert lines.count("good") == 3
    assert len(lines) == 4, "more than one process built it"


def test_each_row_has_its_own_picture_also_of_a_part_in_another_order(tmp_path: Path) -> None:
    """All of one size, so that nothing but the pixels tells them apart."""
    paths = [save(tmp_path / f"{i}.png", noise(20, 30, seed=i)) for i in range(6)]
    packed = open_cache(tmp_path / "cache", paths, 20, 0)
    assert all(torch.equal(packed.get(i), decode(path)) for i, path in enumerate(paths))
    part = packed.take([4, 0, 5])
    assert all(torch.equal(part.get(i), decode(paths[row])) for i, row in enumerate([4, 0, 5]))
    assert torch.equal(part.take([2, 1]).get(0), decode(paths[5]))
