"""What the functions of one run pass around: where it runs, where it writes, when it has to stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

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

    def check_signal(self, doing: str) -> None:
        """Raise Interrupted when a signal came to this process while it was `doing` what has no state to save."""
        if self.stop.signal is not None:
            raise Interrupted(f"Stopped by a signal while {doing}; {self.resume_command}")

    @property
    def resume_command(self) -> str:
        """What a message says about going on."""
        return f"go on with: --out {self.kfold or self.folder} --resume"


class TimeBudget:
    """Whether training has to end now, so that a validation and the predictions still fit before the run's deadline.

    The seconds per image are measured: first from the steps of the first epoch, as a rough estimate, then from each validation.
    """

    MARGIN = 1.3
    SECONDS = 5.0
    """Kept for writing files."""

    def __init__(self, deadline: float | None, images_to_predict: int):
        self.deadline, self.images_to_predict = deadline, images_to_predict
        self.seconds_per_image = 0.0
        self.validated = False

    def measure_steps(self, seconds: float, images: int) -> None:
        """Take a training step's time per image as an estimate, until a validation has been measured.

        A step has a backward pass; a validation may have flips and a larger image size.
        """
        if not self.validated:
            self.seconds_per_image = seconds / images

    def measure_validation(self, seconds: float, images: int) -> None:
        """Take a validation's time per image."""
        self.seconds_per_image, self.validated = seconds / images, True

    def is_spent(self) -> bool:
        """Return whether what remains to be predicted would end after the deadline."""
        needed = self.MARGIN * self.seconds_per_image * self.images_to_predict + self.SECONDS
        return self.deadline is not None and time.monotonic() + needed > self.deadline
