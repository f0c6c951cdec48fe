"""The score files of a run, found before NumPy and SciPy are imported, so that a wrong folder is reported at once."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from lib.errors import FlukeError
from lib.run_folder import RunFolder


class RunScores(NamedTuple):
    """Paths of a run's score files, None for one that the run doesn't have."""

    oof: Path | None
    """Out-of-fold scores of a k-fold run, else the scores of the validation rows."""
    test: Path | None


def find_run_scores(run: RunFolder) -> RunScores:
    """Return the paths of a run's score files.

    Raises FlukeError when the folder is no run, holds no scores of classes, or is a k-fold run with unfinished folds.
    """
    if not run.path.is_dir():
        raise FlukeError(f"{run}: no such run folder.")
    oof, test = (path if path.exists() else None for path in (run.oof, run.scores_test))
    val = run.scores_val if run.scores_val.exists() else None
    if (begun := run.begun_folds()) and oof is None:
        if run.cv.exists() and val is None:
            raise FlukeError(f"{run}: a k-fold run of embeddings, not of classes; use retrieve.py to combine those.")
        names = ", ".join(fold.name for fold in begun)
        raise FlukeError(f"{run}: a k-fold run without {run.oof.name} ({names} begun); finish it with kfold.py --resume.")
    if oof is None and val is None and test is None:
        wanted = f"{run.oof.name}, {run.scores_val.name} or {run.scores_test.name}"
        raise FlukeError(f"{run}: holds no scores ({wanted}); name the folder of a finished run.")
    return RunScores(oof or val, test)
