"""An Optuna study whose trials are runs: in a file or a database that several machines share."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from lib.config.command_line import dump
from lib.config.constraints import check_constraints
from lib.config.recipe import Recipe
from lib.config.space import Choices, Range, Space, change_recipe, contains, value_of
from lib.config.yaml_text import load_yaml
from lib.errors import FlukeError, InUse, one_line
from lib.files import lock_folder
from lib.images.samplers import derive_seed
from lib.pipelines.compare import minutes_of_training
from lib.pipelines.runs import recipe_differences
from lib.run_folder import RunFolder

if TYPE_CHECKING:
    from optuna import Study, Trial

STARTS = 3
"""Times that a trial may be started; one that ends its process so often, as by using too much memory, is given up."""
RANDOM_TRIALS = 5
"""Trials before the sampler makes use of results, and before the pruner does."""
FINISHED, PRUNED, FAILED, RUNNING = "finished", "pruned", "failed", "unfinished"
STATES = {"COMPLETE": FINISHED, "PRUNED": PRUNED, "FAIL": FAILED, "RUNNING": RUNNING}


@dataclass(frozen=True)
class Plan:
    """A trial to run."""

    number: int
    folder: str
    recipe: Recipe
    values: dict[str, Any]
    """Values of the fields of the space."""
    fault: str | None = None
    """What contradicts itself in the recipe."""


class Trials:
    """The trials of a study, seen from one machine.

    Raises FlukeError for a study of another recipe or space, and without Optuna.
    """

    def __init__(self, recipe: Recipe, space: Space, folder: Path, storage: str | None, name: str, higher_is_better: bool):
        self.recipe, self.space, self.folder = recipe, space, folder
        optuna = _import_optuna()
        try:
            self.study: Study = optuna.create_study(
                storage=_open_storage(storage, folder),
                study_name=name,
                direction="maximize" if higher_is_better else "minimize",
                load_if_exists=True,
                pruner=optuna.pruners.MedianPruner(n_startup_trials=RANDOM_TRIALS - 1),
            )
        except Exception as error:  # of SQLAlchemy, of a driver, of the file system
            raise FlukeError(f"--storage {storage or folder}: can't be opened ({one_line(error)}).") from None
        self.trial: Trial | None = None
        attributes = self.study.user_attrs
        described = {field: [type(domain).__name__, asdict(domain)] for field, domain in space.items()}
        if "recipe" not in attributes:
            self.study.set_user_attr("recipe", dump(recipe))
            self.study.set_user_attr("space", json.dumps(described))
            self._enqueue_recipe()
            return
        if found := recipe_differences(load_yaml(attributes["recipe"]), asdict(recipe)):
            raise FlukeError(f"study {name} in {storage or folder} is of another recipe: {'; '.join(found)}; take another --out.")
        if json.loads(attributes["space"]) != json.loads(json.dumps(described)):
            raise FlukeError(
                f"study {name} in {storage or folder} has another search space; take another --out, or the same --space."
            )

    def _enqueue_recipe(self) -> None:
        """Make the recipe as it is the first trial, where it lies in the space."""
        values = {field: value_of(self.recipe, field) for field in self.space}
        if all(contains(self.space[field], value) for field, value in values.items()):
            self.study.enqueue_trial(
                {field: _stored(self.space[field], value) for field, value in values.items()}, skip_if_exists=True
            )

    def next(self, at_most: int | None) -> Plan | None:
        """Return the next trial: one that an ended process left, or else a new one; None when there are `at_most`."""
        optuna = _import_optuna()
        for left in self.study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
            run = self._run_of(left.number)
            if left.user_attrs.get("host") != platform.node() and not run.recipe.exists():  # of a machine with another disk
                continue
            if _is_in_use(run):
                continue
            if left.user_attrs.get("starts", 0) < STARTS:
                return self._start(optuna.trial.Trial(self.study, left._trial_id))
            self.trial = optuna.trial.Trial(self.study, left._trial_id)
            self.end(FAILED, note=f"ended its process {STARTS} times")
        if at_most is not None and len(self.study.get_trials(deepcopy=False, states=_begun())) >= at_most:
            return None
        return self._start(self.study.ask())

    def _run_of(self, number: int) -> RunFolder:
        return RunFolder(self.folder / f"trial-{number:04d}")

    def _start(self, trial: Trial) -> Plan:
        # The seed depends on the trial: a process that goes on doesn't draw what one before it drew.
        seed = derive_seed(self.recipe.train.seed, trial.number) % 2**32
        self.study.sampler = _import_optuna().samplers.TPESampler(n_startup_trials=RANDOM_TRIALS, seed=seed)
        values = {field: _suggest(trial, field, domain) for field, domain in self.space.items()}
        trial.set_user_attr("host", platform.node())
        trial.set_user_attr("starts", trial.user_attrs.get("starts", 0) + 1)
        self.trial, fault = trial, None
        recipe = change_recipe(self.recipe, values)
        try:
            check_constraints(recipe)
        except FlukeError as error:
            fault = str(error)
        return Plan(trial.number, str(self._run_of(trial.number)), recipe, values, fault)

    def is_hopeless(self, history: Sequence[dict[str, Any]], metric: str) -> bool:
        """Report the epochs of the trial in progress; return whether its best is worse than the median of others at its epoch."""
        assert self.trial is not None
        known = self.study.get_trials(deepcopy=False)[self.trial.number].intermediate_values
        for entry in history:
            if metric in entry and entry["epoch"] not in known:
                self.trial.report(entry[metric], entry["epoch"])
        return self.trial.should_prune()

    def postpone(self) -> None:
        """Leave the trial in progress for another time; being stopped doesn't count as a failed start."""
        assert self.trial is not None
        self.trial.set_user_attr("starts", 0)

    def end(self, state: str, value: float | None = None, note: str = "") -> None:
        """Note how the trial in progress ended."""
        assert self.trial is not None
        if note:
            self.trial.set_user_attr("note", note)
        name = next(name for name, each in STATES.items() if each == state)
        self.study.tell(self.trial.number, value, _import_optuna().trial.TrialState[name], skip_if_finished=True)

    def forget(self) -> bool:
        """Delete a study whose only trial couldn't begin, so that a corrected recipe may have its name; returns whether it did."""
        optuna = _import_optuna()
        if len(self.study.get_trials(deepcopy=False)) > 1:
            return False
        optuna.delete_study(study_name=self.study.study_name, storage=self.study._storage)
        return True

    def recipe_of(self, number: int) -> Recipe:
        """Return the recipe of a trial."""
        values = self.study.get_trials(deepcopy=False)[number].params
        return change_recipe(self.recipe, {field: _read(self.space[field], value) for field, value in values.items()})

    def table(self, metric: str) -> pd.DataFrame:
        """Return a row per trial: number, run, state, the metric, epochs, minutes, the fields, a note; the best first."""
        rows: list[dict[str, Any]] = []
        for trial in self.study.get_trials(deepcopy=False, states=_begun()):
            run = self._run_of(trial.number)
            row: dict[str, Any] = {"trial": trial.number, "run": str(run), "state": STATES[trial.state.name]}
            value = trial.value if row["state"] == FINISHED else None
            epochs = len(run.history.read_text().splitlines()) if run.history.exists() else 0
            row |= {metric: value, "epochs": epochs, "minutes": minutes_of_training(run)}
            row |= {field: _read(self.space[field], value) for field, value in trial.params.items()}
            rows.append(row | {"note": trial.user_attrs.get("note", "")})
        sign = 1 if self.study.direction.name == "MINIMIZE" else -1
        rows.sort(key=lambda row: (row[metric] is None, sign * (row[metric] or 0)))
        columns = ["trial", "run", "state", metric, "epochs", "minutes", *self.space, "note"]
        return pd.DataFrame(rows, columns=columns)


def _import_optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise FlukeError('tune.py needs Optuna: pip install -e ".[tune]".') from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _is_in_use(run: RunFolder) -> bool:
    """Return whether a process, on this machine or another one, works on a run."""
    if not run.path.is_dir():
        return False
    try:
        with lock_folder(run.path):
            return False
    except InUse:
        return True


def _begun() -> list[Any]:
    state = _import_optuna().trial.TrialState
    return [state[name] for name in STATES]


def _open_storage(storage: str | None, folder: Path) -> Any:
    """Return what create_study takes: the URL of a database, or a journal file, OUT/study.log without a name."""
    if storage is not None and "://" in storage:
        return storage
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    file = Path(storage) if storage else folder / "study.log"
    file.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(file)))


def _suggest(trial: Trial, field: str, domain: Choices | Range) -> Any:
    if isinstance(domain, Choices):
        return _read(domain, trial.suggest_categorical(field, [_stored(domain, value) for value in domain.values]))
    if domain.whole:
        return trial.suggest_int(field, int(domain.low), int(domain.high), step=int(domain.step or 1), log=domain.log)
    return trial.suggest_float(field, domain.low, domain.high, step=domain.step, log=domain.log)


def _stored(domain: Choices | Range, value: Any) -> Any:
    """Return a value as a study holds it: lists, mappings and texts, as a study has no lists, in JSON."""
    return json.dumps(value) if isinstance(domain, Choices) and isinstance(value, str | list | dict) else value


def _read(domain: Choices | Range, stored: Any) -> Any:
    return json.loads(stored) if isinstance(domain, Choices) and isinstance(stored, str) else stored
