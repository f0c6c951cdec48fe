"""Several processes, through `accelerate launch` with the shipped configurations.

A launch costs 5 to 10 s: three in the fast tests, the others are marked slow.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from accelerate.commands.config import config_args

from lib.files import write_json
from lib.scores import score_file
from lib.training import loop
from scripts import kfold, probe, train_classifier
from tests.scripts.rank_jobs import gradient_below

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "accelerate_configs").glob("*.yaml"))
FINAL = ("best/model.safetensors", "metrics.json", "scores_val.npz", "scores_test.npz", "submission.csv")

# One process and two can train alike without BatchNorm and dropout.
ALIKE = {
    "model_name": "test_convnext",
    "train_epochs": 4,
    "train_accumulate": 2,
    "train_batch_size": 6,
    "train_sampler": "weighted",
    "optim_schedule": "plateau",
    "optim_plateau_patience": 0,
    "optim_lr": 3e-3,
    "folds_holdout": 13,
}
FROZEN = {"train_epochs": 3, "optim_freeze_epochs": 1, "train_ema": 0.8, "folds_holdout": 13}
OBJECTIVES = ("triplet", "proxy_anchor", "arcface", "cosface")
FOLDS = ALIKE | {"train_epochs": 2, "folds_n": 2}
GRADES = FOLDS | {"data_task": "ordinal", "data_order": "[01, ant, bee, cat]", "objective_name": "mse"}
ARCFACE = {"objective_name": "arcface", "objective_scale": 16, "model_embedding_dim": 8, "train_epochs": 3, "folds_unknown": 0.25}


FEATURES = ALIKE | {"optim_freeze": '[""]', "data_augment": "[]", "train_epochs": 2, "train_accumulate": 1}


def probe_arguments(arguments: Callable[..., list[str]], folder: Path) -> list[str]:
    argv = arguments(folder, model_name="test_convnext", folds_n=3)
    at = argv.index("--model.name")
    return [*argv[:at], *argv[at + 2 :], "--models", "test_convnext"]


def command(config: str, script: str, *argv: object, launcher: tuple[str, ...] = ()) -> list[str]:
    start = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(ROOT / "accelerate_configs" / f"{config}.yaml"),
    ]
    return [*start, *launcher, str(ROOT / script), *map(str, argv)]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(ROOT)}


def start(config: str, script: str, *argv: object, launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """The launcher in a process group of its own."""
    if config == "cpu_2proc" and not launcher:
        launcher = ("--main_process_port", str(free_port()))
    line = command(config, script, *argv, launcher=launcher)
    return subprocess.Popen(
        line, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def launch(config: str, script: str, *argv: object) -> tuple[int, str, str]:
    child = start(config, script, *argv)
    out, err = child.communicate(timeout=240)
    return child.returncode, out, err


# --- the configurations -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configuration_has_only_fields_that_accelerate_reads(path: Path) -> None:
    given = yaml.safe_load(path.read_text())
    kind = config_args.ClusterConfig
    assert set(given) <= {f.name for f in fields(kind)}
    read = kind.from_yaml_file(str(path))  # unknown keys raise here too, but those within a section, such as fsdp_config, don't
    assert {key: getattr(read, key) for key in given if key != "distributed_type"} == {
        k: v for k, v in given.items() if k != "distributed_type"
    }
    assert read.distributed_type.value == given["distributed_type"]
    assert not [key for key, value in given.items() if isinstance(value, dict)]


def test_configurations_are_what_their_names_say() -> None:
    found = {path.stem: yaml.safe_load(path.read_text()) for path in CONFIGS}
    assert set(found) == {"cpu", "cpu_2proc", "gpu", "multi_gpu", "multi_node"}
    assert [found[name]["num_processes"] for name in ("cpu", "cpu_2proc", "gpu")] == [1, 2, 1]
    assert [found[name]["use_cpu"] for name in sorted(found)] == [True, True, False, False, False]
    # MULTI_CPU would start one process and say nothing
    assert {found[name]["distributed_type"] for name in ("cpu_2proc", "multi_gpu", "multi_node")} == {"MULTI_GPU"}
    assert found["multi_node"]["num_machines"] == 2
    assert found["multi_node"]["num_processes"] % 2 == 0


def test_one_process_through_the_launcher(tmp_path: Path) -> None:
    write_json(tmp_path / "jobs.json", [])
    code, _, err = launch("cpu", "tests/scripts/rank_jobs.py", tmp_path)
    assert code == 0, err
    assert json.loads((tmp_path / "rank0.json").read_text()) == {"world": 1, "backend": None, "device": "cpu"}
    assert not (tmp_path / "rank1.json").exists()


# --- two processes ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two(
    tmp_path_factory: pytest.TempPathFactory, arguments: Callable[..., list[str]], contest: Path
) -> tuple[Path, list[dict[str, Any]]]:
    """A folder of runs by two gloo processes, and what each of the two saw."""
    folder = tmp_path_factory.mktemp("two")
    jobs: list[list[Any]] = [["classifier", "alike", arguments(folder / "alike", **ALIKE)]]
    jobs += [["classifier", "frozen", arguments(folder / "frozen", **FROZEN)]]
    jobs += [["embedding", "arcface", arguments(folder / "arcface", **ARCFACE)]]
    jobs += [["pool", "", []], ["unshared", "unshared", arguments(Path("run"), **ALIKE)]]
    jobs += [["classifier", "late", [*arguments(folder / "late", **ALIKE), "--train.max_minutes", "0.01"]]]
    jobs += [["gradient", name, []] for name in OBJECTIVES]
    jobs += [["folds", "folds", arguments(folder / "folds", **FOLDS)], ["folds", "grades", arguments(folder / "grades", **GRADES)]]
    jobs += [["probe", "probe", probe_arguments(arguments, folder / "probe")]]
    jobs += [["features", "features", arguments(folder / "features", **FEATURES)]]
    table = ["--table", str(contest / "train.csv"), "--image_dir", str(contest / "images"), "--out", str(folder / "predicted.npz")]
    jobs += [["predict", "predict", ["--run", str(folder / "alike"), *table]]]
    jobs += [["retrieve", "retrieve", ["--run", str(folder / "arcface"), "--out", str(folder / "retrieval")]]]
    write_json(folder / "jobs.json", jobs)
    code, _, err = launch("cpu_2proc", "tests/scripts/rank_jobs.py", folder)
    assert code == 0, err
    return folder, [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, arguments: Callable[..., list[str]]) -> Path:
    """The run `alike` by one process, this one."""
    folder = tmp_path_factory.mktemp("one") / "alike"
    train_classifier.main(arguments(folder, **ALIKE))
    return folder


def test_two_processes_talk_over_gloo(two: tuple) -> None:
    assert [(found["world"], found["backend"], found["device"]) for found in two[1]] == [(2, "gloo", "cpu")] * 2


def files_of(run: Path) -> list[str]:
    return sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file() and "last" not in path.parts)


def test_two_processes_leave_what_one_leaves(two: tuple, one: Path) -> None:
    assert files_of(two[0] / "alike") == files_of(one)
    assert len((two[0] / "alike" / "metrics.jsonl").read_text().splitlines()) == ALIKE["train_epochs"]
    text = (two[0] / "alike" / "log.txt").read_text()
    assert text.count("done: ") == 1  # one writer
    assert json.loads((two[0] / "alike" / "environment.json").read_text())["processes"] == 2


@pytest.mark.parametrize("name", ["scores_val.npz", "scores_test.npz"])
def test_two_processes_score_as_one_each_row_once(name: str, two: tuple, one: Path) -> None:
    ours, other = score_file.load_scores(two[0] / "alike" / name), score_file.load_scores(one / name)
    assert len(ours.rows) == 13  # odd: one process predicts a row more, which has to go
    assert ours.names == other.names
    assert np.array_equal(ours.rows, other.rows)
    assert np.allclose(ours.logits, other.logits, rtol=0, atol=1e-4)
    assert np.ptp(ours.logits, axis=0).min() > 1e-2  # it has learned to tell rows apart


@pytest.mark.parametrize(("kind", "fields_of"), [("folds", FOLDS), ("grades", GRADES)])
def test_two_processes_cross_validate_as_one(kind: str, fields_of: dict, two: tuple, arguments: Callable, tmp_path: Path) -> None:
    kfold.main(arguments(tmp_path / kind, **fields_of))
    for name in ("oof.npz", "scores_test.npz"):
        ours, other = score_file.load_scores(two[0] / kind / name), score_file.load_scores(tmp_path / kind / name)
        assert ours.names == other.names
        assert np.allclose(ours.logits, other.logits, rtol=1e-4, atol=1e-4)
    assert files_of(two[0] / kind) == files_of(tmp_path / kind)
    assert (two[0] / kind / "folds.csv").read_bytes() == (tmp_path / kind / "folds.csv").read_bytes()
    assert two[1][0][kind]["result"] == two[1][1][kind]["result"]


def test_processes_share_the_images_of_a_pass(
    two: tuple, arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a probe, a prediction and a gallery, and of a frozen backbone that runs once; an odd image is run by both."""
    ours, other = ({name: found[name] for name in ("probe", "predict", "retrieve", "features")} for found in two[1])
    assert ours == other
    assert ours["probe"] == 24 + 7  # of 48 training and 13 test images
    assert ours["predict"] == 24
    assert min(ours.values()) > 0
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    probe.main(probe_arguments(arguments, tmp_path / "probe"))
    train_classifier.main(arguments(tmp_path / "features", **FEATURES))
    for name in ("probe/test_convnext/oof.npz", "features/scores_val.npz"):
        found, expected = score_file.load_scores(two[0] / name), score_file.load_scores(tmp_path / name)
        assert found.names == expected.names
        assert np.allclose(found.logits, expected.logits, atol=1e-3)


def test_plateau_drops_on_two_processes_as_on_one(two: tuple, one: Path) -> None:
    def history(run: Path) -> list[dict[str, float]]:
        return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]

    ours, other = history(two[0] / "alike"), history(one)
    assert [line["lr"] for line in ours] == [line["lr"] for line in other]
    assert ours[-1]["lr"] < ours[0]["lr"]
    assert np.allclose([line["train_loss"] for line in ours], [line["train_loss"] for line in other], atol=1e-4)


def test_every_process_decides_alike(two: tuple) -> None:
    first, second = two[1]
    for name in ("alike", "frozen", "arcface"):
        assert first[name]["result"] == second[name]["result"]


@pytest.mark.parametrize("name", ["alike", "frozen", "arcface"])
def test_weights_and_statistics_are_one_network(name: str, two: tuple) -> None:
    first, second = (found[name]["seen"] for found in two[1])
    assert len(first) >= 3
    for ours, other in zip(first, second, strict=True):
        assert ours["parameters"] == other["parameters"]
        assert ours["buffers"] == other["buffers"]
    if name != "alike":  # BatchNorm: each process has seen other images, so there was something to agree on
        assert any(ours["buffers before"] != other["buffers before"] for ours, other in zip(first, second))


def test_backbone_learns_on_both_once_it_is_unfrozen(two: tuple) -> None:
    first, second, third = (seen["backbone"] for seen in two[1][0]["frozen"]["seen"])
    assert first != second
    assert second != third


def test_arcface_has_weights_and_they_are_the_networks(two: tuple) -> None:
    assert two[1][0]["arcface"]["seen"][0]["objective"] == ["objective.parts.arcface.loss.W"]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_of_two_processes_are_that_of_the_whole_batch(name: str, two: tuple) -> None:
    """Pairs and proxies are compared over both processes' images; named ones count alike though one process has two, one eight."""
    from accelerate import Accelerator

    alone = gradient_below(name, Accelerator(cpu=True))
    losses = [found[f"gradient of {name}"]["loss"] for found in two[1]]
    assert np.mean(losses) == pytest.approx(alone["loss"], abs=1e-5)
    for found in two[1]:
        assert np.allclose(found[f"gradient of {name}"]["gradient"], alone["gradient"], atol=1e-6)
    assert np.abs(alone["gradient"]).max() > 1e-2


def test_a_folder_that_machines_do_not_share_is_found_at_the_start(two: tuple) -> None:
    for found in two[1]:
        assert found["unshared"] == "--out run: not all processes see this folder; name one on a disk that all machines share."
    assert not list((two[0] / "machine0" / "run").glob("*.yaml"))


def test_each_process_draws_its_own_dropout(two: tuple) -> None:
    first, second = (found["alike"]["seeds"] for found in two[1])
    assert len(first) == len(second) > 0
    assert len({*first, *second}) == 2 * len(first)


def test_running_statistics_are_those_of_all_images(two: tuple) -> None:
    for found in two[1]:
        rows = np.array(found["pooled"]["rows"])
        shares = rows.reshape(2, 8, 3)
        assert found["pooled"]["mean"] == pytest.approx(rows.mean(0), rel=1e-5)
        assert found["pooled"]["var"] == pytest.approx(shares.var(1, ddof=1).mean(0) + shares.mean(1).var(0), rel=1e-5)
        assert np.array(found["pooled"]["var"]) == pytest.approx(rows.var(0), rel=0.1)


def test_a_run_goes_on_with_another_number_of_processes(
    two: tuple, arguments: Callable, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows still to come are the same; the sum of the losses so far is taken over."""
    folder = tmp_path / "late"
    shutil.copytree(two[0] / "late", folder)
    state = json.loads(max((folder / "last").glob("e*/state.json")).read_text())
    sums, real = [], loop.Trainer.resume

    def noting(trainer: loop.Trainer, path: Path) -> None:
        real(trainer, path)
        sums.append(trainer.loss_sum.item())

    monkeypatch.setattr(loop.Trainer, "resume", noting)
    train_classifier.main([*arguments(folder, **ALIKE), "--resume"])
    assert "note: processes 1 now, 2 before: the numbers will differ a little" in capsys.readouterr().out
    assert sums == pytest.approx([np.mean(state["running"])])
    assert json.loads((folder / "metrics.json").read_text())["epochs"] == 4


def test_a_fault_is_said_once_and_before_the_launcher(arguments: Callable, tmp_path: Path) -> None:
    argv = arguments(tmp_path / "run", data_label_column="lable")
    code, _, err = launch("cpu_2proc", "scripts/train_classifier.py", *argv)
    assert code != 0
    sentence = "has no column 'lable' (data.label_column) among image, label; did you mean label?"
    assert err.count(sentence) == 1
    lines = err.splitlines()
    spoken = next(i for i, line in enumerate(lines) if sentence in line)
    assert lines[spoken].startswith("error: ")
    assert not [line for line in lines[:spoken] if "Traceback" in line]
    assert "scripts/train_classifier.py FAILED" in "".join(lines[spoken:])  # the launcher's own
    assert "lib/" not in err.replace(sentence, "").split("FAILED")[0].replace(str(ROOT / "lib"), "lib/") or "site-packages" in err


# --- slow: kills, and two machines ------------------------------------------------------------------------------------------------

LONG = ALIKE | {"train_epochs": 12, "train_save_minutes": 1e-9, "model_dropout": 0.2, "train_ema": 0.9}


def finals(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in FINAL}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, arguments: Callable[..., list[str]]) -> dict[str, bytes]:
    """The files of an uninterrupted run on two processes."""
    out = tmp_path_factory.mktemp("whole") / "run"
    code, _, err = launch("cpu_2proc", "scripts/train_classifier.py", *arguments(out, **LONG))
    assert code == 0, err
    return finals(out)


STOPS = ("launcher terminated", "rank 0 killed", "rank 1 killed", "all killed", "all terminated")


def wait_for(child: subprocess.Popen[str], run: Path, epochs: int) -> None:
    """Until a run has finished so many epochs."""
    until = time.monotonic() + 120
    while not list((run / "last").glob(f"e{epochs:04d}-b0000*")):
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


def ranks_of(launcher: int) -> list[int]:
    """Process ids of the ranks that a launcher started."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(launcher)], capture_output=True, text=True).stdout.split()
    return [int(pid) for pid in found]


@pytest.mark.slow
@pytest.mark.parametrize("how", STOPS if "KILLS" in os.environ else STOPS[:1])  # `make kills` tries all
def test_two_processes_are_stopped_and_go_on(how: str, whole: dict, arguments: Callable, tmp_path: Path) -> None:
    run = tmp_path / "run"
    argv = arguments(run, **LONG)
    child = start("cpu_2proc", "scripts/train_classifier.py", *argv)
    wait_for(child, run, 2)
    began = time.monotonic()
    if how == "all killed":
        for pid in (child.pid, *ranks_of(child.pid)):  # each rank has a session of its own
            os.kill(pid, signal.SIGKILL)
    elif how == "all terminated":
        for pid in (child.pid, *ranks_of(child.pid)):
            os.kill(pid, signal.SIGTERM)
    elif how == "launcher terminated":
        child.send_signal(signal.SIGTERM)
    else:
        victims = {
            int(dict(e.split("=", 1) for e in Path(f"/proc/{p}/environ").read_text().split("\0") if "=" in e)["RANK"]): p
            for p in ranks_of(child.pid)
        }
        os.kill(victims[int(how[5])], signal.SIGKILL)
    _, err = child.communicate(timeout=60)  # the job ends within a minute
    assert time.monotonic() - began < 60
    assert child.returncode != 0
    if "terminated" in how:
        assert err.count(f"go on with: --out {run} --resume") == 1
    assert not (run / "metrics.json").exists()
    code, _, err = launch("cpu_2proc", "scripts/train_classifier.py", *argv, "--resume")
    assert code == 0, err
    assert finals(run) == whole


@pytest.mark.slow
def test_two_launchers_are_two_machines(whole: dict, arguments: Callable, tmp_path: Path) -> None:
    argv = arguments(tmp_path / "run", **LONG)
    shared = (
        "--num_machines",
        "2",
        "--num_processes",
        "2",
        "--main_process_ip",
        "127.0.0.1",
        "--main_process_port",
        str(free_port()),
    )
    both = [
        start(
            "cpu_2proc",
            "scripts/train_classifier.py",
            *argv,
            launcher=(*shared, "--machine_rank", str(rank), "--rdzv_backend", "static"),
        )
        for rank in (0, 1)
    ]
    ends = [child.communicate(timeout=240) for child in both]
    assert [child.returncode for child in both] == [0, 0], ends
    assert finals(tmp_path / "run") == whole
