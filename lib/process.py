"""Run a script as a process: its exit code, its last lines for people, and one line of JSON for programs.

A pipeline says with `announce` what it has written and which command comes next; `run_script` turns that, and what `main` returns,
into the line of --json. docs/programs.md describes it, docs/result.schema.json is its schema.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from lib.errors import FlukeError, Interrupted

INTERRUPTED = 75
"""Exit code of a stopped run whose state is saved (EX_TEMPFAIL): `--resume` continues it."""
EXIT_CODES = {
    0: "finished",
    1: "a fault of the program, with a traceback; or any other code, seen through accelerate launch",
    2: "bad input: one sentence on stderr says what is wrong and what to do",
    INTERRUPTED: "stopped by a signal, state saved: --resume goes on",
    130: "Ctrl-C",
}
RESULT_VERSION = 1
"""Version of the line of --json."""


@dataclass(frozen=True)
class Announcement:
    """What a script has written, and the command that comes next; None: none."""

    files: tuple[str, ...] = ()
    command: str | None = None


_announced = Announcement()  # of the script that runs in this process; several main() calls replace one another's
_within = False  # another pipeline's steps, whose announcements are not the script's last lines


def is_main_process() -> bool:
    """Return whether this is rank 0, also before torch.distributed is initialized (launchers set RANK)."""
    return int(os.environ.get("RANK", "0")) == 0


def progress_bar_options() -> dict[str, Any]:
    """Return tqdm's arguments: shown on the main process only, removed when done, rarely updated where the output is a file."""
    return {"disable": not is_main_process(), "leave": False, "mininterval": 0.5 if sys.stderr.isatty() else 30}


def announce(files: Iterable[str | os.PathLike[str]], command: str | None = None) -> None:
    """Print a script's last lines, on the main process: the files and folders that it wrote, and the next command."""
    global _announced
    if _within:
        return
    _announced = Announcement(tuple(os.fspath(file) for file in files), command)
    if not is_main_process():
        return
    by_folder: dict[str, list[str]] = {}
    for file in _announced.files:
        by_folder.setdefault(str(Path(file).parent), []).append(Path(file).name)
    for folder, names in by_folder.items():
        print(f"written: {folder}: {', '.join(names)}")
    if command is not None:
        print(f"next: {command}", flush=True)


@contextlib.contextmanager
def as_a_step() -> Iterator[None]:
    """Within it `announce` does nothing: for a pipeline that calls others, whose files are not its result."""
    global _within
    before, _within = _within, True
    try:
        yield
    finally:
        _within = before


def run_script(main: Callable[[list[str] | None], Any]) -> NoReturn:
    """Call a script's `main` and exit with a key of EXIT_CODES; with --json, the last line of stdout is the result."""
    global _announced
    _announced = Announcement()
    code, message, result = 0, "", None
    try:
        result = main(None)
        _destroy_process_group()
    except FlukeError as error:
        code, message = 2, f"error: {error}"
        if not is_main_process():
            # Usually all processes fail alike: rank 0 prints and exits, and the launcher ends the others within these 15 seconds.
            # If it does not, the fault is this process's own.
            time.sleep(15)
            print(message, file=sys.stderr, flush=True)
    except Interrupted as interruption:
        code, message = INTERRUPTED, str(interruption)
        again = sys.argv if interruption.options[0] in sys.argv else [*sys.argv, *interruption.options]
        _announced = Announcement((), f"accelerate launch {shlex.join(again)}")
        _destroy_process_group()
    except KeyboardInterrupt:
        code, message = 130, "interrupted"
    except Exception as error:
        _print_json(1, f"{type(error).__name__}: {error}", None)
        raise
    if message and is_main_process():
        print(message, file=sys.stderr, flush=True)
    _print_json(code, message.removeprefix("error: "), result)
    sys.stdout.flush()
    sys.exit(code)


def _print_json(code: int, message: str, result: Any) -> None:
    """Print the line of --json, if it is asked for, on the main process."""
    if "--json" in sys.argv[1:] and is_main_process():
        print(json.dumps(describe_result(Path(sys.argv[0]).stem, code, message, result, _announced), allow_nan=False), flush=True)


def describe_result(script: str, code: int, message: str, result: Any, announced: Announcement) -> dict[str, Any]:
    """Return what the line of --json holds; `result` is what the script's `main` returned.

    Numbers that are NaN or infinite become null, because JSON has none.
    """
    values = result if isinstance(result, dict) else {}
    of_all_rows = values.get("pooled_metrics")  # of a k-fold run
    metrics = {name: number for name, value in (of_all_rows or values).items() if (number := _number(value)) is not None}
    name = values.get("pooled_metric", values.get("metric"))
    headline = values.get("pooled", values.get("estimate", metrics.get(name) if isinstance(name, str) else None))
    interval = values.get("interval")
    return {
        "version": RESULT_VERSION,
        "script": script,
        "exit_code": code,
        "error": message or None,
        "metric": name if isinstance(name, str) else None,
        "value": _finite(headline),
        "interval": [_finite(bound) for bound in interval] if interval is not None else None,
        "metrics": {key: _finite(number) for key, number in metrics.items()},
        "files": list(announced.files),
        "next": announced.command,
    }


def _number(value: Any) -> float | None:
    """Return a number (not a bool, NumPy's too) as an int or float, None for anything else."""
    value = value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _finite(value: Any) -> float | None:
    number = _number(value)
    return number if number is not None and math.isfinite(number) else None


def _destroy_process_group() -> None:
    """Destroy torch's process group, if any: left to the interpreter's exit, its threads sometimes abort a finished job."""
    distributed = sys.modules.get("torch.distributed")  # torch is not imported for this
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
