"""Cross-validation: the folds of a table, a run for each, and what they say together; the mean of several networks.

A k-fold run's folder holds fold0 ... foldN, runs like any other but for the test images, and folds.csv. Once every fold is there:
oof.npz, each training row scored by the one model that did not learn it; cv.json; report.html; and of the test images, predicted in
one pass by all models, scores_test.npz and submission.csv.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from lib.config import command_line
from lib.config.recipe import Recipe
from lib.errors import FlukeError, Interrupted, first_few
from lib.files import lock_folder, read_json, write_json, write_text
from lib.images.augmentation import ResizeToSquare
from lib.metrics import intervals, registry
from lib.models.weights import load_network, read_spec
from lib.pipelines import runs
from lib.pipelines.embed import load_class_centres
from lib.pipelines.finished import load_recipe
from lib.pipelines.train import Fold, evenly_spaced, group_list, load_tables, make_dataset
from lib.pipelines.train import train_run as train_run
from lib.reports.run_page import write_folds_page
from lib.retrieval.evaluation import ValidationSet, evaluate_open_set
from lib.scores import score_file
from lib.scores.decisions import label_thresholds
from lib.scores.score_file import Scores
from lib.submission.formats import check_sample
from lib.submission.writing import submit
from lib.tables import splits
from lib.tables.readers import read_columns
from lib.tables.sample import load_sample
from lib.tables.table import Table
from lib.training.accelerator import make_accelerator
from lib.training.distributed import StopSignal, broadcast_from_main, run_on_main
from lib.training.inference import predict
from lib.training.tasks import query_interval

Say = Callable[[str], None]


def cross_validate(recipe: Recipe, folder: Path, kind: str = "classifier", only: Sequence[int] | None = None) -> dict[str, Any]:
    """Run the folds (`only` these) of a k-fold run in `folder` that aren't finished, then sum up if none is missing.

    `kind` is classifier or embedding. `train.max_minutes` is for all of it: what is left is shared equally among the folds to come,
    after the time that predicting the test images will take. Returns the contents of cv.json, or {} while folds are missing.
    Raises FlukeError; Interrupted when a signal came and the state is saved.
    """
    n, limit = recipe.folds.n, recipe.train.max_minutes
    end = time.monotonic() + 60 * limit if limit else None
    accelerator = make_accelerator(recipe.train, folder)
    folder = broadcast_object_list([folder])[0]  # without --out, its name is a clock's
    files = [folder / f"fold{k}" / "best" / "model.safetensors" for k in range(n)]
    with ExitStack() as stack:
        run_on_main(accelerator, lambda: stack.enter_context(lock_folder(folder)))
        say = runs.make_log(accelerator, folder)
        stop = stack.enter_context(StopSignal(accelerator))
        if (folder / "cv.json").exists():
            say(f"{folder}: finished already")
            return read_json(folder / "cv.json")
        train, test = load_tables(recipe, kind, accelerator, say)
        if rows := recipe.train.limit_rows:  # a dry run: so many in each fold, and each of them out of fold once
            train = train.take(evenly_spaced(np.arange(len(train)), n * rows))
            test = None if test is None else test.take(evenly_spaced(np.arange(len(test)), rows))
        of_row = splits.assign_folds(train, recipe.folds)
        say(splits.describe_folds(train, of_row))
        sample = None
        if kind == "embedding":
            test = None
            say("embeddings of different folds are not comparable: only the folds' metrics are summed up, in cv.json")
        elif recipe.data.only_classes:
            say("a model of some classes writes no submission: ensemble.py combines it with one of all classes")
        elif test is not None and (sample := load_sample(recipe)) is not None:  # its faults now, not after the training
            check_sample(sample, recipe.predict, test.names, train.classes, train.multi)
        _check_folds(train, of_row)
        done = {k: read_json(path) for k in range(n) if (path := folder / f"fold{k}" / "metrics.json").exists()}
        for k in done:
            _compare_recipes(folder / f"fold{k}", recipe)

        def begin() -> None:
            if (folder / "folds.csv").exists():
                _compare_folds(folder / "folds.csv", train, of_row)
                _compare_models(files, kind)
            else:
                splits.write_folds(folder / "folds.csv", train, of_row)
            if (folder / "recipe.yaml").exists():  # with epochs, say, that no finished fold has trained yet
                write_text(folder / "recipe.yaml", command_line.dump(recipe))
            else:
                runs.write_run_start(folder, recipe, accelerator, train.classes, 0)

        run_on_main(accelerator, begin)  # the only one to look: what it writes, another might find there already
        to_do = [k for k in (range(n) if only is None else sorted(set(only))) if k not in done]
        whole = len(done) + len(to_do) == n
        finished = whole
        for left, k in zip(range(len(to_do), 0, -1), to_do):
            say(f"fold {k}:")
            deadline = None if end is None else time.monotonic() + (end - time.monotonic()) / left
            to_predict = math.ceil(n * len(test) / left) if test is not None and whole else 0
            try:
                stop.check()
                part = Fold(train, of_row, k, stop, deadline, to_predict)
                done[k] = train_run(recipe, folder / f"fold{k}", kind, part)
            except Interrupted:
                raise Interrupted(f"Stopped by a signal in fold {k}; go on with: --out {folder} --resume") from None
            gc.collect()  # modules and optimisers of a fold are in reference cycles; the next one needs the GPU's memory
            finished &= (folder / f"fold{k}" / "metrics.json").exists()
        if not whole:
            lacking = first_few(k for k in range(n) if k not in done)
            say(f"{folder}: oof.npz and cv.json need all {n} folds, and {lacking} are missing; go on with: --out {folder} --resume")
            return {}

        result = {"keep": recipe.train.keep, **summarise([done[k] for k in range(n)])}
        thresholds = None
        if kind == "classifier":
            oof = join_folds(folder, train, n)
            known = train.known()  # not all of them with data.only_classes, and then not all test images either
            side, logits = train.take(known), oof.logits[known]
            n_test = 0 if test is None or not known.all() else len(test)
            result |= broadcast_from_main(accelerator, lambda: pooled_metrics(side, logits, result["metric"], n_test))
            run_on_main(accelerator, lambda: score_file.save_scores(folder / "oof.npz", oof))
            if train.multi:
                thresholds = label_thresholds(logits, side.targets(), side.classes, result["metric"])
                run_on_main(accelerator, lambda: write_json(folder / "thresholds.json", thresholds))
        else:
            result |= broadcast_from_main(accelerator, lambda: pooled_query_metrics(folder, recipe, result["metric"]))
        say(describe_folds_result(result))
        if test is not None:
            try:
                outputs = predict_average(files, recipe, test, accelerator, stop.check)
            except Interrupted:
                raise Interrupted(f"Stopped by a signal while predicting; go on with: --out {folder} --resume") from None
            source = {"run": folder.name, "model": recipe.model.name, "metric": result["metric"], "folds": n}
            of_test = Scores(test.rows, test.names, test.classes, outputs, test.labels, test.multi, source)
            run_on_main(accelerator, lambda: score_file.save_scores(folder / "scores_test.npz", of_test))
            if sample is not None:
                path = folder / "submission.csv"
                run_on_main(accelerator, lambda: submit(recipe.predict, path, sample, of_test, thresholds, say))
        if kind == "classifier":
            run_on_main(accelerator, lambda: write_folds_page(recipe, folder, side, logits, result))
        if finished:
            run_on_main(accelerator, lambda: write_json(folder / "cv.json", result))
            say(f"done: {folder}")
        else:
            say(f"train.max_minutes cut folds short: cv.json is written when --out {folder} --resume has finished them")
        return result


def _compare_folds(path: Path, train: Table, of_row: np.ndarray) -> None:
    """Raise FlukeError unless a begun run's folds.csv says the same of the same images."""
    columns, _ = read_columns(path, {"image": "image", "fold": "fold"})
    before = dict(zip(columns["image"], columns["fold"]))
    now = dict(zip(train.names, map(str, of_row.tolist())))
    if wrong := [name for name in {**before, **now} if before.get(name) != now.get(name)]:
        raise FlukeError(
            f"{path}: {len(wrong):,} images had another fold, or none, when this run began ({first_few(wrong)}); is it the same "
            "table?"
        )


def _check_folds(train: Table, of_row: np.ndarray) -> None:
    """Raise FlukeError when a fold holds no image of the classes to be learnt (data.only_classes), or holds them all."""
    known = train.known()
    for k in np.unique(of_row).tolist():
        held = of_row == k
        if not known[held].any() or not known[~held].any():
            what = "no image" if known[~held].any() else "all images"
            raise FlukeError(f"fold {k} holds {what} of the {len(train.classes)} classes to be learnt; take fewer folds.")


def _compare_recipes(fold: Path, recipe: Recipe) -> None:
    """Raise FlukeError when a finished fold's model was trained or asked in another way than the others would be."""
    if (theirs := load_recipe(fold)) is None:
        return
    for section, name in (("train", "epochs"), ("train", "patience"), ("predict", "tta")):
        before, now = (getattr(getattr(r, section), name) for r in (theirs, recipe))
        if before != now:
            raise FlukeError(f"{fold}: finished with {section}.{name} {before}, not {now}; all folds are treated alike.")


def _compare_models(files: Sequence[Path], kind: str) -> None:
    """Raise FlukeError when a begun run's folds are of the other kind."""
    for path in files:
        if path.exists() and (spec := read_spec(path)) is not None and spec.kind != kind:
            raise FlukeError(f"{path}: this k-fold run is of kind {spec.kind}; go on with --kind {spec.kind}.")


def summarise(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the folds' metrics.json say together: `per_fold` values of the metric, their `mean`, and their `spread`, the standard
    deviation over folds (n - 1). That is no error of the mean, for the folds' models share training rows."""
    metric = results[0]["metric"]
    values = [float(result[metric]) for result in results]
    return {
        "metric": metric,
        "mean": float(np.mean(values)),
        "spread": float(np.std(values, ddof=1)),
        "per_fold": values,
        "folds": [{"fold": k, **result} for k, result in enumerate(results)],
    }


def join_folds(folder: Path, train: Table, n: int) -> Scores:
    """The folds' scores_val.npz as one, in the order of `train`. Raises FlukeError unless each of its rows is there just once."""
    parts = [score_file.load_scores(folder / f"fold{k}" / "scores_val.npz") for k in range(n)]
    rows = np.concatenate([part.rows for part in parts])
    order = np.argsort(rows, kind="stable")
    own = np.argsort(train.rows, kind="stable")
    if not np.array_equal(rows[order], train.rows[own]) or any(part.classes != train.classes for part in parts):
        raise FlukeError(
            f"{folder}: the folds' scores_val.npz are not of each of the {len(train):,} training rows once; are all of this run?"
        )
    back = order[np.argsort(own, kind="stable")]
    logits = np.concatenate([part.logits for part in parts])[back]
    source = {**parts[0].source, "run": folder.name, "folds": n}
    del source["best_epoch"], source["queries"]
    groups = group_list(train)
    return Scores(train.rows, train.names, train.classes, logits, train.labels, train.multi, source, groups=groups)


def pooled_metrics(side: Table, logits: np.ndarray, metric: str, test_rows: int) -> dict[str, Any]:
    """Metrics of the out-of-fold `logits` (n, C) of a table, taken together, and the bootstrap interval of `metric`, or of the
    task's usual one where that is no function of logits (loss); groups are drawn whole. `test_interval` is for the score
    of another `test_rows` images of the same kind."""
    task: registry.Task = "multi" if side.multi else "single"
    targets = side.targets()
    found = registry.compute_metrics(task, logits, targets)
    name = metric if registry.METRICS[metric].resampled is not None else registry.default_metric(task)
    interval = intervals.bootstrap_interval((name, logits, targets), groups=side.groups)
    result = {"rows": len(targets), "pooled_metric": name, "pooled": found[name], "interval": interval, "pooled_metrics": found}
    if test_rows:
        result |= {
            "test_rows": test_rows,
            "test_interval": intervals.interval_on_test(name, found[name], interval, len(targets), test_rows),
        }
    return result


def pooled_query_metrics(folder: Path, recipe: Recipe, metric: str) -> dict[str, Any]:
    """`pooled_metrics`, for embeddings: the mean of what all folds' queries add to `metric`, each asked of its own fold's
    gallery, and its
    interval; {} for a metric that is no such mean."""
    each: list[np.ndarray] = []
    groups: list[str] | None = []
    for fold in (folder / f"fold{k}" for k in range(recipe.folds.n)):
        val = score_file.load_scores(fold / "scores_val.npz")
        is_query = np.arange(len(val.names)) >= len(val.names) - int(val.source["queries"])
        labels = np.array([label for (label,) in val.labels or []])
        of_row = None if val.groups is None else np.array(val.groups)
        rows = ValidationSet(val.logits, labels, is_query, of_row)
        of_queries = evaluate_open_set(rows, recipe, load_class_centres(fold, recipe)).per_query
        if metric not in of_queries:
            return {}
        each.append(of_queries[metric])
        groups = None if groups is None or of_row is None else [*groups, *of_row[is_query].tolist()]
    values = np.concatenate(each)
    found = {"rows": int((~np.isnan(values)).sum()), "pooled_metric": metric, "pooled": float(np.nanmean(values))}
    return found | {"interval": query_interval(values, None if groups is None else np.array(groups))}


def describe_folds_result(result: dict[str, Any]) -> str:
    """What is printed of cv.json."""
    each = first_few((f"{value:.4f}" for value in result["per_fold"]), 20)
    lines = [f"{result['metric']} over folds: {result['mean']:.4f}, spread {result['spread']:.4f} ({each})"]
    if "pooled" in result:
        low, high = result["interval"]
        line = f"{result['pooled_metric']} of all {result['rows']:,} held-out rows: {result['pooled']:.4f}, "
        line += f"95% from {low:.4f} to {high:.4f}"
        if "test_interval" in result:
            low, high = result["test_interval"]
            line += f"; one model on {result['test_rows']:,} test images of the same kind: {low:.4f} to {high:.4f}"
        lines.append(line)
    if result["keep"] == "best":
        lines.append("  flattered a little: each fold's epoch was chosen on the rows it is scored on (train.keep last isn't)")
    return "\n".join(lines)


def predict_average(
    files: Sequence[Path], recipe: Recipe, side: Table, accelerator: Accelerator, check: Callable[[], None] = lambda: None
) -> np.ndarray:
    """Mean outputs (n, C) float32 of the networks in `files` for the images of a table, each decoded once.

    Of `recipe` only data (workers, cache) and predict are used. Raises FlukeError when the networks differ in more than weights.
    """
    networks = [load_network(path).to(accelerator.device).to(memory_format=torch.channels_last) for path in files]
    spec = networks[0].spec
    for path, network in zip(files, networks):
        if replace(network.spec, model=spec.model) != spec:
            raise FlukeError(f"{path}: its classes or image size are not those of {files[0]}; they can't be averaged.")
    images = make_dataset(recipe, side, ResizeToSquare(spec.size, spec.fit))
    batch_size = recipe.predict.batch_size or max(64, recipe.train.batch_size // accelerator.num_processes)
    outputs = predict(
        networks, images, accelerator, batch_size, recipe.data.workers, recipe.predict.tta, check=check, title="predict test"
    )
    total = np.zeros(outputs[0].shape)  # not np.mean, which copies all networks' outputs into one array first
    for output in outputs:
        total += output
    return (total / len(outputs)).astype(np.float32)
