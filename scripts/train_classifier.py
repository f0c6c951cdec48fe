"""Train a classifier, one label per image or several, from a contest's tables to a checked submission.

    accelerate launch scripts/train_classifier.py --cfg recipes/digits.yaml
    accelerate launch scripts/train_classifier.py --cfg recipes/digits.yaml --model.name resnet50d --train.epochs 3
    accelerate launch scripts/train_classifier.py --cfg recipes/digits.yaml --resume

`python` instead of `accelerate launch` runs one process on the device there is. A run leaves its recipe, weights, scores, report
and submission in its folder; a killed run goes on where it stopped with --resume.
"""

from __future__ import annotations

from typing import Any

from lib.config import command_line
from lib.process import run_script


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the script with `argv`; returns what metrics.json holds."""
    parser = command_line.make_parser(__doc__)
    command_line.add_run_arguments(parser)
    args = command_line.parse(parser, argv)

    from lib.pipelines import runs, train  # torch only now: --help and a typo are answered before

    folder = runs.open_run(args.out, args.resume, args.recipe, args.recipe_file)
    return train.train_run(args.recipe, folder)


if __name__ == "__main__":
    run_script(main)
