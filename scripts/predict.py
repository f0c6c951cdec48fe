"""Score any images with a trained network, or with all folds of a k-fold run in one pass, and write a checked submission.

    python scripts/predict.py --run runs/x                                   # the run's own test images
    python scripts/predict.py --run runs/cv --table new.csv --image_dir photos --sample sample_submission.csv
    python scripts/predict.py --run runs/x/best/model.safetensors --table photos --out runs/photos

A saved network knows its classes and how it wants its images: it needs no recipe. Where the run has one, it says how the table's
columns are called, how many workers and flips there are, and what the submission looks like. Of labelled images the metrics are
printed. `accelerate launch` shares the images out among processes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

from lib import config
from lib.files import FlukeError, default_run, read_json, run_script, write_json


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the script with `argv`; returns the metrics, {} without labels."""
    parser = config.make_parser(__doc__, recipe=False)
    text = Optional[str]
    parser.add_argument("--run", type=str, required=True, help="A run's folder, a k-fold run's, or a best/model.safetensors.")
    parser.add_argument("--table", type=text, default=None, help="CSV, Parquet or a folder of images; default: the run's test.")
    parser.add_argument("--image_dir", type=text, default=None, help="What a table's names are relative to; default: as the recipe.")
    parser.add_argument("--sample", type=text, default=None, help="Sample submission; default: the recipe's, for its own test.")
    parser.add_argument("--out", type=text, default=None, help="Folder to write; default: runs/predict-<time>.")
    parser.add_argument("--image_column", type=text, default=None, help="Default: as the recipe, else image.")
    parser.add_argument("--label_column", type=text, default=None, help="Default: as the recipe, else label.")
    parser.add_argument("--label_separator", type=text, default=None, help="Of several labels; default: as the recipe, else a blank.")
    args = config.parse(parser, argv)

    run = Path(args.run)
    files, recipe = find_models(run)
    if recipe is None and args.table is None:
        raise FlukeError(f"--run {run}: without a recipe.yaml beside it there is no test table; name the images with --table.")
    columns = {name: value for name in ("image_column", "label_column", "label_separator") if (value := args[name]) is not None}
    recipe = recipe or config.Recipe(data=config.Data(label_separator=" "))
    data = recipe.data = replace(recipe.data, **columns)
    folder = default_run("predict") if args.out is None else Path(args.out)
    if taken := [name for name in ("recipe.yaml", "scores_test.npz", "submission.csv") if (folder / name).exists()]:
        raise FlukeError(f"--out {folder}: holds {' and '.join(taken)} already; take another name, or remove it first.")

    from lib import submission, table  # torch only now: what is wrong above is answered before

    from accelerate import Accelerator
    from accelerate.utils import broadcast_object_list

    from lib import crossval, experiment, metrics, scores
    from lib.model import read_spec
    from lib.ranks import on_main

    spec = read_spec(files[0])
    if spec is None:
        raise FlukeError(f"{files[0]}: weights without a description; only a run's best/model.safetensors loads without a recipe.")
    if spec.kind == "embedding" and len(files) > 1:
        raise FlukeError(f"--run {run}: embeddings of different folds are not comparable; name one, --run {run}/fold0.")
    if args.table is None:
        side = table.load_test(data, spec.classes, spec.multi)
        if side is None:
            raise FlukeError(f"--run {run}: its recipe names no test images; name some with --table.")
    else:
        path = Path(args.table)
        home = path.parent if recipe_less(run) else Path(data.root) / (data.test_dir or data.image_dir)
        is_sample = args.sample is not None and path.resolve() == Path(args.sample).resolve()  # whose labels mean nothing
        side = table.load_any(path, Path(args.image_dir) if args.image_dir else home, data, spec.classes, spec.multi, not is_sample)
    return {}
