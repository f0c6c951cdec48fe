"""Answers for other programs: the capture history of mark-recapture, and the individuals of a Camtrap DP package."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lib.errors import FlukeError

OBSERVATIONS, MEDIA = "observations.csv", "media.csv"  # of a Camtrap DP package


def capture_history(encounters: Sequence[str], individuals: Sequence[str | None]) -> pd.DataFrame:
    """Return whether each encounter shows each individual, 0 or 1: a row per encounter, in order of appearance, a column per
    individual, sorted.

    encounters (n,) and individuals (n,) are of n photographs, None for one without a name; its encounter has a row all the same.
    """
    names = sorted({name for name in individuals if name is not None})
    rows, occasions = pd.factorize(np.asarray(encounters, object))
    column = {name: i for i, name in enumerate(names)}
    table = np.zeros((len(occasions), len(names)), np.uint8)
    named = [i for i, name in enumerate(individuals) if name is not None]
    table[rows[named], [column[str(individuals[i])] for i in named]] = 1
    return pd.DataFrame(table, index=pd.Index(occasions, name="encounter"), columns=names)


def fill_individuals(package: Path, individuals: Mapping[str, str]) -> tuple[pd.DataFrame, int]:
    """Return a Camtrap DP package's observations with individualID filled in, and the number of cells that were.

    individuals: names by image, as media.csv's filePath calls it, or by the file's name alone where that is unique. An observation
    of an animal is found by its mediaID; an individualID that is there stays. Raises FlukeError for a folder that lacks the two
    tables or their columns.
    """
    tables = []
    for name, needed in ((OBSERVATIONS, ("mediaID", "individualID")), (MEDIA, ("mediaID", "filePath"))):
        try:
            table = pd.read_csv(package / name, dtype=str, keep_default_na=False)
        except (OSError, ValueError) as error:
            raise FlukeError(f"{package / name}: can't be read ({error}); name the folder of a Camtrap DP package.") from None
        if missing := [column for column in needed if column not in table.columns and column != "individualID"]:
            raise FlukeError(f"{package / name}: has no column {missing[0]}, as Camtrap DP's {name} does.")
        tables.append(table)
    observations, media = tables
    if "individualID" not in observations:
        observations["individualID"] = ""
    ends = Counter(map(_end, individuals)) | Counter(media["filePath"].map(_end))
    by_end = {end: value for name, value in individuals.items() if ends[end := _end(name)] == 1}
    of_media = {
        identifier: found
        for identifier, path in zip(media["mediaID"], media["filePath"])
        if (found := individuals.get(path) or by_end.get(_end(path))) is not None
    }
    kind = observations["observationType"] if "observationType" in observations else pd.Series("animal", observations.index)
    named = observations["mediaID"].map(of_media)
    filled = named.notna() & (observations["individualID"] == "") & (kind == "animal")
    observations["individualID"] = observations["individualID"].mask(filled, named)
    return observations, int(filled.sum())


def _end(path: str) -> str:
    """Return the name of the file at the end of a path or an address."""
    return path.replace("\\", "/").rpartition("/")[2]
