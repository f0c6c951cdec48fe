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
from typing import TYPE_CHECKING, Any, Literal, Optional

from lib import cli, config
from lib.files import FlukeError, default_run, main_process, read_json, run_script, write_json

if TYPE_CHECKING:
    import numpy as np

    from lib.table import Table


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the script with `argv`; returns the metrics, {} without labels."""
    parser = cli.make_parser(__doc__, recipe=False)
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
    args = cli.parse(parser, argv)
    files, recipe = find_run(Path(args.run))
    if recipe is None and args.table is None:
        raise FlukeError(
            f"--run {args.run}: has no recipe that says which the test images are; name a table or a folder with --table."
        )
    folder = Path(args.out) if args.out else default_run("predict")
    if taken := [name for name in ("recipe.yaml", "scores_test.npz", "submission.csv") if (folder / name).exists()]:
        raise FlukeError(f"--out {folder}: holds {' and '.join(taken)} already; take another name, or remove it first.")

    from accelerate.utils import broadcast_object_list

    from lib import crossval, images, runs, scores, table
    from lib.model import read_spec
    from lib.ranks import on_main
    from lib.sample import check_fits, read_sample, sample_of
    from lib.submission import submit

    spec = read_spec(files[0])
    if spec is None:
        raise FlukeError(f"{files[0]}: weights without a description; only a run's best/model.safetensors needs no recipe.")
    if spec.kind == "embedding" and (len(files) > 1 or args.sample):
        why = "retrieve.py writes their submission" if args.sample else "those of several folds can't be averaged; name one fold"
        raise FlukeError(f"--run {args.run}: a network of embeddings; {why}.")
    where = config.Data(label_separator=" ") if recipe is None else recipe.data
    names = {name: args[name] for name in ("image_column", "label_column", "label_separator") if args[name] is not None}
    data = replace(where, **names)
    if args.table is None:
        side = table.load_test(data, spec.classes, spec.multi)
        if side is None:
            raise FlukeError(f"--run {args.run}: its recipe has no test images; name a table or a folder with --table.")
    else:
        path = Path(args.table)
        home = path.parent if recipe is None else Path(data.root) / (data.test_dir or data.image_dir)
        side = table.load_any(path, Path(args.image_dir or home), data, spec.classes, spec.multi, args.table != args.sample)
    recipe = replace(recipe or config.Recipe(), data=data)
    sample = None
    if args.sample:
        sample = read_sample(Path(args.sample), data.image_column)
    elif spec.kind == "classifier" and (sample := sample_of(recipe)) is not None and args.table is not None:
        if not set(sample.ids) <= set(side.names):
            _say(f"no submission: {sample.path} asks for images that {args.table} doesn't name; --sample names another")
            sample = None
    if sample is not None:  # their faults now, not after the prediction
        check_fits(sample, recipe.predict, side.names, spec.classes, spec.multi)
    thresholds = _thresholds(Path(args.run) / "thresholds.json", spec.classes) if spec.multi else None

    accelerator = runs.make_accelerator(config.Train(log_with=[]), folder)
    folder = broadcast_object_list([folder])[0]  # without --out, its name is a clock's
    paths = side.paths
    bad = broadcast_object_list([on_main(accelerator, lambda: images.find_unreadable(paths, data.workers, data.check))])[0]
    side = table.without_unreadable(side, bad, "error", what="test")
    outputs = crossval.predict_mean(files, recipe, side, accelerator)
    kind: Literal["embeddings", "logits"] = "embeddings" if spec.kind == "embedding" else "logits"
    classes = () if kind == "embeddings" else spec.classes
    source = {"run": args.run, "model": spec.model.name, "networks": len(files), "table": str(side.source)}
    found = scores.Scores(side.rows, side.names, classes, outputs, side.labels, side.multi, source, kind)

    def write() -> dict[str, Any]:
        if sample is not None:
            submit(recipe.predict, folder / "submission.csv", sample, found, thresholds)
        scores.save(folder / "scores_test.npz", found)
        result = measure(side, outputs) if side.labels is not None and kind == "logits" else {}
        if result:
            write_json(folder / "metrics.json", result)
        print(f"{folder}: {', '.join(sorted(path.name for path in folder.iterdir() if path.is_file()))}")
        return result

    return on_main(accelerator, write) or {}


def find_run(run: Path) -> tuple[list[Path], config.Recipe | None]:
    """The weights files of a run (of a k-fold run, a file a fold) and its recipe, if it has one. Raises FlukeError."""
    if run.is_file():
        return [run], None
    recipe = None
    if (run / "recipe.yaml").exists():
        recipe = cli.parse(cli.make_parser(""), ["--cfg", str(run / "recipe.yaml")]).recipe
    parts = [run]
    if (run / "folds.csv").exists() and recipe is not None:
        parts = [run / f"fold{k}" for k in range(recipe.folds.n)]
    files = [part / "best" / "model.safetensors" for part in parts]
    lacking = [part.name for part, file in zip(parts, files) if not file.exists()]
    if lacking and len(parts) > 1:
        raise FlukeError(
            f"--run {run}: {', '.join(lacking)} of its {len(parts)} folds have no weights yet; kfold.py --resume makes them."
        )
    if lacking:
        raise FlukeError(
            f"--run {run}: {'has no best/model.safetensors' if run.is_dir() else 'no such folder or file'}; is it a run?"
        )
    if begun := [part.name for part in parts if recipe is not None and not (part / "metrics.json").exists()]:
        _say(f"note: {', '.join(begun)} isn't finished; these are the best weights so far")
    return files, recipe


def measure(side: Table, logits: np.ndarray) -> dict[str, Any]:
    """Print and return the metrics of logits (n, C) on a labelled table, and the interval of the usual one. Labels that the network
    does not know are counted and left out, with their image if it has no other; {} if nothing is left."""
    from lib import metrics
    from lib.sources import some

    unknown = {label: count for label, count in side.counts().most_common() if label not in set(side.classes)}
    if unknown:
        named = some(f"{label!r} ({count:,} images)" for label, count in unknown.items())
        print(f"left out of the metrics: {len(unknown):,} labels that the network doesn't know: {named}")
        labels = [tuple(label for label in row if label not in unknown) for row in side.labels or []]
        kept = [i for i, row in enumerate(labels) if side.multi or row]
        side, logits = replace(side, labels=labels).take(kept), logits[kept]
    if len(side) == 0:
        return {}
    task: metrics.Task = "multi" if side.multi else "single"
    targets, metric = side.targets(), metrics.auto_metric(task)
    found = metrics.evaluate(task, logits, targets)
    low, high = metrics.bootstrap_interval((metric, logits, targets))
    print(f"{len(side):,} labelled images: " + "  ".join(f"{key} {value:.4f}" for key, value in found.items()))
    print(f"{metric}: 95% from {low:.4f} to {high:.4f}")
    return {"rows": len(side), "metric": metric, **found, "interval": [low, high], "unknown_labels": unknown}


def _thresholds(path: Path, classes: tuple[str, ...]) -> dict[str, float] | None:
    if not path.exists():
        return None
    found = read_json(path)
    if not isinstance(found, dict) or set(found) != set(classes) or not all(isinstance(p, float | int) for p in found.values()):
        raise FlukeError(f"{path}: expected a probability for each of the {len(classes)} labels of the network.")
    return found


def _say(line: str) -> None:
    if main_process():
        print(line)


if __name__ == "__main__":
    run_script(main)
