"""Group photographs into individuals: those that training knows by name, and new ones.

    python scripts/discover.py --run runs/whales                       # the recipe's test images
    python scripts/discover.py --run runs/whales --queries new_photos  # a table or folder of others
    python scripts/discover.py --model resnet50 --cfg R.yaml           # a pretrained network, no training
    python scripts/discover.py --run runs/whales --apply decisions.csv # with what a person decided on the review page

A run is one of train_embedding with `data.new_label` set, so that individuals were held out whole (folds.unknown): the similarity
from which on two groups of photographs become one individual is fitted on them, in mixtures of known and new individuals. A
pretrained network has learnt no individual; its features are whitened on two thirds of the individuals, three times, and the
threshold is fitted on the last third and on photographs of the others that the whitening hasn't seen.

Writes clusters.csv (image, cluster, whether it is a known individual, probability that it is right), the submission in the sample's
form (image_id, cluster), metrics.json, a page, and review.html, on which a person decides on the pairs whose answer changes most.
`retrieval.part_column` parts several data sets or species, `retrieval.encounters` names photographs that are known to show one
individual, `retrieval.photographs` those that show different ones, `retrieval.orientation_column` the flank; contradictions.csv
lists links that weren't followed. `retrieval.local sift` adds points that match to what the network sees. New individuals
keep their names when the same folder is written again with more photographs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lib.config import command_line
from lib.errors import FlukeError
from lib.process import run_script
from lib.run_folder import DiscoveryFolder


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the script with `argv`; returns what metrics.json holds."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--run", nargs="+", help="Runs of train_embedding; default: the newest below runs/.")
    parser.add_argument("--model", help="A pretrained network (timm, hf-hub:OWNER/NAME) instead of a run, without training.")
    parser.add_argument("--weights", help="--model: a local file of weights instead of those to download.")
    parser.add_argument(
        "--queries", type=Path, nargs="+", help="A table, a folder, or images, instead of the recipe's test images."
    )
    parser.add_argument("--image_dir", type=Path, help="Folder of the images that the table of --queries names.")
    parser.add_argument("--out", type=Path, help="Folder to write; default: <run>/discovery, or runs/<model>/discovery.")
    parser.add_argument(
        "--apply", type=Path, help="decisions.csv, which the review page saved: pairs that are the same, or different."
    )
    parser.add_argument("--combine", choices=("concat", "mean"), default="concat", help="How runs become one embedding.")
    given = sys.argv[1:] if argv is None else argv
    args = command_line.parse(parser, given, check=False)
    if args.model is not None and args.run is not None:
        raise FlukeError("--model: takes the place of --run; give one of them.")
    if args.weights is not None and args.model is None:
        raise FlukeError("--weights: are those of --model; name the network with it.")

    from lib.pipelines import catalogue, embed  # torch is imported only from here on
    from lib.pipelines.discover import discover
    from lib.pipelines.retrieval_session import RetrievalSession
    from lib.run_folder import RetrievalFolder
    from lib.training.accelerator import keep_memory, make_inference_accelerator

    keep_memory()
    if args.model is not None:
        recipe = catalogue.pretrained_recipe(command_line.parse(parser, given).recipe, args.model, args.weights)
        folder = DiscoveryFolder(args.out or Path("runs") / Path(args.model.split(":")[-1]).name / "discovery")
        accelerator = make_inference_accelerator(recipe.train.precision, folder.path)
        runs = [folder.network]
        recipes = [catalogue.make_pretrained(runs[0], recipe, accelerator.print, accelerator)]
    else:
        runs = embed.find_embedding_runs(args.run)
        recipes = [command_line.parse(parser, ["--cfg", str(run.recipe), *given]).recipe for run in runs]
        folder = DiscoveryFolder(args.out) if args.out else runs[0].discovery
        accelerator = make_inference_accelerator(recipes[0].train.precision, folder.path)
        accelerator.print(f"{'run' if args.run else 'newest embedding run'}: {', '.join(map(str, runs))}")
    session = RetrievalSession(runs, recipes, args.combine, accelerator, RetrievalFolder(folder.path), None)
    return discover(session, folder, args.queries, args.image_dir, frozen=args.model is not None, decisions=args.apply)


if __name__ == "__main__":
    run_script(main)
