"""`train.batch_size: auto`: as many images per batch as the GPU's memory holds, with the same images per optimizer step."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from accelerate import Accelerator
from timm.utils import ModelEmaV3
from torch import nn

from lib.config.recipe import AUTO_BATCH, Recipe
from lib.errors import FlukeError
from lib.models.network import Network
from lib.training.distributed import is_true_everywhere
from lib.training.inference import to_device
from lib.training.optimizer import make_optimizer
from lib.training.preparation import checkpoint_gradients
from lib.training.run import Run

SPARE = 0.1
"""Share of the GPU's memory that stays free, for fragmentation and for validation."""


def choose_batch_size(recipe: Recipe, run: Run, make: Callable[[Recipe], tuple[Network, np.ndarray]]) -> Recipe:
    """Return the recipe with train.batch_size and train.accumulate as numbers; logs what `auto` became.

    `make` returns a new network of a recipe and the targets of the training rows. Steps of random images are tried on the GPU with
    ever larger batches. The product of the two fields stays AUTO_BATCH * train.accumulate. On a CPU, which pages instead of
    failing, a batch has AUTO_BATCH images. Raises FlukeError when the processes can't share the batches, and when the smallest one
    doesn't fit.
    """
    t, accelerator = recipe.train, run.accelerator
    if t.batch_size != "auto":
        return recipe
    per_step, num_processes = AUTO_BATCH * t.accumulate, accelerator.num_processes
    sizes = list_batch_sizes(per_step, num_processes)
    if not sizes:
        raise FlukeError(
            f"train.batch_size auto: no power of two that divides the {per_step} images of an optimizer step ({AUTO_BATCH} x "
            f"train.accumulate) can be shared by {num_processes} processes; set train.batch_size to a number."
        )
    began, on_gpu = time.monotonic(), accelerator.device.type == "cuda"
    if on_gpu:
        network, targets = make(replace(recipe, train=replace(t, batch_size=sizes[0])))
        chosen = largest_that_fits(sizes, lambda size: _fits(recipe, accelerator, network, targets, size // num_processes))
        del network
        gc.collect()
        torch.cuda.empty_cache()
        if chosen is None:
            raise FlukeError(
                f"Out of GPU memory with {sizes[0]} images on {num_processes} process{'es' * (num_processes > 1)}; lower "
                "data.size, take a smaller model, or set train.grad_checkpointing to true."
            )
    else:
        chosen = AUTO_BATCH if AUTO_BATCH in sizes else sizes[-1]
    why = f"found on the GPU in {time.monotonic() - began:.1f} s" if on_gpu else "no GPU"
    run.log(
        f"train.batch_size auto: {chosen}, train.accumulate {per_step // chosen} ({why}): {per_step} images per optimizer step. "
        f"A larger train.accumulate in the recipe makes it a larger multiple of {AUTO_BATCH}."
    )
    return replace(recipe, train=replace(t, batch_size=chosen, accumulate=per_step // chosen))


def list_batch_sizes(per_step: int, num_processes: int) -> list[int]:
    """Return the powers of two, ascending, that divide `per_step` and give each process the same number of images, at least two."""
    powers = [2**k for k in range(1, per_step.bit_length())]
    return [size for size in powers if per_step % size == 0 and size % num_processes == 0 and size >= 2 * num_processes]


def largest_that_fits(sizes: Sequence[int], fits: Callable[[int], bool]) -> int | None:
    """Return the last of the ascending `sizes` before the first one that doesn't fit, None if none fits."""
    chosen = None
    for size in sizes:
        if not fits(size):
            break
        chosen = size
    return chosen


def _fits(recipe: Recipe, accelerator: Accelerator, network: Network, targets: np.ndarray, share: int) -> bool:
    """Return whether two steps of `share` images leave SPARE of each process's GPU free."""
    device = accelerator.device
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    room = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    try:
        _take_steps(recipe, accelerator, network, targets, share)
        fits = torch.cuda.max_memory_reserved(device) <= (1 - SPARE) * room
    except torch.cuda.OutOfMemoryError:
        fits = False
    network.zero_grad(set_to_none=True)
    return is_true_everywhere(accelerator, fits)


def _take_steps(recipe: Recipe, accelerator: Accelerator, network: Network, targets: np.ndarray, share: int) -> None:
    """Take two optimizer steps, of which the first allocates the moments, of this process alone and without compilation."""
    t, d = recipe.train, recipe.data
    network.to(accelerator.device).to(memory_format=torch.channels_last)
    network.freeze(tuple(recipe.optim.freeze))
    if t.grad_checkpointing:
        checkpoint_gradients(network)
    average = ModelEmaV3(network, decay=t.ema) if t.ema else None
    assert network.objective is not None
    optimizer = make_optimizer(recipe.optim, network.backbone, nn.ModuleList([network.pool, network.head, network.objective]))
    images = torch.randint(0, 256, (share, network.channels, d.size, d.size), dtype=torch.uint8)
    some = torch.from_numpy(np.resize(targets, (share, *targets.shape[1:]))).to(accelerator.device)
    network.train()
    for _ in range(2):
        with accelerator.autocast():
            loss = network(to_device(images, accelerator.device), some)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    if average is not None:
        average.update(network)
    torch.cuda.synchronize()
