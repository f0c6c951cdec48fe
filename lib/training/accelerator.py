"""The devices, precision and trackers of a run, through Accelerate."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

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


def describe_numerics(accelerator: Accelerator) -> dict[str, Any]:
    """Return what the last bits of a run's numbers depend on besides its recipe and the number of processes."""
    return {"threads": torch.get_num_threads(), "precision": accelerator.mixed_precision, "device": accelerator.device.type}


@contextmanager
def explain_step_errors(t: Train, num_processes: int) -> Iterator[None]:
    """Turn what a step of this size may raise into one sentence: no GPU memory left, or too few images for BatchNorm."""
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        smaller = max(t.batch_size // 2 // num_processes, 1) * num_processes
        cure = f"try --train.batch_size {smaller} --train.accumulate {t.accumulate * 2}, which trains much alike"
        if smaller == t.batch_size:
            cure = "one image is too large: lower data.size, or take a smaller model"
        raise FlukeError(
            f"Out of GPU memory with train.batch_size {t.batch_size} on {num_processes} process{'es' * (num_processes > 1)}; "
            f"{cure}."
        ) from None
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise FlukeError(
            f"train.batch_size {t.batch_size} leaves each of {num_processes} processes one image per batch, of which BatchNorm "
            f"can't compute statistics; set at least {2 * num_processes}."
        ) from None
