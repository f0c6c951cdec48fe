"""A run's folder: which it is, whose it is, what is written into it first; and what the run runs on."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm import tqdm

from lib.config import command_line
from lib.config.recipe import ADDED, Recipe
from lib.errors import FlukeError
from lib.files import default_run_folder, newest_run, require_free, write_json, write_text
from lib.process import is_main_process

LIBRARIES = ("torch", "torchvision", "timm", "accelerate", "numpy", "pandas", "scikit-learn", "pillow", "faiss-cpu")

# What may differ between a run and its resumption; everything else would make another run of it.
MAY_CHANGE = tuple(f"train.{name}" for name in ("epochs", "patience", "max_minutes", "save_minutes", "keep_last", "log_with"))
MAY_CHANGE += ("data.workers", "data.check", "data.cache_dir", "predict.", "retrieval.")


def open_run(out: str | None, resume: bool, recipe: Recipe, recipe_file: str | None, kfold: bool = False) -> Path:
    """The folder this run writes to: --out, or the newest unfinished run of this recipe with --resume, or a new name.

    Raises FlukeError when a run is in the way, when there is none to resume, or when it is a run of another recipe, or a k-fold run
    (which has a folds.csv) unless `kfold`.
    """
    if out is None and resume:
        stem = Path(recipe_file).stem if recipe_file else "run"
        what, last = ("k-fold run", "cv.json") if kfold else ("run", "metrics.json")

        def unfinished(f: Path) -> bool:
            return f.name.startswith(stem + "-") and (f / "folds.csv").exists() == kfold and not (f / last).exists()

        folder = newest_run(Path("runs"), unfinished)
        if folder is None:
            raise FlukeError(f"--resume: no unfinished {what} runs/{stem}-*; name one with --out.")
        if is_main_process():
            print(f"--resume takes the newest unfinished run: {folder}")
    else:
        folder = Path(out) if out else default_run_folder(recipe_file)
    if (folder / "recipe.yaml").exists():
        if not resume:
            raise FlukeError(f"{folder}: holds a run already; --resume goes on with it, another --out starts one.")
        for whole in (folder, folder.parent):
            if (whole / "folds.csv").exists() and not (kfold and whole == folder):
                raise FlukeError(f"{folder} belongs to a k-fold run; kfold.py --out {whole} --resume goes on with that.")
        if kfold and not (folder / "folds.csv").exists():
            raise FlukeError(f"{folder}: a run, but no k-fold run; the script that made it goes on with it.")
        if found := recipe_differences(command_line.read_tree(str(folder / "recipe.yaml")), asdict(recipe)):
            raise FlukeError(f"{folder} is a run of another recipe; these may not change: {'; '.join(found)}.")
    return folder


def describe_environment(accelerator: Accelerator) -> dict[str, Any]:
    """What the run ran on: command line, versions, git commit, processes, threads, device."""
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    return {
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%d %H:%M:%S%z"),
        "git": git.stdout.strip() or None,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "device": str(accelerator.device),
        "precision": accelerator.mixed_precision,
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
    }


def make_log(accelerator: Accelerator, folder: Path) -> Callable[[str], None]:
    """A function that prints a line past the progress bar and appends it to log.txt, on the main process only."""

    def say(line: str) -> None:
        if accelerator.is_main_process:
            tqdm.write(line)
            with (folder / "log.txt").open("a", encoding="utf-8") as log:
                log.write(line + "\n")

    return say


def write_run_start(folder: Path, recipe: Recipe, accelerator: Accelerator, classes: tuple[str, ...], megabytes: float) -> None:
    """Write what names a run: recipe.yaml, classes.json, environment.json. Raises FlukeError when the disk has no room for the
    rest."""
    # each resumable state: weights and Adam's two moments, and the average; two more than kept while one is replaced; the best
    require_free(folder, megabytes * (4 * (recipe.train.keep_last + 1) + 2) + 20)
    write_text(folder / "recipe.yaml", command_line.dump(recipe))
    write_json(folder / "classes.json", list(classes))
    write_json(folder / "environment.json", describe_environment(accelerator))


def recipe_differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return the fields, as "section.field (now X, was Y)", in which recipe `new` differs from `old` although it may not. A field
    that `old` lacks had ADDED's value, or else the default."""
    found, defaults = [], asdict(Recipe())
    for section, values in new.items():
        for key, value in values.items():
            name = f"{section}.{key}"
            was = old.get(section, {}).get(key, ADDED.get(name, defaults[section][key]))
            if was != value and not name.startswith(MAY_CHANGE):
                found.append(f"{name} (now {value!r}, was {was!r})")
    return found
