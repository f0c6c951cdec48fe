"""Predict a contest's test images with the runs of a bundle; the notebook of scripts/bundle.py calls this.

    python code/scripts/run_bundle.py --bundle /kaggle/input/bundle --data /kaggle/input/leaf-classification --minutes 500

The runs' recipes say where below --data the sample submission and the images are. Neither folder is written to. A run that would
exceed the time limit is left out; when not even the first fits, nothing is written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lib.config import command_line
from lib.errors import FlukeError
from lib.process import run_script


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the script with `argv`; returns the runs used and left out, and the minutes."""
    parser = command_line.make_parser(__doc__, recipe=False)
    parser.add_argument("--bundle", type=Path, required=True, help="The bundle's folder.")
    parser.add_argument("--data", type=Path, required=True, help="Folder of the contest's files, in place of data.root.")
    parser.add_argument("--out", type=Path, default=Path("submission.csv"), help="File to write.")
    parser.add_argument("--minutes", type=float, default=500, help="Time limit.")
    args = command_line.parse(parser, argv)
    if not args.minutes > 0:
        raise FlukeError(f"--minutes {args.minutes:g}: set a number above 0.")

    from lib.pipelines.run_bundle import BundledArguments, answer_bundle

    return answer_bundle(BundledArguments(args.bundle, args.data, args.out, args.minutes))


if __name__ == "__main__":
    run_script(main)
