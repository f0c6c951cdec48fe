"""The processes, precision and trackers of a run, through Accelerate."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin

from lib.config.recipe import Precision, Train
from lib.errors import FlukeError, one_line
from lib.training.distributed import start_processes


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


PRECISIONS: dict[str, str] = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
"""Values of train.precision, without auto, and Accelerate's names for them."""
PRECISION_NAMES = {mode: name for name, mode in PRECISIONS.items()}


def choose_precision(wanted: str, device: torch.device, before: str | None = None) -> tuple[Precision, str]:
    """Return the precision to compute in, a key of PRECISIONS, and a sentence on it, "" where the recipe names it.

    `wanted` is train.precision. auto is the one of the resumed run, `before`, where the device has it, else the best of the device.
    ACCELERATE_MIXED_PRECISION wins unless it is "no", which `accelerate launch` sets without being asked. Raises FlukeError for a
    precision that the device lacks.
    """
    source, name = "train.precision", wanted
    given = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if given != "no":
        source, name = "mixed_precision of accelerate", given
    elif wanted == "auto" and before in PRECISIONS and _has_precision(device, before):
        return cast(Precision, before), ""
    elif wanted == "auto":
        best: Precision = "fp32" if device.type != "cuda" else "bf16" if _has_precision(device, "bf16") else "fp16"
        return best, f"precision: {best}, chosen for this device ({device.type}); train.precision sets another"
    if name not in PRECISIONS or not _has_precision(device, name):
        known = ", ".join(each for each in PRECISIONS if _has_precision(device, each))
        raise FlukeError(f"{source} {name}: not possible on this device ({device.type}); choose one of {known}.")
    return cast(Precision, name), f"precision: {name}, as {source} says, not train.precision {wanted}" if given != "no" else ""


def _has_precision(device: torch.device, name: str) -> bool:
    if device.type == "cuda":  # an emulated bf16 (before Ampere) is slower than float32
        return name != "bf16" or torch.cuda.is_bf16_supported(including_emulation=False)
    return name == "fp32" or (name == "bf16" and device.type == "cpu")


def make_accelerator(precision: str, folder: Path, log_with: Sequence[str] = ()) -> Accelerator:
    """Return an Accelerator that computes in `precision`, a key of PRECISIONS, with trackers that write below `folder`.

    Raises FlukeError for a tracker that isn't known or installed.
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    available = [str(name) for name in get_available_trackers()]
    for name in log_with:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise FlukeError(f"train.log_with {name}: Accelerate knows {', '.join(map(str, LOGGER_TYPE_TO_CLASS))}.")
        if name not in available:
            raise FlukeError(f'train.log_with {name}: not installed; pip install -e ".[tracking]", or take it off the list.')
    start_processes()
    mode = PRECISIONS[precision]
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != mode:
        AcceleratorState._reset_state()  # a run before this one in the same Python process had another precision
    torch.set_float32_matmul_precision("high")  # TF32 for what autocast leaves in float32
    torch.backends.cudnn.benchmark = True  # batches have one size, so that the fastest algorithm is looked for once
    # A plugin, because Accelerate would divide the loss by ACCELERATE_GRADIENT_ACCUMULATION_STEPS as well as the loop does.
    once = GradientAccumulationPlugin(num_steps=1)
    trackers = list(log_with) or None
    return Accelerator(mixed_precision=mode, log_with=trackers, project_dir=folder, gradient_accumulation_plugin=once)


def make_inference_accelerator(trained_in: str, folder: Path) -> Accelerator:
    """Return an Accelerator in the train.precision of the run that predicts, or in the device's best where it lacks that one."""
    precision, note = choose_precision("auto", start_processes().device, before=trained_in)
    accelerator = make_accelerator(precision, folder)
    if note:
        accelerator.print(note)
    return accelerator


def describe_numerics(accelerator: Accelerator) -> dict[str, Any]:
    """Return what the last bits of a run's numbers depend on besides its recipe and the number of processes."""
    precision = PRECISION_NAMES[accelerator.mixed_precision]
    return {"threads": torch.get_num_threads(), "precision": precision, "device": accelerator.device.type}


@contextmanager
def explain_step_errors(t: Train, num_processes: int) -> Iterator[None]:
    """Turn what a step may raise into one sentence: no GPU memory left, too few images for BatchNorm, a failed compilation."""
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        smaller = max(t.images_per_batch // 2 // num_processes, 1) * num_processes
        cure = f"try --train.batch_size {smaller} --train.accumulate {t.accumulate * 2}, which trains much alike"
        if smaller == t.images_per_batch:
            cure = "one image is too large: lower data.size, or take a smaller model"
        raise FlukeError(
            f"Out of GPU memory with train.batch_size {t.images_per_batch} on {num_processes} process{'es' * (num_processes > 1)}; "
            f"{cure}."
        ) from None
    except Exception as error:
        if t.compile and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise FlukeError(
                f"train.compile: torch.compile fails here ({one_line(error)}); install what it asks for, such as a C++ compiler, "
                "or set train.compile to false."
            ) from None
        if not isinstance(error, ValueError) or "more than 1 value per channel" not in str(error):
            raise
        raise FlukeError(
            f"train.batch_size {t.images_per_batch} leaves each of {num_processes} processes one image per batch, of which "
            f"BatchNorm can't compute statistics; set at least {2 * num_processes}."
        ) from None
