"""Hand a run's submission in by Kaggle's own client, and keep validation beside leaderboard in submissions.csv.

    python scripts/submit.py --run runs/cv --competition leaf-classification

The file is checked against the sample again; the description holds the run, its validation score with interval, and the commit.
After the score has come, a line is added to submissions.csv beside the run; from five submissions on, the rank correlation of
validation and leaderboard is printed and drawn. Without the client (`pip install -e ".[kaggle]"`), its credentials or a network
nothing is handed in, and the command is printed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lib.config import command_line
from lib.process import run_script


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the script with `argv`; returns the line of submissions.csv."""
    parser = command_line.make_parser(__doc__, recipe=False)
    parser.add_argument("--run", required=True, help="A run, a k-fold run or an ensemble.")
    parser.add_argument("--competition", required=True, help="The contest's name in its address.")
    parser.add_argument("--file", type=Path, help="Another file; default: the run's final/submission.csv, else its submission.csv.")
    parser.add_argument("--message", help="Description of the submission; default: run, score and commit.")
    parser.add_argument("--wait", type=int, default=600, help="Seconds to wait for the score.")
    parser.add_argument("--log", type=Path, help="The table of submissions; default: submissions.csv beside the run's folder.")
    args = command_line.parse(parser, argv)

    from lib.pipelines.submit import SubmitArguments, submit_run

    return submit_run(SubmitArguments(args.run, args.competition, args.file, args.message, args.wait, args.log))


if __name__ == "__main__":
    run_script(main)
