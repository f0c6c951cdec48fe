"""Count how often compare.py calls two runs different that differ in the training seed alone.

    python benchmarks/seed_pairs.py                                                      # simulated runs, two minutes
    python benchmarks/seed_pairs.py --cfg recipes/digits.yaml --seeds 10 --out /tmp/pairs  # real ones, 45 pairs

Real runs are trained, or read where they are in --out already, and every pair is compared as compare.py does. Simulated runs are
logits of 10 classes: each row has a difficulty that all runs share, and noise of its own in each run; `shift` is the standard
deviation over seeds of what a run adds to the right class of all rows, so that seeds differ on the whole population too. Prints per
metric the share of pairs that are called different, and the standard deviation of the score over seeds.

Digits, 4 epochs at 24 px, half of the rows held out (628): 0 of 45 pairs by accuracy and macro F1, 4 by log loss, whose level
depends on the seed more than accuracy does; without the allowance for seeds in compare.py 4, 5 and 16. Simulated runs of 4,000 rows
whose seeds shift all rows are still called different: they are, on any number of rows.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from lib.config import command_line
from lib.metrics.registry import METRICS, metric_from_logits
from lib.pipelines.compare import difference
from lib.process import run_script
from lib.run_folder import RunFolder
from lib.scores.alignment import encode_targets
from lib.scores.score_file import Scores, load_scores
from lib.tables.target import ONE_LABEL

CLASSES = 10


def main(argv: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Print the table; return {case: {metric: share of pairs called different}}."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="Runs of a case.")
    parser.add_argument("--out", type=Path, help="Folder of the real runs.")
    parser.add_argument("--metrics", nargs="+", default=["accuracy", "macro_f1", "log_loss"], help="Metrics to compare by.")
    parser.add_argument("--repeats", type=int, default=4, help="Sets of simulated runs of each case.")
    args = command_line.parse(parser, argv, check=False)
    if args.out is not None:
        return {"real": _count(_train(args), args.metrics, "real")}
    found = {}
    for rows, shift in itertools.product((250, 1000, 4000), (0.0, 0.1)):
        name = f"{rows} rows, shift {shift}"
        sets = [_simulate(rows, shift, args.seeds, seed) for seed in range(args.repeats)]
        found[name] = _count([pair for runs in sets for pair in _pairs(runs)], args.metrics, name, sets)
    return found


def _pairs(runs: list[Scores]) -> list[tuple[Scores, Scores]]:
    return list(itertools.combinations(runs, 2))


def _train(args: object) -> list[tuple[Scores, Scores]]:
    from lib.pipelines.runs import RunArguments
    from lib.pipelines.train import train

    runs = []
    for seed in range(args.seeds):  # type: ignore[attr-defined]
        folder = RunFolder(args.out / f"seed{seed}")  # type: ignore[attr-defined]
        recipe = args.recipe  # type: ignore[attr-defined]
        train(replace(recipe, train=replace(recipe.train, seed=seed)), RunArguments(str(folder), folder.recipe.exists(), None))
        runs.append(load_scores(folder.scores_val))
    return _pairs(runs)


def _simulate(rows: int, shift: float, seeds: int, seed: int) -> list[Scores]:
    rng = np.random.default_rng(seed)
    classes = tuple(f"{i}" for i in range(CLASSES))
    targets = rng.integers(CLASSES, size=rows)
    shared = rng.normal(0, 1.5, (rows, CLASSES)) + 4 * np.eye(CLASSES)[targets]
    names, labels = [f"{i}" for i in range(rows)], [(classes[t],) for t in targets]
    runs = []
    for _ in range(seeds):
        own = rng.normal(0, 1, (rows, CLASSES)) + rng.normal(0, shift) * np.eye(CLASSES)[targets]
        logits = (shared + own).astype(np.float32)
        runs.append(Scores(np.arange(rows), names, classes, logits, labels, ONE_LABEL, {}))
    return runs


def _count(
    pairs: list[tuple[Scores, Scores]], metrics: list[str], title: str, sets: list[list[Scores]] | None = None
) -> dict[str, float]:
    found = {}
    for metric in metrics:
        name = metric_from_logits(metric, pairs[0][0].target)
        called = [difference(a, b, name, "a", "b")["differs"] == "yes" for a, b in pairs]
        runs = {id(run): run for pair in pairs for run in pair}.values()
        scores = [METRICS[name].function(run.logits, encode_targets(run)) for run in runs]
        found[metric] = float(np.mean(called))
        print(
            f"{title:>22}  {metric:<10} {sum(called):>3} of {len(called)} pairs called different; score {np.mean(scores):.4f}, "
            f"sd over seeds {np.std(scores, ddof=1):.4f}",
            flush=True,
        )
    return found


if __name__ == "__main__":
    run_script(main)
