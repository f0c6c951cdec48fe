"""Inference: outputs for all images in order, gathered from all processes, with flips, of several networks in one pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from tqdm import tqdm

from lib.config.recipe import Recipe
from lib.errors import FlukeError
from lib.images.dataset import Images, make_eval_loader
from lib.images.loader import ImageLoader
from lib.process import progress_bar_options

FLIPS = {"hflip": (3,), "vflip": (2,), "hvflip": (2, 3)}
"""Axes of a batch (B, 3, H, W) that a flip of predict.tta reverses."""
MIRROR = "mirror"
"""The entry of predict.tta whose outputs are concatenated instead of averaged."""


@dataclass(frozen=True)
class InferenceOptions:
    """How images are fed to a network."""

    batch_size: int
    """Images per batch and process."""
    workers: int | None
    flips: tuple[str, ...] = ()
    """predict.tta of the recipe."""

    @staticmethod
    def from_recipe(recipe: Recipe, num_processes: int) -> InferenceOptions:
        """Return the recipe's options: predict.batch_size, or 64, or a process's share of train.batch_size if that is larger."""
        batch_size = recipe.predict.batch_size or max(64, recipe.train.images_per_batch // num_processes)
        return InferenceOptions(batch_size, recipe.data.workers, tuple(recipe.predict.tta))

    def make_loader(self, images: Images, accelerator: Accelerator, passes: int = 1) -> ImageLoader:
        """Return a loader of this process's share of the images; its workers go on from one of its `passes` to the next."""
        rank, num_processes = accelerator.process_index, accelerator.num_processes
        return make_eval_loader(images, self.batch_size, self.workers, rank, num_processes, passes)


def to_device(batch: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a batch on the device: images (B, 3, H, W) in channels_last, features (B, D) as they are."""
    layout = torch.channels_last if batch.ndim == 4 else torch.contiguous_format
    return batch.to(device, non_blocking=True).contiguous(memory_format=layout)


def predict(
    networks: Sequence[nn.Module],
    images: Images,
    accelerator: Accelerator,
    options: InferenceOptions,
    check: Callable[[], None] = lambda: None,
    title: str = "predict",
) -> list[np.ndarray]:
    """Return what `predict_batches` does, with a loader for this pass alone."""
    return predict_batches(networks, options.make_loader(images, accelerator), accelerator, options.flips, check, title)


@torch.inference_mode()
def predict_batches(
    networks: Sequence[nn.Module],
    loader: ImageLoader,
    accelerator: Accelerator,
    flips: Sequence[str],
    check: Callable[[], None] = lambda: None,
    title: str = "predict",
) -> list[np.ndarray]:
    """Return the outputs (n, C or D) float32 of each network for all n images in order, the same on every process.

    `loader` is one of `InferenceOptions.make_loader`. An image is decoded once for all networks, which take images of one size.
    Outputs of the upright and the flipped images are averaged; with mirror among `flips`, those of the mirrored image are
    concatenated, (n, 2 * D). `check` is called once per batch and may raise. Raises FlukeError when the GPU's memory is too small,
    AssertionError if a row is missing.
    """
    n, device = len(loader.dataset), accelerator.device  # type: ignore[arg-type]
    was_training = [network.training for network in networks]
    for network in networks:
        network.eval()
    outputs: list[np.ndarray] = []
    seen = np.zeros(n, bool)
    for batch, _, positions in tqdm(loader, desc=title, **progress_bar_options()):
        check()
        if accelerator.num_processes > 1:
            positions = accelerator.gather(positions.to(device)).cpu()
        # Ranks have equal numbers of batches, so a row may come twice: the first one counts.
        rows, first = np.unique(positions.numpy(), return_index=True)
        fresh = ~seen[rows]
        x = to_device(batch, device)
        for m, network in enumerate(networks):
            try:
                with accelerator.autocast():
                    output = _with_flips(network, x, flips)
            except torch.cuda.OutOfMemoryError:
                raise FlukeError(f"{title}: out of GPU memory with {len(x)} images at once; lower predict.batch_size.") from None
            output = accelerator.gather(output).cpu().numpy()
            if m == len(outputs):
                outputs.append(np.zeros((n, output.shape[1]), np.float32))
            outputs[m][rows[fresh]] = output[first[fresh]]
        seen[rows] = True
    assert seen.all(), f"{(~seen).sum()} of {n} rows were not predicted"
    for network, training in zip(networks, was_training):
        network.train(training)
    return outputs


def _with_flips(network: nn.Module, x: torch.Tensor, flips: Sequence[str]) -> torch.Tensor:
    """Return the outputs (B, C or D, or 2 * D with mirror) float32 for a batch and its flips."""
    averaged = [FLIPS[flip] for flip in flips if flip != MIRROR]

    def outputs_of(x: torch.Tensor) -> torch.Tensor:
        outputs = [network(flipped)["output"] for flipped in (x, *(x.flip(axes) for axes in averaged))]
        return torch.stack(outputs).float().mean(0) if averaged else outputs[0].float()

    if MIRROR not in flips:
        return outputs_of(x)
    return torch.cat([outputs_of(x), outputs_of(x.flip(FLIPS["hflip"]))], 1) / math.sqrt(2)
