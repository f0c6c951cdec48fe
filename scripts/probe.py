"""Which backbone should be trained? Compare backbones by heads that are cross-validated on their frozen features, in minutes.

    python scripts/probe.py --cfg R.yaml --models tf_efficientnet_lite0 resnet18
    python scripts/probe.py --cfg R.yaml --models tf_efficientnet_lite0 --weights lite0.safetensors --predict.tta '[hflip]'
    python scripts/probe.py --cfg R.yaml --models resnet18 resnet50 --out runs/probe --folds.n 5

Every image goes through each backbone once; the features are kept beside the packed cache (data.cache_dir), else in
~/.cache/fluke, and a pass that is killed goes on where it was. Heads: logistic regression, nearest neighbours and class means, or
ridge regression for numbers. Prints a table with scores, 95% intervals and speed, and proposes a backbone; writes probe.csv and,
for each backbone, a k-fold run (oof.npz, scores_test.npz, cv.json, submission.csv) that compare.py and ensemble.py take. Under
`accelerate launch` all processes share the images. The best of three heads flatters its score by a little.
"""

from __future__ import annotations

from typing import Any

from lib.config import command_line
from lib.process import run_script


def main(argv: list[str] | None = None) -> Any:
    """Run the script with `argv`; returns the table."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--models", nargs="+", required=True, help="Backbones: names of timm, hf-hub: or local-dir:.")
    parser.add_argument("--weights", nargs="+", default=[], help="A file for each of them; default: their pretrained weights.")
    parser.add_argument("--out", help="Folder for the runs; default: runs/probe-<time>.")
    args = command_line.parse(parser, argv)

    from lib.pipelines.probe import probe  # imports torch: --help and a typo are answered before

    return probe(args.recipe, args.models, args.weights, args.out, args.recipe_file)


if __name__ == "__main__":
    run_script(main)
