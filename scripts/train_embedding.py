"""Train embeddings of individuals: images of one individual are close, images of others far (see scripts/retrieve.py).

    accelerate launch scripts/train_embedding.py --cfg recipes/whale.yaml
    accelerate launch scripts/train_embedding.py --cfg recipes/whale.yaml --objective.name triplet --train.sampler pk
    accelerate launch scripts/train_embedding.py --cfg recipes/whale.yaml --resume

A validation searches for each held-out image among the training images; individuals held out whole have to be answered as new. An
interrupted run continues with --resume.
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
    return do(args.recipe, RunArguments(args.out, args.resume, args.recipe_file), embedding=True)


if __name__ == "__main__":
    run_script(main)
