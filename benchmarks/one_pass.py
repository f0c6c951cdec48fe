"""What predicting with N networks costs over their forward passes: each image is read and decoded once for all of them.

    OMP_NUM_THREADS=1 python benchmarks/one_pass.py --images ../shared/data/fashion/images

Prints, for each round, the seconds of predict() from files on the disk, of the same N networks' forward passes on the same batches
already in memory, and of N separate passes over the files; at the end the median ratios to the forward passes. Images are read by a
worker process, which needs a core of its own: on two cores leave it one.
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
from lib.images.augmentation import ResizeToSquare, decode_side
from lib.images.dataset import ImageDataset, make_eval_loader
from lib.models.network import Network, NetworkSpec
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
    transform = ResizeToSquare(args.size, "squash")
    images = ImageDataset(paths, transform, short_side=decode_side(transform))
    spec = NetworkSpec(Model(name=args.model, pretrained=False), tuple("abcdefghij"), False, "classifier", args.size, "squash")
    networks = [Network(spec).eval().to(memory_format=torch.channels_last) for _ in range(args.networks)]
    batches = [pictures.contiguous(memory_format=torch.channels_last) for pictures, *_ in make_eval_loader(images, 64, workers=0)]

    @torch.inference_mode()
    def forward() -> None:
        for network in networks:
            for batch in batches:
                network(batch)

    def one_pass() -> None:
        predict(networks, images, accelerator, InferenceOptions(64, 1))

    def passes() -> None:
        for network in networks:
            predict([network], images, accelerator, InferenceOptions(64, 1))

    def seconds(work: Callable[[], None]) -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    forward()
    found = []
    for _ in range(args.rounds):
        bare, once, each = seconds(forward), seconds(one_pass), seconds(passes)
        found.append((once / bare, each / bare))
        print(f"forward passes {bare:6.2f} s   one pass {once:6.2f} s, {once / bare:.3f}   {args.networks} passes {each:6.2f} s")
    once, each = (statistics.median(ratios) for ratios in zip(*found))
    print(f"median of {args.rounds}: one pass {once:.3f} of the forward passes' time, {args.networks} passes {each:.3f}")


if __name__ == "__main__":
    main()
