"""Measure the time of the training loop relative to a bare PyTorch loop with the same model, data and order.

    python benchmarks/loop.py --images ../shared/data/fashion/images

Prints images/s of both loops for each round and, at the end, the median ratio of their times. The rounds alternate, because the
machine is noisy. The time of our loop includes Accelerate, making the optimizer, the schedule, seeding, checks, and the resumable
state at the epoch's end (hashed and flushed to the disk). Validation is left out, because the bare loop has none.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from lib.config.recipe import Data, Model, Optim, Recipe, Train
from lib.images import augmentation
from lib.images.dataset import ImageDataset
from lib.images.samplers import RandomOrder, ShardedBatches
from lib.models.losses import make_classification_loss
from lib.models.network import Network, NetworkSpec
from lib.run_folder import RunFolder
from lib.tables.target import ONE_LABEL
from lib.training import loop
from lib.training.accelerator import keep_memory
from lib.training.distributed import StopSignal
from lib.training.loop import Datasets, Trainer, fit
from lib.training.run import Run
from lib.training.tasks import Evaluation

BATCH_SIZE = 32


class NoValidation:
    """A task whose validation costs nothing."""

    metric = "accuracy"

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def make_order(self) -> RandomOrder:
        return RandomOrder(self.rows, 0)

    def evaluate(self, outputs: np.ndarray, loss: torch.nn.Module) -> Evaluation:
        return Evaluation({"accuracy": 0.0}, outputs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="Folder of images.")
    parser.add_argument("--rows", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--model", default="tf_efficientnet_lite0")
    args = parser.parse_args()
    keep_memory()
    recipe = Recipe(
        data=Data(size=args.size, workers=1),
        model=Model(name=args.model, pretrained=False),
        optim=Optim(),
        train=Train(epochs=1, batch_size=BATCH_SIZE, log_with=[]),
    )
    paths = sorted(args.images.iterdir())[: args.rows]
    classes = tuple("abcdefghij")
    targets = np.arange(len(paths)) % len(classes)
    images = ImageDataset(paths, augmentation.make_train_transform(recipe.data), targets)
    val_images = ImageDataset(paths[:2], augmentation.make_eval_transform(recipe.data))
    batches = ShardedBatches(RandomOrder(len(paths), 0), len(paths), BATCH_SIZE)
    spec = NetworkSpec(recipe.model, classes, ONE_LABEL, args.size, "squash")

    def make_network() -> Network:
        torch.manual_seed(0)
        network = Network(spec, recipe.objective)
        network.objective = make_classification_loss(recipe.objective, targets, classes, ONE_LABEL)
        return network

    def run_bare_loop() -> float:
        model = make_network().to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
        loader = DataLoader(images, batch_sampler=list(batches), num_workers=1)
        model.train()
        started = time.perf_counter()
        for batch, target, _ in loader:
            loss = model(batch.contiguous(memory_format=torch.channels_last), target)["loss"]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return time.perf_counter() - started

    def run_our_loop() -> float:
        accelerator = Accelerator(cpu=True)
        network = make_network()
        with tempfile.TemporaryDirectory() as folder, StopSignal(accelerator) as stop:
            started = time.perf_counter()
            run = Run(accelerator, RunFolder(folder), lambda line: None, stop)
            fit(Trainer(run, recipe, NoValidation(len(paths)), network, Datasets(images, val_images), 0))
            return time.perf_counter() - started

    loop.predict = lambda *args, **kwargs: [np.zeros((2, len(classes)), np.float32)]  # no validation
    ratios = []
    for i in range(args.rounds):
        first, second = (run_bare_loop, run_our_loop) if i % 2 else (run_our_loop, run_bare_loop)
        seconds = {first: first()}
        seconds[second] = second()
        bare, ours = seconds[run_bare_loop], seconds[run_our_loop]
        ratios.append(ours / bare)
        print(f"bare {len(paths) / bare:6.1f} images/s   fluke {len(paths) / ours:6.1f} images/s   time {ratios[-1]:.3f}")
    print(f"median of {args.rounds}: {statistics.median(ratios):.3f} of the bare loop's time")


if __name__ == "__main__":
    main()
