"""Run the same jobs in two checkouts and compare every number that they leave: weights, scores, submissions, metrics.

    git worktree add ../before <commit>
    python benchmarks/compare_checkouts.py ../before . --out /tmp/compare

A change that only moves or renames code must leave every array and every row equal, bit for bit. The jobs train on scikit-learn's
digits: a classifier, a k-fold run, several labels per image, embeddings with retrieval, ensembles and predictions. A checkout that
has been run into --out before is not run again. Exit code 1 where anything differs. About six minutes per checkout on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

TECHNIQUES = "--train.ema 0.9 --train.accumulate 2 --objective.mixup 0.2 --objective.cutmix 0.5 --train.sampler weighted"
TECHNIQUES += (
    " --optim.schedule plateau --optim.layer_decay 0.7 --optim.freeze_epochs 1 --optim.clip_norm 1.0 --predict.tta [vflip]"
)
TECHNIQUES += " --data.eval_size 40 --model.hidden [32] --model.pool gem --objective.label_smoothing 0.1 --train.metric macro_f1"
TECHNIQUES += " --predict.tta [vflip]"
LABELS = "--data.label_separator | --objective.name bce"
SMALL = "--train.epochs 2 --train.limit_rows 400"

# name: (script, arguments); {digits}, {identities} and {labels} are contests, {out} the folder of the checkout's runs.
JOBS = {
    "classifier": ("train_classifier", "--cfg recipes/digits.yaml --data.root {digits}"),
    "techniques": ("train_classifier", f"--cfg recipes/digits.yaml --data.root {{digits}} --train.epochs 3 {TECHNIQUES}"),
    "folds": ("kfold", "--cfg recipes/digits.yaml --data.root {digits} --folds.n 3 --train.epochs 2"),
    "folds_focal": (
        "kfold",
        "--cfg recipes/digits.yaml --data.root {digits} --folds.n 3 --train.epochs 2 --objective.name focal --train.seed 1",
    ),
    "labels": ("kfold", f"--cfg recipes/digits.yaml --data.root {{labels}} --folds.n 3 --train.epochs 2 {LABELS}"),
    "labels_asymmetric": (
        "kfold",
        "--cfg recipes/digits.yaml --data.root {labels} --folds.n 3 --train.epochs 2 --data.label_separator | "
        "--objective.name asymmetric",
    ),
    "embedding": ("train_embedding", "--cfg recipes/digits_identity.yaml --data.root {identities}"),
    "triplet": (
        "train_embedding",
        "--cfg recipes/digits_identity.yaml --data.root {identities} --train.epochs 2 --objective.name triplet "
        "--objective.also '{{cosface: 0.5}}' --retrieval.metric l2",
    ),
    "two_processes": ("train_classifier", f"--cfg recipes/digits.yaml --data.root {{digits}} {SMALL}"),
}
FOLLOWING = {
    "ensemble_greedy": ("ensemble", "--runs {out}/folds {out}/folds_focal --method greedy --temperature"),
    "ensemble_stack": ("ensemble", "--runs {out}/folds {out}/folds_focal --method stack_lr --offsets macro_f1"),
    "ensemble_vote": ("ensemble", "--runs {out}/folds {out}/folds_focal --method vote"),
    "ensemble_labels": ("ensemble", "--runs {out}/labels {out}/labels_asymmetric --method weighted --thresholds"),
    "ensemble_rank": ("ensemble", "--runs {out}/labels {out}/labels_asymmetric --method rank"),
    "predict_folds": ("predict", "--run {out}/folds --table {digits}/truth.csv --image_dir {digits}/images"),
    "predict_labels": ("predict", "--run {out}/labels"),
    "predict_weights": ("predict", "--run {out}/classifier/best/model.safetensors --table {digits}/images"),
    "retrieve": ("retrieve", "--run {out}/embedding --topk 5"),
    "retrieve_centres": ("retrieve", "--run {out}/embedding --retrieval.centre_weight 0.5 --retrieval.method vote"),
    "retrieve_both": ("retrieve", "--run {out}/embedding {out}/triplet --retrieval.threshold_by share"),
    "retrieve_l2": ("retrieve", "--run {out}/triplet --retrieval.method mean_n --retrieval.expand 0"),
}


def make_contests(python: str, checkout: Path, out: Path) -> dict[str, Path]:
    """Write the digits as three contests below `out`: one label per image, identities, several labels per image."""
    data = out / "data"
    if not (data / "labels" / "train.csv").exists():
        run(python, checkout, "digits", f"--out {data}")
        labels = data / "labels"
        (labels).mkdir(exist_ok=True)
        (labels / "images").symlink_to(data / "classes" / "images")
        for name in ("train", "truth"):
            table = pd.read_csv(data / "classes" / f"{name}.csv", dtype=str)
            digits = table["label"].str[-1].astype(int)
            kinds = {"even": digits % 2 == 0, "small": digits < 5, "prime": digits.isin([2, 3, 5, 7]), "eight": digits == 8}
            table["label"] = ["|".join(kind for kind, holds in kinds.items() if holds[i]) for i in table.index]
            table.to_csv(labels / f"{name}.csv", index=False)
        sample = pd.read_csv(data / "classes" / "sample_submission.csv", dtype=str).assign(label="even small")
        sample[["image"]].to_csv(labels / "test.csv", index=False)
        sample.to_csv(labels / "sample_submission.csv", index=False)
    return {"digits": data / "classes", "identities": data / "identities", "labels": data / "labels"}


def run(python: str, checkout: Path, script: str, arguments: str, processes: int = 1) -> None:
    """Run a script of `checkout` with that checkout's own lib. Raises CalledProcessError."""
    start = [python]
    if processes > 1:
        start = [python, "-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu_2proc.yaml"]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [*start, f"scripts/{script}.py", *shlex.split(arguments)]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    if done.returncode:
        print(" ".join(command), done.stdout[-2000:], done.stderr[-4000:], sep="\n", file=sys.stderr)
        done.check_returncode()


def run_all(python: str, checkout: Path, out: Path, contests: dict[str, Path]) -> None:
    """Run every job of JOBS and FOLLOWING in `checkout`, each into a folder of `out`; finished ones are skipped."""
    for name, (script, arguments) in {**JOBS, **FOLLOWING}.items():
        if (out / f"{name}.done").exists():
            continue
        filled = arguments.format(out=out, **contests)
        run(python, checkout, script, f"{filled} --out {out / name}", processes=2 if name == "two_processes" else 1)
        (out / f"{name}.done").touch()
        print(f"{checkout}: {name}", flush=True)


def numbers(path: Path) -> dict[str, Any]:
    """The content of a result file as arrays and plain values, by name."""
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            found: dict[str, Any] = dict(arrays)
        if "meta" in found:
            meta = json.loads(found.pop("meta").tobytes())
            return {**found, **{key: meta[key] for key in ("names", "classes", "labels", "groups")}}
        return found
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return dict(load_file(path))
    if path.suffix == ".parquet":
        frame = pd.read_parquet(path)
        return {column: frame[column].to_numpy() for column in frame}
    if path.suffix == ".json":
        return {"": without_paths(json.loads(path.read_text(encoding="utf-8")))}
    lines = [without_paths(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    return {"": lines} if path.suffix == ".jsonl" else {"": path.read_bytes()}


def without_paths(value: Any) -> Any:
    """JSON without what has to differ: run folders, seconds, and the fingerprint of code."""
    if isinstance(value, dict):
        left_out = ("seconds", "images_per_second", "waiting", "run", "runs", "best_member", "inner_folds")
        return {key: without_paths(each) for key, each in value.items() if key not in left_out}
    return [without_paths(each) for each in value] if isinstance(value, list) else value


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal to the last bit; NaN equals NaN."""
    if isinstance(a, np.ndarray):
        both = isinstance(b, np.ndarray) and a.shape == b.shape and a.dtype == b.dtype
        return both and (a.tobytes() == b.tobytes() if a.dtype != object else pd.Series(a).equals(pd.Series(b)))
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True) if not isinstance(a, bytes) else a == b


def results(out: Path) -> dict[str, Path]:
    """Every result file below `out` by its relative name: weights of the best epoch, scores, tables, metrics."""
    wanted = ("*.npz", "*.safetensors", "submission.csv", "*.parquet", "metrics.json", "metrics.jsonl", "cv.json")
    wanted += ("ensemble.json", "threshold.json", "thresholds.json", "folds.csv", "split.csv", "classes.json")
    files = [path for pattern in wanted for path in out.rglob(pattern)]
    return {str(path.relative_to(out)): path for path in files if not {"last", "embeddings", "gallery"} & set(path.parts)}


def read(path: Path) -> dict[str, Any]:
    """`numbers`, for CSV its bytes."""
    return {"": path.read_bytes()} if path.suffix == ".csv" else numbers(path)


def main() -> int:
    """Run both checkouts, print what differs; returns the number of files that differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--out", type=Path, default=Path("compare"))
    args = parser.parse_args()
    contests = make_contests(sys.executable, args.before.resolve(), args.out.resolve())
    sides = []
    for name, checkout in (("before", args.before.resolve()), ("after", args.after.resolve())):
        run_all(sys.executable, checkout, args.out.resolve() / name, contests)
        sides.append(results(args.out.resolve() / name))
    before, after = sides
    differing = 0
    for file in sorted({*before, *after}):
        if file not in before or file not in after:
            fault = f"only {'after' if file in after else 'before'}"
        else:
            a, b = read(before[file]), read(after[file])
            wrong = [key or "content" for key in sorted({*a, *b}) if key not in a or key not in b or not same(a[key], b[key])]
            fault = ", ".join(wrong)
        if fault:
            differing += 1
            print(f"differs: {file}: {fault}")
    print(f"{len({*before, *after})} files compared, {differing} differ")
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
