"""What a run runs on: Accelerate's devices, precision and trackers."""

from __future__ import annotations

import ctypes
import os
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, InitProcessGroupKwargs

from lib.config.recipe import Train
from lib.errors import FlukeError


def keep_memory() -> None:
    """Have glibc keep freed memory: by default it hands each big activation back to the kernel, and up to half the time of a CPU
    training step goes into page faults. Elsewhere than on glibc nothing happens."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 2**30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
    except (OSError, AttributeError):
        pass


def make_accelerator(t: Train, run: Path) -> Accelerator:
    """Accelerate's devices, precision and trackers; raises FlukeError for a tracker that isn't known or installed."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    available = [str(name) for name in get_available_trackers()]
    for name in t.log_with:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise FlukeError(f"train.log_with {name}: Accelerate knows {', '.join(map(str, LOGGER_TYPE_TO_CLASS))}.")
        if name not in available:
            raise FlukeError(f"train.log_with {name}: not installed; pip install {name}, or take it off the list.")
    # The launcher doesn't hand on its use_cpu, without which each of several processes on a CPU would take itself for the only one.
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    # PyTorch gives up on processes that wait for ten minutes (NCCL): checking a million images on the main one takes longer.
    patient = InitProcessGroupKwargs(timeout=timedelta(hours=6))
    cpu = several and not torch.accelerator.is_available()
    return Accelerator(cpu=cpu, log_with=t.log_with or None, project_dir=run, kwargs_handlers=[patient])
