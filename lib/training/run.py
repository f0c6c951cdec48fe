"""What the functions of one run pass around: where it runs, where it writes, when it has to stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator

from lib.errors import Interrupted
from lib.run_folder import RunFolder
from lib.training.distributed import StopSignal


@dataclass(frozen=True)
class Run:
    """One run, or one fold of a k-fold run, on this process."""

    accelerator: Accelerator
    folder: RunFolder
    log: Callable[[str], None]
    """Prints a line and appends it to the run's log, on the main process only."""
    stop: StopSignal
    deadline: float | None = None
    """time.monotonic() by which everything has to be done; None: no limit."""
    kfold: RunFolder | None = None
    """The k-fold run that this one is a fold of."""
    folds_to_come: int = 0
    """Folds that are trained after this one."""
    is_hopeless: Callable[[Sequence[dict[str, Any]]], bool] = lambda history: False
    """Asked on the main process after each epoch but the last, with the history: whether the run ends there (tune.py)."""

    def check_signal(self, doing: str) -> None:
        """Raise Interrupted when a signal came to this process while it was `doing` what has no state to save."""
        if self.stop.has_come:
            raise Interrupted(f"Stopped by a signal while {doing}; {self.resume_command}")

    @property
    def resume_command(self) -> str:
        """What a message says about going on."""
        return f"go on with: --out {self.kfold or self.folder} --resume"
