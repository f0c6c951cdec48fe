"""Measure the coverage of 95% intervals of cross-validation, on many re-splits of one labelled table with frozen features.

    python benchmarks/intervals.py                                     # synthetic features, a minute
    python benchmarks/intervals.py --features features.npz --rows 500 --repeats 200

Each repeat draws `rows` images as a training table, cross-validates a logistic regression on their features, and computes intervals
for the score of the fold models on unseen images. The true score is the mean of the fold models' scores on all other images.
Prints for each method: coverage, mean width, width over that of the plain bootstrap of the pooled out-of-fold rows, mean distance
of the middle from the true score (bias), and the middle's standard deviation around the true score over the one that the interval's
width implies (spread, 1 at best).

The true score is measured on finitely many images, so that an interval with 95% coverage contains the measured one less often; the
column "at best" is that share. `test` is the score on a test set of that many images, against the bootstrap's interval as it is,
and widened for the noise of such a test set (`interval_on_test` in lib/metrics/intervals.py).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from lib.tables.target import IDENTITY

sys.path.insert(0, str(Path(__file__).parents[1]))

from lib.config import command_line
from lib.errors import FlukeError
from lib.process import run_script


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the simulation; returns {metric: {method: {coverage, width, ratio}}}."""
    parser = command_line.make_parser(__doc__, recipe=False)
    parser.add_argument("--features", help="A scores file of embeddings with labels; none: synthetic.")
    parser.add_argument("--rows", type=int, default=500, help="Images of each training table.")
    parser.add_argument("--repeats", type=int, default=200, help="Re-splits.")
    parser.add_argument("--folds", type=int, default=5, help="Folds of each cross-validation.")
    parser.add_argument(
        "--stratify",
        choices=("none", "folds", "both"),
        default="none",
        help="Class shares held equal: nowhere, in the folds, or in the folds and between training table and truth.",
    )
    parser.add_argument("--seed", type=int, default=0, help="Seed of re-splits and synthetic features.")
    args = command_line.parse(parser, argv)

    from scipy.stats import norm

    features, targets = _read(Path(args.features)) if args.features else _make_features(args.seed)
    features = features / features.std()
    if len(targets) < 3 * args.rows:
        raise FlukeError(f"--rows {args.rows}: at most a third of the {len(targets):,} images, the others measure the true score.")
    found: dict[str, dict[str, list[tuple[float, float, float]]]] = {}
    for repeat in range(args.repeats):
        for metric, methods in _resplit(features, targets, args.rows, args.folds, args.stratify, args.seed + repeat).items():
            for method, interval in methods.items():
                found.setdefault(metric, {}).setdefault(method, []).append(interval)
    n_truth = len(targets) - args.rows
    at_best = 2 * norm.cdf(norm.ppf(0.975) / np.sqrt(1 + args.rows / n_truth)) - 1
    table: dict[str, Any] = {}
    print(f"{args.repeats} re-splits of {len(targets):,} images, stratified: {args.stratify}")
    print(f"{args.rows} rows, {args.folds} folds, truth on {n_truth:,}")
    print(f"{'metric':10}{'method':24}{'coverage':>9}{'at best':>9}{'width':>8}{'ratio':>7}{'bias':>9}{'spread':>8}")
    for metric, by_method in found.items():
        plain = np.mean([high - low for low, high, _ in by_method["bootstrap"]])
        for method, intervals in by_method.items():
            low, high, truth = np.array(intervals).T
            row = {
                "coverage": float(((low <= truth) & (truth <= high)).mean()),
                "width": float((high - low).mean()),
                "ratio": float((high - low).mean() / plain),
                "bias": float(((low + high) / 2 - truth).mean()),
                "spread": float(((low + high) / 2 - truth).std() / (high - low).mean() * 2 * norm.ppf(0.975)),
            }
            best = f"{at_best:9.3f}" if not method.startswith("test") else f"{0.95:9.3f}"
            print(
                f"{metric:10}{method:24}{row['coverage']:9.3f}{best}{row['width']:8.4f}{row['ratio']:7.2f}{row['bias']:+9.4f}"
                f"{row['spread']:8.2f}"
            )
            table.setdefault(metric, {})[method] = row
    return table


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    from lib.scores import score_file

    file = score_file.load_scores(path)
    if file.target is not IDENTITY or file.labels is None:
        raise FlukeError(f"{path}: expected embeddings with one label per image.")
    return file.logits, np.unique([row[0] for row in file.labels], return_inverse=True)[1]


def _make_features(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return Gaussian clouds of 12 classes, the largest 12 times the smallest, 4,000 rows of 16 features; about 0.8 accuracy."""
    rng = np.random.default_rng(seed)
    shares = 1 / np.arange(1, 13)
    targets = rng.choice(12, size=4000, p=shares / shares.sum())
    return 1.1 * rng.normal(size=(12, 16))[targets] + 1.4 * rng.normal(size=(4000, 16)), targets


def _resplit(
    features: np.ndarray, targets: np.ndarray, rows: int, folds: int, stratify: str, seed: int
) -> dict[str, dict[str, Any]]:
    """Return {metric: {method: (low, high, truth)}} of one re-split."""
    from scipy.stats import norm, t
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split

    from lib.metrics.intervals import bootstrap_interval, interval_on_test
    from lib.metrics.registry import METRICS
    from lib.scores.out_of_fold import inner_folds

    equal = targets if stratify == "both" else None
    drawn, others = train_test_split(np.arange(len(targets)), train_size=rows, stratify=equal, random_state=seed)
    n_test = rows // 2
    x, y = features[drawn], targets[drawn]
    fold = inner_folds(y if stratify != "none" else np.zeros_like(y), folds, seed)
    width = int(targets.max()) + 1
    out_of_fold, unseen = np.full((rows, width), -30, np.float32), []
    for k in range(folds):
        model = LogisticRegression(C=0.1, max_iter=500).fit(x[fold != k], y[fold != k])
        known = model.classes_
        out_of_fold[np.ix_(fold == k, known)] = np.log(model.predict_proba(x[fold == k]) + 1e-12)
        logits = np.full((len(others), width), -30, np.float32)
        logits[:, known] = np.log(model.predict_proba(features[others]) + 1e-12)
        unseen.append(logits)

    result: dict[str, dict[str, Any]] = {}
    for name in ("accuracy", "macro_f1"):
        score = METRICS[name].function
        truth = float(np.mean([score(logits, targets[others]) for logits in unseen]))
        on_test = float(np.mean([score(logits[:n_test], targets[others[:n_test]]) for logits in unseen]))
        pooled = score(out_of_fold, y)
        of_folds = np.array([score(out_of_fold[fold == k], y[fold == k]) for k in range(folds)])
        low, high = bootstrap_interval((name, out_of_fold, y), seed=seed)
        held = fold == 0
        spread, q = of_folds.std(ddof=1), t.ppf(0.975, folds - 1)
        methods = {
            "bootstrap": (low, high),
            "bootstrap, 1 hold-out": bootstrap_interval((name, out_of_fold[held], y[held]), seed=seed),
            "t over folds": _around(of_folds.mean(), q * spread / np.sqrt(folds)),
            "t, Nadeau-Bengio": _around(of_folds.mean(), q * spread * np.sqrt(1 / folds + 1 / (folds - 1))),
        }
        if name == "accuracy":  # the central limit theorem of Bayle et al. 2020
            methods["normal, Bayle et al."] = _around(pooled, norm.ppf(0.975) * np.sqrt(pooled * (1 - pooled) / rows))
        result[name] = {method: (*interval, truth) for method, interval in methods.items()}
        result[name][f"test {n_test}, as it is"] = (low, high, on_test)
        result[name][f"test {n_test}, widened"] = (*interval_on_test(name, pooled, (low, high), rows, n_test), on_test)
    return result


def _around(middle: float, half: float) -> tuple[float, float]:
    return middle - half, middle + half


if __name__ == "__main__":
    run_script(main)
