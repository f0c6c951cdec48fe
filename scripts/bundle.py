"""Pack runs for a contest that runs a notebook without internet: code, wheels, weights and the notebook's cells in one folder.

    python scripts/bundle.py --runs runs/a runs/cv --out bundle --data_at /kaggle/input/leaf-classification

Upload the folder as a data set, open its notebook.ipynb there, add the contest's files, and switch the internet off. The cells
install the wheels without an index, predict the hidden test images with all runs within --minutes, combine them as ensemble.py
does, and write submission.csv; embeddings answer as retrieve.py does, or as discover.py where the sample asks for clusters.
Wheels are downloaded by pip; --wheels names what the other machine lacks (nothing: no wheels).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lib.config import command_line
from lib.process import run_script

LACKING = ("timm", "pytorch-metric-learning", "faiss-cpu", "iterative-stratification")
METHODS = ("mean", "mean_prob", "geometric", "rank", "weighted", "greedy", "optimal")


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the script with `argv`; returns what bundle.json holds."""
    parser = command_line.make_parser(__doc__, recipe=False)
    add = parser.add_argument
    add("--runs", nargs="+", required=True, help="Runs or k-fold runs, the best first: the last are left out when time is short.")
    add("--out", type=Path, required=True, help="Folder to write; empty or new.")
    add("--wheels", nargs="*", default=list(LACKING), help=f"Packages the other machine lacks; default: {' '.join(LACKING)}.")
    here = "{}.{}".format(*sys.version_info)
    add("--python", default=here, help=f"Python version of the other machine; default: this one's, {here}.")
    add("--bundle_at", help="Where the folder will be there; default: /kaggle/input/<name of --out>.")
    add("--data_at", default="/kaggle/input", help="Folder of the contest's files there.")
    add("--minutes", type=float, default=500, help="Time limit of the prediction; default: 500, of Kaggle's nine hours.")
    add("--method", choices=METHODS, default="greedy", help="How to combine several runs.")
    args = command_line.parse(parser, argv)

    from lib.pipelines.bundle import BundleArguments, pack_runs  # imports torch: --help and a typo are answered before

    place = args.bundle_at or f"/kaggle/input/{args.out.resolve().name}"
    packed = (args.runs, args.out, args.wheels, args.python, place, args.data_at, args.minutes, args.method)
    return pack_runs(BundleArguments(*packed))


if __name__ == "__main__":
    run_script(main)
