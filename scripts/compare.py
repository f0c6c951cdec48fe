"""Compare runs: what differs between their recipes, score with interval, paired difference to the best, minutes.

    python scripts/compare.py runs/*
    python scripts/compare.py runs/a runs/b --metric macro_f1 --out runs/compared

A difference counts where its 99% interval, on the rows that both runs held out and widened for the training seed, excludes 0.
k-fold runs are compared by their out-of-fold scores. With --out, compare.csv and compare.html are written there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lib.config import command_line
from lib.errors import FlukeError
from lib.process import run_script
from lib.run_folder import RunFolder


def main(argv: list[str] | None = None) -> Any:
    """Run the script with `argv`; returns the table (pandas.DataFrame)."""
    parser = command_line.make_parser(__doc__, recipe=False)
    parser.add_argument("runs", nargs="+", help="Run folders; files and folders that hold no run are left out.")
    parser.add_argument("--metric", help="Metric to compare by; default: the first run's.")
    parser.add_argument("--out", type=Path, help="Folder to write the table and a page to.")
    args = command_line.parse(parser, argv)
    runs = [run for run in args.runs if RunFolder(run).recipe.exists()]
    if len(runs) < 2:
        raise FlukeError(f"{len(runs)} of {len(args.runs)} names are runs (folders with a recipe.yaml); name two or more.")

    from lib.pipelines.compare import compare_runs

    return compare_runs(runs, args.metric, args.out)


if __name__ == "__main__":
    run_script(main)
