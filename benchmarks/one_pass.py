"""Measure the time to predict with N networks in one pass over the images, relative to the networks' forward passes alone.

    OMP_NUM_THREADS=1 python benchmarks/one_pass.py --images ../shared/data/fashion/images

In one pass each image is read and decoded once for all networks. Prints, for each round, the seconds of predict() from files, of
the forward passes of the same N networks on the same batches in memory, and of N separate passes over the files; at the end the
median ratios to the forward passes. A worker process reads the images and needs a CPU core of its own, hence OMP_NUM_THREADS=1 on
two cores.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator

from lib.config.recipe import Model
from lib.images.augmentation import ResizeToSquare
from lib.images.dataset import ImageDataset, make_eval_loader
from lib.models.network import Network, NetworkSpec
from lib.tables.target import ONE_LABEL
from lib.training.accelerator import keep_memory
from lib.training.inference import InferenceOptions, predict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="Folder of images.")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--networks", type=int, default=5)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--model", default="tf_efficientnet_lite0")
    args = parser.parse_args()
    keep_memory()
    accelerator = Accelerator(cpu=True)
    paths = sorted(args.images.iterdir())[: args.rows]
    images = ImageDataset(paths, ResizeToSquare(args.size, "squash"))
    spec = NetworkSpec(Model(name=args.model, pretrained=False), tuple("abcdefghij"), ONE_LABEL, args.size, "squash")
    networks = [Network(spec).eval().to(memory_format=torch.channels_last) for _ in range(args.networks)]
    batches = [batch.contiguous(memory_format=torch.channels_last) for batch, *_ in make_eval_loader(images, 64, workers=0)]

    @torch.inference_mode()
    def forward_passes() -> None:
        for network in networks:
            for batch in batches:
                network(batch)

    def one_pass() -> None:
        predict(networks, images, accelerator, InferenceOptions(64, 1))

    def separate_passes() -> None:
        for network in networks:
            predict([network], images, accelerator, InferenceOptions(64, 1))

    def seconds(work: Callable[[], None]) -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    forward_passes()  # warm-up
    ratios = []
    for _ in range(args.rounds):
        forward, one, separate = seconds(forward_passes), seconds(one_pass), seconds(separate_passes)
        ratios.append((one / forward, separate / forward))
        print(f"forward {forward:6.2f} s   one pass {one:6.2f} s, {one / forward:.3f}   {args.networks} passes {separate:6.2f} s")
    one, separate = (statistics.median(column) for column in zip(*ratios))
    print(f"median of {args.rounds}: one pass {one:.3f} of the forward passes' time, {args.networks} passes {separate:.3f}")


if __name__ == "__main__":
    main()
