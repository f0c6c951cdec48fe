"""Predict a contest's test images with the runs of a bundle, within a time limit, and write one submission."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lib.config import command_line
from lib.config.command_line import load_recipe
from lib.config.recipe import Recipe
from lib.errors import FlukeError
from lib.files import read_json, write_text
from lib.pipelines.discover import discover
from lib.pipelines.discovery_output import asks_for_clusters, read_sample
from lib.pipelines.embed import find_embedding_runs
from lib.pipelines.ensemble import EnsembleArguments, combine_runs
from lib.pipelines.predict import OutOfTime, PredictArguments, predict_table
from lib.pipelines.retrieval_session import RetrievalSession
from lib.pipelines.retrieve import answer_queries
from lib.process import announce, as_a_step
from lib.run_folder import BundleFolder, DiscoveryFolder, RetrievalFolder, RunFolder
from lib.scores.decisions import AdjustmentOptions
from lib.training.accelerator import make_inference_accelerator

RESERVE = 0.05
"""Share of the time limit that is kept for combining and writing."""


@dataclass(frozen=True)
class BundledArguments:
    """The arguments of scripts/run_bundle.py."""

    bundle: Path
    data: Path
    """Folder of the contest's files, in place of data.root."""
    out: Path
    minutes: float


def answer_bundle(arguments: BundledArguments) -> dict[str, Any]:
    """Write the submission; returns the runs that it is made of, those left out for time, and the minutes that it took.

    Runs are predicted in the bundle's order; one that would take longer than the time left, judged by the slowest before it, is
    left out. Runs of embeddings are searched together, without a limit. Raises FlukeError, also when not even the first run fits
    into the time.
    """
    begun = time.monotonic()
    deadline = begun + 60 * arguments.minutes * (1 - RESERVE)
    folder = BundleFolder(arguments.bundle)
    about = read_json(folder.about)
    if not arguments.data.is_dir():
        raise FlukeError(f"--data {arguments.data}: no such folder; name the folder of the contest's files.")
    packed = [folder.run(run) for run in about["runs"]]
    with tempfile.TemporaryDirectory(prefix="bundle-") as name, as_a_step():
        work = Path(name)
        if about["kind"] == "embeddings":
            done, submission = packed, _identify(packed, work, arguments.data)
        else:
            done = _predict_in_time(packed, work, arguments.data, deadline)
            submission = _combine(done, about["method"], work)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(submission, arguments.out)
    names = [run.name for run in done]
    left_out = [run for run in about["runs"] if run not in names]
    minutes = (time.monotonic() - begun) / 60
    if left_out:
        print(f"left out, because --minutes {arguments.minutes:g} is too short: {', '.join(left_out)}")
    print(f"{' and '.join(names)}: {minutes:.1f} minutes")
    announce([arguments.out])
    return {"runs": names, "left_out": left_out, "minutes": minutes}


def _predict_in_time(packed: Sequence[RunFolder], work: Path, data: Path, deadline: float) -> list[RunFolder]:
    """Return the runs whose predictions fit into the time. Raises OutOfTime when not even the first does."""
    done: list[RunFolder] = []
    slowest = 0.0
    for run in packed:
        start = time.monotonic()
        if done and start + slowest > deadline:
            continue
        try:
            done.append(_predict_run(run, work, data, deadline))
        except OutOfTime:
            if not done:
                raise
        slowest = max(slowest, time.monotonic() - start)
    return done


def _copy_run(packed: RunFolder, work: Path, data: Path) -> tuple[RunFolder, Recipe]:
    """Return a copy of the run below `work`, because the bundle is read-only, and its recipe, whose data.root is `data`."""
    run = RunFolder(work / packed.name)
    shutil.copytree(packed.path, run.path, copy_function=shutil.copyfile)  # not the permissions: the input may be read-only
    for path in (run.path, *run.path.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    recipe = load_recipe(run.recipe)
    if recipe is None:
        raise FlukeError(f"{packed}: has no recipe.yaml; pack the bundle again.")
    recipe = replace(recipe, data=replace(recipe.data, root=str(data.resolve()), cache_dir=None))
    write_text(run.recipe, command_line.dump(recipe))
    return run, recipe


def _predict_run(packed: RunFolder, work: Path, data: Path, deadline: float) -> RunFolder:
    """Return a copy of the run with scores and submission of the test images."""
    run, _ = _copy_run(packed, work, data)
    out = RunFolder(work / f"{packed.name}-predicted")
    predict_table(PredictArguments(str(run), out=str(out), deadline=deadline))
    for made, place in ((out.scores_test, run.scores_test), (out.submission, run.submission)):
        shutil.move(made, place)
    return run


def _identify(packed: Sequence[RunFolder], work: Path, data: Path) -> Path:
    """Return the submission of embeddings: clusters where the sample asks for them, else ranked names of the individuals that the
    contest's training images show."""
    copies = [_copy_run(run, work, data) for run in packed]
    runs = find_embedding_runs([str(run) for run, _ in copies])  # of a k-fold run its folds
    recipes = [replace(recipe, data=copies[0][1].data) for run in runs if (recipe := load_recipe(run.recipe)) is not None]
    folder, clusters = RetrievalFolder(work / "answers"), DiscoveryFolder(work / "answers")
    accelerator = make_inference_accelerator(recipes[0].train.precision, folder.path)
    session = RetrievalSession(runs, recipes, "concat", accelerator, folder, None)
    if (sample := read_sample(recipes[0])) is not None and asks_for_clusters(sample):
        discover(session, clusters, None, None)
        return clusters.submission
    answer_queries(session, None, None, metrics_only=False)
    return folder.submission


def _combine(runs: list[RunFolder], method: str, work: Path) -> Path:
    """Return the submission of one run, or of the runs' combination, fitted on their held-out scores."""
    if len(runs) == 1:
        return runs[0].submission
    out = work / "combined"
    combine_runs(EnsembleArguments([str(run) for run in runs], method, str(out), None, AdjustmentOptions()))
    return RunFolder(out).submission
