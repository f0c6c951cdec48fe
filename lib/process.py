"""A script as a process: its exit code, and what is said when it ends."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

from lib.errors import FlukeError, Interrupted

INTERRUPTED = 75  # exit code (EX_TEMPFAIL): state is saved, `--resume` goes on


def is_main_process() -> bool:
    """Whether this is rank 0, also before torch.distributed exists (launchers set RANK)."""
    return int(os.environ.get("RANK", "0")) == 0


def run_script(main: Callable[[list[str] | None], Any]) -> NoReturn:
    """Call a script's `main` and exit: 0, 2 with one sentence for a FlukeError, 75 for an Interrupted run, 130 for Ctrl-C."""
    code, sentence = 0, ""
    try:
        main(None)
        _destroy_process_group()
    except FlukeError as error:
        code, sentence = 2, f"error: {error}"
        if not is_main_process():
            # Mostly all processes fail alike: rank 0 speaks and ends, and the launcher ends the others. If not, it's ours alone.
            time.sleep(15)
            print(sentence, file=sys.stderr, flush=True)
    except Interrupted as stop:
        code, sentence = INTERRUPTED, str(stop)
        _destroy_process_group()
    except KeyboardInterrupt:
        code, sentence = 130, "interrupted"
    if sentence and is_main_process():
        print(sentence, file=sys.stderr, flush=True)
    sys.stdout.flush()
    sys.exit(code)


def _destroy_process_group() -> None:
    """End what processes talk by, if they do: left to the interpreter's end, its threads now and then abort a job that is done."""
    distributed = sys.modules.get("torch.distributed")  # torch isn't imported for this
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
