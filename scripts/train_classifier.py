"""Train a classifier, one label per image or several, from a contest's tables to a checked submission.

    accelerate launch scripts/train_classifier.py --cfg recipes/digits.yaml
    accelerate launch scripts/train_classifier.py --cfg recipes/digits.yaml --model.name resnet50d --train.epochs 3
    accelerate launch scripts/train_classifier.py --cfg recipes/digits.yaml --resume

With `python` instead of `accelerate launch` one process runs, on the GPU if there is one. The run's folder holds its recipe,
weights, scores, report and submission. An interrupted run continues with --resume.
"""

from __future__ import annotations

from typing import Any

from lib.config import command_line
from lib.process import run_script


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the script with `argv`; returns what metrics.json holds, or an estimate."""
    parser = command_line.make_parser(__doc__)
    command_line.add_run_arguments(parser)
    args = command_line.parse(parser, argv)

    from lib.pipelines.estimate import estimate  # imports torch: --help and a typo are answered before
    from lib.pipelines.runs import RunArguments
    from lib.pipelines.train import train

    do = estimate if args.estimate else train
    return do(args.recipe, RunArguments(args.out, args.resume, args.recipe_file))


if __name__ == "__main__":
    run_script(main)
