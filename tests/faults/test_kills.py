"""Runs are killed with SIGKILL, at enumerated points and at random moments, and resumed: each must end in the very files of a run
that was left alone.

What a kernel would lose in a power cut is lost here too: a file is cut in half when the run dies before fsync has returned.
"""

import itertools
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# Children are forked from a process that has imported torch but has not used it: a fork of one that has may hang.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["lib.pipelines.kfold", "scripts.train_classifier", "scripts.train_embedding", "scripts.kfold"])

KILLS = int(os.environ.get("KILLS", "1"))  # for every second pair of 5 feature sets and 5 kinds of points; `make kills` does 200

ONE = ("best/model.safetensors", "metrics.json", "scores_val.npz", "scores_test.npz", "submission.csv")
FEATURES: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
    "one-label": (
        "train_classifier",
        ONE,
        {
            "train_accumulate": 2,
            "train_batch_size": 6,
            "train_sampler": "weighted",
            "train_ema": 0.9,
            "optim_schedule": "plateau",
            "optim_plateau_patience": 0,
            "optim_freeze_epochs": 1,
            "objective_mixup": 0.4,
            "objective_cutmix": 1.0,
            "model_dropout": 0.3,
        },
    ),
    "workers": (
        "train_classifier",
        ONE,
        {"data_workers": 2, "data_augment": "[RandAugment, RandomHorizontalFlip, RandomErasing]", "optim_schedule": "onecycle"},
    ),
    "several-labels": (
        "train_classifier",
        ONE,
        {"data_label_separator": "|", "objective_name": "asymmetric", "train_patience": 1, "optim_layer_decay": 0.7},
    ),
    "embedding": (
        "train_embedding",
        ("best/model.safetensors", "metrics.json", "scores_val.npz"),
        {
            "data_augment": "[{RandomResizedCrop: {size: 32}}]",
            "data_mirror_identities": True,
            "objective_name": "arcface",
            "objective_also": "{triplet: 0.5}",
            "folds_unknown": 0.25,
            "folds_holdout": 0.25,
            "train_sampler": "pk",
            "train_ema": 0.9,
        },
    ),
    "folds": (
        "kfold",
        ("folds.csv", "fold0/best/model.safetensors", "fold1/best/model.safetensors", "oof.npz", "cv.json", *ONE[-2:]),
        {"folds_n": 2, "model_dropout": 0.2},
    ),
}
POINTS = {
    "step": ("lib.training.loop", "schedule_factor"),  # in training, before the optimiser's step
    "image": ("lib.images.dataset", "decode"),  # anywhere an image is read: training, validation, prediction
    "rename": ("os", "replace"),  # before and after a file or a state gets its name
    "fsync": ("os", "fsync"),  # before the data is on the disk, and after
}


def run(features: str, argv: list[str], counts: Path | None, point: str | None = None, nth: int = 0, after: bool = False) -> None:
    """A child's life: the script, killed at the nth call of `point`; or counting all points' calls into files of `counts`."""
    multiprocessing.set_start_method("fork", force=True)  # as in a run: its DataLoader workers have what is changed here
    for name, (module, attribute) in POINTS.items():
        if counts is not None or name == point:
            where = import_module(module)
            setattr(where, attribute, watched(getattr(where, attribute), name, counts, nth, after))
    import_module("lib.pipelines.run_result").write_run_page = lambda *_: None  # figures cost more than a tiny run's training
    import_module("lib.pipelines.folds_result").write_folds_page = lambda *_: None
    import_module(f"scripts.{FEATURES[features][0]}").main(argv)
    os._exit(0)  # without waiting for whatever libraries registered


def watched(real: Callable[..., Any], name: str, counts: Path | None, nth: int, after: bool) -> Callable[..., Any]:
    calls, owner = 0, os.getpid()

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if counts is not None:
            with (counts / name).open("a") as file:  # a DataLoader worker's calls count as well
                file.write(".")
        value = None
        if calls == nth and not after and name == "fsync" and os.path.isfile(path := os.readlink(f"/proc/self/fd/{args[0]}")):
            os.truncate(path, os.path.getsize(path) // 2)
        if calls != nth or after:
            value = real(*args, **kwargs)
        if calls == nth:
            os.kill(owner, signal.SIGKILL)
            time.sleep(60)  # in a worker: the end comes from outside
        return value

    return call


def child(*arguments: Any) -> Any:
    process = PROCESSES.Process(target=run, args=arguments)
    process.start()
    return process


def contents(folder: Path, features: str) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FEATURES[features][1]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, arguments: Callable[..., list[str]]) -> Callable[[str], dict[str, Any]]:
    """What a run of these features leaves when nobody touches it: its files, its seconds, how often it passed each point."""
    known: dict[str, dict[str, Any]] = {}

    def make(features: str) -> dict[str, Any]:
        if features not in known:
            folder = tmp_path_factory.mktemp(features) / "run"
            folder.parent.joinpath("counts").mkdir()
            began = time.monotonic()
            process = child(features, argv_of(arguments, folder, features), folder.parent / "counts")
            process.join()
            assert process.exitcode == 0
            passed = {path.name: path.stat().st_size for path in (folder.parent / "counts").iterdir()}
            known[features] = {"files": contents(folder, features), "seconds": time.monotonic() - began, "passed": passed}
        return known[features]

    return make


def argv_of(arguments: Callable[..., list[str]], folder: Path, features: str) -> list[str]:
    return arguments(folder, **({"train_save_minutes": 1e-9, "train_epochs": 3} | FEATURES[features][2]))


PAIRS = [(features, point) for features in FEATURES for point in (*POINTS, "moment")]


@pytest.mark.parametrize(("features", "point"), PAIRS if "KILLS" in os.environ else PAIRS[::2])
def test_killed_and_resumed_is_identical(features: str, point: str, whole: Callable, arguments: Callable, tmp_path: Path) -> None:
    alone = whole(features)
    rng = random.Random(f"{features} {point}")
    # calls are counted over all of a run's processes, but the one that kills is one process's nth: a worker reads its share
    passed = alone["passed"].get(point, 0) // (4 if "data_workers" in FEATURES[features][2] and point == "image" else 1)
    for kill in range(KILLS):
        latest = alone["seconds"]
        for attempt in itertools.count():
            folder = tmp_path / f"{kill}-{attempt}" / "run"  # the last name is in the files
            argv = argv_of(arguments, folder, features)
            if point == "moment":
                process = child(features, argv, None)
                process.join(rng.uniform(0, latest))
                process.kill()
                latest *= 0.8
            else:
                nth = 1 + round((passed - 1) * (kill + rng.random()) / KILLS)
                process = child(features, argv, None, point, nth, rng.random() < 0.5)
            process.join()
            if process.exitcode == -signal.SIGKILL:
                break
            assert process.exitcode == 0, f"kill {kill}"
            assert point == "moment", f"kill {kill}: the run was over before"  # a moment that came too late is drawn again
        again = child(features, [*argv, "--resume"], None)
        again.join()
        assert again.exitcode == 0, f"kill {kill}: resumption ended with {again.exitcode}"
        assert contents(folder, features) == alone["files"], f"kill {kill}"
