"""Cross-validate: train one model per fold, score each row by the model not trained on it, average the models on the test images.

    accelerate launch scripts/kfold.py --cfg recipes/digits.yaml --folds.n 5
    accelerate launch scripts/kfold.py --cfg recipes/digits.yaml --folds.n 5 --only 0 3 --out runs/cv
    accelerate launch scripts/kfold.py --cfg recipes/digits.yaml --folds.n 5 --resume --out runs/cv
    accelerate launch scripts/kfold.py --cfg recipes/digits.yaml --folds.n 5 --resume --out runs/cv --final --seeds 0 1 2

Each fold is a run in fold0, fold1, ... of the run's folder; a finished one is skipped. folds.csv holds the fold of each row. When
all folds are finished, oof.npz and cv.json (mean, spread, interval) are written and, from one pass over the test images,
scores_test.npz and submission.csv. With --final, models of all rows follow, without a hold-out: OUT/final has their mean prediction
of the test, and predict.py --run OUT/final that of other images; the score to cite is that of the folds.
"""

from __future__ import annotations

from typing import Any

from lib.config import command_line
from lib.errors import FlukeError
from lib.process import run_script


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the script with `argv`; returns what cv.json holds, {} while folds are missing."""
    parser = command_line.make_parser(__doc__)
    command_line.add_run_arguments(parser)
    parser.add_argument("--only", nargs="+", type=int, help="Train these folds now, counted from 0.")
    parser.add_argument("--kind", choices=("classifier", "embedding"), default="classifier", help="What to train.")
    parser.add_argument(
        "--final", action="store_true", help="Afterwards train on all rows, for the folds' best number of epochs, into OUT/final."
    )
    parser.add_argument("--seeds", nargs="+", type=int, help="Seeds of the models of --final; default: train.seed alone.")
    args = command_line.parse(parser, argv)
    n = args.recipe.folds.n
    if wrong := [str(k) for k in args.only or [] if not 0 <= k < n]:
        raise FlukeError(f"--only {' '.join(wrong)}: with folds.n {n}, folds are 0 to {n - 1}.")

    from lib.pipelines.estimate import estimate  # imports torch: --help and a typo are answered before
    from lib.pipelines.kfold import cross_validate
    from lib.pipelines.runs import RunArguments

    arguments = RunArguments(args.out, args.resume, args.recipe_file)
    if args.seeds and not args.final:
        raise FlukeError("--seeds: is for --final; train.seed is the folds' seed.")
    seeds = args.seeds or [args.recipe.train.seed]
    if args.final and args.kind == "embedding":
        raise FlukeError("--final: is for classifiers and numbers; leave it out with --kind embedding.")
    if args.estimate:
        return estimate(args.recipe, arguments, args.kind == "embedding", args.only or range(n), len(seeds) if args.final else 0)
    return cross_validate(args.recipe, arguments, args.kind == "embedding", args.only, seeds if args.final else ())


if __name__ == "__main__":
    run_script(main)
