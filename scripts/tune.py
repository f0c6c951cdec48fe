"""Tune fields of a recipe: search a space by Optuna, for a number of minutes; each trial is a run like any other.

    python scripts/tune.py --cfg R.yaml --space S.yaml --minutes 60 --out runs/tuned
    python scripts/tune.py --cfg R.yaml --space S.yaml --minutes 60 --out runs/tuned --storage postgresql://host/db

The space is a YAML file: choices `train.batch_size: [16, 32]` and ranges `optim.lr: {low: 1.0e-5, high: 1.0e-2, log: true}`, also
with `step`. Needs Optuna: pip install -e ".[tune]". The recipe as it is comes first where it lies in the space, then five random
trials, then Optuna's tree-structured Parzen estimator (TPE). A trial whose best epoch is worse than the median of the others at
the same epoch ends there. The same command goes on with the study: a trial that was interrupted or killed goes on where it was.
Several machines may do so at once on a shared folder, or with a database. Writes trials.csv, best.yaml and the runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lib.config import command_line
from lib.config.space import read_space
from lib.errors import FlukeError
from lib.process import run_script
from lib.run_folder import default_run_folder


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the script with `argv`; returns the metric, the best trial's value and by how much the choice flatters it."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--space", required=True, help="YAML file: the fields to tune, and their choices or ranges.")
    parser.add_argument(
        "--minutes", type=float, required=True, help="Minutes to search; a trial in progress is kept for the next call."
    )
    parser.add_argument("--trials", type=int, help="Trials of the study, with those of earlier calls, after which it ends.")
    parser.add_argument("--out", help="Folder of the study and its runs; default: runs/tune-<time>.")
    parser.add_argument("--storage", help="File or database URL (SQLAlchemy's) of the study; default: OUT/study.log.")
    parser.add_argument("--kind", choices=("classifier", "embedding"), default="classifier", help="What to train.")
    args = command_line.parse(parser, argv)
    if args.minutes <= 0:
        raise FlukeError(f"--minutes: expected a number above 0 (found {args.minutes:g}).")
    space = read_space(args.space, args.recipe)

    from lib.pipelines.tune import StudyArguments, tune  # imports torch: --help and a typo are answered before

    out = Path(args.out or default_run_folder("tune"))
    study = StudyArguments(out, args.minutes, Path(args.recipe_file or "recipe").stem, args.trials, args.storage)
    return tune(args.recipe, space, study, args.kind == "embedding")


if __name__ == "__main__":
    run_script(main)
