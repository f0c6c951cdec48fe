"""Name the individuals in the contest's test images, or in others, by searching a gallery with a trained embedding.

    python scripts/retrieve.py --topk 5                                  # the newest embedding run, the recipe's test images
    python scripts/retrieve.py --run runs/whale --retrieval.centre_weight 0.5 --predict.tta '[hflip]'
    python scripts/retrieve.py --run runs/whale runs/whale_large         # several runs, or folds, as one embedding
    python scripts/retrieve.py --queries photos/                         # other images: a folder, or a table and --image_dir
    python scripts/retrieve.py --queries a.jpg b.jpg                     # some photographs
    python scripts/retrieve.py --evaluate labelled.csv                   # metrics only
    python scripts/retrieve.py --pair a.jpg b.jpg                        # whether two images show the same individual
    python scripts/retrieve.py --add new.csv                             # add individuals to the saved gallery, no training
    python scripts/retrieve.py --remove w_123 img_7.jpg                  # remove individuals or images from it
    python scripts/retrieve.py --model resnet50 --data.train_csv catalogue.csv --out catalogue   # a gallery without training
    python scripts/retrieve.py --gallery G --queries a.jpg --where "site == 'A' and year >= 2020"
    python scripts/retrieve.py --gallery G --queries a.jpg photos/       # ask that gallery; its folder is all that is needed

Writes submission.csv, ranks.parquet and ranks.csv, threshold.json, gallery/ and retrieval.html into <run>/retrieval. The threshold
for the new label is fitted on the run's held-out images, asked of the gallery that is searched; the share of new individuals among
the queries is estimated from scores, never from labels. The gallery's folder keeps both, and the networks. Any field of the run's
recipe may be set, such as --retrieval.method. Under `accelerate launch` all processes embed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lib.config import command_line
from lib.errors import FlukeError
from lib.process import run_script
from lib.run_folder import RetrievalFolder, RunFolder

COMMANDS = ("evaluate", "pair", "add", "remove", "queries")  # at most one of them


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the script with `argv`; return what it prints: metrics, the decision on a pair, or the gallery's size."""
    argv = sys.argv[1:] if argv is None else argv
    parser = command_line.make_parser(__doc__)
    for name, kind, count, meaning in (
        ("run", str, "+", "Runs of train_embedding; default: the newest below runs/."),
        ("model", str, None, "A pretrained network (timm, hf-hub:OWNER/NAME) instead of a run: a gallery without training."),
        ("weights", str, None, "--model: a local file of weights instead of those to download."),
        ("topk", int, None, "Names per query; short for --predict.topk."),
        ("queries", Path, "+", "A table, a folder, or images to answer, instead of the recipe's test images."),
        ("evaluate", Path, None, "Table of labelled images whose metrics are computed; nothing is written."),
        ("image_dir", Path, None, "Folder of the images that a table of --queries, --evaluate or --add names."),
        ("gallery", Path, None, "A saved gallery to search or to change, instead of one of the training table."),
        ("where", str, None, "--gallery: condition on its table's columns that candidates meet: site == 'A' and year >= 2020."),
        ("pair", Path, 2, "Two images to compare: whether they show the same individual."),
        ("add", Path, None, "Labelled table whose images are added to the saved gallery."),
        ("remove", str, "+", "Individuals or images to remove from the saved gallery."),
        ("out", Path, None, "Folder to write; default: <run>/retrieval, or without --run <gallery>/answers."),
    ):
        parser.add_argument(f"--{name}", type=kind, nargs=count, help=meaning)
    parser.add_argument("--captures", action="store_true", help="Write captures.csv too: encounters x individuals, 0 or 1.")
    parser.add_argument(
        "--camtrap", type=Path, help="Folder of a Camtrap DP package: write its observations.csv with individualID."
    )
    parser.add_argument("--combine", choices=("concat", "mean"), default="concat", help="How runs become one embedding.")
    args = command_line.parse(parser, argv, check=False)
    given = [name for name in COMMANDS if getattr(args, name) is not None]
    if len(given) > 1:
        raise FlukeError(f"{' and '.join('--' + name for name in given)}: one at a time.")
    if args.topk is not None and args.topk < 1:
        raise FlukeError(f"--topk {args.topk}: a query gets at least 1 name; set it to 1 or more.")
    if args.camtrap is not None and not (args.camtrap / "observations.csv").exists():
        raise FlukeError(f"--camtrap {args.camtrap}: has no observations.csv; name the folder of a Camtrap DP package.")
    if args.where is not None and args.gallery is None:
        raise FlukeError("--where: narrows a saved gallery; name it with --gallery.")

    from lib.pipelines import change_gallery, embed, gallery_files, pair, retrieve  # torch is imported only from here on
    from lib.pipelines.retrieval_session import RetrievalSession
    from lib.training.accelerator import keep_memory, make_inference_accelerator

    alone = args.gallery is not None and args.run is None and (args.gallery / "networks").exists()
    if args.model is not None:
        return _start_catalogue(args, parser, argv)
    runs = gallery_files.find_networks(args.gallery) if alone else embed.find_embedding_runs(args.run)
    topk = [] if args.topk is None else ["--predict.topk", str(args.topk)]
    recipes = [command_line.parse(parser, ["--cfg", str(run.recipe), *argv, *topk]).recipe for run in runs]
    keep_memory()
    default = RetrievalFolder(args.gallery / "answers") if alone else runs[0].retrieval
    folder = RetrievalFolder(args.out) if args.out else default
    accelerator = make_inference_accelerator(recipes[0].train.precision, folder.path)
    what = "networks" if alone else "run" if args.run else "newest embedding run"
    accelerator.print(f"{what}: {', '.join(map(str, runs))}")
    exports = args.camtrap, args.captures
    session = RetrievalSession(runs, recipes, args.combine, accelerator, folder, args.gallery, *exports, args.where)
    if args.pair:
        return pair.compare_pair(session, [Path(image) for image in args.pair])
    if args.add:
        return change_gallery.add_to_gallery(session, args.add, args.image_dir)
    if args.remove:
        return change_gallery.remove_from_gallery(session, args.remove)
    paths = args.queries or ([args.evaluate] if args.evaluate is not None else None)
    return retrieve.answer_queries(session, paths, args.image_dir, metrics_only=args.evaluate is not None)


def _start_catalogue(args: Any, parser: command_line.Parser, argv: list[str]) -> dict[str, Any]:
    """Build a gallery with a pretrained network, and answer queries if any are given."""
    from lib.pipelines import catalogue, retrieve
    from lib.pipelines.retrieval_session import RetrievalSession
    from lib.training.accelerator import keep_memory, make_inference_accelerator

    if args.run or args.gallery or args.add or args.remove or args.pair:
        raise FlukeError("--model: builds a gallery; ask or change it afterwards with --gallery, without --model.")
    topk = [] if args.topk is None else ["--predict.topk", str(args.topk)]
    recipe = catalogue.pretrained_recipe(command_line.parse(parser, [*argv, *topk]).recipe, args.model, args.weights)
    keep_memory()
    folder = RetrievalFolder(args.out or Path("runs") / Path(args.model.split(":")[-1]).name)
    accelerator = make_inference_accelerator(recipe.train.precision, folder.path)
    run = RunFolder(folder.path / "network")
    recipe = catalogue.make_pretrained(run, recipe, accelerator.print, accelerator)
    session = RetrievalSession([run], [recipe], "concat", accelerator, folder, None, args.camtrap, args.captures)
    catalogue.build_catalogue(session)
    paths = args.queries or ([args.evaluate] if args.evaluate is not None else None)
    d = recipe.data
    if paths is None and not (d.test_csv or d.test_dir or d.sample_submission):
        return {}
    session.gallery = folder.gallery
    return retrieve.answer_queries(session, paths, args.image_dir, metrics_only=args.evaluate is not None)


if __name__ == "__main__":
    run_script(main)
