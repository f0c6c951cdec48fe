"""A search space over fields of the recipe, read from a YAML file: choices, and ranges of numbers.

    optim.lr: {low: 1.0e-5, high: 1.0e-2, log: true}
    train.batch_size: [16, 32, 64]
    objective.mixup: {low: 0, high: 0.4, step: 0.2}

Nothing here imports torch or Optuna, so that a mistake is answered at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lib.config.recipe import SECTIONS, Recipe
from lib.config.schema import field_schemas
from lib.config.validation import make_recipe
from lib.config.yaml_text import read_yaml, show
from lib.errors import FlukeError, did_you_mean

FIXED_SECTIONS = ("folds", "retrieval")
FIXED = ("train.metric", "train.limit_rows", "train.max_minutes", "train.log_with", "train.save_minutes")
FREE_DATA = ("data.size", "data.eval_size", "data.fit", "data.augment")
"""The other fields of data say which rows and classes there are: all trials are scored on the same rows."""


@dataclass(frozen=True)
class Choices:
    """One of several values."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Range:
    """A number from `low` to `high`, both included."""

    low: float
    high: float
    log: bool = False
    """Whether equal ratios are equally likely, not equal differences."""
    step: float | None = None
    whole: bool = False
    """Whether it is a whole number."""


Space = dict[str, Choices | Range]
"""Domains by "section.field"."""


def read_space(path: str, recipe: Recipe) -> Space:
    """Return the search space in a YAML file, all of whose values are valid for `recipe`. Raises FlukeError for all faults."""
    found = read_yaml(path)
    if not isinstance(found, dict) or not found:
        raise FlukeError(f"{path}: expected fields with their domains, such as optim.lr: {{low: 1.0e-5, high: 1.0e-2, log: true}}.")
    space, faults = {}, []
    for field, domain in found.items():
        try:
            space[field] = _read_domain(field, domain, recipe)
        except FlukeError as error:
            faults.append(str(error).rstrip("."))
    if faults:
        raise FlukeError(f"{path}: {'; '.join(faults)}.")
    return space


def change_recipe(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Return the recipe with other `values` of fields. Raises FlukeError for a value that a field doesn't allow."""
    tree = asdict(recipe)
    for field, value in values.items():
        section, name = field.split(".")
        tree[section][name] = value
    return make_recipe(tree, {})


def value_of(recipe: Recipe, field: str) -> Any:
    """Return the value of "section.field"."""
    section, name = field.split(".")
    return getattr(getattr(recipe, section), name)


def contains(domain: Choices | Range, value: Any) -> bool:
    """Return whether a field's value lies in its domain."""
    if isinstance(domain, Choices):
        return value in domain.values
    if not _is_number(value) or not domain.low <= value <= domain.high:
        return False
    return domain.step is None or abs((value - domain.low) / domain.step % 1) < 1e-9


def _read_domain(field: str, domain: Any, recipe: Recipe) -> Choices | Range:
    """Return a field's domain. Raises FlukeError."""
    every = {f"{section}.{name}": schema for section, kind in SECTIONS.items() for name, schema in field_schemas(kind).items()}
    if field not in every:
        raise FlukeError(f"unknown field {field}{did_you_mean(field, every, otherwise='; docs/recipe.md lists them')}")
    section = field.split(".")[0]
    if section in FIXED_SECTIONS or field in FIXED or (section == "data" and field not in FREE_DATA):
        raise FlukeError(f"{field} can't be tuned, because scores of trials with different values can't be compared")
    if isinstance(domain, list):
        return _read_choices(field, domain, recipe)
    if isinstance(domain, dict):
        return _read_range(field, domain, every[field], recipe)
    raise FlukeError(f"{field}: expected choices [a, b] or a range {{low: a, high: b}} (found {show(domain)})")


def _read_choices(field: str, values: list[Any], recipe: Recipe) -> Choices:
    if len(values) < 2 or any(value in values[:i] for i, value in enumerate(values)):
        raise FlukeError(f"{field}: expected two or more different choices (found {show(values)})")
    for value in values:
        change_recipe(recipe, {field: value})
    return Choices(tuple(values))


def _read_range(field: str, given: dict[str, Any], schema: dict[str, Any], recipe: Recipe) -> Range:
    if unknown := [key for key in given if key not in ("low", "high", "log", "step")]:
        raise FlukeError(f"{field}: a range has low, high, log and step (found {unknown[0]})")
    kinds = {part.get("type") for part in schema.get("anyOf", [schema])}
    if not kinds & {"number", "integer"}:
        raise FlukeError(f"{field} isn't a number, so that it needs choices [a, b] instead of a range")
    numbers = {"low": given.get("low"), "high": given.get("high")} | ({"step": given["step"]} if "step" in given else {})
    if wrong := [name for name, value in numbers.items() if not _is_number(value)]:
        raise FlukeError(f"{field}: {wrong[0]} has to be a number (found {show(given.get(wrong[0]))})")
    low, high, step, log = given["low"], given["high"], given.get("step"), given.get("log", False)
    if not isinstance(log, bool):
        raise FlukeError(f"{field}: log has to be true or false (found {show(log)})")
    for bound in (low, high):
        change_recipe(recipe, {field: bound})
    if low >= high:
        raise FlukeError(f"{field}: the range is empty (low {low}, high {high})")
    if log and (low <= 0 or step is not None):
        raise FlukeError(f"{field}: a logarithmic range has a low above 0 and no step (low {low}, step {show(step)})")
    whole = "number" not in kinds
    if step is not None and (step <= 0 or (whole and not isinstance(step, int))):
        raise FlukeError(f"{field}: step has to be above 0{', and whole' * whole} (found {show(step)})")
    return Range(low, high, log, step, whole)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
