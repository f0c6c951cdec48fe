"""What the loop costs over a bare PyTorch loop with the same model, data and order.

    python benchmarks/loop.py --images ../shared/data/fashion/images

Prints, for each round, images/s of both and at the end the median ratio of their times. The rounds alternate, as the machine is
noisy. Accelerate, the optimiser's making, the schedule, seeding, checks and the resumable state at the epoch's end (hashed, and on
the disk before the loop goes on) are on our side of the account; validation is left out, for the bare loop has none.
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
from lib.images.samplers import RandomOrder
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
        train=Train(epochs=1, batch_size=32, log_with=[]),
    )
    paths = sorted(args.images.iterdir())[: args.rows]
    classes = tuple("abcdefghij")
    targets = np.arange(len(paths)) % len(classes)
    make = augmentation.make_train_transform(recipe.data)
    spec = NetworkSpec(recipe.model, classes, ONE_LABEL, args.size, "squash")

    def network() -> Network:
        torch.manual_seed(0)
        made = Network(spec, recipe.objective)
        made.objective = make_classification_loss(recipe.objective, targets, classes, ONE_LABEL)
        return made

    def data() -> ImageDataset:
        return ImageDataset(paths, make, targets, 0, augmentation.decode_side(make))

    def bare() -> float:
        model = network().to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
        order = [
            [(0, int(row), 0) for row in rows] for rows in RandomOrder(len(paths), 0)(0)[: len(paths) // 32 * 32].reshape(-1, 32)
        ]
        loader = DataLoader(data(), batch_sampler=order, num_workers=1)
        model.train()
        started = time.perf_counter()
        for pictures, target, _ in loader:
            loss = model(pictures.contiguous(memory_format=torch.channels_last), target)["loss"]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return time.perf_counter() - started

    class NoValidation:
        metric = "accuracy"

        def make_order(self) -> RandomOrder:
            return RandomOrder(len(paths), 0)

        def evaluate(self, outputs: np.ndarray, loss: torch.nn.Module) -> Evaluation:
            return Evaluation({"accuracy": 0.0}, outputs)

    def ours() -> float:
        accelerator = Accelerator(cpu=True)
        val = ImageDataset(paths[:2], augmentation.make_eval_transform(recipe.data))
        model, datasets = network(), Datasets(data(), val)
        with tempfile.TemporaryDirectory() as folder, StopSignal(accelerator) as stop:
            started = time.perf_counter()
            run = Run(accelerator, RunFolder(folder), lambda line: None, stop)
            fit(Trainer(run, recipe, NoValidation(), model, datasets, 0))
            return time.perf_counter() - started

    loop.predict = lambda *args, **kwargs: [np.zeros((2, len(classes)), np.float32)]  # no validation
    ratios = []
    for turn in range(args.rounds):
        first, second = (bare, ours) if turn % 2 else (ours, bare)
        seconds = {first: first()}
        seconds[second] = second()
        ratios.append(seconds[ours] / seconds[bare])
        rates = [len(paths) / seconds[kind] for kind in (bare, ours)]
        print(f"bare {rates[0]:6.1f} images/s   fluke {rates[1]:6.1f} images/s   time {ratios[-1]:.3f}")
    print(f"median of {args.rounds}: {statistics.median(ratios):.3f} of the bare loop's time")


if __name__ == "__main__":
    main()
