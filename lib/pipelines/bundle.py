"""Pack runs, code, wheels and a notebook into a folder for machines without internet, such as Kaggle's code contests."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.errors import FlukeError
from lib.files import write_json, write_text
from lib.models.weights import read_spec
from lib.pipelines.predict import find_networks
from lib.process import announce
from lib.run_folder import BundleFolder, FinalFolder, RunFolder
from lib.scores.alignment import load_aligned_scores

ROOT = Path(__file__).parents[2]
GLIBC = 35
"""Minor version of the newest glibc that wheels may need: Kaggle's image is an Ubuntu 22.04."""
CODE = ("lib", "scripts", "pyproject.toml", "LICENSE")


@dataclass(frozen=True)
class BundleArguments:
    """The arguments of scripts/bundle.py."""

    runs: list[str]
    out: Path
    wheels: list[str]
    """Names of packages that the other machine lacks."""
    python: str
    """Python version of the other machine, such as 3.12."""
    bundle_at: str
    """Where the folder will stand on the other machine."""
    data_at: str
    """Folder of the contest's files on the other machine."""
    minutes: float
    method: str


def pack_runs(arguments: BundleArguments) -> dict[str, Any]:
    """Write the bundle's folder; returns what bundle.json holds.

    Raises FlukeError for a folder that holds something, for runs without weights or that can't be combined, and where pip can't
    download.
    """
    folder = BundleFolder(arguments.out)
    if folder.path.exists() and (not folder.path.is_dir() or any(folder.path.iterdir())):
        raise FlukeError(f"--out {folder}: is there already, and not empty; take another name, or remove it first.")
    names = [Path(run).resolve().name for run in arguments.runs]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise FlukeError(f"--runs: several are called {', '.join(repeated)}; rename all but one.")
    kinds = {check_run(Path(run)) for run in arguments.runs}
    if len(kinds) > 1:
        raise FlukeError("--runs: some are classifiers and some embeddings; pack runs of one kind.")
    if kinds == {"logits"} and len(arguments.runs) > 1:
        load_aligned_scores(arguments.runs)  # raises here what would otherwise be raised over there
    wanted = choose_requirements(arguments.wheels)
    wheels = download_wheels(wanted, arguments.python, folder.wheels) if wanted else []
    copy_code(folder.code)
    for run, name in zip(arguments.runs, names):
        copy_run(RunFolder(run), folder.run(name))
    about = {
        "runs": names,
        "kind": kinds.pop(),
        "method": arguments.method,
        "requirements": wanted,
        "wheels": wheels,
        "python": arguments.python,
    }
    write_text(folder.notebook, make_notebook(arguments))
    write_json(folder.about, about)
    megabytes = sum(path.stat().st_size for path in folder.path.rglob("*") if path.is_file()) / 1e6
    print(f"{len(names)} runs, {len(wheels)} wheels for Python {arguments.python}, {megabytes:,.1f} MB")
    announce(folder.list_paths(), f"kaggle datasets init -p {folder}  # then docs/kaggle.md")
    return about


def check_run(run: Path) -> str:
    """Return what the networks of a run put out, "logits" or "embeddings". Raises FlukeError for what can't be packed."""
    if run.is_file():
        raise FlukeError(f"--runs {run}: a file; name the run's folder, whose recipe says where the test images are.")
    if FinalFolder(run).final.exists():
        raise FlukeError(f"--runs {run}: models of all rows hold out no row by which runs are combined; name the k-fold run.")
    files, recipe = find_networks(run)
    if recipe is None:
        raise FlukeError(f"--runs {run}: has no recipe.yaml that names the test images; name a run's folder.")
    if recipe.data.sample_submission is None:
        raise FlukeError(f"--runs {run}: its recipe names no sample submission (data.sample_submission); train with one.")
    spec = read_spec(files[0])
    if spec is None:
        raise FlukeError(f"--runs {run}: weights without a description; only the best weights of a run can be packed.")
    return spec.target.outputs


def choose_requirements(names: Sequence[str]) -> list[str]:
    """Return the requirement of each package, with the version that pyproject.toml asks for if it names the package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    known = {re.split(r"[<>=!~ ;\[]", line, maxsplit=1)[0]: line for line in project["dependencies"]}
    return [known.get(name, name) for name in names]


def download_wheels(requirements: Sequence[str], python: str, out: Path) -> list[str]:
    """Download one wheel per requirement for Linux with pip, without what they depend on; returns their file names.

    Raises FlukeError when pip finds no index, or no wheel.
    """
    out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", python, "--implementation", "cp"]
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(GLIBC, 4, -1)] + ["manylinux2014_x86_64", "manylinux1_x86_64"]
    command += [part for platform in platforms for part in ("--platform", platform)]  # pip takes each literally
    done = subprocess.run([*command, "-d", str(out), *requirements], capture_output=True, text=True)
    if done.returncode:
        lines = [line.removeprefix("ERROR: ").strip() for line in done.stderr.splitlines() if line.startswith("ERROR")]
        said = lines[-1].rstrip(".") if lines else f"exit code {done.returncode}"
        shutil.rmtree(out.parent)
        raise FlukeError(f"--wheels: pip can't download {', '.join(requirements)} ({said[:200]}); --wheels alone goes without.")
    return sorted(path.name for path in out.iterdir())


def copy_code(out: Path) -> None:
    """Copy the library and the scripts."""
    out.mkdir(parents=True)
    for name in CODE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, out / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        elif source.exists():
            shutil.copy(source, out / name)


def copy_run(run: RunFolder, out: RunFolder) -> None:
    """Copy what prediction and combination read: recipe, weights, fitted decisions, held-out scores; no images."""
    kept = [run.recipe, run.environment, run.classes, run.thresholds, run.cut_points, run.calibration, run.folds, run.oof]
    kept += [run.scores_val, run.metrics, run.cv, run.weights]
    for path in kept:
        if path.exists():
            target = out.path / path.relative_to(run.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    for fold in run.begun_folds():
        copy_run(fold, RunFolder(out.path / fold.name))


SETTINGS = """\
# Where the data set with this bundle and the contest's files are; the panel beside the notebook shows both paths.
BUNDLE = {bundle!r}
DATA = {data!r}
MINUTES = {minutes:g}  # a run that doesn't fit into this time is left out"""

INSTALL = """\
# Install the wheels that this machine lacks, without an index.
import json, os, subprocess, sys
from pathlib import Path

bundle = Path(BUNDLE)
about = json.loads((bundle / "bundle.json").read_text())
if about["requirements"]:
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--find-links", str(bundle / "wheels")]
    subprocess.run([*command, *about["requirements"]], check=True)"""

PREDICT = """\
# Predict the test images below DATA with all runs, and write submission.csv beside this notebook.
environment = {**os.environ, "PYTHONPATH": str(bundle / "code"), "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1"}
command = [sys.executable, str(bundle / "code" / "scripts" / "run_bundle.py"), "--bundle", BUNDLE, "--data", DATA]
subprocess.run([*command, "--minutes", str(MINUTES), "--out", "submission.csv"], env=environment, check=True)"""


def make_notebook(arguments: BundleArguments) -> str:
    """Return a notebook (nbformat 4.5) whose cells install the wheels and predict the hidden test images."""
    settings = SETTINGS.format(bundle=arguments.bundle_at, data=arguments.data_at, minutes=arguments.minutes)
    cells: list[dict[str, Any]] = [
        {
            "cell_type": "code",
            "id": f"cell{number}",
            "execution_count": None,
            "metadata": {},
            "outputs": [],
            "source": source.splitlines(keepends=True),
        }
        for number, source in enumerate((settings, INSTALL, PREDICT))
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, indent=1) + "\n"
