"""The folder of a run: every file in it by its name, which stands here and nowhere else.

Nothing here reads a recipe, scores or weights: `load_recipe`, `load_scores` and `load_network` take the paths.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lib.files import read_json


class _Entry:
    """A file or folder of a run, as an attribute: its path."""

    def __init__(self, name: str):
        self.name = name

    def __get__(self, folder: _Folder, owner: type) -> Path:
        return folder.path / self.name


class _Folder:
    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.path.name

    def list_paths(self) -> list[Path]:
        """Return its files and folders, by name."""
        return sorted(path for path in self.path.iterdir() if not path.name.startswith("."))


class RetrievalFolder(_Folder):
    """What scripts/retrieve.py writes."""

    submission = _Entry("submission.csv")
    ranks = _Entry("ranks.parquet")
    """Every query's ranked names."""
    ranks_csv = _Entry("ranks.csv")
    """The same as text."""
    captures = _Entry("captures.csv")
    """Which encounter shows which individual."""
    observations = _Entry("observations.csv")
    """Those of a Camtrap DP package with the individuals."""
    threshold = _Entry("threshold.json")
    threshold_curve = _Entry("threshold_curve.npz")
    matches = _Entry("matches.json")
    """The threshold of predict.submission matches, and what it reaches on held-out images."""
    gallery = _Entry("gallery")
    page = _Entry("retrieval.html")
    """The first hundred queries; the others in retrieval_pages/."""


class DiscoveryFolder(_Folder):
    """What scripts/discover.py writes."""

    submission = _Entry("submission.csv")
    clusters = _Entry("clusters.csv")
    """The cluster of each image, its name, and how sure it is."""
    metrics = _Entry("metrics.json")
    page = _Entry("discovery.html")
    review = _Entry("review.html")
    """The page on which a person decides, and saves decisions.csv."""
    contradictions = _Entry("contradictions.csv")
    """Links and decisions that weren't followed."""

    @property
    def network(self) -> RunFolder:
        """The pretrained network of --model."""
        return RunFolder(self.path / "network")


class BundleFolder(_Folder):
    """What scripts/bundle.py writes."""

    about = _Entry("bundle.json")
    notebook = _Entry("notebook.ipynb")
    code = _Entry("code")
    wheels = _Entry("wheels")

    def run(self, name: str) -> RunFolder:
        """Return the folder of a packed run."""
        return RunFolder(self.path / "runs" / name)


class FinalFolder(_Folder):
    """What kfold.py --final writes: a run per seed, and what they say together."""

    scores_test = _Entry("scores_test.npz")
    submission = _Entry("submission.csv")
    final = _Entry("final.json")

    def seed(self, seed: int) -> RunFolder:
        """Return the folder of the run with a seed."""
        return RunFolder(self.path / f"seed{seed}")


class RunFolder(_Folder):
    """A run of train_classifier or train_embedding, a k-fold run with its folds, or an ensemble."""

    recipe = _Entry("recipe.yaml")
    """The resolved recipe; a folder with it holds a run."""
    environment = _Entry("environment.json")
    """Command line, versions, device."""
    classes = _Entry("classes.json")
    split = _Entry("split.csv")
    """The images to train on and the held-out ones."""
    duplicates = _Entry("duplicates.csv")
    """Training images that are the same file under several names."""
    log = _Entry("log.txt")
    weights = _Entry("best/model.safetensors")
    """Weights of the best epoch, with the network's description."""
    checkpoints = _Entry("last")
    """Resumable states."""
    history = _Entry("metrics.jsonl")
    """One epoch per line."""
    metrics = _Entry("metrics.json")
    """The result of a finished run."""
    scores_val = _Entry("scores_val.npz")
    scores_test = _Entry("scores_test.npz")
    thresholds = _Entry("thresholds.json")
    """Several labels: the probability from which each label is given."""
    cut_points = _Entry("cut_points.json")
    """Ordered classes: the expected classes between which each class is given."""
    calibration = _Entry("calibration.json")
    """The temperature of probabilities in a submission, and what it gains."""
    submission = _Entry("submission.csv")
    report = _Entry("report.html")
    curves = _Entry("curves.png")
    confusion = _Entry("confusion.png")
    embeddings = _Entry("embeddings")
    """Embeddings of tables, kept for the next retrieval."""
    folds = _Entry("folds.csv")
    """The fold of each training row; only a k-fold run has it."""
    oof = _Entry("oof.npz")
    """Out-of-fold scores of all training rows."""
    cv = _Entry("cv.json")
    """The result of a finished k-fold run."""
    ensemble = _Entry("ensemble.json")

    @property
    def final(self) -> FinalFolder:
        """Where kfold.py --final writes."""
        return FinalFolder(self.path / "final")

    def fold(self, number: int) -> RunFolder:
        """Return the folder of a k-fold run's fold."""
        return RunFolder(self.path / f"fold{number}")

    def begun_folds(self) -> list[RunFolder]:
        """Return the folders of the folds that have begun."""
        names = [path.name for path in self.path.glob("fold*") if re.fullmatch(r"fold\d+", path.name) and path.is_dir()]
        return [self.fold(number) for number in sorted(int(name.removeprefix("fold")) for name in names)]

    @property
    def discovery(self) -> DiscoveryFolder:
        """Where discover.py writes unless --out says otherwise."""
        return DiscoveryFolder(self.path / "discovery")

    @property
    def retrieval(self) -> RetrievalFolder:
        """Where retrieve.py writes unless --out says otherwise."""
        return RetrievalFolder(self.path / "retrieval")

    @property
    def is_kfold(self) -> bool:
        """Whether it is a k-fold run."""
        return self.folds.exists()

    @property
    def is_finished(self) -> bool:
        """Whether the run, or all folds of a k-fold run, came to the end."""
        return (self.cv if self.is_kfold else self.metrics).exists()

    def read_metrics(self) -> dict[str, Any]:
        """Return what metrics.json holds. Raises FlukeError."""
        return read_json(self.metrics)


def run_of_weights(path: Path) -> RunFolder | None:
    """Return the run whose best/model.safetensors this is; None for another file."""
    folder = RunFolder(path.parent.parent)
    return folder if folder.weights == path else None


def newest_run(runs: Path, accepts: Callable[[RunFolder], bool]) -> RunFolder | None:
    """Return the run below `runs`, most recently started, that `accepts` returns True for; None without one."""
    folders = [RunFolder(path) for path in runs.iterdir() if RunFolder(path).environment.exists()] if runs.is_dir() else []
    folders.sort(key=lambda folder: folder.environment.stat().st_mtime, reverse=True)
    return next((folder for folder in folders if accepts(folder)), None)


def submit_command(folder: RunFolder, *options: str) -> str:
    """Return the command that hands in a run's submission."""
    return " ".join([f"python scripts/submit.py --run {folder} --competition NAME", *options])


def default_run_folder(stem: str) -> Path:
    """Return runs/<stem>-<time>, the folder of a run without --out."""
    return Path("runs") / f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"
