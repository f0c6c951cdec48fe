"""The results of all folds together: out-of-fold scores, their metrics and interval, the mean prediction of the test images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lib.config.recipe import Recipe
from lib.errors import FlukeError, Interrupted, first_few
from lib.files import write_json
from lib.metrics import registry
from lib.metrics.intervals import bootstrap_interval, interval_on_test
from lib.models.weights import load_network
from lib.pipelines.embed import load_class_centres
from lib.pipelines.predict import predict_average
from lib.pipelines.run_tables import FoldTables, group_list
from lib.pipelines.shift import compare_with_test, describe_shift
from lib.reports.class_results import HeldOutScores
from lib.reports.run_page import write_folds_page, write_query_folds_page
from lib.retrieval.evaluation import OpenSetEvaluation, evaluate_open_set, metric_interval, mixed
from lib.retrieval.held_out import ValidationSet
from lib.run_folder import FinalFolder, RunFolder
from lib.scores.decided import decide_out_of_fold
from lib.scores.score_file import Scores, load_scores, save_scores
from lib.scores.shift import Shift
from lib.submission.decisions import Decisions, fit_decisions
from lib.submission.writing import submit
from lib.tables.table import Table
from lib.tables.target import Target
from lib.training.distributed import broadcast_from_main, run_on_main
from lib.training.run import Run


def combine_folds(
    recipe: Recipe, run: Run, target: Target, tables: FoldTables, results: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Write what all folds say together; returns what cv.json holds, which is written when every fold is finished."""
    folder = run.folder
    result = {"keep": recipe.train.keep, **summarise(results)}
    if target.outputs == "embeddings":
        result |= broadcast_from_main(run.accelerator, lambda: pooled_query_metrics(folder, recipe, result["metric"]))
        run.log(describe_folds_result(result))
        run_on_main(run.accelerator, lambda: write_query_folds_page(recipe, folder, result))
    else:
        oof = broadcast_from_main(run.accelerator, lambda: join_folds(folder, tables.train, recipe.folds.n))
        result = report_out_of_fold(
            recipe,
            run,
            tables,
            oof,
            result,
            predict_test=lambda: _mean_of_models(recipe, run, tables, [folder.fold(k).weights for k in range(recipe.folds.n)]),
            find_shift=lambda: compare_first_fold_with_test(recipe, run, tables),
        )
    if broadcast_from_main(run.accelerator, lambda: all(folder.fold(k).is_finished for k in range(recipe.folds.n))):
        run_on_main(run.accelerator, lambda: write_json(folder.cv, result))
        run.log(f"done: {folder}")
    else:
        run.log(f"train.max_minutes cut folds short: {folder.cv.name} is written when all are finished; {run.resume_command}")
    return result


def report_out_of_fold(
    recipe: Recipe,
    run: Run,
    tables: FoldTables,
    oof: Scores,
    result: dict[str, Any],
    predict_test: Callable[[], np.ndarray],
    find_shift: Callable[[], tuple[Shift, Table] | None],
) -> dict[str, Any]:
    """Write the out-of-fold scores of a classifier, its thresholds, temperature, test scores, submission and page.

    `predict_test` returns the logits of the test images, if there are any; `find_shift` how they differ from the training images.
    Returns `result`, which names the metric and the folds, with the metrics of all rows together.
    """
    folder, target = run.folder, tables.train.target
    trained = tables.train.in_classes()  # not all rows with data.only_classes, and then not all test images either
    held_out, logits = tables.train.take(trained), oof.logits[trained]
    num_test = 0 if tables.test is None or not trained.all() else len(tables.test)
    metric = registry.metric_from_logits(result["metric"], target)
    decided = broadcast_from_main(
        run.accelerator,
        lambda: decide_out_of_fold(
            logits, held_out.targets(), target, metric, tables.of_row[trained], allow_empty=recipe.predict.allow_empty
        ),
    )
    result |= broadcast_from_main(run.accelerator, lambda: pooled_metrics(held_out, logits, decided, metric, num_test))
    run_on_main(run.accelerator, lambda: save_scores(folder.oof, oof))
    run.log(describe_folds_result(result))
    fitted, shift = (
        broadcast_from_main(run.accelerator, lambda: fit_decisions(held_out, held_out.target, logits, metric, folder)),
        None,
    )
    if fitted.calibration is not None:
        result["calibration"] = fitted.calibration.numbers()
    if tables.test is not None:
        write_test(recipe, run, tables, predict_test(), result["metric"], fitted.decisions)
        if (shift := find_shift()) is not None:
            run.log(describe_shift(shift[0]))
            result["test_shift"] = shift[0].summary()
    shown = HeldOutScores(held_out, logits, decided, fitted.decisions, fitted.calibrated)
    run_on_main(run.accelerator, lambda: write_folds_page(recipe, folder, shown, result, shift))
    return result


def summarise(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the folds' values of their metric, their mean, and their standard deviation (n - 1) as `spread`.

    The spread is no error of the mean, because the folds' models share training rows.
    """
    metric = results[0]["metric"]
    values = [float(result[metric]) for result in results]
    return {
        "metric": metric,
        "mean": float(np.mean(values)),
        "spread": float(np.std(values, ddof=1)),
        "per_fold": values,
        "folds": [{"fold": k, **result} for k, result in enumerate(results)],
    }


def join_folds(folder: RunFolder, train: Table, n: int) -> Scores:
    """Return the folds' validation scores as one, in the order of `train`. Raises FlukeError unless each row is there once."""
    parts = [load_scores(folder.fold(k).scores_val) for k in range(n)]
    rows = np.concatenate([part.rows for part in parts])
    order, train_order = np.argsort(rows, kind="stable"), np.argsort(train.rows, kind="stable")
    if not np.array_equal(rows[order], train.rows[train_order]) or any(part.classes != train.classes for part in parts):
        raise FlukeError(
            f"{folder}: the folds' {folder.scores_val.name} don't hold each of the {len(train):,} training rows once; are they "
            "all of this run?"
        )
    logits = np.concatenate([part.logits for part in parts])[order[np.argsort(train_order, kind="stable")]]
    source = {**parts[0].source, "run": folder.name, "folds": n}
    del source["best_epoch"], source["queries"]
    return Scores(train.rows, train.names, train.classes, logits, train.labels, train.target, source, group_list(train))


def pooled_metrics(table: Table, logits: np.ndarray, decided: np.ndarray, name: str, test_rows: int) -> dict[str, Any]:
    """Return the metrics of the out-of-fold `logits` (n, C) of a table, all rows together, and an interval, groups drawn whole.

    `decided` are the logits as metric `name`, which the interval is of, takes them (lib/scores/decided.py). `test_interval` is for
    the score of one model on another `test_rows` images of the same kind.
    """
    targets = table.targets()
    metrics = registry.compute_metrics(table.target, logits, targets, name, decided)
    interval = bootstrap_interval((name, decided, targets), groups=table.groups)
    result = {"rows": len(targets), "pooled_metric": name, "pooled": metrics[name], "interval": interval, "pooled_metrics": metrics}
    if test_rows:
        estimate = metrics.get(name + registry.CORRECTED, metrics[name])
        result |= {"test_rows": test_rows, "test_interval": interval_on_test(name, estimate, interval, len(targets), test_rows)}
    return result


def pooled_query_metrics(folder: RunFolder, recipe: Recipe, metric: str) -> dict[str, Any]:
    """Return the mean of `metric` over the queries of all folds, each searched in its fold's gallery, and its interval.

    {} for a metric that is no mean over queries.
    """
    found: list[OpenSetEvaluation] = []
    for fold in (folder.fold(k) for k in range(recipe.folds.n)):
        val = load_scores(fold.scores_val)
        is_query = np.arange(len(val.names)) >= len(val.names) - int(val.source["queries"])
        labels = np.array([label for (label,) in val.labels or []])
        of_row = None if val.groups is None else np.array(val.groups)
        rows = ValidationSet(val.logits, labels, is_query, of_row, val.rows)
        found.append(evaluate_open_set(rows, recipe, load_class_centres(fold, recipe)))
    if any(metric not in each.per_query for each in found):
        return {}
    values = np.concatenate([each.per_query[metric] for each in found])
    known, clusters = (np.concatenate(parts) for parts in zip(*((each.queries.in_gallery, each.clusters) for each in found)))
    share = found[0].new_share
    result = {"rows": int((~np.isnan(values)).sum()), "pooled_metric": metric, "pooled": mixed(values, known, share)}
    return result | {"interval": metric_interval(values, known, share, clusters)}


def describe_folds_result(result: dict[str, Any]) -> str:
    """Return what is printed of cv.json."""
    per_fold = first_few((f"{value:.4f}" for value in result["per_fold"]), 20)
    lines = [f"{result['metric']} over folds: {result['mean']:.4f}, spread {result['spread']:.4f} ({per_fold})"]
    if "pooled" in result:
        low, high = result["interval"]
        line = f"{result['pooled_metric']} of all {result['rows']:,} held-out rows: {result['pooled']:.4f}, "
        line += f"95% interval {low:.4f} to {high:.4f}"
        if "test_interval" in result:
            low, high = result["test_interval"]
            line += f"; one model on {result['test_rows']:,} test images of the same kind: {low:.4f} to {high:.4f}"
            if "probe" in result:
                line += "; the head that is submitted is fitted on all rows"
            else:
                line += f"; the mean of the {len(result['per_fold'])} models, which is submitted, is usually a little better"
        lines.append(line)
        if (corrected := result.get("pooled_metrics", {}).get(result["pooled_metric"] + registry.CORRECTED)) is not None:
            lines.append(f"  the interval is around {corrected:.4f}: few positives per label bias {result['pooled_metric']}")
    if result["keep"] == "best":
        lines.append(
            "  slightly too high: each fold's epoch was chosen on the rows that it is scored on (not with train.keep last)"
        )
    return "\n".join(lines)


def compare_first_fold_with_test(recipe: Recipe, run: Run, tables: FoldTables) -> tuple[Shift, Table] | None:
    """Compare the rows that the first fold held out with the test images, by the features of that fold's model."""
    assert tables.test is not None
    network = load_network(run.folder.fold(0).weights).to(run.accelerator.device)
    held_out = tables.train.take(tables.of_row == 0)
    return compare_with_test(recipe, run, network, held_out, tables.test, tables.train)


def _mean_of_models(recipe: Recipe, run: Run, tables: FoldTables, files: Sequence[Path]) -> np.ndarray:
    """Return the logits of the test images by the mean of the models in `files`. Raises Interrupted."""
    assert tables.test is not None
    try:
        return predict_average(files, recipe, tables.test, run.accelerator, run.stop.check)
    except Interrupted:
        raise Interrupted(f"Stopped by a signal while predicting; {run.resume_command}") from None


def predict_test(
    recipe: Recipe, run: Run, tables: FoldTables, metric: str, decisions: Decisions, files: Sequence[Path], folder: FinalFolder
) -> None:
    """Predict the test images by the mean of the models in `files`; write scores and submission to `folder`. Raises Interrupted."""
    write_test(recipe, run, tables, _mean_of_models(recipe, run, tables, files), metric, decisions, folder)


def write_test(
    recipe: Recipe,
    run: Run,
    tables: FoldTables,
    outputs: np.ndarray,
    metric: str,
    decisions: Decisions,
    folder: RunFolder | FinalFolder | None = None,
) -> None:
    """Write the scores of the test images (m, C) and the submission to `folder`, None for the run's."""
    folder, test = folder or run.folder, tables.test
    assert test is not None
    source = {"run": folder.name, "model": recipe.model.name, "metric": metric, "folds": recipe.folds.n}
    of_test = Scores(test.rows, test.names, test.classes, outputs, test.labels, test.target, source, ids=test.ids)

    def write() -> None:
        save_scores(folder.scores_test, of_test)
        if tables.sample is not None:
            submit(recipe.predict, folder.submission, tables.sample, of_test, decisions, run.log, recipe.train.metric)

    run_on_main(run.accelerator, write)
