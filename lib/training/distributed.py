"""What several processes agree on: errors, stops, BatchNorm's statistics. With one process none of it costs anything.

Processes wait for each other in two groups. Device collectives (gradients, gathered outputs) end the job when one takes more than
DEVICE_TIMEOUT, because then a process has failed. What the main process does alone, such as checking a million images, others await
in a group on the CPU, for HOST_TIMEOUT; asking there does not wait for the device.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from types import FrameType
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast, gather
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lib.errors import FlukeError, Interrupted

T = TypeVar("T")
DEVICE_TIMEOUT = timedelta(minutes=10)
HOST_TIMEOUT = timedelta(hours=6)
SIGNALLED = 99
SECOND_SIGNAL_SECONDS = 5.0


def start_processes() -> PartialState:
    """Return what Accelerate knows of the processes: their number, this one's rank and device. Starts the process groups."""
    # The launcher doesn't pass its use_cpu on; without it, each of several processes on a CPU would be a group of one.
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    processes = PartialState(cpu=several and not torch.accelerator.is_available(), timeout=DEVICE_TIMEOUT)
    if processes.num_processes > 1:
        _host_group()
    return processes


@cache
def _host_group() -> dist.ProcessGroup:
    """Return the group on the CPU, which all processes make together."""
    return cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=HOST_TIMEOUT))


def _broadcast_object(value: T) -> T:
    """Return rank 0's `value` on all processes."""
    values = [value]
    dist.broadcast_object_list(values, src=0, group=_host_group())
    return values[0]


def run_on_main(accelerator: Accelerator | PartialState, action: Callable[[], T]) -> T | None:
    """Run `action` on the main process while the others wait; return its value there and None elsewhere.

    Its FlukeError or Interrupted is raised on all processes, so that none waits forever.
    """
    value, fault = None, None
    if accelerator.is_main_process:
        try:
            value = action()
        except (FlukeError, Interrupted) as error:
            fault = error
    if accelerator.num_processes > 1:
        fault = _broadcast_object(fault)
    if fault is not None:
        raise fault
    return value


def broadcast_from_main(accelerator: Accelerator | PartialState, action: Callable[[], T]) -> T:
    """Run `action` on the main process and return its value on all: no process can decide otherwise because of a last bit."""
    value = run_on_main(accelerator, action)
    if accelerator.num_processes > 1:
        value = _broadcast_object(value)
    return cast(T, value)


def is_true_everywhere(accelerator: Accelerator, value: bool) -> bool:
    """Return on all processes whether `value` is true on each of them."""
    if accelerator.num_processes == 1:
        return value
    found = torch.tensor([value], dtype=torch.int)
    dist.all_reduce(found, dist.ReduceOp.MIN, group=_host_group())
    return bool(found)


def pool_batchnorm(module: nn.Module, accelerator: Accelerator) -> None:
    """Give every process the same buffers.

    Each process's BatchNorm has the running mean and variance of its own images. Those of all images are the mean of the means, and
    the mean of the variances plus the variance of the means. Other buffers become rank 0's.
    """
    if accelerator.num_processes == 1:
        return
    pooled: set[int] = set()
    for layer in module.modules():
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None and layer.running_var is not None:
            means, variances = gather(layer.running_mean[None]), gather(layer.running_var[None])
            layer.running_mean.copy_(means.mean(0))
            layer.running_var.copy_(variances.mean(0) + means.var(0, unbiased=False))
            pooled |= {id(layer.running_mean), id(layer.running_var)}
    for buffer in module.buffers():
        if id(buffer) not in pooled:
            buffer.copy_(broadcast(buffer))


def has_batchnorm(module: nn.Module) -> bool:
    """Return whether a module normalizes by the statistics of its batch."""
    return any(isinstance(layer, _BatchNorm) for layer in module.modules())


class StopSignal:
    """Catch SIGTERM and SIGINT while used as a context, and tell all processes when one has come, or when it is `stop_at`.

    A second signal ends the process, if it comes SECOND_SIGNAL_SECONDS later or more: a launcher repeats at once what the whole
    group got.
    """

    def __init__(self, accelerator: Accelerator, stop_at: float | None = None):
        """`stop_at` is a time.monotonic(), which counts as a signal; None: never."""
        self.accelerator, self.stop_at = accelerator, stop_at
        self.signal: int | None = None
        self.since = 0.0
        self.before: dict[int, Any] = {}

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

    @property
    def has_come(self) -> bool:
        """Whether this process has to stop."""
        return self.signal is not None or (self.stop_at is not None and time.monotonic() > self.stop_at)

    def agree(self, request: Callable[[], int] = lambda: 0) -> int:
        """Return the largest `request()` of all processes, or SIGNALLED when a signal came to any of them.

        Asking doesn't wait for the device.
        """
        mine = SIGNALLED if self.has_come else request()
        if self.accelerator.num_processes == 1:
            return mine
        value = torch.tensor([mine])
        dist.all_reduce(value, dist.ReduceOp.MAX, group=_host_group())
        return int(value)

    def check(self) -> None:
        """Raise Interrupted on all processes when a signal came to any of them."""
        if self.agree() == SIGNALLED:
            raise Interrupted("stopped by a signal")
