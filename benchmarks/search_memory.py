"""Measure the memory of a search for 10,000 queries' individuals in a large gallery, beside the size of its vectors.

    python benchmarks/search_memory.py                          # a million rows of 512 values
    python benchmarks/search_memory.py --rows 100000 200000     # small ones, which show the growth

Each gallery is opened memory-mapped and asked (`search_identities`) in a process of its own. Printed: MB of the vectors, the peak
of the resident memory less what the imports took, their ratio, and queries per second. The exit code is 1 where the ratio is 2 or
more.

100,000 rows: 205 MB of vectors, 395 MB of memory (1.93); 200,000: 410 and 628 MB (1.53); a million: 2,048 and 2,473 MB (1.21),
searched exactly at 9 queries/s by one thread, on a machine that sixteen other processes wanted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from lib.config.recipe import Retrieval
from lib.retrieval.gallery import build_gallery, open_gallery
from lib.retrieval.queries import Queries
from lib.retrieval.rows import GalleryRows
from lib.retrieval.search import search_identities


def peak_megabytes() -> float:
    """Return the peak of this process's resident memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def ask(folder: Path, count: int) -> None:
    """Ask the gallery in `folder` random queries; print the seconds and the memory that it took."""
    before = peak_megabytes()
    gallery = open_gallery(folder)
    queries = np.random.default_rng(1).normal(size=(count, gallery.index.dimension)).astype(np.float32)
    start = time.perf_counter()
    search_identities(gallery, Queries(queries), Retrieval(), 5)
    print(json.dumps({"seconds": time.perf_counter() - start, "megabytes": peak_megabytes() - before}))


def main() -> None:
    """Build the galleries, ask them, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--ask", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.ask is not None:
        return ask(args.ask, args.queries)
    ratios = []
    for n in args.rows:
        with tempfile.TemporaryDirectory() as folder:
            vectors = np.random.default_rng(0).standard_normal((n, 512), np.float32)
            rows = GalleryRows(np.arange(n), np.arange(n).astype(str), (np.arange(n) // 4).astype(str))
            build_gallery(vectors, rows, "m").save(Path(folder))
            size = vectors.nbytes / 1e6
            del vectors
            told = [sys.executable, __file__, "--ask", folder, "--queries", str(args.queries)]
            found = json.loads(subprocess.run(told, capture_output=True, check=True, text=True).stdout)
        used = found["megabytes"] * 1.048576
        ratios.append(used / size)
        speed = args.queries / found["seconds"]
        print(
            f"{n:,} rows x 512: vectors {size:,.0f} MB, memory {used:,.0f} MB, ratio {ratios[-1]:.2f}, {speed:,.0f} queries/s",
            flush=True,
        )
    sys.exit(max(ratios) >= 2)


if __name__ == "__main__":
    main()
