"""Measure how many wrong names planted in a gallery stand at the head of the list of its possible errors.

    python scripts/retrieve.py --model tf_efficientnet_lite0 --weights ../shared/weights/efficientnet_lite0.safetensors \\
        --data.root ../shared/data/nyala --data.train_csv train.csv --data.image_dir train --data.image_column Image \\
        --data.label_column Id --data.new_label new_nyala --folds.group_csv sightings.csv --folds.group_column Sighting \\
        --predict.tta '[hflip]' --out nyala
    python benchmarks/catalogue_errors.py --gallery nyala/gallery --sighting_column Sighting

Names of 5% of the photographs, or of 5% of the sightings, are passed on in a circle; five draws. Prints the share of them in the
first tenth of the list, without and with the sightings known.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from lib.retrieval.catalogue_errors import find_errors
from lib.retrieval.gallery import open_gallery


def swap_names(labels: np.ndarray, units: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Return labels (n,) in which a share of the units (n,), each of one label, have the label of another one."""
    names, first = np.unique(units, return_index=True)
    drawn = np.random.default_rng(seed).permutation(len(names))[: round(share * len(names))]
    new = dict(zip(names[drawn].tolist(), labels[first[np.roll(drawn, 1)]].tolist()))
    return np.array([new.get(unit, label) for unit, label in zip(units.tolist(), labels.tolist())])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gallery", type=Path, required=True)
    parser.add_argument("--sighting_column", required=True)
    parser.add_argument("--draws", type=int, default=5)
    args = parser.parse_args()
    gallery = open_gallery(args.gallery)
    embeddings, labels = gallery.embeddings(gallery.rows.ids), gallery.rows.labels
    sightings = gallery.rows.details[args.sighting_column]
    print(f"{len(labels):,} images of {len(gallery.identities):,} individuals, {len(np.unique(sightings)):,} sightings")
    for what, units in (("photographs", np.arange(len(labels)).astype(str)), ("sightings", sightings)):
        for known in (None, sightings):
            shares, planted = [], 0
            for seed in range(args.draws):
                swapped = swap_names(labels, units, 0.05, seed)
                wrong = np.flatnonzero(swapped != labels)
                found = find_errors(embeddings, swapped, known)
                first = [each.images[0] for each in found[: len(found) // 10] if each.kind in ("photograph", "sighting")]
                shares.append(np.isin(wrong, first).mean())
                planted += len(wrong)
            how = "without sightings" if known is None else "with sightings   "
            print(
                f"5% of the {what} ({planted / args.draws:.0f} images), {how}: {np.mean(shares):.3f} "
                f"({min(shares):.3f} to {max(shares):.3f}) of the wrong names in the first tenth; by chance 0.1"
            )


if __name__ == "__main__":
    main()
