"""Processes that read images: how many there are, what signals do to them, what their failures mean."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from lib.errors import FlukeError

SIGNALS = {signal.SIGTERM, signal.SIGINT}
WORTH_A_WORKER = 128
"""Images for which forking a process pays."""
WORTH_AN_IMPORT = 1000
"""Images for which starting a process pays that has to import torch first, as on Windows: about 4 s."""
_started: set[BaseProcess] = set()


def count_workers(workers: int | None) -> int:
    """Return data.workers or, for None, the cores of this machine divided among its processes, at least 1."""
    if workers is not None:
        return workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)


def useful_workers(workers: int | None, num_images: int) -> int:
    """Return how many of `count_workers` pay for the time that they take to start, for so many images to read; 0: none."""
    slow = multiprocessing.get_start_method() == "spawn"
    return min(count_workers(workers), num_images // (WORTH_AN_IMPORT if slow else WORTH_A_WORKER))


class ImageLoader(DataLoader[Any]):
    """A DataLoader whose workers ignore SIGTERM and SIGINT, which schedulers and Ctrl-C send to a whole process group.

    The main process handles the signal and needs its workers until its state is saved. It draws no random numbers of the run.
    Iterating raises FlukeError where a worker ends because memory, or shared memory, is full.
    """

    def __init__(self, dataset: Any, workers: int | None, **options: Any):
        options.setdefault("pin_memory", torch.cuda.is_available())
        # Its own generator: a DataLoader draws a seed, which must not advance the run's random numbers.
        generator = torch.Generator()
        super().__init__(
            dataset, num_workers=count_workers(workers), worker_init_fn=_ignore_signals, generator=generator, **options
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        try:
            with _starting_workers():
                batches = super().__iter__()
            yield from batches
        except (RuntimeError, OSError) as error:
            if (sentence := _explain(error, self.num_workers)) is None:
                raise
            raise FlukeError(sentence) from None


@contextmanager
def _starting_workers() -> Iterator[None]:
    """Block SIGTERM and SIGINT, so that a worker inherits the blocked mask and no signal ends it before it ignores them.

    Remembers the workers, which this process ends at its exit. Where they are forked from a server (Python 3.14's default), that
    has the libraries already: otherwise each would import torch.
    """
    if multiprocessing.get_start_method() == "forkserver":
        multiprocessing.set_forkserver_preload(["lib.images.checking", "lib.images.dataset"])
    before = set(multiprocessing.active_children())
    masked = hasattr(signal, "pthread_sigmask")  # not on Windows
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS) if masked else set()
    try:
        yield
    finally:
        if masked:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)
        if not _started:
            atexit.register(_kill_workers)
        _started.update(set(multiprocessing.active_children()) - before)


def _ignore_signals(_: int) -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _kill_workers() -> None:
    """Kill workers that still run at exit, as after an error.

    multiprocessing would send them a SIGTERM, which they ignore, and then wait for ever.
    """
    alive = _started & set(multiprocessing.active_children())
    if alive and hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would report the kill as a fault
    for worker in alive:
        worker.kill()


def _explain(error: Exception, workers: int) -> str | None:
    """Return what a failed worker means, None for another error."""
    text = str(error)
    if "Bus error" in text or ("No space left" in text and "torch_" in text) or "shared memory" in text:
        shared = Path("/dev/shm")
        size = f" ({shutil.disk_usage(shared).total / 1e6:,.0f} MB)" if shared.is_dir() else ""
        return (
            f"data.workers {workers}: the shared memory{size} through which workers hand over images is full; enlarge /dev/shm "
            "(docker run --shm-size 2g), or set data.workers 0."
        )
    if re.search(r"DataLoader worker .*(killed by signal: Killed|exited unexpectedly)", text):
        return f"data.workers {workers}: a worker was killed, most likely because memory is full; set fewer data.workers."
    return None
