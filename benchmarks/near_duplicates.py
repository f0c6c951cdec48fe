"""How many planted copies of photographs `data.duplicates: near` finds, how many of its pairs are none, and what it costs.

    python benchmarks/near_duplicates.py ../shared/data/fashion/images [--images 5255] [--copies 500] [--crop 0.05]

A copy is resized by 0.4 to 1.6, recompressed at a quality of 35 to 90, mirrored, cropped by up to `crop` at each side, or all of
these. Pairs within the folder's own photographs count as false unless the files have the same bytes: look at them, since a folder
may hold copies.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from itertools import combinations
from pathlib import Path

import torch
from PIL import Image, ImageOps

from lib.images.checking import find_unreadable
from lib.images.duplicates import find_identical
from lib.images.near_duplicates import SIDE, find_copies

KINDS = ("resized", "recompressed", "mirrored", "cropped", "all")


def make_copy(path: Path, kind: str, crop: float, rng: random.Random) -> tuple[Image.Image, int]:
    """Return an edited image and the JPEG quality to save it with."""
    image = Image.open(path).convert("RGB")
    if kind in ("cropped", "all"):
        left, top, right, bottom = (rng.uniform(0, crop) for _ in range(4))
        width, height = image.size
        image = image.crop(
            (round(left * width), round(top * height), round(width - right * width), round(height - bottom * height))
        )
    if kind in ("mirrored", "all"):
        image = ImageOps.mirror(image)
    if kind in ("resized", "all"):
        factor = rng.uniform(0.4, 1.6)
        image = image.resize((max(8, round(image.width * factor)), max(8, round(image.height * factor))))
    return image, 95 if kind == "resized" else rng.randint(35, 90)


def main() -> None:
    """Plant the copies, search, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=5255)
    parser.add_argument("--copies", type=int, default=500)
    parser.add_argument("--crop", type=float, default=0.05)
    options = parser.parse_args()
    rng = random.Random(0)
    paths = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))[: options.images]
    n = len(paths)
    group = list(range(n))  # the photograph of each file
    for same in find_identical(paths):
        for i in same:
            group[i] = same[0]
    kinds = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.copies):
            original, kind = rng.randrange(n), KINDS[number % len(KINDS)]
            image, quality = make_copy(paths[original], kind, options.crop, rng)
            image.save(path := Path(folder) / f"{number}.jpg", quality=quality)
            paths.append(path)
            group.append(group[original])
            kinds.append(kind)
        timed = []
        thumbnails = torch.zeros(len(paths), 3, SIDE, SIDE, dtype=torch.uint8)
        for fill in (None, None, thumbnails):  # the first pass fills the page cache
            start = time.perf_counter()
            for part in range(0, len(paths), 999):  # fewer than are remembered
                within = slice(part, part + 999)
                find_unreadable(paths[within], 0, "decode", thumbnails=None if fill is None else fill[within])
            timed.append(time.perf_counter() - start)
        start = time.perf_counter()
        sets = find_copies(paths, thumbnails, [])
        compared = time.perf_counter() - start
    found = {pair for same in sets for pair in combinations(same, 2)}
    right = {(a, b) for a, b in found if group[a] == group[b]}
    for kind in KINDS:
        copies = [n + i for i, k in enumerate(kinds) if k == kind]
        print(f"{kind:>13}: {sum(any(c in pair for pair in right) for c in copies)} of {len(copies)} found")
    print(f"pairs found: {len(found):,}, of them {len(right):,} right ({len(right) / max(len(found), 1):.3f})")
    print(f"pass {timed[1]:.1f} s; with thumbnails {timed[2]:.1f} s ({timed[2] / timed[1]:.2f}x); comparing {compared:.1f} s")


if __name__ == "__main__":
    main()
