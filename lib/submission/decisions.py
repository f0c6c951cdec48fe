"""What a run fitted on held-out rows to turn logits into the cells of a submission, and the files that hold it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from lib.errors import FlukeError
from lib.files import read_json, write_json
from lib.run_folder import RunFolder
from lib.scores.calibration import Calibration, fit_calibration
from lib.scores.cut_points import fit_cut_points
from lib.scores.decided import decision_options
from lib.scores.decisions import label_thresholds
from lib.tables.table import Table
from lib.tables.target import Target


@dataclass(frozen=True)
class Decisions:
    """How logits become cells."""

    thresholds: dict[str, float] | None = None
    """For each label the probability, of the logits as they are, from which on it is written; None: 0.5."""
    cut_points: list[float] | None = None
    """The C - 1 cut points between ordered classes; None: the most probable class."""
    temperature: float = 1.0
    """Where probabilities are written, their logits are divided by it."""


PLAIN = Decisions()


@dataclass(frozen=True)
class FittedDecisions:
    """What was fitted on held-out rows."""

    decisions: Decisions
    calibration: Calibration | None
    """None for numbers and embeddings."""
    calibrated: np.ndarray | None
    """(n, C) held-out logits, each row's at a temperature that was fitted without its fold; None as above."""


def fit_decisions(table: Table, target: Target, outputs: np.ndarray, metric: str, folder: RunFolder) -> FittedDecisions:
    """Fit what `target` has on the outputs (n, C) of held-out rows, and write it to the run's folder.

    Several labels get thresholds, for the best `metric`; ordered classes get cut points, where `metric` is of what is handed in;
    both and one label per image get a temperature.
    """
    thresholds = cut_points = None
    if target.several:
        thresholds = label_thresholds(outputs, table.targets(), table.classes, metric)
        write_json(folder.thresholds, thresholds)
    if decision_options(metric, target).cut_points:
        cut_points = fit_cut_points(outputs, table.targets()).tolist()
        write_json(folder.cut_points, cut_points)
    if target.outputs != "logits" or target.numeric:
        return FittedDecisions(Decisions(thresholds, cut_points), None, None)
    calibration, calibrated = fit_calibration(outputs, table.targets(), target, table.groups)
    write_json(folder.calibration, asdict(calibration))
    return FittedDecisions(Decisions(thresholds, cut_points, calibration.temperature), calibration, calibrated)


def read_decisions(folder: RunFolder | None, classes: Sequence[str], target: Target) -> Decisions:
    """Return what a run or a k-fold run fitted; the defaults for what it didn't fit, and without a folder.

    Raises FlukeError for a damaged file.
    """
    if folder is None:
        return PLAIN
    thresholds = _read_thresholds(folder, classes) if target.several else None
    cut_points = _read_cut_points(folder, classes) if target.decision_fit == "cut_points" else None
    return Decisions(thresholds, cut_points, _read_temperature(folder))


def _read_thresholds(folder: RunFolder, classes: Sequence[str]) -> dict[str, float] | None:
    if not (path := folder.thresholds).exists():
        return None
    found = read_json(path)
    if not isinstance(found, dict) or set(found) != set(classes) or not all(isinstance(p, float | int) for p in found.values()):
        raise FlukeError(f"{path}: expected a probability for each of the {len(classes)} labels of the network.")
    return found


def _read_cut_points(folder: RunFolder, classes: Sequence[str]) -> list[float] | None:
    if not (path := folder.cut_points).exists():
        return None
    found = read_json(path)
    if not isinstance(found, list) or len(found) != len(classes) - 1 or not all(isinstance(cut, float | int) for cut in found):
        raise FlukeError(f"{path}: expected {len(classes) - 1} numbers, the cut points between the network's classes.")
    return [float(cut) for cut in found]


def _read_temperature(folder: RunFolder) -> float:
    if not (path := folder.calibration).exists():
        return 1.0
    found = read_json(path)
    value = found.get("temperature") if isinstance(found, dict) else None
    if not isinstance(value, int | float) or not 0 < value < np.inf:
        raise FlukeError(f"{path}: temperature: expected a positive number (found {value!r}); delete the file to go without.")
    return float(value)
