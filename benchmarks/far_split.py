"""Write a harder split than a random one: of each class the images least similar to its others.

Test images from other shops, cameras or years differ in such a way.

    python benchmarks/far_split.py --cfg benchmarks/quality/grocery81.yaml --out far.csv
    accelerate launch scripts/train_classifier.py --cfg benchmarks/quality/grocery81.yaml --folds.csv $PWD/far.csv ...

Each class's training images are clustered (average linkage of the cosines of the recipe's backbone's features before any
training); of the clusters that hold 10 to 35% of the class, the one farthest from the rest is fold 0, which train_classifier holds
out. Classes of fewer than six images, and those without such a cluster, hold out none. Prints the accuracy of logistic regression
on the same features for this split and for a random one. If the contest's test lies between them, what improves both improves it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))

from lib.config import command_line
from lib.process import run_script


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Write the split; returns the accuracies of logistic regression on the `far` and the `random` split."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--out", required=True, help="Table (image, fold) to write.")
    args = command_line.parse(parser, argv)

    from accelerate import Accelerator
    from sklearn.linear_model import LogisticRegression

    from lib.images.augmentation import make_eval_transform
    from lib.models.network import Network, NetworkSpec
    from lib.models.weights import load_initial_weights
    from lib.pipelines.run_tables import make_dataset
    from lib.tables import loading
    from lib.tables.target import IDENTITY
    from lib.training.accelerator import keep_memory
    from lib.training.inference import InferenceOptions, predict

    recipe, d = args.recipe, args.recipe.data
    keep_memory()
    table = loading.load_train(d, recipe.folds)
    network = Network(NetworkSpec(recipe.model, table.classes, IDENTITY, d.size, d.fit))
    print(load_initial_weights(network, recipe.model))
    images = make_dataset(recipe, table, make_eval_transform(d, d.size))
    features = predict([network], images, Accelerator(), InferenceOptions(64, d.workers), title="features")[0]
    targets = table.targets()
    held = np.zeros(len(table), bool)
    for c in range(len(table.classes)):
        rows = np.flatnonzero(targets == c)
        if len(rows) >= 6:
            held[rows[_farthest(features[rows])]] = True
    pd.DataFrame({"image": table.names, "fold": np.where(held, 0, 1)}).to_csv(args.out, index=False)
    found = {}
    for name, test in (("far", held), ("random", np.random.default_rng(0).permutation(held))):
        model = LogisticRegression(C=30, max_iter=500).fit(features[~test], targets[~test])
        found[name] = float(model.score(features[test], targets[test]))
    scores = ", ".join(f"{name} {score:.3f}" for name, score in found.items())
    print(f"{args.out}: holds out {held.sum():,} of {len(table):,}; frozen features score {scores}")
    return found


def _farthest(features: np.ndarray) -> np.ndarray:
    """Return the positions of the cluster of 10 to 35% of the rows that is least similar to the others.

    `features` are (n, d), normalized. Empty where no cut of the tree into two to six clusters has such a cluster.
    """
    from sklearn.cluster import AgglomerativeClustering

    found = [np.empty(0, int)]
    similarity = [np.inf]
    for n in range(2, 7):
        clusters = AgglomerativeClustering(n, metric="cosine", linkage="average").fit_predict(features)
        for cluster in range(n):
            if 0.1 <= (clusters == cluster).mean() <= 0.35:
                found.append(np.flatnonzero(clusters == cluster))
                similarity.append(float(features[clusters == cluster].mean(axis=0) @ features[clusters != cluster].mean(axis=0)))
    return found[int(np.argmin(similarity))]


if __name__ == "__main__":
    run_script(main)
