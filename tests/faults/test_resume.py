"""A run that is cut anywhere and resumed ends in the very files of a run that was not."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch

from lib import files, process
from lib.config.recipe import Data, Recipe
from lib.errors import FlukeError, Interrupted
from lib.images import cache, checking
from lib.pipelines import run_result, runs
from lib.run_folder import RunFolder
from lib.training import checkpoint, loop, time_budget
from lib.training.distributed import SIGNALLED, StopSignal
from scripts import train_classifier

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("no_report")
FINAL = ("best/model.safetensors", "metrics.json", "scores_val.npz", "scores_test.npz", "submission.csv")

# What a resumption could get wrong, all at once: every kind of state and of randomness.
EVERYTHING = {
    "train_epochs": 3,
    "train_accumulate": 2,
    "train_batch_size": 6,
    "train_sampler": "weighted",
    "train_ema": 0.9,
    "train_save_minutes": 1e-9,
    "optim_schedule": "plateau",
    "optim_plateau_patience": 0,
    "optim_freeze_epochs": 1,
    "objective_mixup": 0.4,
    "objective_cutmix": 1.0,
    "model_dropout": 0.3,
    "data_augment": "[{RandomResizedCrop: {size: 32}}, RandomHorizontalFlip, {ColorJitter: {brightness: 0.3}}]",
}


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


def finals(folder: Path) -> dict[str, bytes]:
    """The files that must not differ. metrics.jsonl goes without its seconds."""
    found = {name: (folder / name).read_bytes() for name in FINAL}
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    found["metrics.jsonl"] = "\n".join(line.split(', "seconds"')[0] for line in lines).encode()
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, arguments: Callable[..., list[str]]) -> dict[str, bytes]:
    """The files of an uninterrupted run with EVERYTHING."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train_classifier.main(arguments(out, **EVERYTHING))
    return finals(out)


def cut(monkeypatch: pytest.MonkeyPatch, where: object, name: str, nth: int, after: bool = False) -> None:
    """Have the nth call of where.name end the process, before it or right after."""
    calls, real = [0], getattr(where, name)

    def dying(*args: object, **kwargs: object) -> object:
        calls[0] += 1
        if calls[0] == nth and not after:
            raise Killed
        value = real(*args, **kwargs)
        if calls[0] == nth:
            raise Killed
        return value

    monkeypatch.setattr(where, name, dying)


CUTS = [
    *[(loop, "schedule_factor", n, False) for n in (1, 4, 6, 7, 11, 18)],  # in a step, of each epoch
    (loop, "predict_batches", 1, False),
    (loop, "predict_batches", 2, True),  # between validation and the state that says so
    (loop, "save_network", 1, False),
    (loop, "save_network", 2, True),
    *[(checkpoint, "write_json", n, after) for n in (1, 2, 9) for after in (False, True)],  # within a state
    *[(checkpoint.os, "replace", n, after) for n in (1, 2, 10) for after in (False, True)],
    (files, "fsync", 5, True),
    (loop, "write_text", 2, False),
    (loop, "write_text", 2, True),
    (checkpoint, "save_checkpoint", 12, True),  # the last epoch's state, after which nothing is trained
]


@pytest.mark.parametrize(("where", "name", "nth", "after"), CUTS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_cut_and_resumed_is_identical(
    where: object,
    name: str,
    nth: int,
    after: bool,
    whole: dict,
    arguments: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    argv = arguments(tmp_path / "run", **EVERYTHING)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        cut(patch, where, name, nth, after)
        train_classifier.main(argv)
    train_classifier.main([*argv, "--resume"])
    assert finals(tmp_path / "run") == whole


def test_resuming_needs_no_initial_weights(arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "w.pth"
    torch.manual_seed(5)
    torch.save(timm.create_model("test_resnet", num_classes=9).state_dict(), weights)
    settings = {"train_epochs": 2, "model_name": "test_resnet", "model_weights": weights, "model_dropout": 0.3}
    train_classifier.main(arguments(tmp_path / "whole" / "run", **settings))
    with monkeypatch.context() as patched, pytest.raises(Killed):
        cut(patched, loop, "schedule_factor", 4)
        train_classifier.main(arguments(tmp_path / "run", **settings, train_save_minutes=1e-9))
    weights.unlink()
    train_classifier.main([*arguments(tmp_path / "run", **settings, train_save_minutes=1e-9), "--resume"])
    assert finals(tmp_path / "run") == finals(tmp_path / "whole" / "run")


def test_torn_state_is_recognised_and_the_one_before_taken(
    whole: dict, arguments: Callable, tmp_path: Path, monkeypatch, capsys
) -> None:
    argv = arguments(tmp_path / "run", **EVERYTHING)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        cut(patch, loop, "schedule_factor", 9)
        train_classifier.main(argv)
    newest = sorted((tmp_path / "run" / "last").iterdir())[-1]
    blob = (newest / "model.safetensors").read_bytes()
    (newest / "model.safetensors").write_bytes(blob[:-4] + b"\0\0\0\0")
    train_classifier.main([*argv, "--resume"])
    assert "model.safetensors is torn or was changed; taking the state before it" in capsys.readouterr().out
    assert finals(tmp_path / "run") == whole


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_no_number(workers: int, whole: dict, arguments: Callable, tmp_path: Path) -> None:
    train_classifier.main(arguments(tmp_path / "run", **(EVERYTHING | {"data_workers": workers})))
    assert finals(tmp_path / "run") == whole


def test_another_seed_is_another_run(whole: dict, arguments: Callable, tmp_path: Path) -> None:
    train_classifier.main(arguments(tmp_path / "run", **EVERYTHING, train_seed=1))
    assert finals(tmp_path / "run")["scores_test.npz"] != whole["scores_test.npz"]


def test_signal_saves_and_says_how_to_go_on(
    whole: dict, arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = arguments(tmp_path / "run", **(EVERYTHING | {"train_save_minutes": 100}))
    calls, real = [0], loop.schedule_factor

    def signalled(*args: object) -> float:
        calls[0] += 1
        if calls[0] == 9:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args)

    monkeypatch.setattr(loop, "schedule_factor", signalled)
    with pytest.raises(Interrupted, match=r"go on with: --out .*run --resume"):
        train_classifier.main(argv)
    assert (tmp_path / "run" / "last" / "e0001-b000004").is_dir()
    train_classifier.main([*argv, "--resume"])
    assert finals(tmp_path / "run") == whole


def test_time_limit_predicts_with_what_there_is_and_goes_on(whole: dict, arguments: Callable, tmp_path: Path, capsys) -> None:
    argv = arguments(tmp_path / "run", **EVERYTHING)
    train_classifier.main([*argv, "--train.max_minutes", "0.01"])
    assert "train.max_minutes is over" in capsys.readouterr().out
    assert (tmp_path / "run" / "submission.csv").exists()
    assert not (tmp_path / "run" / "metrics.json").exists()
    train_classifier.main([*argv, "--resume"])
    assert finals(tmp_path / "run") == whole


@pytest.mark.parametrize("seconds", [115, 118, 160, 200])
def test_time_limit_leaves_time_for_a_validation_and_the_predictions(
    seconds: float, arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_report: None
) -> None:
    """On a clock of our own: a step takes 8 seconds, an image to predict one. A validation may begin between two looks at it."""
    clock = [0.0]

    def taking(where: object, name: str, cost: Callable[..., float]) -> None:
        real = getattr(where, name)

        def slow(*args: object, **kwargs: object) -> object:
            clock[0] += cost(*args)
            return real(*args, **kwargs)

        monkeypatch.setattr(where, name, slow)

    for module in (loop, runs, time_budget):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0], strftime=time.strftime))
    taking(loop, "predict_batches", lambda networks, loader, *_: len(loader.dataset))
    taking(run_result, "predict", lambda networks, images, *_: len(images))
    taking(loop, "schedule_factor", lambda *_: 8)
    train_classifier.main(arguments(tmp_path / "run", train_epochs=9, train_max_minutes=seconds / 60))
    assert (tmp_path / "run" / "submission.csv").exists()
    assert seconds - 60 < clock[0] <= seconds


def test_a_signal_is_seen_at_the_next_step_without_waiting_for_the_device() -> None:
    stop, asked = StopSignal(SimpleNamespace(device=SimpleNamespace(type="cuda"), num_processes=1)), []
    assert [stop.agree(lambda: asked.append(1) or 0) for _ in range(3)] == [0, 0, 0]
    assert len(asked) == 3
    stop.signal = signal.SIGTERM
    assert stop.agree() == SIGNALLED
    with pytest.raises(Interrupted):
        stop.check()


@pytest.mark.parametrize(("kind", "reads"), [("cpu", 12), ("cuda", 1)])
def test_a_gpus_loss_is_read_at_every_tenth_step(
    kind: str, reads: int, arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, real = [], loop.Trainer._request

    class Loss:
        def item(self) -> float:
            looked.append(1)
            return 0.0

    def request(trainer: loop.Trainer) -> int:
        loss, device = trainer.loss_sum, trainer.device
        trainer.loss_sum, trainer.device = Loss(), torch.device(kind)
        try:
            return real(trainer)
        finally:
            trainer.loss_sum, trainer.device = loss, device

    monkeypatch.setattr(loop.Trainer, "_request", request)
    train_classifier.main(arguments(tmp_path / "run", train_epochs=2, train_batch_size=6))
    assert len(looked) == reads


def test_a_loss_that_is_not_finite_is_never_saved(arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that comes with it must not leave a state that every resumption loads."""
    real = loop.Trainer.train_step

    def poisoned(trainer: loop.Trainer, batch: int, *args: object) -> bool:
        stepped = real(trainer, batch, *args)
        if (trainer.state.epoch, batch) == (1, 2):
            trainer.loss_sum += float("nan")
            trainer.run.stop.signal = signal.SIGTERM
        return stepped

    argv = arguments(tmp_path / "run", train_epochs=3)
    with monkeypatch.context() as patch, pytest.raises(FlukeError, match="no longer finite in epoch 2"):
        patch.setattr(loop.Trainer, "train_step", poisoned)
        train_classifier.main(argv)
    assert [path.name for path in (tmp_path / "run" / "last").iterdir()] == ["e0001-b000000"]
    assert train_classifier.main([*argv, "--resume"])["epochs"] == 3


def test_resuming_in_another_precision_is_noted(
    arguments: Callable, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_classifier.main([*arguments(tmp_path / "run"), "--train.max_minutes", "0.01"])
    monkeypatch.setattr(runs, "describe_numerics", lambda _: {"precision": "fp16", "of tomorrow": 1})
    train_classifier.main([*arguments(tmp_path / "run"), "--resume"])
    assert "note: precision fp16 now, fp32 before: the numbers will differ a little" in capsys.readouterr().out


def test_run_in_the_way_and_other_recipes_are_refused(arguments: Callable, tmp_path: Path) -> None:
    argv = arguments(tmp_path / "run", train_epochs=1)
    train_classifier.main(argv)
    before = finals(tmp_path / "run")
    with pytest.raises(FlukeError, match="holds a run already"):
        train_classifier.main(argv)
    with pytest.raises(FlukeError, match=r"optim.lr \(now 0.5, was 0.001\)"):
        train_classifier.main([*argv, "--resume", "--optim.lr", "0.5", "--train.epochs", "4"])
    assert finals(tmp_path / "run") == before


def test_loss_that_is_no_longer_finite_stops_and_keeps_the_best(
    arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop.schedule_factor
    monkeypatch.setattr(loop, "schedule_factor", lambda o, step, *rest: 1e30 if step >= 6 else real(o, step, *rest))
    with pytest.raises(FlukeError, match="no longer finite in epoch 2; the best weights, of epoch 1"):
        train_classifier.main(arguments(tmp_path / "run", train_epochs=3))
    assert (tmp_path / "run" / "best" / "model.safetensors").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_to_the_group_exits_75_and_resumes(number: int, arguments: Callable, tmp_path: Path) -> None:
    """As a scheduler's SIGTERM or Ctrl-C in a terminal: the DataLoader's workers get it as well."""
    argv = arguments(tmp_path / "run", train_epochs=400, optim_lr=1e-4, data_workers=2)
    command = [sys.executable, str(ROOT / "scripts" / "train_classifier.py"), *argv]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not (tmp_path / "run" / "metrics.jsonl").exists():
        assert child.poll() is None, child.communicate()
        time.sleep(0.05)
    if number == signal.SIGTERM:
        second = subprocess.run([*command, "--resume"], cwd=ROOT, capture_output=True, text=True)
        assert second.returncode == 2
        assert "another process writes this run" in second.stderr
    os.killpg(child.pid, number)
    _, stderr = child.communicate(timeout=60)
    assert child.returncode == process.INTERRUPTED, stderr
    assert "go on with: --out" in stderr
    assert "Traceback" not in stderr


def test_a_split_that_changed_stops_the_resumption(
    arguments: Callable, contest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row less draws another split: held-out images would be among those already trained on."""
    root = tmp_path / "contest"
    shutil.copytree(contest, root)
    argv = arguments(tmp_path / "run", data_root=root)
    train_classifier.main([*argv, "--train.max_minutes", "0.01"])
    split = (tmp_path / "run" / "split.csv").read_text().splitlines()
    assert split[0] == "image,side"
    assert sorted(line.split(",")[1] for line in split[1:]) == ["held out"] * 12 + ["train"] * 36
    rows = (root / "train.csv").read_text().splitlines(keepends=True)
    (root / "train.csv").write_text("".join(rows[:5] + rows[6:]))
    with pytest.raises(FlukeError, match=r"split.csv: \d+ images were on another side of the split, or missing"):
        train_classifier.main([*argv, "--resume"])
    (root / "train.csv").write_text("".join(rows))
    assert train_classifier.main([*argv, "--resume"])["epochs"] == 2


@pytest.mark.parametrize(("field", "before", "now", "allowed"), [
    ("data.cache_dir", None, "cache", False), ("data.cache_dir", "cache", "moved", True), ("data.size", 32, 48, False),
    ("predict.tta", [], ["hflip"], False), ("predict.batch_size", None, 4, True), ("retrieval.method", "best", "vote", False),
    ("train.precision", "fp32", "bf16", True), ("data.workers", None, 0, True), ("optim.kwargs", {}, {"eps": 1e-6}, False),
])  # fmt: skip
def test_what_may_change_on_resume(field: str, before: object, now: object, allowed: bool) -> None:
    section, name = field.split(".")
    then, today = asdict(Recipe()), asdict(Recipe())
    then[section][name], today[section][name] = before, now
    assert (runs.recipe_differences(then, today) == []) is allowed


def test_a_run_keeps_what_it_had_before_a_field_existed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.recipe.write_text("data: {size: 64}\n")
    today = Recipe(data=Data(size=64))
    assert runs.recipe_differences({"data": {"size": 64}}, asdict(today)) == []
    assert runs.keep_begun_values(today, folder).data.duplicates == "off"
    assert runs.keep_begun_values(today, folder).train.sync_batchnorm is False
    folder.recipe.write_text("data: {size: 64, duplicates: identical}\n")
    assert runs.keep_begun_values(today, folder).data.duplicates == "identical"


def test_more_epochs_of_a_finished_run_are_refused(arguments: Callable, tmp_path: Path) -> None:
    train_classifier.main(arguments(tmp_path / "run", train_epochs=1))
    with pytest.raises(FlukeError, match=r"finished with train.epochs 1, and can't be resumed for 3"):
        train_classifier.main([*arguments(tmp_path / "run", train_epochs=3), "--resume"])


def test_a_run_needs_neither_git_nor_faiss_cpus_version(
    arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    real = runs.version
    monkeypatch.setattr(runs, "version", lambda name: real("no such library" if name == "faiss-cpu" else name))
    train_classifier.main(arguments(tmp_path / "run", train_epochs=1))
    described = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert described["git"] is None
    assert "faiss-cpu" not in described["libraries"]
    assert (
        described["libraries"]["torch"] == torch.__version__.split("+")[0] or described["libraries"]["torch"] == torch.__version__
    )


@pytest.mark.parametrize("where", ["checking", "caching"])
def test_a_signal_before_training_exits_as_later(
    where: str, arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = {"checking": checking, "caching": cache}[where]
    real = module.decode

    def signalled(*args: object) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*args)

    argv = arguments(tmp_path / "run", data_cache_dir=tmp_path / "cache", data_check="header" if where == "caching" else "decode")
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match=rf"while {where} images; go on with: --out .* --resume"):
        patch.setattr(module, "decode", signalled)
        patch.setitem(checking.CHECKS, "decode", signalled)
        train_classifier.main(argv)
    assert train_classifier.main([*argv, "--resume"])["epochs"] == 2
