"""scripts/bundle.py: what it packs answers hidden images on a machine without an index, from folders that are not written to."""

import json
import os
import re
import shutil
import site
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lib.errors import FlukeError
from lib.pipelines.bundle import copy_run, download_wheels
from lib.run_folder import RunFolder
from scripts import bundle, kfold, predict, retrieve, run_bundle, train_classifier, train_embedding
from tests.conftest import paint


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, arguments: Callable[..., list[str]]) -> list[str]:
    """Two k-fold runs of the tiny contest."""
    folder = tmp_path_factory.mktemp("runs")
    kfold.main(arguments(folder / "one", folds_n=2, train_epochs=1))
    kfold.main(arguments(folder / "two", folds_n=2, train_epochs=2))
    return [str(folder / "one"), str(folder / "two")]


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The contest's files as the machine without internet has them: other test images, and no training images."""
    root = tmp_path_factory.mktemp("input") / "contest"
    names = paint(root / "images", ["ant", "bee", "cat", "01", "bee"], 9)
    pd.DataFrame({"image": names, "label": ["ant"] * 5}).to_csv(root / "sample_submission.csv", index=False)
    return root


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder from which pip downloads, with one package."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tinypackage-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tinypackage.py", "VALUE = 41\n")
        info = "tinypackage-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tinypackage\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def fingerprint(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.mark.slow
def test_the_notebook_answers_without_an_index(
    runs: list[str], hidden: Path, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "elsewhere" / "bundle"
    argv = ["--runs", *runs, "--out", str(tmp_path / "bundle"), "--wheels", "tinypackage", "--method", "mean"]
    about = bundle.main([*argv, "--bundle_at", str(place), "--data_at", str(hidden)])
    assert about["wheels"] == ["tinypackage-1.0-py3-none-any.whl"]
    place.parent.mkdir()
    shutil.move(tmp_path / "bundle", place)
    before = fingerprint(place), fingerprint(hidden)

    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text("\n".join(site.getsitepackages()))  # torch and the like, which the image has
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    notebook = json.loads((place / "notebook.ipynb").read_text())
    cells = tmp_path / "cells.py"
    cells.write_text("\n\n".join("".join(cell["source"]) for cell in notebook["cells"]))
    work = tmp_path / "work"
    work.mkdir()
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PIP_NO_INDEX")}
    done = subprocess.run([environment / "bin" / "python", cells], cwd=work, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    code = "import tinypackage, lib; print(tinypackage.VALUE)"
    failed = subprocess.run([environment / "bin" / "python", "-c", code], cwd=work, env=clean, capture_output=True, text=True)
    assert "No module named 'lib'" in failed.stderr  # tinypackage was installed; the code stays in the bundle
    assert (fingerprint(place), fingerprint(hidden)) == before
    assert [path.name for path in work.iterdir()] == ["submission.csv"]

    expected = []
    for run in runs:  # independent: the mean of the logits that predict.py gives for the hidden images
        out = tmp_path / f"expected-{Path(run).name}"
        predict.main(["--run", run, "--table", str(hidden / "sample_submission.csv"), "--image_dir", str(hidden / "images"),
                      "--sample", str(hidden / "sample_submission.csv"), "--out", str(out)])  # fmt: skip
        expected.append(np.load(out / "scores_test.npz")["logits"])
    classes = json.loads((Path(runs[0]) / "classes.json").read_text())
    answers = [classes[i] for i in np.mean(expected, axis=0).argmax(1)]
    assert pd.read_csv(work / "submission.csv", dtype=str)["label"].tolist() == answers


def pack(runs: list[str], out: Path, *more: str) -> Path:
    bundle.main(["--runs", *runs, "--out", str(out), *more, "--wheels"])
    return out


def test_no_image_is_packed(runs: list[str], tmp_path: Path) -> None:
    folder = pack(runs, tmp_path / "b")
    found = {path.suffix for path in (folder / "runs").rglob("*") if path.is_file()}
    assert found <= {".yaml", ".json", ".npz", ".csv", ".safetensors"}
    assert not (folder / "wheels").exists()


def test_a_run_that_does_not_fit_into_the_time_is_left_out(
    runs: list[str], hidden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pack(runs, tmp_path / "b")
    clock = iter(range(0, 10_000, 20))  # each look at the clock takes 20 seconds
    monkeypatch.setattr("lib.pipelines.run_bundle.time.monotonic", lambda: next(clock))
    result = run_bundle.main(["--bundle", str(folder), "--data", str(hidden), "--out", str(tmp_path / "s.csv"), "--minutes", "2"])
    assert (result["runs"], result["left_out"]) == (["one"], ["two"])
    assert "left out, because --minutes 2 is too short: two" in capsys.readouterr().out
    assert len(pd.read_csv(tmp_path / "s.csv")) == 5
    with pytest.raises(FlukeError, match=r"5 images don't fit into the time limit"):
        run_bundle.main(["--bundle", str(folder), "--data", str(hidden), "--out", str(tmp_path / "t.csv"), "--minutes", "0.5"])
    assert not (tmp_path / "t.csv").exists()


def test_what_can_not_be_packed_is_refused(
    runs: list[str], arguments: Callable[..., list[str]], index: Path, tmp_path: Path, no_report: None
) -> None:
    train_classifier.main(arguments(tmp_path / "held_out", train_epochs=1))
    with pytest.raises(FlukeError, match="combine runs of one table and one split"):  # found there, it would cost a day
        bundle.main(["--runs", runs[0], str(tmp_path / "held_out"), "--out", str(tmp_path / "b")])
    with pytest.raises(FlukeError, match=re.escape("no_such: no such folder or file")):
        bundle.main(["--runs", "no_such", "--out", str(tmp_path / "b")])
    with pytest.raises(FlukeError, match="several are called one"):
        bundle.main(["--runs", runs[0], runs[0], "--out", str(tmp_path / "b")])
    with pytest.raises(FlukeError, match="pip can't download missingpackage"):
        bundle.main(["--runs", runs[0], "--out", str(tmp_path / "b"), "--wheels", "missingpackage"])
    assert not (tmp_path / "b").exists()
    pack(runs[:1], tmp_path / "b")
    with pytest.raises(FlukeError, match="is there already, and not empty"):
        pack(runs[:1], tmp_path / "b")


def test_individuals_are_answered_as_retrieve_does(arguments: Callable[..., list[str]], tmp_path: Path, no_report: None) -> None:
    root = tmp_path / "animals"
    names, test = paint(root / "images", list("abcdef") * 6, 1), paint(root / "images", list("abcxyz"), 2)
    pd.DataFrame({"image": names, "label": list("abcdef") * 6}).to_csv(root / "train.csv", index=False)
    pd.DataFrame({"image": test, "label": ["new a b c d"] * 6}).to_csv(root / "sample_submission.csv", index=False)
    run = tmp_path / "run"
    fields = {"data_root": root, "data_new_label": "new", "objective_name": "arcface", "folds_unknown": 0.3, "train_epochs": 1}
    train_embedding.main(arguments(run, **fields))
    retrieve.main(["--run", str(run)])
    folder = pack([str(run)], tmp_path / "b")
    run_bundle.main(["--bundle", str(folder), "--data", str(root), "--out", str(tmp_path / "s.csv")])
    assert (tmp_path / "s.csv").read_bytes() == (run / "retrieval" / "submission.csv").read_bytes()


def test_what_was_fitted_on_held_out_rows_is_packed_with_a_run_and_its_folds(tmp_path: Path) -> None:
    run, packed = RunFolder(str(tmp_path / "run")), RunFolder(str(tmp_path / "packed"))
    kept = [run.recipe, run.thresholds, run.cut_points, run.calibration, run.fold(0).recipe, run.fold(0).calibration]
    for path in kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    copy_run(run, packed)
    for path in kept:
        assert (packed.path / path.relative_to(run.path)).read_text() == path.name


def test_wheels_for_older_glibc_are_taken_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip takes each platform literally: a wheel for manylinux_2_17 runs on Ubuntu 22.04 as well."""
    commands: list[list[str]] = []

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("lib.pipelines.bundle.subprocess.run", run)
    assert download_wheels(["timm"], "3.12", tmp_path / "wheels") == []
    (command,) = commands
    platforms = {command[i + 1] for i, word in enumerate(command) if word == "--platform"}
    assert {"manylinux_2_17_x86_64", "manylinux_2_28_x86_64", "manylinux_2_35_x86_64", "manylinux2014_x86_64"} <= platforms
    assert "manylinux_2_36_x86_64" not in platforms
