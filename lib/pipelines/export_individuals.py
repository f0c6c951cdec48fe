"""The answers as other programs take them: captures.csv, and the observations of a Camtrap DP package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from lib.files import atomic_write
from lib.pipelines.encounters import gallery_encounters
from lib.pipelines.retrieval_session import RetrievalSession
from lib.retrieval.exports import capture_history, fill_individuals
from lib.retrieval.result import RetrievalResult


def write_csv(path: Path, table: pd.DataFrame, index: bool = False) -> None:
    """Write a table as CSV, atomically."""
    with atomic_write(path) as temporary:
        table.to_csv(temporary, index=index)


def export_individuals(session: RetrievalSession, result: RetrievalResult) -> None:
    """Write captures.csv and observations.csv, where the session asks for them. Raises FlukeError."""
    new_label = session.recipe.data.new_label
    first = [None if not names or names[0] == new_label else names[0] for names in result.names]
    if session.captures:
        rows = result.gallery.rows
        encounters = [
            *_named(gallery_encounters(session.recipe, result.gallery), rows.names),
            *_named(result.encounters, np.array(result.queries.names)),
        ]
        table = capture_history(encounters, [*rows.labels.tolist(), *first])
        write_csv(session.folder.captures, table, index=True)
        session.log(f"captures: {len(table):,} encounters of {table.shape[1]:,} individuals, of the gallery and of the queries")
    if session.camtrap is not None:
        named = {image: name for image, name in zip(result.queries.names, first) if name is not None}
        observations, count = fill_individuals(session.camtrap, named)
        write_csv(session.folder.observations, observations)
        session.log(f"{session.camtrap}: individualID filled in for {count:,} of {len(observations):,} observations")


def _named(encounters: np.ndarray | None, names: np.ndarray) -> list[str]:
    """Return the encounter of each photograph, (n,): its own name where none is known."""
    if encounters is None:
        return [str(name) for name in names]
    return [str(encounter or name) for encounter, name in zip(encounters, names)]
