"""Time the pages of a large retrieval: written, and opened by Chromium.

    python benchmarks/query_pages.py --images ../shared/data/fashion/images --out pages

15,610 queries of 4,251 individuals, 5 answers each, with pictures from the folder (as many different ones as it holds). Chromium
opens a blank page, the first page, the list of all queries and a page from the middle, five times each; the blank one's time is the
browser's own start. The processor's time is that of all its processes, which matters where others use the machine.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from lib.reports.html import Answer, Page, Query
from lib.reports.query_pages import write_query_pages

CHROMIUM = ("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--dump-dom")


def main() -> None:
    """Write the pages, open three of them, and print the seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--queries", type=int, default=15_610)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    images = sorted(path for path in args.images.rglob("*.jp*g"))
    queries = []
    for i in range(args.queries):
        names, pictures = rng.integers(4251, size=5), rng.integers(len(images), size=5)
        answers = [Answer(f"w_{n:07x}", 0.9 - 0.1 * j, 0.5, images[p]) for j, (n, p) in enumerate(zip(names, pictures))]
        queries.append(Query(f"{i:06d}.jpg", images[i % len(images)], answers))
    start = time.perf_counter()
    write_query_pages(args.out / "retrieval.html", Page("a large retrieval"), queries, "cosine similarity")
    files = [path for path in args.out.rglob("*") if path.is_file()]
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    print(f"{args.queries:,} queries with {len(images):,} different pictures:", end=" ")
    print(f"{time.perf_counter() - start:.0f} s, {len(files):,} files, {megabytes:.0f} MB")
    blank = args.out / "blank.html"
    blank.write_text("<!doctype html><title>blank</title>")
    for name in ("blank.html", "retrieval.html", "retrieval_pages/all.html", "retrieval_pages/page-0079.html"):
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        for _ in range(5):
            subprocess.run([*CHROMIUM, (args.out / name).absolute().as_uri()], capture_output=True, check=True, timeout=120)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        busy = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 5
        megabytes = (args.out / name).stat().st_size / 1e6
        print(f"{name}: {megabytes:.1f} MB, opened in {(time.perf_counter() - start) / 5:.2f} s, of the processor {busy:.2f} s")


if __name__ == "__main__":
    main()
