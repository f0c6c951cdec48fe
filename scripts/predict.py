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
from typing import Any, Literal, Optional

from lib.config import command_line
from lib.config.recipe import Data, Recipe, Train
from lib.errors import FlukeError
from lib.files import default_run_folder, write_json
from lib.process import is_main_process, run_script


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the script with `argv`; returns the metrics, {} without labels."""
    parser = command_line.make_parser(__doc__, recipe=False)
    parser.add_argument("--run", type=str, required=True, help="A run's folder, a k-fold run's, or a best/model.safetensors.")
    for name, what in (
        ("table", "CSV, Parquet or a folder of images; default: the run's own test"),
        ("image_dir", "What the table's image names are relative to; default: as the recipe, else the table's folder"),
        ("sample", "Sample submission; default: the recipe's, if the table has its images"),
        ("out", "Folder to write; default: runs/predict-<time>"),
        ("image_column", "Default: as the recipe, else image"),
        ("label_column", "Default: as the recipe, else label"),
        ("label_separator", "What separates several labels; default: as the recipe, else a blank"),
    ):
        parser.add_argument(f"--{name}", type=Optional[str], default=None, help=f"{what}.")
    args = command_line.parse(parser, argv)

    from lib.pipelines import finished

    files, recipe = finished.find_networks(Path(args.run))
    if recipe is None and args.table is None:
        raise FlukeError(
            f"--run {args.run}: has no recipe that says which the test images are; name a table or a folder with --table."
        )
    folder = Path(args.out) if args.out else default_run_folder("predict")
    if taken := [name for name in ("recipe.yaml", "scores_test.npz", "submission.csv") if (folder / name).exists()]:
        raise FlukeError(f"--out {folder}: holds {' and '.join(taken)} already; take another name, or remove it first.")

    from accelerate.utils import broadcast_object_list

    from lib.images import checking
    from lib.models.weights import read_spec
    from lib.pipelines import kfold
    from lib.scores import score_file
    from lib.submission.formats import check_sample
    from lib.submission.writing import submit
    from lib.tables import filters, loading
    from lib.tables.sample import load_sample, read_sample, without_extension
    from lib.training.accelerator import make_accelerator
    from lib.training.distributed import broadcast_from_main

    spec = read_spec(files[0])
    if spec is None:
        raise FlukeError(f"{files[0]}: weights without a description; only a run's best/model.safetensors needs no recipe.")
    if spec.kind == "embedding" and (len(files) > 1 or args.sample):
        why = "retrieve.py writes their submission" if args.sample else "those of several folds can't be averaged; name one fold"
        raise FlukeError(f"--run {args.run}: a network of embeddings; {why}.")
    where = Data(label_separator=" ") if recipe is None else recipe.data
    names = {name: args[name] for name in ("image_column", "label_column", "label_separator") if args[name] is not None}
    data = replace(where, **names)
    if args.table is None:
        side = loading.load_test(data, spec.classes, spec.target)
        if side is None:
            raise FlukeError(f"--run {args.run}: its recipe has no test images; name a table or a folder with --table.")
    else:
        path = Path(args.table)
        home = path.parent if recipe is None else Path(data.root) / (data.test_dir or data.image_dir)
        side = loading.load_images(path, Path(args.image_dir or home), data, spec.classes, spec.target, args.table != args.sample)
    recipe = replace(recipe or Recipe(), data=data)
    sample = None
    if args.sample:
        sample = read_sample(Path(args.sample), data.image_column)
    elif spec.kind == "classifier" and (sample := load_sample(recipe)) is not None and args.table is not None:
        if not set(map(without_extension, sample.ids)) <= set(map(without_extension, side.names)):
            if is_main_process():
                print(f"no submission: {sample.path} asks for images that {args.table} doesn't name; --sample names another")
            sample = None
    if sample is not None:  # their faults now, not after the prediction
        check_sample(sample, recipe.predict, side.names, spec.classes, spec.target)
    thresholds = finished.read_thresholds(Path(args.run), spec.classes) if spec.target.several else None

    accelerator = make_accelerator(Train(log_with=[]), folder)
    folder = broadcast_object_list([folder])[0]  # without --out, its name is a clock's
    paths = side.paths
    bad = broadcast_from_main(accelerator, lambda: checking.find_unreadable(paths, data.workers, data.check))
    side = filters.drop_unreadable(side, bad, "error", what="test")
    outputs = kfold.predict_average(files, recipe, side, accelerator)
    kind: Literal["embeddings", "logits"] = "embeddings" if spec.kind == "embedding" else "logits"
    classes = () if kind == "embeddings" else spec.classes
    source = {"run": args.run, "model": spec.model.name, "networks": len(files), "table": str(side.source)}
    found = score_file.Scores(side.rows, side.names, classes, outputs, side.labels, spec.target, source)

    def write() -> dict[str, Any]:
        if sample is not None:
            submit(recipe.predict, folder / "submission.csv", sample, found, thresholds)
        score_file.save_scores(folder / "scores_test.npz", found)
        result = finished.evaluate_predictions(side, outputs, thresholds) if side.labels is not None and kind == "logits" else {}
        if result:
            write_json(folder / "metrics.json", result)
        print(f"{folder}: {', '.join(sorted(path.name for path in folder.iterdir() if path.is_file()))}")
        return result

    return broadcast_from_main(accelerator, write)


if __name__ == "__main__":
    run_script(main)
