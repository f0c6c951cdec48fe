"""Open a run: choose its folder, lock it, decide whether it starts, resumes or is done, and write what describes it."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from tqdm import tqdm

from lib.config import command_line
from lib.config.recipe import ADDED, Recipe
from lib.errors import FlukeError
from lib.files import lock_folder, require_free, write_json, write_text
from lib.process import is_main_process
from lib.run_folder import RunFolder, default_run_folder, newest_run
from lib.training import checkpoint
from lib.training.accelerator import describe_numerics, keep_memory, make_accelerator
from lib.training.distributed import StopSignal, broadcast_from_main, run_on_main
from lib.training.run import Run

LIBRARIES = ("torch", "torchvision", "timm", "accelerate", "numpy", "pandas", "scikit-learn", "pillow", "faiss-cpu")

# What may differ between a run and its resumption; everything else would make it another run.
MAY_CHANGE = tuple(f"train.{name}" for name in ("epochs", "patience", "max_minutes", "save_minutes", "log_with"))
MAY_CHANGE += ("data.workers", "data.check", "data.cache_dir", "predict.", "retrieval.")


@dataclass(frozen=True)
class RunArguments:
    """The arguments of a script that trains."""

    out: str | None
    resume: bool
    recipe_file: str | None

    @property
    def stem(self) -> str:
        """Beginning of the name of a folder without --out."""
        return Path(self.recipe_file).stem if self.recipe_file else "run"


# --- the folder -------------------------------------------------------------------------------------------------------------------


def choose_folder(arguments: RunArguments, recipe: Recipe, kfold: bool = False) -> RunFolder:
    """Return the folder to write to: --out, or the newest unfinished run of this recipe with --resume, or a new name.

    Raises FlukeError when a run is in the way, when there is none to resume, when it is a run of another recipe, or when it is a
    k-fold run and `kfold` is False, or the other way around.
    """
    if arguments.out is None and arguments.resume:
        folder = _newest_unfinished(arguments.stem, kfold)
    else:
        folder = RunFolder(arguments.out or default_run_folder(arguments.stem))
    if not folder.recipe.exists():
        return folder
    if not arguments.resume:
        raise FlukeError(f"{folder}: holds a run already; --resume goes on with it, another --out starts one.")
    for whole in (folder, RunFolder(folder.path.parent)):
        if whole.is_kfold and not (kfold and whole is folder):
            raise FlukeError(f"{folder} belongs to a k-fold run; kfold.py --out {whole} --resume goes on with that.")
    if kfold and not folder.is_kfold:
        raise FlukeError(f"{folder}: a run, but no k-fold run; the script that made it goes on with it.")
    if found := recipe_differences(command_line.read_tree(str(folder.recipe)), asdict(recipe)):
        raise FlukeError(f"{folder} is a run of another recipe; these may not change: {'; '.join(found)}.")
    return folder


def _newest_unfinished(stem: str, kfold: bool) -> RunFolder:
    def accepts(folder: RunFolder) -> bool:
        return folder.name.startswith(stem + "-") and folder.is_kfold == kfold and not folder.is_finished

    found = newest_run(Path("runs"), accepts)
    if found is None:
        raise FlukeError(f"--resume: no unfinished {'k-fold run' if kfold else 'run'} runs/{stem}-*; name one with --out.")
    if is_main_process():
        print(f"--resume takes the newest unfinished run: {found}")
    return found


def recipe_differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return the fields, as "section.field (now X, was Y)", in which recipe `new` differs from `old` although it may not.

    A field that `old` lacks had the value that ADDED gives, or else the default.
    """
    found, defaults = [], asdict(Recipe())
    for section, values in new.items():
        for key, value in values.items():
            name = f"{section}.{key}"
            was = old.get(section, {}).get(key, ADDED.get(name, defaults[section][key]))
            if was != value and not name.startswith(MAY_CHANGE):
                found.append(f"{name} (now {value!r}, was {was!r})")
    return found


@contextmanager
def open_run(arguments: RunArguments, recipe: Recipe, kfold: bool = False) -> Iterator[Run]:
    """Yield the run that a script was asked for: its folder chosen and locked, signals caught, its deadline counting from now.

    Raises FlukeError as `choose_folder` does, and when the folder can't be written or another process writes to it.
    """
    minutes = recipe.train.max_minutes
    deadline = time.monotonic() + 60 * minutes if minutes else None
    keep_memory()
    accelerator = make_accelerator(recipe.train, Path("runs"))
    folder = broadcast_from_main(accelerator, lambda: choose_folder(arguments, recipe, kfold))
    with StopSignal(accelerator) as stop, lock_run(accelerator, folder, stop, deadline) as run:
        yield run


@contextmanager
def lock_run(
    accelerator: Accelerator, folder: RunFolder, stop: StopSignal, deadline: float | None, kfold: RunFolder | None = None
) -> Iterator[Run]:
    """Yield the run of a folder, which the main process locks; `kfold` is the k-fold run that it is a fold of.

    Raises FlukeError as `lock_folder` does.
    """
    accelerator.project_configuration.project_dir = accelerator.project_configuration.logging_dir = str(folder)
    with ExitStack() as stack:
        run_on_main(accelerator, lambda: stack.enter_context(lock_folder(folder.path)))
        yield Run(accelerator, folder, make_log(accelerator, folder), stop, deadline, kfold)


def make_log(accelerator: Accelerator, folder: RunFolder) -> Callable[[str], None]:
    """Return a function that prints a line past the progress bar and appends it to the run's log, on the main process only."""

    def log(line: str) -> None:
        if accelerator.is_main_process:
            tqdm.write(line)
            with folder.log.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    return log


# --- start, resume or done --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What the main process found in a run's folder; every process acts on the same plan."""

    action: Literal["start", "resume", "done"]
    checkpoint: Path | None = None
    """The resumable state to go on from."""
    result: dict[str, Any] | None = None
    """Of a finished run: what metrics.json holds."""
    notes: tuple[str, ...] = ()
    """Sentences to log."""


def plan_run(run: Run, recipe: Recipe) -> Plan:
    """Look into a run's folder, on the main process, and return the plan to all processes.

    Raises FlukeError when the run was begun on another number of processes.
    """
    return broadcast_from_main(run.accelerator, lambda: _look(run, recipe))


def _look(run: Run, recipe: Recipe) -> Plan:
    if run.folder.metrics.exists():
        return Plan("done", result=run.folder.read_metrics(), notes=(f"{run.folder}: finished already",))
    state, skipped = checkpoint.find_checkpoint(run.folder.checkpoints)
    if state is None:
        return Plan("start", notes=tuple(skipped))
    before, num_processes = checkpoint.read_state(state), run.accelerator.num_processes
    if before["world"] != num_processes:
        raise FlukeError(
            f"{run.folder}: begun on {before['world']} processes, now there are {num_processes}; go on with as many as before."
        )
    notes = []
    for name, now in describe_numerics(run.accelerator).items():
        if (then := before.get(name, now)) != now:
            notes.append(f"note: {name} {now} now, {then} before: the numbers will differ a little")
    if (epochs := before["recipe"]["train"]["epochs"]) != recipe.train.epochs:
        notes.append(
            f"note: train.epochs was {epochs} and is {recipe.train.epochs}: the learning rate continues as if it had been "
            f"{recipe.train.epochs} from the start"
        )
    return Plan("resume", state, notes=(*notes, *skipped))


def write_run_start(run: Run, recipe: Recipe, classes: tuple[str, ...], megabytes: float) -> None:
    """Write recipe.yaml, classes.json and environment.json.

    `megabytes` is the size of the weights. Raises FlukeError when the disk has no room for all that the run will write.
    """
    # Each resumable state holds weights, Adam's two moments and the average; one more than is kept exists while one is replaced.
    require_free(run.folder.path, megabytes * (4 * (checkpoint.KEEP + 1) + 2) + 20)
    write_text(run.folder.recipe, command_line.dump(recipe))
    write_json(run.folder.classes, list(classes))
    write_json(run.folder.environment, describe_environment(run.accelerator))


def describe_environment(accelerator: Accelerator) -> dict[str, Any]:
    """Return what the run runs on: command line, versions, git commit, processes, threads, device."""
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
