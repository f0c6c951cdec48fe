"""Who is this? Ask the gallery of known individuals about the contest's test images, or others, with a trained embedding.

    python scripts/retrieve.py --topk 5                                  # the newest embedding run, the recipe's test images
    python scripts/retrieve.py --run runs/whale --retrieval.centre_weight 0.5 --predict.tta '[hflip]'
    python scripts/retrieve.py --run runs/whale runs/whale_large         # several runs, or folds, as one embedding
    python scripts/retrieve.py --queries photos/                         # other images: a folder, or a table and --image_dir
    python scripts/retrieve.py --evaluate labelled.csv                   # metrics alone
    python scripts/retrieve.py --pair a.jpg b.jpg                        # are these the same individual?
    python scripts/retrieve.py --add new.csv                             # new individuals into the saved gallery, no training
    python scripts/retrieve.py --remove w_123 img_7.jpg                  # individuals or images out of it
    python scripts/retrieve.py --gallery runs/whale/retrieval/gallery    # ask that gallery instead of building one

Written to <run>/retrieval: submission.csv, ranks.parquet, threshold.json, gallery/ and retrieval.html. The threshold for "new" is
fitted on the run's held-out images; their share among the queries is estimated from scores, never from labels. Any field of the
run's recipe may be set, such as --retrieval.method. Under `accelerate launch` all processes embed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lib.config import command_line
from lib.config.recipe import Train
from lib.errors import FlukeError
from lib.process import run_script

OPTIONS: list[tuple[str, type, str]] = [
    ("topk", int, "Names a query; short for --predict.topk."),
    ("queries", str, "Table or folder of images to answer, instead of the recipe's test images."),
    ("evaluate", str, "Table of labelled images: metrics alone."),
    ("image_dir", str, "Folder of the images that a table of --queries, --evaluate or --add names."),
    ("gallery", str, "A saved gallery to ask or to change, instead of the training table's images."),
    ("add", str, "Labelled table whose images enter the saved gallery."),
    ("out", str, "Folder to write; default: <run>/retrieval."),
]
ALONE = ("evaluate", "pair", "add", "remove")  # what is done instead of answering queries


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the script with `argv`; returns what it prints: metrics, a pair's verdict, or the gallery's size."""
    argv = sys.argv[1:] if argv is None else argv
    parser = command_line.make_parser(__doc__)
    for name, kind, what in OPTIONS:
        parser.add_argument(f"--{name}", type=kind, help=what)
    parser.add_argument("--run", nargs="+", help="Runs of train_embedding; default: the newest below runs/.")
    parser.add_argument("--combine", choices=("concat", "mean"), default="concat", help="Several runs' embeddings become one.")
    parser.add_argument("--pair", nargs=2, help="Two images: are they of the same individual?")
    parser.add_argument("--remove", nargs="+", help="Individuals or images to leave the saved gallery.")
    args = command_line.parse(parser, argv, check=False)
    asked = [name for name in (*ALONE, "queries") if getattr(args, name) is not None]
    if len(asked) > 1:
        raise FlukeError(f"{' and '.join('--' + name for name in asked)}: one at a time.")
    if args.topk is not None and args.topk < 1:
        raise FlukeError(f"--topk {args.topk}: a query is answered with at least 1 name.")

    from lib.pipelines import retrieve  # torch only now: --help and a typo are answered before
    from lib.pipelines.embed import find_embedding_runs
    from lib.training.accelerator import keep_memory, make_accelerator

    runs = find_embedding_runs(args.run)
    topk = [] if args.topk is None else ["--predict.topk", str(args.topk)]
    recipes = [command_line.parse(parser, ["--cfg", str(run / "recipe.yaml"), *argv, *topk]).recipe for run in runs]
    keep_memory()
    folder = Path(args.out) if args.out else runs[0] / "retrieval"
    accelerator = make_accelerator(Train(log_with=[]), folder)
    accelerator.print(f"{'run' if args.run else 'newest embedding run'}: {', '.join(map(str, runs))}")
    job = retrieve.RetrievalJob(runs, recipes, args.combine, accelerator, folder, Path(args.gallery) if args.gallery else None)
    image_dir = Path(args.image_dir) if args.image_dir else None
    if args.pair:
        return retrieve.compare_pair(job, [Path(path) for path in args.pair])
    if args.add:
        return retrieve.add_to_gallery(job, Path(args.add), image_dir)
    if args.remove:
        return retrieve.remove_from_gallery(job, args.remove)
    queries = args.queries or args.evaluate
    return retrieve.answer_queries(job, Path(queries) if queries else None, image_dir, metrics_alone=args.evaluate is not None)


if __name__ == "__main__":
    run_script(main)
