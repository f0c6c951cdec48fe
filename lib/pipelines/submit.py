"""Hand a run's submission in by Kaggle's own client, and keep what validation and leaderboard said of each."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from lib.config.command_line import load_recipe
from lib.errors import FlukeError
from lib.files import atomic_write, read_json
from lib.pipelines.kaggle import call_client
from lib.process import announce
from lib.reports.drawing import BLUE, save_figure, style_axes
from lib.run_folder import RunFolder
from lib.submission.checking import check_file
from lib.submission.choice import resolve_format
from lib.tables.sample import load_sample

COLUMNS = ("time", "competition", "run", "file", "metric", "validation", "low", "high", "public", "private", "message")
LEAST = 5
"""Scored submissions from which on validation and leaderboard are compared."""


@dataclass(frozen=True)
class SubmitArguments:
    """Options of scripts/submit.py."""

    run: str
    competition: str
    file: Path | None
    message: str | None
    wait: int
    """Seconds to wait for the score."""
    log: Path | None
    """submissions.csv; None: beside the run's folder."""


def submit_run(arguments: SubmitArguments) -> dict[str, Any]:
    """Check the submission, hand it in, and add a line to submissions.csv; returns that line.

    Raises FlukeError for a submission that doesn't fit the sample, and, with the command that it would run, without the client,
    its credentials or a network.
    """
    folder = RunFolder(arguments.run)
    path = arguments.file or _find_submission(folder)
    print(check_submission(folder, path))
    score = read_score(folder)
    message = arguments.message or compose_message(folder, score)
    command = ["competitions", "submit", arguments.competition, "-f", str(path), "-m", message]
    command += ["--wait", str(arguments.wait)] if arguments.wait else []
    call_client(command)
    found = _find_scores(arguments.competition, message)
    row = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "competition": arguments.competition,
        "run": str(folder),
        "file": str(path),
        **score,
        **found,
        "message": message,
    }
    log = arguments.log or folder.path.parent / "submissions.csv"
    rows = [*read_log(log), {column: str(row.get(column, "")) for column in COLUMNS}]
    with atomic_write(log) as temporary, open(temporary, "w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{log}: {len(rows):,} submissions; leaderboard {row['public'] or 'not scored yet'}, validation {row['validation']}")
    if (line := compare_with_leaderboard([r for r in rows if r["competition"] == arguments.competition], log)) is not None:
        print(line)
    announce([log], f"python scripts/compare.py {folder.path.parent}/*")
    return row


def _find_submission(folder: RunFolder) -> Path:
    """Return the run's submission: of all its rows, of its images, of its retrieval or its groups. Raises FlukeError."""
    places = (folder.final.submission, folder.submission, folder.retrieval.submission, folder.discovery.submission)
    found = next((path for path in places if path.exists()), None)
    if found is None:
        raise FlukeError(f"{folder}: holds no submission.csv; finish the run, or name a file with --file.")
    return found


def check_submission(folder: RunFolder, path: Path) -> str:
    """Return a line about the check against the run's sample. Raises FlukeError when the file doesn't fit it."""
    recipe = load_recipe(folder.recipe)
    if recipe is None or recipe.data.sample_submission is None or not folder.classes.exists():
        return f"{path}: not checked, because {folder} names no sample submission"
    sample = load_sample(recipe)
    if sample is None or folder.retrieval.submission == path or folder.discovery.submission == path:
        return f"{path}: was checked when it was written"
    from lib.tables.target import recipe_target

    target = recipe_target(recipe.data.label_separator, False, recipe.data.task)
    fmt = resolve_format(sample, recipe.predict, read_json(folder.classes), target, metric=recipe.train.metric)
    check_file(path, sample, fmt)
    return f"{path}: fits {sample.path}, {len(sample.ids):,} rows"


def read_score(folder: RunFolder) -> dict[str, Any]:
    """Return the metric of a run, its validation score and interval; "" for what isn't known."""
    if folder.cv.exists():
        result = read_json(folder.cv)
        name, value, interval = result.get("pooled_metric", result["metric"]), result.get("pooled"), result.get("interval")
    elif folder.ensemble.exists():
        result = read_json(folder.ensemble)
        name, value, interval = result.get("metric", ""), result.get("score"), result.get("interval")
    elif folder.metrics.exists():
        result = read_json(folder.metrics)
        name, value, interval = result["metric"], result.get(result["metric"]), result.get("interval")
    else:
        name, value, interval = "", None, None
    low, high = interval or ("", "")
    return {"metric": name, "validation": "" if value is None else value, "low": low, "high": high}


def compose_message(folder: RunFolder, score: dict[str, Any]) -> str:
    """Return the submission's description: run, validation score with interval, git commit."""
    parts = [folder.path.resolve().name]
    if score["validation"] != "":
        interval = f" ({score['low']:.4f} to {score['high']:.4f})" if score["low"] != "" else ""
        parts.append(f"{score['metric']} {score['validation']:.4f}{interval}")
    commit = read_json(folder.environment).get("git") if folder.environment.exists() else None
    if commit:
        parts.append(f"commit {str(commit)[:10]}")
    return "; ".join(parts)


def _find_scores(competition: str, message: str) -> dict[str, str]:
    """Return the leaderboard's scores of the submission with this description, "" where there are none yet."""
    listed = call_client(["competitions", "submissions", competition, "--format", "json"])
    try:
        start = listed.index("[")
        submissions = json.loads(listed[start : listed.rindex("]") + 1])
    except ValueError:
        raise FlukeError(f"Kaggle's client listed no submissions as JSON: {listed[:200]!r}; is it version 2.2 or newer?") from None
    own: dict[str, Any] = next((each for each in submissions if each.get("description") == message), {})
    return {"public": str(own.get("publicScore") or ""), "private": str(own.get("privateScore") or "")}


def read_log(path: Path) -> list[dict[str, str]]:
    """Return the lines of submissions.csv, [] without one."""
    if not path.exists():
        return []
    with open(path, encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def compare_with_leaderboard(rows: list[dict[str, str]], log: Path) -> str | None:
    """Return Spearman's correlation of validation and leaderboard with a 95% bootstrap interval, and draw both; None for few."""
    pairs = np.array([(float(row["validation"]), float(row["public"])) for row in rows if row["validation"] and row["public"]])
    if len(pairs) < LEAST:
        return None
    rng = np.random.default_rng(0)
    draws = [pairs[rng.integers(len(pairs), size=len(pairs))] for _ in range(2000)]
    found = [spearmanr(*draw.T).statistic for draw in draws if len(np.unique(draw[:, 0])) > 1 and len(np.unique(draw[:, 1])) > 1]
    low, high = np.quantile(found, [0.025, 0.975])
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    axes.scatter(*pairs.T, color=BLUE)
    style_axes(axes, "validation", "public leaderboard")
    save_figure(figure, log.with_suffix(".png"))
    rank = spearmanr(*pairs.T).statistic
    return f"validation and leaderboard: rank correlation {rank:.2f} ({low:.2f} to {high:.2f}) over {len(pairs)} submissions"
