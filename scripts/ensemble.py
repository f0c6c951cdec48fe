"""Combine runs, or k-fold runs, and evaluate the combination out of fold.

    python scripts/ensemble.py --runs runs/a runs/b runs/c --method greedy
    python scripts/ensemble.py --runs runs/a runs/b --method mean --metric macro_f1 --offsets macro_f1 --out runs/ens

Weights are fitted on out-of-fold scores (oof.npz, or a single run's scores_val.npz). The ensemble's score is printed for rows that
nothing was fitted on. The out-of-fold scores of a k-fold run come from single models, its test scores from the mean of all folds'
models, which mostly score better. A run with only some of the first run's classes corrects the first run within them.

Methods: mean (of logits), mean_prob (of probabilities), geometric (product of probabilities), rank (mean rank), vote, weighted
(vote weighted by score), greedy (selection with replacement, Caruana 2004), optimal (least log-loss), stack_lr, stack_gb (stacking
by logistic regression, gradient boosting).
"""

from __future__ import annotations

from typing import Any

from lib.config import command_line
from lib.process import run_script
from lib.run_folder import RunFolder
from lib.scores.run_scores import find_run_scores

METHODS = ("mean", "mean_prob", "geometric", "rank", "vote", "weighted", "greedy", "optimal", "stack_lr", "stack_gb")
OFFSET_METRICS = ("accuracy", "macro_f1")


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the script with `argv`; returns the content of ensemble.json."""
    parser = command_line.make_parser(__doc__, recipe=False)
    add = parser.add_argument
    add("--runs", nargs="+", required=True, help="Run folders; the submission follows the first one's recipe.")
    add("--method", choices=METHODS, default="greedy", help="How to combine.")
    add("--out", help="Folder to write; default: runs/ensemble-<time>.")
    add("--metric", help="Metric to score by; default: the first run's.")
    add("--temperature", action="store_true", help="Calibrate the result by a temperature (Guo et al. 2017).")
    thresholds = "Several labels per image: fit each label's threshold for the best F1, and shift the scores by it."
    add("--thresholds", action="store_true", help=thresholds)
    offsets = "One label per image: fit an offset per class for the best value of this metric."
    add("--offsets", choices=OFFSET_METRICS, help=offsets)
    args = command_line.parse(parser, argv)
    for run in args.runs:
        find_run_scores(RunFolder(run))  # a wrong folder is answered before SciPy is imported

    from lib.pipelines.ensemble import EnsembleArguments, combine_runs
    from lib.scores.decisions import AdjustmentOptions

    options = AdjustmentOptions(args.temperature, args.thresholds, args.offsets)
    return combine_runs(EnsembleArguments(args.runs, args.method, args.out, args.metric, options))


if __name__ == "__main__":
    run_script(main)
