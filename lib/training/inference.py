"""Inference: complete, in order, gathered from all processes; flips; several models in one pass over the images."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from tqdm import tqdm

from lib.errors import FlukeError
from lib.images.dataset import ImageDataset, make_eval_loader
from lib.models.network import Network

FLIPS = {"hflip": (3,), "vflip": (2,), "hvflip": (2, 3)}


def progress_bar_options(accelerator: Accelerator) -> dict[str, Any]:
    """tqdm's arguments: on the main process only, gone when done, and seldom where nobody watches (a file, a notebook's log)."""
    return {"disable": not accelerator.is_main_process, "leave": False, "mininterval": 0.5 if sys.stderr.isatty() else 30}


@torch.inference_mode()
def predict(
    networks: Sequence[Network],
    images: ImageDataset,
    accelerator: Accelerator,
    batch_size: int,
    workers: int,
    flips: Sequence[str] = (),
    check: Callable[[], None] = lambda: None,
    title: str = "predict",
) -> list[np.ndarray]:
    """Outputs (n, C or D) float32 of each network for all n images, in their order, the same on every process.

    An image is decoded once for all networks, which take images of one size. With `flips`, a network's outputs for the upright and
    the flipped images are averaged; with mirror among them, those of the mirrored image stand beside them, (n, 2 * D). `check` is
    called once a batch and may raise. Raises FlukeError when a GPU's memory doesn't suffice, AssertionError if a row is missing,
    which would be a fault of ours.
    """
    n, device = len(images), accelerator.device
    same = [FLIPS[flip] for flip in flips if flip != "mirror"]

    def averaged(network: Network, x: torch.Tensor) -> torch.Tensor:
        outputs = [network(seen)["output"] for seen in (x, *(x.flip(axes) for axes in same))]
        return torch.stack(outputs).float().mean(0) if same else outputs[0].float()

    loader = make_eval_loader(images, batch_size, workers, accelerator.process_index, accelerator.num_processes)
    was_training = [network.training for network in networks]
    for network in networks:
        network.eval()
    outputs: list[np.ndarray] = []
    seen = np.zeros(n, bool)
    for batch, _, positions in tqdm(loader, desc=title, **progress_bar_options(accelerator)):
        check()
        rows, first = np.unique(accelerator.gather(positions.to(device)).cpu().numpy(), return_index=True)
        fresh = ~seen[rows]
        x = batch.to(device, non_blocking=True, memory_format=torch.channels_last)
        for m, network in enumerate(networks):
            try:
                with accelerator.autocast():
                    output = averaged(network, x)
                    if "mirror" in flips:
                        output = torch.cat([output, averaged(network, x.flip(FLIPS["hflip"]))], 1) / math.sqrt(2)
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
