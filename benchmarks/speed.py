"""Compare speed and memory with what one would use instead, each measurement in a process of its own.

    python benchmarks/speed.py --data ../shared/data                        # about half an hour on two cores
    python benchmarks/speed.py --data ../shared/data --quick                # one run of each on less data, three minutes
    python benchmarks/speed.py --rows search loop --runs 5

fastai and wildlife-tools are compared where they are installed: make an environment for them, such as
python -m venv /tmp/peers && /tmp/peers/bin/pip install -e . fastai wildlife-tools. The runs of a row alternate, because the machine
is noisy; printed are medians, the peak memory of the process, and the ratio of rates, Fluke's to the peer's: above 1 is faster.

    decode   images/s on one core, 2,000 px JPEG files to an augmented 224 px batch; report 2's PIL, Resize, ToTensor, Normalize
    cache    the same from the packed cache, which is built before
    train    images/s of an epoch, files to optimizer steps: EfficientNet-Lite0, 128 px; report 2's loop, timm's loader, fastai
    loop     the same against a bare PyTorch loop with our images and network: what the loop itself costs
    search   queries/s, the 5 nearest of 100,000 embeddings of 512 numbers, exactly; pytorch-metric-learning, wildlife-tools
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from speed_training import measure_train, timed

from lib.config import command_line
from lib.errors import FlukeError
from lib.process import run_script

ROWS = {
    "decode": ("fluke", "report 2"),
    "cache": ("fluke", "report 2"),
    "train": ("fluke", "report 2", "timm", "fastai"),
    "loop": ("fluke", "bare"),
    "search": ("fluke", "pytorch-metric-learning", "wildlife-tools"),
}
TARGETS = {"decode": 4.0, "cache": 40.0, "train": 1.5, "loop": 1 / 1.03, "search": 5.0}


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Print the table; return the ratio of rates per row and peer."""
    parser = command_line.make_parser(__doc__, recipe=False)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="Folder with large_jpegs and fashion/images.")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), help="Rows to measure.")
    parser.add_argument("--runs", type=int, default=3, help="Runs of each.")
    parser.add_argument("--quick", action="store_true", help="One run of each on a fifth of the data.")
    parser.add_argument("--measure", nargs=2, help="Measure this row and side in this process.")
    args = command_line.parse(parser, argv)
    if unknown := set(args.rows) - set(ROWS):
        raise FlukeError(f"--rows {' '.join(sorted(unknown))}: choose of {', '.join(ROWS)}.")
    if args.measure:
        row, side = args.measure
        with tempfile.TemporaryDirectory() as folder:
            rate = MEASURES[row](side, args.data, 0.2 if args.quick else 1.0, Path(folder))
        print(json.dumps([rate, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000]))
        return {}
    found = {}
    for row in args.rows:
        found |= _compare(row, args)
    return found


def _compare(row: str, args: Any) -> dict[str, float]:
    results: dict[str, list[list[float]]] = {side: [] for side in ROWS[row]}
    missing = {}
    for _ in range(1 if args.quick else args.runs):
        for side in results:
            if side in missing:
                continue
            command = [sys.executable, __file__, "--data", str(args.data), "--measure", row, side, *["--quick"] * args.quick]
            done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
            if done.returncode:
                missing[side] = (done.stderr.strip() or "no output").splitlines()[-1]
            else:
                results[side].append(json.loads(done.stdout.splitlines()[-1]))
    ratios, ours = {}, statistics.median(rate for rate, _ in results["fluke"]) if results["fluke"] else float("nan")
    for side, measured in results.items():
        if not measured:
            print(f"{row:<7} {side:<24} not measured: {missing[side][:160]}", flush=True)
            continue
        rate, megabytes = (statistics.median(values) for values in zip(*measured))
        said = ""
        if side != "fluke":
            ratios[f"{row} {side}"] = ours / rate
            said = f"fluke is {ours / rate:.2f} times as fast (target {TARGETS[row]:.2f})"
        print(f"{row:<7} {side:<24} {rate:>9,.1f} /s  {megabytes:>6,.0f} MB  {said}", flush=True)
    return ratios


# --- images -----------------------------------------------------------------------------------------------------------------------


def measure_decode(side: str, data: Path, share: float, folder: Path, cached: bool = False) -> float:
    """Images per second from file to normalized batch, in this process."""
    import torch

    paths = sorted((data / "large_jpegs").glob("*.jpg"))
    paths = paths[: max(int(len(paths) * share), 10)]
    read = _fluke_reader(paths, folder, cached) if side == "fluke" else _report_reader(paths)

    def batches() -> Iterator[int]:
        for repeat in range(-1, 20 if cached and side == "fluke" else 2):
            rows = [read(i, repeat) for i in range(8 if repeat < 0 else len(paths))]
            batch = torch.stack(rows)
            if side == "fluke":  # as the network does
                batch = (batch.float() - 127.5) / 127.5
            yield len(batch)

    return timed(batches())


def measure_cache(side: str, data: Path, share: float, folder: Path) -> float:
    """As `measure_decode`, from the packed cache."""
    return measure_decode(side, data, share, folder, cached=True)


def _fluke_reader(paths: list[Path], folder: Path, cached: bool) -> Callable[[int, int], Any]:
    from lib.config.recipe import Data
    from lib.images.augmentation import cache_side, make_train_transform
    from lib.images.cache import open_cache
    from lib.images.dataset import ImageDataset
    from lib.training.accelerator import keep_memory

    keep_memory()
    recipe = Data(size=224)
    cache = open_cache(folder, paths, cache_side(recipe), 0) if cached else None
    images = ImageDataset(paths, make_train_transform(recipe), cache=cache)
    return lambda i, repeat: images[repeat + 1, i, 0][0]


def _report_reader(paths: list[Path]) -> Callable[[int, int], Any]:
    from PIL import Image
    from torchvision import transforms

    transform = transforms.Compose(
        [
            transforms.Resize((224, 224)),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    return lambda i, repeat: transform(Image.open(paths[i]).convert("RGB"))


# --- search -----------------------------------------------------------------------------------------------------------------------


def measure_search(side: str, data: Path, share: float, folder: Path) -> float:
    """Queries per second, from embeddings in memory to the rows of the 5 nearest."""
    import numpy as np

    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((int(100_000 * share), 512), np.float32)
    queries = rng.standard_normal((int(10_000 * share), 512), np.float32)
    began = time.perf_counter()
    if side == "fluke":
        from lib.retrieval.gallery import build_gallery
        from lib.retrieval.rows import GalleryRows

        names = [f"{i}" for i in range(len(embeddings))]
        rows = GalleryRows(np.arange(len(embeddings)), names, names)
        began = time.perf_counter()
        build_gallery(embeddings, rows, "made").search(queries, 5, "made")
    elif side == "pytorch-metric-learning":
        import torch
        from pytorch_metric_learning.utils.inference import InferenceModel

        model = InferenceModel(torch.nn.Identity())
        began = time.perf_counter()
        model.train_knn(torch.from_numpy(embeddings))
        model.get_nearest_neighbors(torch.from_numpy(queries), 5)
    else:
        import torch
        from wildlife_tools.similarity import CosineSimilarity

        began = time.perf_counter()
        torch.from_numpy(CosineSimilarity()(queries, embeddings)["cosine"]).topk(5, dim=1)
    return len(queries) / (time.perf_counter() - began)


MEASURES: dict[str, Callable[[str, Path, float, Path], float]] = {
    "decode": measure_decode,
    "cache": measure_cache,
    "train": measure_train,
    "loop": measure_train,
    "search": measure_search,
}

if __name__ == "__main__":
    run_script(main)
