"""What a person decided on the review page: a table (first, second, answer) of image names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib.errors import FlukeError, did_you_mean, first_few
from lib.pipelines.discovery_inputs import DiscoveryInputs
from lib.retrieval.discovery import Decisions
from lib.tables.readers import read_columns, reader_of

ANSWERS = ("same", "different", "unsure")


@dataclass(frozen=True)
class Decided:
    """Whether two images show one individual."""

    first: int
    """Position of a query; labelled images count from -1 downwards."""
    second: int
    same: bool


def read_decisions(path: Path, inputs: DiscoveryInputs) -> list[Decided]:
    """Return the pairs that are the same or different; those that a person was unsure of say nothing.

    Raises FlukeError for other answers, and for images that are neither asked nor labelled.
    """
    columns, lines = read_columns(path, {name: name for name in ("first", "second", "answer")})
    unit = reader_of(path).unit
    if wrong := [(line, answer) for line, answer in zip(lines.tolist(), columns["answer"]) if answer not in ANSWERS]:
        line, answer = wrong[0]
        nearest = did_you_mean(answer, ANSWERS, otherwise="; same, different and unsure are answers.")
        raise FlukeError(f"{path}, {unit} {line}: no answer {answer!r}{nearest}")
    position = {name: -1 - i for i, name in enumerate(inputs.labelled_table.names)}
    position |= {name: i for i, name in enumerate(inputs.query_table.names)}
    named = [*columns["first"], *columns["second"]]
    if unknown := sorted({name for name in named if name not in position}):
        raise FlukeError(
            f"{path}: {len(unknown):,} images are neither asked nor labelled: {first_few(map(repr, unknown))}; apply it to "
            "the images that the review page was made of."
        )
    rows = zip(columns["first"], columns["second"], columns["answer"])
    return [Decided(position[first], position[second], answer == "same") for first, second, answer in rows if answer != "unsure"]


def elements_of(decided: Sequence[Decided], inputs: DiscoveryInputs, rows: np.ndarray, known: np.ndarray) -> Decisions:
    """Return the decisions on the queries at `rows` and the individuals `known` (k,), as elements to group; others are left out."""
    of_query = {row: len(known) + i for i, row in enumerate(rows.tolist())}
    of_name = {name: i for i, name in enumerate(known.tolist())}
    found = Decisions()
    for decision in decided:
        pair = [of_query.get(i) if i >= 0 else of_name.get(str(inputs.labels[-1 - i])) for i in (decision.first, decision.second)]
        first, second = pair
        if first is not None and second is not None and first != second and max(first, second) >= len(known):
            (found.same if decision.same else found.different).append((first, second))
    return found
