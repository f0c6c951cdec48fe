"""Measure how time and memory grow with classes and with the gallery; a table, a plot, and the fitted exponents.

    python benchmarks/scaling.py --out /tmp/scaling                             # ten minutes, 5 GB of memory
    python benchmarks/scaling.py --classes 1000 10000 --gallery 10000 100000    # two minutes

classes   seconds of an optimizer step of sub-centre ArcFace (3 centres of 512 numbers per class, batch 32, AdamW), no backbone
softmax   the same of a linear head on 1,280 features
gallery   seconds of 1,000 queries for the 5 nearest of so many embeddings of 512 numbers, exactly

Each point is measured in a process of its own, whose peak memory stands beside the time. An exponent is the slope of a line through
the points' logarithms: 1 is in proportion. benchmarks/growth.py measures the same for tables and images.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from lib.config import command_line
from lib.files import write_text
from lib.process import run_script

STEPS = 5
BATCH_SIZE = 32


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Print the table; return the exponents of time and memory."""
    parser = command_line.make_parser(__doc__, recipe=False)
    parser.add_argument("--classes", type=int, nargs="+", default=[1_000, 10_000, 100_000], help="Numbers of classes.")
    parser.add_argument("--gallery", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="Sizes of galleries.")
    parser.add_argument("--out", type=Path, help="Folder for scaling.json and scaling.png.")
    parser.add_argument("--measure", nargs=2, help="Measure this kind at this size in this process.")
    args = command_line.parse(parser, argv)
    if args.measure:
        kind, size = args.measure[0], int(args.measure[1])
        seconds = _search(size) if kind == "gallery" else _step(size, kind)
        print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20]))
        return {}
    points: dict[str, list[tuple[int, float, float]]] = {"classes": [], "softmax": [], "gallery": []}
    for kind, found in points.items():
        for size in args.gallery if kind == "gallery" else args.classes:
            command = [sys.executable, __file__, "--measure", kind, str(size)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            seconds, gigabytes = json.loads(done.stdout.splitlines()[-1])
            found.append((size, seconds, gigabytes))
            print(f"{kind:<8} {size:>9,}  {seconds:8.3f} s  {gigabytes:6.2f} GB", flush=True)
    exponents = {}
    for kind, found in points.items():
        if len(found) > 1:
            exponents[kind] = float(np.polyfit(np.log([size for size, _, _ in found]), np.log([s for _, s, _ in found]), 1)[0])
            per_thousand = 1000 * (found[-1][2] - found[0][2]) / (found[-1][0] - found[0][0])
            print(f"{kind:<8} time grows with the power {exponents[kind]:.2f}, memory by {1000 * per_thousand:,.1f} MB per 1,000")
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        write_text(args.out / "scaling.json", json.dumps(points))
        _draw(points, args.out / "scaling.png")
    return exponents


def _step(classes: int, kind: str) -> float:
    """Median seconds of an optimizer step of a head and its objective."""
    import torch

    from lib.config.recipe import Objective
    from lib.models.embedding_losses import make_embedding_loss
    from lib.training.accelerator import keep_memory

    keep_memory()
    targets = np.arange(2 * classes) % classes
    if kind == "classes":
        objective = make_embedding_loss(Objective(name="subcenter_arcface", sub_centers=3), targets, classes, 512)
        inputs = torch.nn.functional.normalize(torch.randn(BATCH_SIZE, 512))
    else:
        head, inputs = torch.nn.Linear(1280, classes), torch.randn(BATCH_SIZE, 1280)
        loss_of = torch.nn.CrossEntropyLoss()
        objective = torch.nn.Module()
        objective.head = head
        objective.forward = lambda x, y: loss_of(head(x), y)  # type: ignore[method-assign]
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-3)
    seconds = []
    for _ in range(STEPS + 1):
        began = time.perf_counter()
        objective(inputs, torch.randint(classes, (BATCH_SIZE,))).backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds[1:]))  # the first one allocates the moments


def _search(size: int) -> float:
    """Seconds of 1,000 queries in an exact gallery."""
    from lib.retrieval.gallery import build_gallery
    from lib.retrieval.rows import GalleryRows

    rng = np.random.default_rng(0)
    names = [f"{i}" for i in range(size)]
    gallery = build_gallery(rng.standard_normal((size, 512), np.float32), GalleryRows(np.arange(size), names, names), "made")
    queries = rng.standard_normal((1000, 512), np.float32)
    began = time.perf_counter()
    gallery.search(queries, 5, "made")
    return time.perf_counter() - began


def _draw(points: dict[str, list[tuple[int, float, float]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for axis, column, label in ((axes[0], 1, "seconds"), (axes[1], 2, "GB")):
        for kind, found in points.items():
            axis.loglog([point[0] for point in found], [point[column] for point in found], "o-", label=kind)
        axis.set(xlabel="classes, or embeddings of the gallery", ylabel=label)
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    run_script(main)
