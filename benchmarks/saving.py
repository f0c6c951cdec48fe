"""What a resumable state costs, beside the training steps between two of them.

    python benchmarks/saving.py --model tf_efficientnet_lite0 --size 160 --rows 4000

Times training steps and the saving of states in turn (weights, moments and the moving average; hashed, and on the disk before
the loop goes on), and prints the share of an epoch of --rows images that its state takes, as a median.
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
from lib.training import checkpoint
from lib.training.accelerator import keep_memory
from lib.training.optimizer import make_optimizer

STEPS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4000, help="Training images an epoch.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--model", default="tf_efficientnet_lite0")
    args = parser.parse_args()
    keep_memory()
    targets = torch.arange(args.batch) % 10
    spec = NetworkSpec(Model(name=args.model, pretrained=False), tuple("abcdefghij"), False, "classifier", args.size, "squash")
    network = Network(spec).to(memory_format=torch.channels_last)
    network.objective = make_classification_loss(Objective(), targets.numpy(), spec.classes, False)
    optimizer = make_optimizer(Optim(), network.backbone, torch.nn.ModuleList([network.pool, network.head, network.objective]))
    average = ModelEmaV3(network, decay=0.99)
    images = torch.randint(0, 256, (args.batch, 3, args.size, args.size), dtype=torch.uint8)

    def step() -> None:
        network(images.contiguous(memory_format=torch.channels_last), targets)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update(network)

    network.train()
    step()
    shares = []
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:  # on the disk that runs are on, not in memory
        for epoch in range(args.rounds):
            started = time.perf_counter()
            for _ in range(STEPS):
                step()
            an_epoch = (time.perf_counter() - started) / STEPS * args.rows / args.batch
            state = dict.fromkeys(checkpoint.STATE, 0) | {"epoch": epoch}
            started = time.perf_counter()
            modules = {"model": network, "ema": average.module}
            checkpoint.save_checkpoint(Path(folder), state, modules, {"optimizer": optimizer.state_dict()})
            seconds = time.perf_counter() - started
            shares.append(seconds / an_epoch)
            print(f"an epoch's steps {an_epoch:7.1f} s   its state {seconds:6.3f} s   {shares[-1]:.2%}")
    print(f"median of {args.rounds}: a state takes {statistics.median(shares):.2%} of an epoch of {args.rows:,} images")


if __name__ == "__main__":
    main()
