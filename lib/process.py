"""Run a script as a process: its exit code, and the message at its end."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

from lib.errors import FlukeError, Interrupted

INTERRUPTED = 75
"""Exit code of a stopped run whose state is saved (EX_TEMPFAIL): `--resume` continues it."""


def is_main_process() -> bool:
    """Return whether this is rank 0, also before torch.distributed is initialized (launchers set RANK)."""
    return int(os.environ.get("RANK", "0")) == 0


def run_script(main: Callable[[list[str] | None], Any]) -> NoReturn:
    """Call a script's `main` and exit: 0, 2 with one sentence for a FlukeError, 75 for an Interrupted run, 130 for Ctrl-C."""
    code, message = 0, ""
    try:
        main(None)
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
        _destroy_process_group()
    except KeyboardInterrupt:
        code, message = 130, "interrupted"
    if message and is_main_process():
        print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    sys.exit(code)


def _destroy_process_group() -> None:
    """Destroy torch's process group, if any: left to the interpreter's exit, its threads sometimes abort a finished job."""
    distributed = sys.modules.get("torch.distributed")  # torch is not imported for this
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
