"""Measure how time and memory from the tables to the first batch grow with the number of images.

    python benchmarks/growth.py --images ../shared/data/fashion/images --rows 10000 100000 1000000

For each number of rows a process of its own reads a CSV of so many images in `--classes` classes (at least two images each), splits
it, checks the images with `--check`, looks for identical files and loads one batch of 64. The images are links to a few of
`--images`, in folders of 10,000. Prints the seconds of each step, the peak memory of the process, and the exponent of the growth
between the last two sizes.
"""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from lib.config import command_line

SOURCES = 50
"""Different images: a file system allows some 65,000 links to a file."""


def main() -> None:
    parser = command_line.make_parser(__doc__, recipe=False)
    parser.add_argument("--images", help="Folder of images to link to.")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000], help="Numbers of rows.")
    parser.add_argument("--classes", type=int, default=20_000, help="Classes at most.")
    parser.add_argument("--check", default="header", help="data.check.")
    parser.add_argument("--of", help="Measure this folder, made before, in this process.")
    args = command_line.parse(parser, None)
    if args.of:
        print(json.dumps(_measure(Path(args.of), args.check)))
        return
    found = []
    for rows in args.rows:
        with tempfile.TemporaryDirectory() as folder:
            _make(Path(folder), Path(args.images), rows, min(args.classes, rows // 2))
            command = [sys.executable, __file__, "--of", folder, "--check", args.check]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
        steps = "  ".join(f"{name} {seconds:.1f}" for name, seconds in found[-1]["seconds"].items())
        print(f"{rows:>9,} rows: {_total(found[-1]):6.1f} s, {found[-1]['gigabytes']:.2f} GB   {steps}", flush=True)
    if len(found) > 1:
        growth = math.log(_total(found[-1]) / _total(found[-2])) / math.log(args.rows[-1] / args.rows[-2])
        print(f"time grows with rows to the power of {growth:.2f}")


def _total(found: dict) -> float:
    return sum(found["seconds"].values())


def _make(folder: Path, images: Path, rows: int, classes: int) -> None:
    """Write a table train.csv of `rows` images in `classes` classes, and the images."""
    sources = sorted(path for path in images.iterdir() if path.is_file())[:SOURCES]
    copies = [folder / f"source{i}{path.suffix}" for i, path in enumerate(sources)]
    for path, copy in zip(sources, copies):
        copy.write_bytes(path.read_bytes())
    with open(folder / "train.csv", "w") as table:
        table.write("image,label\n")
        for row in range(rows):
            if row % 10_000 == 0:
                (folder / f"images/{row // 10_000}").mkdir(parents=True)
            source = copies[row % len(copies)]
            name = f"{row // 10_000}/{row:07}{source.suffix}"
            os.link(source, folder / "images" / name)
            table.write(f"{name},individual {row % classes:05}\n")


def _measure(folder: Path, check: str) -> dict:
    """Return the seconds of each step and the peak memory in gigabytes."""
    from lib.config.recipe import Data, Folds
    from lib.images import augmentation, samplers
    from lib.images.checking import find_unreadable
    from lib.images.dataset import ImageDataset, make_train_loader
    from lib.images.duplicates import find_identical
    from lib.tables import splits
    from lib.tables.loading import load_train
    from lib.tables.table import describe_table

    data = Data(root=str(folder), train_csv="train.csv", image_dir="images", label_column="label", image_column="image", size=224)
    seconds: dict[str, float] = {}
    start = time.perf_counter()

    def done(step: str) -> None:
        nonlocal start
        seconds[step] = time.perf_counter() - start
        start = time.perf_counter()

    table = load_train(data, Folds(), keep_others=True)
    done("table")
    find_unreadable(table.paths, None, check)
    done("check")
    find_identical(table.paths)
    done("identical")
    describe_table(table.take(table.in_classes()))
    train, val = splits.split_holdout(table, Folds())
    splits.describe_split(table, train, val)
    splits.keep_split(folder / "split.csv", table.take(train), table.take(val), begun=False)
    done("split")
    dataset = ImageDataset(table.paths, augmentation.make_train_transform(data), table.targets())
    order = samplers.RandomOrder(len(table), 0)
    batches = samplers.ShardedBatches(order, len(table), 64)
    images, *_ = next(iter(make_train_loader(dataset, batches, None)))
    assert images.shape == (64, 3, 224, 224)
    done("first batch")
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {"seconds": seconds, "gigabytes": usage.ru_maxrss / 2**20}


if __name__ == "__main__":
    main()
