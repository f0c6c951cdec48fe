"""Measure the time and the memory of grouping many images into individuals, after embedding.

    python benchmarks/grouping.py --images 100000 --dimension 512 --individuals 20000

The embeddings are drawn: unit vectors around a centre per individual, a tenth of the individuals known by five photographs each.
Prints the seconds of each step, those of the processor (all threads), the peak of resident memory, and the adjusted Rand index with
the threshold that leaves the true number of clusters.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

import numpy as np
from sklearn.metrics import adjusted_rand_score

sys.path.insert(0, str(Path(__file__).parents[1]))

from lib.retrieval.discovery import Images, Known, find_places, group_images
from lib.retrieval.merge_probability import MergeProbability
from lib.retrieval.review_pairs import choose_pairs

KNOWN_IMAGES = 5


def draw(labels: np.ndarray, centres: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Return unit vectors (n, d) float32 around the centres (i, d) of the individuals `labels` (n,)."""
    vectors = centres[labels] + noise * rng.standard_normal((len(labels), centres.shape[1]), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--individuals", type=int, default=20_000)
    parser.add_argument("--noise", type=float, default=1.3, help="Length of what differs between photographs of an individual.")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((args.individuals, args.dimension), dtype=np.float32) / np.float32(np.sqrt(args.dimension))
    noise = args.noise / np.sqrt(args.dimension)
    labels = np.sort(rng.integers(0, args.individuals, args.images))
    of_known = np.repeat(np.arange(args.individuals // 10), KNOWN_IMAGES)
    images, labelled = Images.of(draw(labels, centres, noise, rng)), Images.of(draw(of_known, centres, noise, rng))
    del centres
    start, used = time.perf_counter(), time.process_time()

    def done(what: str) -> None:
        nonlocal start, used
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        seconds = f"{time.perf_counter() - start:8.1f} s, {time.process_time() - used:8.1f} s of processors"
        print(f"{what:<34} {seconds}   peak {peak:.2f} GB so far", flush=True)
        start, used = time.perf_counter(), time.process_time()

    known = Known.of(labelled, of_known.astype(str))
    done("embeddings of known individuals")
    grouping = group_images(images, known, size_penalty=0.01)
    done("merges")
    similarities = grouping.merges.similarities
    threshold = float(similarities[min(len(similarities), grouping.merges.n - args.individuals) - 1])
    clusters, individual = grouping.cut(threshold)
    done("clusters at a threshold")
    find_places(images, grouping, clusters, individual)
    done("how sure each image's place is")
    choose_pairs(grouping, images, labelled, of_known, threshold, MergeProbability(None, 0.5), 300)
    done("300 pairs to review")
    print(f"adjusted Rand index {adjusted_rand_score(labels, clusters):.3f}, {len(np.unique(clusters)):,} clusters")


if __name__ == "__main__":
    main()
