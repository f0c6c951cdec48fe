"""The devices, precision and trackers of a run, through Accelerate."""

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
    """Make glibc keep freed memory instead of returning it to the kernel; without glibc nothing happens.

    By default each big activation is returned, and up to half the time of a training step on a CPU goes into page faults.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 2**30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
    except (OSError, AttributeError):
        pass


def make_accelerator(t: Train, folder: Path) -> Accelerator:
    """Return an Accelerator with the trackers of train.log_with, which write below `folder`.

    Raises FlukeError for a tracker that isn't known or installed.
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    available = [str(name) for name in get_available_trackers()]
    for name in t.log_with:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise FlukeError(f"train.log_with {name}: Accelerate knows {', '.join(map(str, LOGGER_TYPE_TO_CLASS))}.")
        if name not in available:
            raise FlukeError(f"train.log_with {name}: not installed; pip install {name}, or take it off the list.")
    # The launcher doesn't pass its use_cpu on; without it, each of several processes on a CPU would be a group of one.
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    # By default a process that waits for ten minutes ends the job (NCCL); checking a million images on the main one takes longer.
    timeout = InitProcessGroupKwargs(timeout=timedelta(hours=6))
    cpu = several and not torch.accelerator.is_available()
    return Accelerator(cpu=cpu, log_with=t.log_with or None, project_dir=folder, kwargs_handlers=[timeout])
