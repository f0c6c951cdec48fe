"""Look at a contest's unpacked files and write a first recipe, with what was recognized, and why, as comments.

    python scripts/prepare.py ../data/my-contest --out recipes/my-contest.yaml
    python scripts/prepare.py ../data/leaf-classification --kaggle leaf-classification

With --kaggle the files are first downloaded by Kaggle's client and unpacked into the folder. The data are never changed. What the
script isn't sure of stands as a comment beside the field; the written recipe is then read and its tables are loaded, so that what
doesn't fit is said now.
"""

from __future__ import annotations

from pathlib import Path

from lib.config import command_line
from lib.process import run_script


def main(argv: list[str] | None = None) -> str:
    """Run the script with `argv`; return the recipe's text."""
    parser = command_line.make_parser(__doc__, recipe=False)
    parser.add_argument("folder", help="Folder of the unpacked archive.")
    parser.add_argument("--out", help="Recipe to write; default: recipes/<folder's name>.yaml.")
    parser.add_argument("--kaggle", metavar="NAME", help="Contest whose files are downloaded into the folder first.")
    args = command_line.parse(parser, argv)

    from lib.pipelines.kaggle import download_contest
    from lib.pipelines.prepare import prepare_recipe

    if args.kaggle is not None:
        download_contest(args.kaggle, Path(args.folder))

    return prepare_recipe(Path(args.folder), Path(args.out or f"recipes/{Path(args.folder).resolve().name}.yaml"))


if __name__ == "__main__":
    run_script(main)
