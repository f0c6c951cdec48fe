"""What several processes agree on: errors, stops, BatchNorm's statistics. With one process none of it costs anything."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar, cast

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, broadcast_object_list
from torch import nn

from lib.errors import FlukeError, Interrupted

T = TypeVar("T")
SIGNALLED = 99
SECOND_SIGNAL_SECONDS = 5.0


def run_on_main(accelerator: Accelerator, action: Callable[[], T]) -> T | None:
    """Run `action` on the main process while the others wait; return its value there and None elsewhere.

    Its FlukeError is raised on all processes, so that none waits forever.
    """
    value, fault = None, None
    if accelerator.is_main_process:
        try:
            value = action()
        except FlukeError as error:
            fault = str(error)
    if accelerator.num_processes > 1:
        fault = broadcast_object_list([fault])[0]
    if fault is not None:
        raise FlukeError(fault)
    return value


def broadcast_from_main(accelerator: Accelerator, action: Callable[[], T]) -> T:
    """Run `action` on the main process and return its value on all: no process can decide otherwise because of a last bit."""
    value = run_on_main(accelerator, action)
    if accelerator.num_processes > 1:
        value = broadcast_object_list([value])[0]
    return cast(T, value)


def broadcast_buffers(module: nn.Module, accelerator: Accelerator) -> None:
    """Copy rank 0's buffers to every process: each has BatchNorm statistics of its own share of the images."""
    if accelerator.num_processes > 1:
        for buffer in module.buffers():
            buffer.copy_(broadcast(buffer))


class StopSignal:
    """Catch SIGTERM and SIGINT while used as a context, and tell all processes when one has come.

    A second signal ends the process, if it comes SECOND_SIGNAL_SECONDS later or more: a launcher repeats at once what the whole
    group got.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.signal: int | None = None
        self.since = 0.0
        self.before: dict[int, Any] = {}
        self.calls = 0

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGTERM, signal.SIGINT):
            self.before[number] = signal.signal(number, self._caught)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _caught(self, number: int, _: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self.since = number, time.monotonic()
        elif time.monotonic() - self.since > SECOND_SIGNAL_SECONDS:
            signal.signal(number, self.before[number])
            os.kill(os.getpid(), number)

    def agree(self, request: Callable[[], int] = lambda: 0, always: bool = False) -> int:
        """Return the largest `request()` of all processes, or SIGNALLED when a signal came to any of them.

        On a GPU only every tenth call asks (0 otherwise), and calls with `always`, because asking waits for the device and for the
        other processes.
        """
        self.calls += 1
        if not always and self.calls % 10 and self.accelerator.device.type == "cuda":
            return 0
        mine = SIGNALLED if self.signal is not None else request()
        if self.accelerator.num_processes == 1:
            return mine
        value = torch.tensor([mine], device=self.accelerator.device)
        return int(self.accelerator.gather(value).max())

    def check(self) -> None:
        """Raise Interrupted on all processes when a signal came to any of them."""
        if self.agree() == SIGNALLED:
            raise Interrupted("stopped by a signal")
