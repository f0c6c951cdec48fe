"""Group photographs into individuals: those that training knows by name, and new ones.

    python scripts/discover.py --run runs/whales                       # the recipe's test images
    python scripts/discover.py --run runs/whales --queries new_photos  # a table or folder of others

The run is one of train_embedding with `data.new_label` set, so that individuals were held out whole (folds.unknown): the similarity
from which on two groups of photographs become one individual is fitted on them, in mixtures of known and new individuals. Writes
clusters.csv (image, cluster, whether it is a known individual, probability that it is right), the submission in the sample's form
(image_id, cluster), metrics.json and a page. `retrieval.part_column` parts several data sets or species, `retrieval.encounters`
names photographs that are known to show one individual.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lib.config import command_line
from lib.process import run_script
from lib.run_folder import DiscoveryFolder


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the script with `argv`; returns what metrics.json holds."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--run", nargs="+", help="Runs of train_embedding; default: the newest below runs/.")
    parser.add_argument(
        "--queries", type=Path, nargs="+", help="A table, a folder, or images, instead of the recipe's test images."
    )
    parser.add_argument("--image_dir", type=Path, help="Folder of the images that the table of --queries names.")
    parser.add_argument("--out", type=Path, help="Folder to write; default: <run>/discovery.")
    parser.add_argument("--combine", choices=("concat", "mean"), default="concat", help="How runs become one embedding.")
    args = command_line.parse(parser, argv, check=False)

    from lib.pipelines import embed  # torch is imported only from here on
    from lib.pipelines.discover import discover
    from lib.pipelines.retrieval_session import RetrievalSession
    from lib.training.accelerator import keep_memory, make_inference_accelerator

    runs = embed.find_embedding_runs(args.run)
    given = sys.argv[1:] if argv is None else argv
    recipes = [command_line.parse(parser, ["--cfg", str(run.recipe), *given]).recipe for run in runs]
    keep_memory()
    folder = DiscoveryFolder(args.out) if args.out else runs[0].discovery
    accelerator = make_inference_accelerator(recipes[0].train.precision, folder.path)
    accelerator.print(f"{'run' if args.run else 'newest embedding run'}: {', '.join(map(str, runs))}")
    session = RetrievalSession(runs, recipes, args.combine, accelerator, runs[0].retrieval, None)
    return discover(session, folder, args.queries, args.image_dir)


if __name__ == "__main__":
    run_script(main)
