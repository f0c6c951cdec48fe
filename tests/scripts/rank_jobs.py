"""What test_launch.py has each of several processes do: jobs in one launch, for a launch costs seconds.

    accelerate launch --config_file accelerate_configs/cpu_2proc.yaml tests/scripts/rank_jobs.py FOLDER

FOLDER/jobs.json is a list of [kind, name, arguments]; each process writes what it saw to FOLDER/rank<i>.json.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from lib.config.recipe import Objective
from lib.errors import FlukeError
from lib.files import write_json
from lib.models.embedding_losses import make_embedding_loss
from lib.models.network import Network
from lib.process import run_script
from lib.training import loop
from lib.training.accelerator import make_accelerator
from lib.training.distributed import pool_batchnorm
from scripts import kfold, predict, probe, retrieve, train_classifier, train_embedding

SHARED = {"probe": probe, "predict": predict, "retrieve": retrieve, "features": train_classifier}
"""Scripts whose images the processes share; what a job of them leaves is the number of images of each process."""


def digest(tensors: dict[str, torch.Tensor]) -> str:
    return hashlib.sha256(
        b"".join(name.encode() + value.detach().cpu().numpy().tobytes() for name, value in sorted(tensors.items()))
    ).hexdigest()


def spy(seen: list[dict[str, Any]], seeds: list[int]) -> None:
    """Note the network at each validation, its parameters as the steps left them and its buffers as it is evaluated with, and the
    seed of each step's dropout."""
    real = loop.pool_batchnorm

    def noting(network: Any, accelerator: Accelerator) -> None:
        own = digest(dict(network.named_buffers()))
        real(network, accelerator)
        parameters = dict(network.named_parameters())
        backbone = {name: value for name, value in parameters.items() if name.startswith("backbone.")}
        objective = {name: value for name, value in parameters.items() if name.startswith("objective.")}
        found = {"parameters": digest(parameters), "backbone": digest(backbone), "objective": sorted(objective)}
        seen.append(found | {"buffers before": own, "buffers": digest(dict(network.named_buffers()))})

    loop.pool_batchnorm = noting
    step = loop.Trainer.train_step

    def noting_seed(trainer: loop.Trainer, *args: Any) -> bool:
        stepped = step(trainer, *args)
        seeds.append(torch.initial_seed())
        return stepped

    loop.Trainer.train_step = noting_seed  # type: ignore[method-assign]


def count_images(action: Callable[[], Any]) -> int:
    """Number of images that this process runs a backbone on in `action`."""
    seen, real = [], Network._pooled_features

    def counted(network: Network, x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return real(network, x)

    Network._pooled_features = counted  # type: ignore[method-assign]
    try:
        action()
    finally:
        Network._pooled_features = real  # type: ignore[method-assign]
    return sum(seen)


def gradient_below(name: str, accelerator: Accelerator) -> dict[str, Any]:
    """Gradient of a linear layer below an objective of embeddings on this process's share of 16 images, six of the first eight of
    which are of strangers."""
    generator = torch.Generator().manual_seed(0)
    images, targets = torch.randn(16, 6, generator=generator), torch.arange(16) % 4
    targets[:6] = -1
    torch.manual_seed(0)
    objective = make_embedding_loss(Objective(name=name, scale=4.0, margin=0.2), np.arange(-1, 4), 4, 3)  # type: ignore[arg-type]
    layer = torch.nn.Linear(6, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(3, 6, generator=generator))
        layer.bias.zero_()
    share = 16 // accelerator.num_processes
    mine = slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)
    wrapped = accelerator.prepare_model(layer)
    embeddings = torch.nn.functional.normalize(wrapped(images[mine]))
    loss = objective(embeddings, targets[mine])
    loss.backward()
    return {"loss": loss.item(), "gradient": layer.weight.grad.tolist()}


def pooled_statistics(accelerator: Accelerator) -> dict[str, Any]:
    """Running statistics of BatchNorm layers, each of which has seen this process's share of 16 rows, after pooling."""
    rows = torch.randn(16, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2.0, 3.0])
    rows[8:] += 5
    share = 16 // accelerator.num_processes
    layer = torch.nn.BatchNorm1d(3, momentum=1.0)
    layer(rows[accelerator.process_index * share : (accelerator.process_index + 1) * share])
    pool_batchnorm(layer, accelerator)
    return {"rows": rows.tolist(), "mean": layer.running_mean.tolist(), "var": layer.running_var.tolist()}


def main(argv: list[str] | None = None) -> None:
    folder = Path((sys.argv[1:] if argv is None else argv)[0])
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    accelerator = make_accelerator("fp32", folder)
    backend = torch.distributed.get_backend() if torch.distributed.is_initialized() else None
    rank = accelerator.process_index
    found: dict[str, Any] = {"world": accelerator.num_processes, "backend": backend, "device": accelerator.device.type}
    scripts = {"classifier": train_classifier, "embedding": train_embedding, "folds": kfold}
    seen: list[dict[str, Any]] = []
    seeds: list[int] = []
    spy(seen, seeds)
    for kind, name, arguments in json.loads((folder / "jobs.json").read_text()):
        if kind == "unshared":  # each process has a current folder of its own, as on two machines
            (folder / f"machine{rank}").mkdir()
            with contextlib.chdir(folder / f"machine{rank}"):
                try:
                    train_classifier.main(arguments)
                except FlukeError as error:
                    found[name] = str(error)
        elif kind in SHARED:
            found[name] = count_images(partial(SHARED[kind].main, arguments))
        elif kind == "pool":
            found["pooled"] = pooled_statistics(accelerator)
        elif kind == "gradient":
            found[f"gradient of {name}"] = gradient_below(name, accelerator)
        else:
            found[name] = {"result": scripts[kind].main(arguments), "seen": seen[:], "seeds": seeds[:]}
            seen.clear()
            seeds.clear()
    write_json(folder / f"rank{rank}.json", found)


if __name__ == "__main__":
    run_script(main)
