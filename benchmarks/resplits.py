"""Measure how often the 95% intervals of a hold-out contain the score on all images, by re-splits with known truth.

    python benchmarks/resplits.py                                     # about ten minutes
    python benchmarks/resplits.py --scores runs/x/scores_val.npz --rows 300

Each repeat draws `rows` images of a population and computes the metric, its corrected estimate and its interval; the truth is the
metric of the whole population. Without --scores the population is made: logits that are normal around the target's, for several
labels with unequal frequencies, so that a hold-out has 10 or 200 positives per label on average. Prints the bias of the metric and
of the corrected estimate, the share of intervals that hold, and their mean width over that of the exact interval, the 2.5% to 97.5%
quantiles of the estimates over all repeats.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from lib.config import command_line
from lib.metrics.intervals import bootstrap_interval
from lib.metrics.registry import METRICS
from lib.process import run_script


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the re-splits; returns {name of the case: {bias, corrected_bias, coverage, width}}."""
    parser = command_line.make_parser(__doc__, recipe=False)
    parser.add_argument("--scores", help="A labelled scores file, the population; none: made ones.")
    parser.add_argument("--metrics", nargs="+", help="Metrics to measure with --scores; none: the target's default.")
    parser.add_argument("--rows", type=int, default=300, help="Images of a hold-out of --scores.")
    parser.add_argument("--repeats", type=int, default=300, help="Re-splits.")
    args = command_line.parse(parser, argv)
    results = {}
    if args.scores:
        from lib.scores.alignment import encode_targets
        from lib.scores.score_file import load_scores

        scores = load_scores(Path(args.scores))
        for metric in args.metrics or [scores.target.default_metric]:
            targets = encode_targets(scores)
            results[f"{metric}, {args.rows} rows"] = _measure(metric, scores.logits, targets, args.rows, args.repeats)
        _report(results)
        return results
    for positives in (10, 200):
        for metric, labels in (("macro_map", 40), ("macro_f1", 40), ("macro_f1", 20), ("accuracy", 20)):
            several = labels == 40
            rows = positives * (10 if several else labels)
            logits, targets = (_make_labels if several else _make_classes)(labels, 20 * rows)
            case = f"{metric}, {labels} {'labels' if several else 'classes'}, {rows:,} rows, {positives} positives"
            results[case] = _measure(metric, logits, targets, rows, args.repeats)
    _report(results)
    return results


def _measure(metric: str, logits: np.ndarray, targets: np.ndarray, rows: int, repeats: int) -> dict[str, float]:
    """Return the bias, coverage and width of one case."""
    truth = METRICS[metric].function(logits, targets)
    found = []
    for repeat in range(repeats):
        drawn = np.random.default_rng(repeat).permutation(len(logits))[:rows]
        values = logits[drawn], targets[drawn]
        low, high = bootstrap_interval((metric, *values), n=400)
        found.append((METRICS[metric].function(*values), METRICS[metric].estimate(*values), low, high))
    plain, corrected, low, high = np.array(found).T
    exact = np.subtract(*np.quantile(corrected, [0.975, 0.025]))
    result = {
        "bias": plain.mean() - truth,
        "corrected_bias": corrected.mean() - truth,
        "coverage": float(np.mean((low <= truth) & (truth <= high))),
        "width": (high - low).mean() / exact,
    }
    return {key: float(value) for key, value in result.items()}


def _make_labels(labels: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return logits (rows, labels) and targets 0 or 1 with a mean frequency of 1 in 10, the rarest 1 in 50."""
    rng = np.random.default_rng(0)
    frequency = np.geomspace(0.02, 0.3, labels)
    targets = (rng.random((rows, labels)) < frequency * 0.1 / frequency.mean()).astype(np.float32)
    return (rng.normal(size=targets.shape) + 2 * targets - 3).astype(np.float32), targets


def _make_classes(classes: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return logits (rows, classes) and targets (rows,) int of classes whose frequencies differ by a factor of ten."""
    rng = np.random.default_rng(0)
    frequency = np.geomspace(0.1, 1, classes)
    targets = rng.choice(classes, size=rows, p=frequency / frequency.sum())
    logits = rng.normal(size=(rows, classes))
    logits[np.arange(rows), targets] += 2.5
    return logits.astype(np.float32), targets


def _report(results: dict[str, Any]) -> None:
    width = max(map(len, results))
    print(f"{'':{width}}     bias  corrected  coverage  width / exact")
    for case, r in results.items():
        print(f"{case:{width}} {r['bias']:+8.4f} {r['corrected_bias']:+10.4f} {r['coverage']:9.3f} {r['width']:14.2f}")


if __name__ == "__main__":
    run_script(main)
