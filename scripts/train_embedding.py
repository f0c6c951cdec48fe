"""Train an embedding of individuals: near for the same one, far for others, so that a stranger can be told (scripts/retrieve.py).

    accelerate launch scripts/train_embedding.py --cfg recipes/whale.yaml
    accelerate launch scripts/train_embedding.py --cfg recipes/whale.yaml --objective.name triplet --train.sampler pk
    accelerate launch scripts/train_embedding.py --cfg recipes/whale.yaml --resume

Validation asks as the contest does: who is it, among the training images, or is it new? A killed run goes on with --resume.
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
    return train.train_run(args.recipe, folder, "embedding")


if __name__ == "__main__":
    run_script(main)
