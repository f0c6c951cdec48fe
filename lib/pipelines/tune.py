"""Tune fields of a recipe by Optuna: each trial is a run, hopeless ones end after an epoch, interrupted ones go on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from accelerate.utils.memory import clear_device_cache

from lib.config.command_line import dump
from lib.config.recipe import Recipe
from lib.config.space import Space
from lib.config.yaml_text import show
from lib.errors import FlukeError, Interrupted, InUse, Pruned
from lib.files import atomic_write, write_text
from lib.metrics.intervals import corrected_for_choice
from lib.metrics.registry import METRICS, metric_from_logits, resolve_metric
from lib.pipelines.runs import RunArguments
from lib.pipelines.train import train
from lib.pipelines.trials import FAILED, FINISHED, PRUNED, RUNNING, Plan, Trials
from lib.process import announce, as_a_step
from lib.run_folder import RunFolder
from lib.scores.alignment import align_scores, encode_targets
from lib.scores.score_file import load_scores
from lib.tables.target import recipe_target
from lib.training.distributed import broadcast_from_main, run_on_main, start_processes
from lib.training.tasks import check_task

FAULTS = 3
"""Trials that fail one after the other, after which the study stops."""
COMPARED = 8
"""Runs that the next command names."""


class StudyArguments(NamedTuple):
    """Where a study is kept, and how much of it is run."""

    out: Path
    """Folder of the trials' runs, the table and the best recipe."""
    minutes: float
    name: str
    trials: int | None = None
    """Trials after which the study ends, those of earlier calls and other machines included; None: the minutes end it."""
    storage: str | None = None
    """File or database URL of the study; None: study.log in `out`."""


def tune(recipe: Recipe, space: Space, study: StudyArguments, embedding: bool) -> dict[str, Any]:
    """Run trials for the study's minutes, or until it has its trials; print and write the table, and write the best recipe.

    Returns the metric, the best trial's value, and by how much the choice flatters it, where that is known. Raises FlukeError for a
    recipe that can't be trained; Interrupted when a signal came.
    """
    out, stop_at = study.out, time.monotonic() + 60 * study.minutes
    target = recipe_target(recipe.data.label_separator, embedding, recipe.data.task)
    check_task(recipe, target)
    metric = resolve_metric(recipe.train.metric, target)
    processes = start_processes()

    shared: Trials | None = None  # on the main process alone

    def open_study() -> None:
        nonlocal shared
        shared = Trials(recipe, space, out, study.storage, study.name, METRICS[metric].higher_is_better)

    run_on_main(processes, open_study)
    failed = 0
    while failed < FAULTS:
        plan = broadcast_from_main(processes, lambda: shared.next(study.trials) if shared and time.monotonic() < stop_at else None)
        if plan is None:
            break
        try:
            state, value, note = _run_trial(plan, shared, metric, stop_at, embedding)
        except InUse:  # another process was faster
            continue
        except Interrupted as interruption:
            if shared:
                shared.postpone()
            if broadcast_from_main(processes, lambda: time.monotonic() < stop_at):
                raise Interrupted(f"{interruption}; or, of the whole study: {_again(out)}", ("--out", str(out))) from None
            break
        clear_device_cache(garbage_collection=True)
        failed = failed + 1 if state == FAILED else 0
        if shared:
            shared.end(state, value, note)
            print(f"trial {plan.number} {state}: {note if value is None else f'{metric} {value:.4f}'}\n", flush=True)
    return broadcast_from_main(processes, lambda: _report(shared, metric, out, embedding, failed) if shared else {})


def _again(out: Path) -> str:
    return f"the same command with --out {out} goes on"


def _run_trial(plan: Plan, shared: Trials | None, metric: str, stop_at: float, embedding: bool) -> tuple[str, float | None, str]:
    """Run a trial, from where it was interrupted; returns how it ended, its value, and a note.

    Raises InUse when another process works on it, Interrupted, and FlukeError when it can't begin.
    """
    values = ", ".join(f"{field} {show(value)}" for field, value in plan.values.items())
    run = RunFolder(plan.folder)
    if shared:
        print(f"trial {plan.number}: {values}", flush=True)
    if plan.fault is not None:
        return FAILED, None, plan.fault
    is_hopeless = partial(shared.is_hopeless, metric=metric) if shared else lambda history: False
    arguments = RunArguments(plan.folder, run.recipe.exists(), None, stop_at, is_hopeless)
    try:
        with as_a_step():
            result = train(plan.recipe, arguments, embedding)
    except Pruned as pruned:
        return PRUNED, None, f"ended after {pruned}, below the median of other trials there"
    except InUse:
        raise
    except FlukeError as error:
        if plan.number == 0 and not run.recipe.exists():  # a fault of the tables or of the sample, which all trials have
            if shared:
                shared.forget()
            raise
        return FAILED, None, str(error)
    value = float(result[metric])
    return (FINISHED, value, "") if np.isfinite(value) else (FAILED, None, f"{metric} is undefined")


def _report(shared: Trials, metric: str, out: Path, embedding: bool, failed: int) -> dict[str, Any]:
    """Print and write the table and the best recipe; returns what `tune` does. Raises FlukeError where no trial has finished."""
    table = shared.table(metric)
    with atomic_write(out / "trials.csv") as temporary:
        table.to_csv(temporary, index=False)
    print(table.drop(columns="run").to_string(index=False, float_format=lambda value: f"{value:.4g}", na_rep=""))
    counts = table["state"].value_counts()
    print("; ".join(f"{counts[state]} {state}" for state in (FINISHED, PRUNED, FAILED, RUNNING) if state in counts))
    notes = table.loc[table["state"] == FAILED, "note"].tolist()
    if failed >= FAULTS:
        print(f"stopped, because {failed} trials failed one after the other, the last one so: {notes[-1]}")
    done = table[table["state"] == FINISHED]
    if done.empty:
        raise FlukeError(f"No trial has finished; {notes[-1].rstrip('.') if notes else _again(out)}.")
    best = done.iloc[0]
    write_text(out / "best.yaml", dump(shared.recipe_of(int(best["trial"]))))
    result: dict[str, Any] = {"metric": metric, metric: float(best[metric]), "trials": len(table)}
    said = f"best of {len(done)} finished trials: trial {best['trial']}, {metric} {best[metric]:.4f}"
    if len(done) > 1:
        said += ". The best of several looks better than it is"
        if (flattery := measure_choice(done["run"].tolist(), metric, embedding)) is not None:
            result["flattery"] = flattery
            said += f", here by about {flattery:.4f} (bootstrap bias correction, Tsamardinos et al. 2018)"
        said += "; rows that nothing was chosen on, such as other folds (--folds.seed), say what it is worth"
    print(f"{said}. More trials: {_again(out)}.")
    command = f"python scripts/compare.py {' '.join(done['run'].iloc[:COMPARED])}"
    if embedding or len(done) == 1:
        command = f"accelerate launch scripts/kfold.py --cfg {out / 'best.yaml'}" + " --kind embedding" * embedding
    announce([out / "trials.csv", out / "best.yaml", *done["run"]], command)
    return result


def measure_choice(folders: Sequence[str], metric: str, embedding: bool) -> float | None:
    """Return by how much the choice of the best run flatters its score, at least 0; None where that can't be computed here."""
    runs = [RunFolder(folder) for folder in folders if RunFolder(folder).scores_val.exists()]  # others are on other machines
    if embedding or len(runs) < 2:
        return None
    scores = align_scores([load_scores(run.scores_val) for run in runs], [str(run) for run in runs])
    name, targets = metric_from_logits(metric, scores[0].target), encode_targets(scores[0], str(runs[0]))
    groups = None if scores[0].groups is None else np.array(scores[0].groups)
    logits = [each.logits for each in scores]
    sign = METRICS[name].sign
    best = max(sign * METRICS[name].function(each, targets) for each in logits)
    return max(best - sign * corrected_for_choice(name, logits, targets, groups), 0.0)
