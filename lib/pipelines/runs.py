"""Open a run: choose its folder, lock it, decide whether it starts, resumes or is done, and write what describes it."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from accelerate import Accelerator
from tqdm import tqdm

from lib.config import command_line
from lib.config.command_line import load_recipe
from lib.config.recipe import ADDED, AUTO_BATCH, Recipe
from lib.errors import FlukeError
from lib.files import lock_folder, require_free, write_json, write_text
from lib.models.origin import describe_origin
from lib.process import is_main_process
from lib.run_folder import RunFolder, default_run_folder, newest_run
from lib.training import checkpoint
from lib.training.accelerator import PRECISION_NAMES, choose_precision, describe_numerics, keep_memory, make_accelerator
from lib.training.distributed import StopSignal, broadcast_from_main, is_true_everywhere, run_on_main, start_processes
from lib.training.run import Run

LIBRARIES = ("torch", "torchvision", "timm", "accelerate", "numpy", "pandas", "scikit-learn", "pillow", "faiss-cpu")

# What may differ between a run and its resumption; everything else would make it another run.
MAY_CHANGE = {f"train.{name}" for name in ("epochs", "patience", "max_minutes", "save_minutes", "log_with", "precision")}
MAY_CHANGE |= {"data.workers", "data.check"}  # a split that another check changes is refused by `keep_split`
MAY_CHANGE |= {f"predict.{name}" for name in ("batch_size", "submission", "allow_empty", "separator")}


@dataclass(frozen=True)
class RunArguments:
    """The arguments of a script that trains."""

    out: str | None
    resume: bool
    recipe_file: str | None
    stop_at: float | None = None
    """time.monotonic() at which the run stops as at a signal."""
    is_hopeless: Callable[[Sequence[dict[str, Any]]], bool] = lambda history: False
    """As in `Run`."""

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
        is_of_recipe = re.fullmatch(re.escape(stem) + r"-\d{8}-\d{6}", folder.name) is not None
        return is_of_recipe and folder.is_kfold == kfold and not folder.is_finished

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
    resolved = _is_resolved_batch_size(old.get("train", {}), new["train"])
    for section, values in new.items():
        for key, value in values.items():
            name = f"{section}.{key}"
            was = old.get(section, {}).get(key, ADDED.get(name, defaults[section][key]))
            if key not in old.get(section, {}) and name in ADDED and value == defaults[section][key]:
                continue  # `keep_begun_values` gives it the value that the run had
            moved = name == "data.cache_dir" and None not in (was, value)  # other pixels only where there was no cache, or is none
            if (
                was != value
                and name not in MAY_CHANGE
                and not moved
                and not (resolved and name in ("train.batch_size", "train.accumulate"))
            ):
                found.append(f"{name} (now {value!r}, was {was!r})")
    return found


def _is_resolved_batch_size(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Return whether a begun run's section train has what `auto` in the `new` one became: as many images per optimizer step."""
    batch_size, accumulate = (old.get(name) for name in ("batch_size", "accumulate"))
    if new["batch_size"] != "auto" or not isinstance(batch_size, int) or not isinstance(accumulate, int):
        return False
    return batch_size * accumulate == AUTO_BATCH * int(new["accumulate"])


def keep_begun_values(recipe: Recipe, folder: RunFolder) -> Recipe:
    """Return the recipe with what a begun run made of train.batch_size auto, and with its values of fields younger than it.

    The latter only where the recipe has the field's default.
    """
    if not folder.recipe.exists():
        return recipe
    begun, defaults = command_line.read_tree(str(folder.recipe)), asdict(Recipe())
    if _is_resolved_batch_size(begun.get("train", {}), asdict(recipe.train)):
        recipe = replace(recipe, train=replace(recipe.train, **{key: begun["train"][key] for key in ("batch_size", "accumulate")}))
    for name, before in ADDED.items():
        section, key = name.split(".")
        if key not in begun.get(section, {}) and getattr(getattr(recipe, section), key) == defaults[section][key]:
            recipe = replace(recipe, **{section: replace(getattr(recipe, section), **{key: before})})
    return recipe


@contextmanager
def open_run(arguments: RunArguments, recipe: Recipe, kfold: bool = False) -> Iterator[tuple[Run, Recipe]]:
    """Yield the run that a script was asked for: its folder chosen and locked, signals caught, its deadline counting from now;
    and its recipe, with train.precision resolved.

    Raises FlukeError as `choose_folder` and `choose_precision` do, and when the folder can't be written or another process writes
    to it.
    """
    t = recipe.train
    deadline = time.monotonic() + 60 * t.max_minutes if t.max_minutes else None
    keep_memory()
    processes = start_processes()
    folder = broadcast_from_main(processes, lambda: choose_folder(arguments, recipe, kfold))
    recipe = broadcast_from_main(processes, lambda: keep_begun_values(recipe, folder))
    precision, note = broadcast_from_main(processes, lambda: choose_precision(t.precision, processes.device, _begun_in(folder)))
    accelerator = make_accelerator(precision, Path("runs"), t.log_with)
    with StopSignal(accelerator, arguments.stop_at) as stop, lock_run(accelerator, folder, stop, deadline) as run:
        if note:
            run.log(note)
        yield replace(run, is_hopeless=arguments.is_hopeless), replace(recipe, train=replace(recipe.train, precision=precision))


def _begun_in(folder: RunFolder) -> str | None:
    """Return the precision that a run's recipe names, None for a new run and for one whose recipe doesn't name it."""
    return command_line.read_tree(str(folder.recipe)).get("train", {}).get("precision") if folder.recipe.exists() else None


@contextmanager
def lock_run(
    accelerator: Accelerator,
    folder: RunFolder,
    stop: StopSignal,
    deadline: float | None,
    kfold: RunFolder | None = None,
    folds_to_come: int = 0,
) -> Iterator[Run]:
    """Yield the run of a folder, which the main process locks; `kfold` is the k-fold run that it is a fold of, `folds_to_come` are
    trained after it.

    Raises FlukeError as `lock_folder` does, and when a process on another machine doesn't see the folder.
    """
    accelerator.project_configuration.project_dir = accelerator.project_configuration.logging_dir = str(folder)
    with ExitStack() as stack:
        run_on_main(accelerator, lambda: stack.enter_context(lock_folder(folder.path)))
        if not is_true_everywhere(accelerator, folder.path.is_dir()):
            raise FlukeError(f"--out {folder}: not all processes see this folder; name one on a disk that all machines share.")
        yield Run(accelerator, folder, make_log(accelerator, folder), stop, deadline, kfold, folds_to_come)


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
    """Look into a run's folder, on the main process, and return the plan to all processes."""
    return broadcast_from_main(run.accelerator, lambda: _look(run, recipe))


def _look(run: Run, recipe: Recipe) -> Plan:
    if run.folder.metrics.exists():
        begun = load_recipe(run.folder.recipe)
        if begun is not None and begun.train.epochs != recipe.train.epochs:
            raise FlukeError(
                f"{run.folder}: finished with train.epochs {begun.train.epochs}, and can't be resumed for {recipe.train.epochs}; "
                f"start another run, which may begin with --model.weights {run.folder.weights}."
            )
        return Plan("done", result=run.folder.read_metrics(), notes=(f"{run.folder}: finished already",))
    state, skipped = checkpoint.find_checkpoint(run.folder.checkpoints)
    if state is None:
        return Plan("start", notes=tuple(skipped))
    before = checkpoint.read_state(state)
    notes = []
    then = {"processes": before["world"], **before, "precision": PRECISION_NAMES.get(before.get("precision", ""), "fp32")}
    for name, now in {"processes": run.accelerator.num_processes, **describe_numerics(run.accelerator)}.items():
        if (was := then.get(name, now)) != now:
            notes.append(f"note: {name} {now} now, {was} before: the numbers will differ a little")
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
    write_json(run.folder.environment, describe_environment(run.accelerator) | describe_origin(recipe.model))


def describe_environment(accelerator: Accelerator) -> dict[str, Any]:
    """Return what the run runs on: command line, versions, git commit, processes, threads, device."""
    return {
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%d %H:%M:%S%z"),
        "git": _find_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {name: found for name in LIBRARIES if (found := _find_version(name)) is not None},
        "processes": accelerator.num_processes,
        **describe_numerics(accelerator),
        "device": str(accelerator.device),
    }


def _find_commit() -> str | None:
    """Return the commit of this program; None where it isn't a clone, or without git."""
    try:
        git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:
        return None
    return git.stdout.strip() or None


def _find_version(library: str) -> str | None:
    """Return the version of an installed library, None for one of another name or source (faiss-gpu, conda's faiss)."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None
