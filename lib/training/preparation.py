"""What is done to a network before its training, and what is said about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.layers import convert_sync_batchnorm

from lib.config.recipe import Train
from lib.errors import FlukeError, one_line
from lib.metrics.registry import METRICS
from lib.models.network import Network
from lib.training.distributed import has_batchnorm
from lib.training.run import Run

SMALL_SHARE = 16
"""Images per process below which BatchNorm's statistics are so noisy that a model trains worse (Wu and He 2018, figure 1)."""
EPOCHS_TO_LEARN = 3
"""Epochs after which a network that is no better than chance is worth a note."""


def prepare_batchnorm(network: Network, t: Train, run: Run) -> Network:
    """Return the network with SyncBatchNorm where several processes train it and `train.sync_batchnorm` says so.

    Logs a note where each process normalizes few images. Raises FlukeError for SyncBatchNorm on a CPU.
    """
    on_gpu, num_processes = run.accelerator.device.type == "cuda", run.accelerator.num_processes
    if t.sync_batchnorm and num_processes > 1 and not on_gpu:
        raise FlukeError("train.sync_batchnorm true: PyTorch's SyncBatchNorm needs GPUs; set it to false or null.")
    if num_processes == 1 or not has_batchnorm(network):
        return network
    if on_gpu and t.sync_batchnorm is not False:
        return convert_sync_batchnorm(network)
    if (share := t.images_per_batch // num_processes) < SMALL_SHARE:
        run.log(
            f"note: BatchNorm normalizes the {share} images of each process by themselves, fewer than {SMALL_SHARE}; raise "
            "train.batch_size, use fewer processes, or a model without BatchNorm"
        )
    return network


def checkpoint_gradients(network: Network) -> None:
    """Make the backbone compute its activations again in the backward pass. Raises FlukeError where timm's model can't."""
    name = network.spec.model.name
    try:
        network.backbone.set_grad_checkpointing(True)  # type: ignore[operator]
    except Exception as error:  # an assertion, or no such method
        raise FlukeError(f"train.grad_checkpointing: {name} doesn't support it ({one_line(error)}); set it to false.") from None


def note_no_progress(history: Sequence[dict[str, Any]], metric: str, chance: dict[str, float]) -> str:
    """Return a note after EPOCHS_TO_LEARN epochs in which nothing was learnt, else "".

    `history` has an entry per epoch. `chance` holds the value of `metric` for the same scores in every row, and `loss`, that of a
    uniform guess.
    """
    validated = [entry for entry in history if metric in entry]
    if len(history) < EPOCHS_TO_LEARN or len(validated) == 0 or history[-1] is not validated[-1] or not chance:
        return ""
    if any(len(history) > EPOCHS_TO_LEARN and entry["epoch"] >= EPOCHS_TO_LEARN for entry in validated[:-1]):
        return ""  # it was said or refuted before
    sign = METRICS[metric].sign
    found = []
    if all(entry["loss"] > chance["loss"] for entry in validated if "loss" in entry):
        found.append(f"the validation loss {validated[-1]['loss']:.2f} is above that of a uniform guess ({chance['loss']:.2f})")
    if metric in chance and max(sign * entry[metric] for entry in validated) <= sign * chance[metric]:
        found.append(f"{metric} {validated[-1][metric]:.4f} is no better than by chance ({chance[metric]:.4f})")
    if not found:
        return ""
    return (
        f"note: after {len(history)} epochs {' and '.join(found)}. Usual causes: a learning rate too high or too low (optim.lr; "
        "1e-4 to 1e-3 for adamw), new weights instead of pretrained ones, many frozen layers (optim.freeze), class weights or a "
        "sampler that rare classes dominate, or labels that don't belong to their images"
    )
