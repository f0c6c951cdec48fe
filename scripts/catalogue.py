"""Change the names in a catalogue, a gallery's folder, without training and without its images.

    python scripts/catalogue.py --gallery G --rename w_0123 Luna       # another name for an individual
    python scripts/catalogue.py --gallery G --merge Luna w_0456        # w_0456 is Luna: all its images get that name
    python scripts/catalogue.py --gallery G --split w_0789 a.jpg b.jpg # these images are of another individual, w_0789
    python scripts/catalogue.py --gallery G --move Luna c.jpg          # this image is of Luna
    python scripts/catalogue.py --gallery G --undo                     # take the last change back
    python scripts/catalogue.py --gallery G --errors                   # which names may be wrong

scripts/retrieve.py --add and --remove change its images. Each change is a line of history.jsonl in the gallery's folder (time,
what, number of images), and fits the threshold again. The last five can be undone, one after another. A change that is interrupted
leaves the gallery as it was.

--errors writes errors.csv and errors.html: photographs unlike the others of their individual, sightings (folds.group_column) under
two names, one animal under two names, two under one; the most probable first, each with the command that mends it. Probabilities
are for catalogues in which 5% of the names are wrong (lib/retrieval/catalogue_errors.py).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lib.config import command_line
from lib.errors import FlukeError
from lib.process import run_script
from lib.run_folder import RetrievalFolder

COMMANDS = ("rename", "merge", "split", "move", "undo", "errors")  # exactly one of them


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the script with `argv`; return the gallery's numbers of images and individuals."""
    argv = sys.argv[1:] if argv is None else argv
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--gallery", type=Path, required=True, help="Folder of the saved gallery.")
    parser.add_argument("--run", nargs="+", help="Runs that made the gallery, where its folder holds no networks.")
    parser.add_argument("--rename", nargs=2, metavar=("OLD", "NEW"), help="Give an individual another name.")
    parser.add_argument("--merge", nargs="+", metavar="NAME", help="Make one individual, with the first name, of several.")
    parser.add_argument("--split", nargs="+", metavar="NAME", help="A new name, and the images of an individual that get it.")
    parser.add_argument("--move", nargs="+", metavar="NAME", help="An individual, and images of others that are of it.")
    parser.add_argument("--errors", action="store_const", const=True, help="List possible errors; change nothing.")
    parser.add_argument("--out", type=Path, help="--errors: folder to write; default: <gallery>/errors.")
    parser.add_argument("--undo", action="store_const", const=True, help="Undo the last change.")
    args = command_line.parse(parser, argv, check=False)
    given = [name for name in COMMANDS if getattr(args, name) is not None]
    if len(given) != 1:
        raise FlukeError(f"{', '.join('--' + name for name in given) or 'no change'}: give one of --{', --'.join(COMMANDS)}.")
    for name in ("split", "move"):
        if (value := getattr(args, name)) is not None and len(value) < 2:
            raise FlukeError(f"--{name} {value[0]}: names no image; give a name and the images that get it.")

    from lib.pipelines import change_gallery, embed, gallery_files  # torch is imported only from here on
    from lib.pipelines.catalogue_errors import list_errors
    from lib.pipelines.retrieval_session import RetrievalSession
    from lib.training.accelerator import make_inference_accelerator

    runs = embed.find_embedding_runs(args.run) if args.run else gallery_files.find_networks(args.gallery)
    recipes = [command_line.parse(parser, ["--cfg", str(run.recipe), *argv]).recipe for run in runs]
    folder = RetrievalFolder(args.gallery / "answers")
    accelerator = make_inference_accelerator(recipes[0].train.precision, folder.path)
    session = RetrievalSession(runs, recipes, gallery_files.combination(args.gallery), accelerator, folder, args.gallery)
    if args.rename:
        return change_gallery.rename_individual(session, *args.rename)
    if args.merge:
        return change_gallery.merge_individuals(session, args.merge)
    if args.errors:
        return list_errors(session, args.out or args.gallery / "errors")
    if args.move:
        return change_gallery.move_images(session, args.move[0], args.move[1:])
    if args.split:
        return change_gallery.split_individual(session, args.split[0], args.split[1:])
    return change_gallery.undo_last_change(session)


if __name__ == "__main__":
    run_script(main)
