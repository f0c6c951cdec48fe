"""Measure the time to save a resumable state, relative to the training steps between two states.

    python benchmarks/saving.py --model tf_efficientnet_lite0 --size 160 --rows 4000

Alternates training steps and saved states (weights, optimizer moments and moving average, hashed and flushed to the disk before
training continues). Prints the time of a state as a share of the time of an epoch of --rows images, and the median of these.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from timm.utils import ModelEmaV3

from lib.config.recipe import Model, Objective, Optim
from lib.models.losses import make_classification_loss
from lib.models.network import Network, NetworkSpec
from lib.tables.target import ONE_LABEL
from lib.training import checkpoint
from lib.training.accelerator import keep_memory
from lib.training.optimizer import make_optimizer

STEPS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4000, help="Training images per epoch.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--model", default="tf_efficientnet_lite0")
    args = parser.parse_args()
    keep_memory()
    targets = torch.arange(args.batch) % 10
    spec = NetworkSpec(Model(name=args.model, pretrained=False), tuple("abcdefghij"), ONE_LABEL, args.size, "squash")
    network = Network(spec).to(memory_format=torch.channels_last)
    network.objective = make_classification_loss(Objective(), targets.numpy(), spec.classes, ONE_LABEL)
    optimizer = make_optimizer(Optim(), network.backbone, torch.nn.ModuleList([network.pool, network.head, network.objective]))
    ema = ModelEmaV3(network, decay=0.99)
    images = torch.randint(0, 256, (args.batch, 3, args.size, args.size), dtype=torch.uint8)

    def step() -> None:
        network(images.contiguous(memory_format=torch.channels_last), targets)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.update(network)

    network.train()
    step()
    shares = []
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:  # on the disk that holds runs, not in memory
        for epoch in range(args.rounds):
            started = time.perf_counter()
            for _ in range(STEPS):
                step()
            epoch_seconds = (time.perf_counter() - started) / STEPS * args.rows / args.batch
            state = dict.fromkeys(checkpoint.STATE, 0) | {"epoch": epoch}
            started = time.perf_counter()
            modules = {"model": network, "ema": ema.module}
            checkpoint.save_checkpoint(Path(folder), state, modules, {"optimizer": optimizer.state_dict()})
            save_seconds = time.perf_counter() - started
            shares.append(save_seconds / epoch_seconds)
            print(f"steps of an epoch {epoch_seconds:7.1f} s   saving {save_seconds:6.3f} s   {shares[-1]:.2%}")
    print(f"median of {args.rounds}: saving a state takes {statistics.median(shares):.2%} of an epoch of {args.rows:,} images")


if __name__ == "__main__":
    main()
