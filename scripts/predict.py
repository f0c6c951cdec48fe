"""Predict any images with a trained network, or with all folds of a k-fold run in one pass, and write a checked submission.

    python scripts/predict.py --run runs/x                                   # the run's own test images
    python scripts/predict.py --run runs/cv --table new.csv --image_dir photos --sample sample_submission.csv
    python scripts/predict.py --run runs/x/best/model.safetensors --table photos --out runs/photos

A saved network holds its classes and its image size, so it needs no recipe. Where the run has one, it gives the table's columns,
the number of workers, the flips and the submission's format. For labelled images the metrics are printed. Under `accelerate launch`
the processes share the images.
"""

from __future__ import annotations

from typing import Any

from lib.config import command_line
from lib.process import run_script

OPTIONS = {
    "table": "CSV, Parquet or a folder of images; default: the run's own test images.",
    "image_dir": "Folder that the table's image names are relative to; default: as the recipe says, else the table's folder.",
    "sample": "Sample submission; default: the recipe's, if the table has its images.",
    "out": "Folder to write; default: runs/predict-<time>.",
    "image_column": "Column of image names; default: as the recipe says, else image.",
    "label_column": "Column of labels; default: as the recipe says, else label.",
    "label_separator": "What separates several labels; default: as the recipe says, else a blank.",
}


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the script with `argv`; returns the metrics, {} without labels."""
    parser = command_line.make_parser(__doc__, recipe=False)
    parser.add_argument("--run", required=True, help="A run's folder, a k-fold run's, or a best/model.safetensors.")
    for name, text in OPTIONS.items():
        parser.add_argument(f"--{name}", help=text)
    args = command_line.parse(parser, argv)

    from lib.pipelines.predict import PredictArguments, predict_table  # imports torch: --help and a typo are answered before

    return predict_table(PredictArguments(args.run, **{name: getattr(args, name) for name in OPTIONS}))


if __name__ == "__main__":
    run_script(main)
