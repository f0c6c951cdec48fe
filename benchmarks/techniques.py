"""Measure the effect of each technique on a contest: a recipe with one change at a time, over several seeds.

    accelerate launch --config_file accelerate_configs/cpu_2proc.yaml benchmarks/techniques.py \\
        --cfg benchmarks/quality/fashion20.yaml --out runs/techniques --seeds 0 1 2 --train.limit_rows 1200 --data.size 96

Unknown options are passed to every run. Metrics are those of the last epoch, because the best of several epochs is biased upwards.
Finished runs are not repeated, so that techniques can be added to a table. Prints, for each technique, the mean of each metric over
seeds, its mean difference from the unchanged recipe with the same seeds, and the seconds per epoch over the recipe's.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from accelerate import PartialState

from lib.config.command_line import read_tree
from lib.run_folder import RunFolder
from scripts import train_classifier

GENTLE = '[{"RandomResizedCrop":{"scale":[0.5,1.0]}},"RandomHorizontalFlip"]'
ONE_LABEL = {
    "label smoothing 0": ["--objective.label_smoothing", "0"],
    "focal, gamma 2": ["--objective.name", "focal"],
    "class weights, balanced": ["--objective.class_weights", "balanced"],
    "class weights, square root": ["--objective.class_weights", "balanced", "--objective.class_weight_power", "0.5"],
    "weighted sampling": ["--train.sampler", "weighted"],
    "weighted sampling, square root": ["--train.sampler", "weighted", "--train.sampler_power", "0.5"],
    "logit adjustment 1": ["--objective.logit_adjustment", "1"],
    "MixUp 0.2": ["--objective.mixup", "0.2"],
    "CutMix 1": ["--objective.cutmix", "1"],
}
SEVERAL_LABELS = {
    "BCE": ["--objective.name", "bce"],
    "BCE, positives weighted": ["--objective.name", "bce", "--objective.class_weights", "balanced"],
    "focal on BCE, gamma 2": ["--objective.name", "focal"],
    "asymmetric": ["--objective.name", "asymmetric"],
}
ANY = {
    "no augmentation": ["--data.augment", "[]"],
    "crop and flip alone": ["--data.augment", GENTLE],
    "RandAugment besides": ["--data.augment+", "RandAugment"],
    "random erasing besides": ["--data.augment+", "RandomErasing"],
    "dropout 0": ["--model.dropout", "0"],
    "GeM pooling": ["--model.pool", "gem"],
    "a hidden layer of 128": ["--model.hidden", "[128]"],
    "not pretrained": ["--model.weights", "null", "--model.pretrained", "false"],
    "rate 3e-4": ["--optim.lr", "3e-4"],
    "head at ten times the rate": ["--optim.head_lr", "10"],
    "layer decay 0.8": ["--optim.layer_decay", "0.8"],
    "backbone frozen for an epoch": ["--optim.freeze_epochs", "1"],
    "one-cycle": ["--optim.schedule", "onecycle", "--optim.warmup_epochs", "0"],
    "no average of weights": ["--train.ema", "null"],
    "evaluated at the training size": ["--data.eval_size", "null"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--cfg", required=True, help="The recipe that is changed.")
    parser.add_argument("--out", type=Path, required=True, help="Folder of the runs.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="Seeds of order, augmentation and new weights.")
    parser.add_argument("--only", nargs="+", default=None, help="Techniques to run; default: all that fit the recipe's labels.")
    parser.add_argument("--metrics", nargs="+", default=None, help="Columns; default: by the recipe's labels.")
    args, more = parser.parse_known_args()
    several = read_tree(args.cfg)["data"].get("label_separator") is not None
    techniques: dict[str, list[str]] = {"as it stands": [], **(SEVERAL_LABELS if several else ONE_LABEL), **ANY}
    if args.only:
        techniques = {name: techniques[name] for name in ["as it stands", *args.only]}
    columns = args.metrics or (["macro_map", "micro_map"] if several else ["accuracy", "balanced_accuracy", "log_loss"])
    found: dict[str, list[dict[str, float]]] = {name: [] for name in techniques}
    for seed in args.seeds:
        for name, options in techniques.items():
            folder = args.out / f"{''.join(c if c.isalnum() else '-' for c in name)}-{seed}"
            fixed = ["--cfg", args.cfg, "--out", str(folder), "--resume", "--train.log_with", "[]", "--train.seed", str(seed)]
            train_classifier.main([*fixed, *more, *options])
            epochs = [json.loads(line) for line in RunFolder(folder).history.read_text().splitlines()]
            seconds = statistics.median(epoch["seconds"] for epoch in epochs)
            found[name].append({**{column: epochs[-1][column] for column in columns}, "seconds": seconds})
            if PartialState().is_main_process:
                print_table(found, columns)


def print_table(found: dict[str, list[dict[str, float]]], columns: list[str]) -> None:
    """Markdown: means over seeds, and differences from the first technique over the seeds that both have."""
    base = next(iter(found.values()))
    print("| technique | seeds | " + " | ".join(f"{column} | difference" for column in columns) + " | time |")
    print("|---" * (3 + 2 * len(columns)) + "|")
    for name, runs in found.items():
        if not runs:
            continue
        cells = [name, str(len(runs))]
        for column in columns:
            gaps = [run[column] - other[column] for run, other in zip(runs, base)]
            spread = f" ± {statistics.stdev(gaps):.3f}" if len(gaps) > 1 and runs is not base else ""
            cells += [f"{statistics.mean(run[column] for run in runs):.3f}"]
            cells += ["" if runs is base else f"{statistics.mean(gaps):+.3f}{spread}"]
        ratio = statistics.median(run["seconds"] / other["seconds"] for run, other in zip(runs, base))
        print("| " + " | ".join([*cells, f"{ratio:.2f}"]) + " |", flush=True)


if __name__ == "__main__":
    main()
