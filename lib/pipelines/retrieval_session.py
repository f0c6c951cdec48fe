"""What one call of retrieve.py works with: runs, their recipes, the accelerator and the folders."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from accelerate import Accelerator

from lib.config.recipe import Recipe
from lib.pipelines.embed import combine_embeddings, embed_table, fingerprint, load_class_centres, load_held_out
from lib.retrieval.class_centres import ClassCentres
from lib.retrieval.held_out import ValidationSet
from lib.retrieval.pairs import PairVerification, verify_held_out_pairs
from lib.retrieval.similarity import normalize
from lib.run_folder import RetrievalFolder, RunFolder
from lib.tables.table import Table
from lib.tables.target import recipe_target


@dataclass
class EmbeddedTable:
    """n images with their embeddings."""

    table: Table
    parts: list[np.ndarray]
    """The embeddings (n, d_i) by each run."""
    embeddings: np.ndarray
    """(n, d) combined."""
    encounters: np.ndarray | None = None
    """(n,) str: photographs that are asked together, "" for one alone; None: all are alone."""
    viewpoints: np.ndarray | None = None
    """(n,) str: retrieval.orientation_column, "" where unknown; None without the field."""

    @property
    def labels(self) -> np.ndarray:
        """The label of each image, (n,) str."""
        return single_labels(self.table)

    def validation_set(self, embeddings: np.ndarray, positions: np.ndarray, is_query: np.ndarray) -> ValidationSet:
        """Return the rows at `positions`, with `embeddings` (n, d) of all images, as a validation set."""
        groups = None if self.table.groups is None else self.table.groups[positions]
        return ValidationSet(embeddings[positions], self.labels[positions], is_query, groups, self.table.rows[positions])

    @property
    def units(self) -> list[np.ndarray]:
        """The embeddings by each of several runs as they are combined: scaled to length 1."""
        return [normalize(part) for part in self.parts]


def single_labels(table: Table) -> np.ndarray:
    """Return the label of each image of a table with one label per image, (n,) str."""
    return np.array([label for (label,) in table.labels or []])


@dataclass
class RetrievalSession:
    """Which gallery is searched with which runs. Raises FlukeError for recipes with several labels per image."""

    runs: list[RunFolder]
    recipes: list[Recipe]
    """One per run; the tables and the retrieval section of the first one are used."""
    combine: Literal["concat", "mean"]
    """How the embeddings of several runs become one."""
    accelerator: Accelerator
    folder: RetrievalFolder
    """Folder to write."""
    gallery: Path | None
    """A saved gallery to search or to change; None: one of the training table, saved in `folder`/gallery."""

    camtrap: Path | None = None
    """A Camtrap DP package whose observations get the individuals."""
    captures: bool = False
    """Whether to write which encounter shows which individual."""
    where: str | None = None
    """Condition on the columns of the saved gallery that candidates meet."""

    def __post_init__(self) -> None:
        self.log = self.accelerator.print
        recipe_target(self.recipe.data.label_separator, embedding=True, task=self.recipe.data.task)

    @property
    def recipe(self) -> Recipe:
        """The first run's recipe."""
        return self.recipes[0]

    @property
    def gallery_folder(self) -> Path:
        """Folder of the saved gallery."""
        return self.gallery or self.folder.gallery

    @cached_property
    def model(self) -> str:
        """Fingerprint of the networks whose embeddings are compared."""
        return f" {self.combine} ".join(fingerprint(run, recipe) for run, recipe in zip(self.runs, self.recipes))

    @cached_property
    def centres(self) -> ClassCentres | None:
        """Class centres of a single run; None for several, and for an objective without centres."""
        return load_class_centres(self.runs[0], self.recipe) if len(self.runs) == 1 else None

    def embed(self, table: Table, what: Literal["train", "test"]) -> EmbeddedTable:
        """Return the readable images of `table` with their embeddings; `what` as in `embed_table`."""
        found = [embed_table(run, recipe, table, self.accelerator, what) for run, recipe in zip(self.runs, self.recipes)]
        parts = [part for _, part in found]
        return EmbeddedTable(found[0][0], parts, combine_embeddings(parts, self.combine, self.runs))

    def verify_pairs(self, train: EmbeddedTable) -> PairVerification | None:
        """Verify the pairs of images that no run was trained on; None where there are too few."""
        splits = [load_held_out(run, train.table) for run in self.runs]
        held_out = [set(positions[is_query].tolist()) for positions, is_query in splits]
        rows = np.array(sorted(set.intersection(*held_out)), dtype=np.int64)
        if len(rows) < 2:
            return None
        groups = None if train.table.groups is None else train.table.groups[rows]
        return verify_held_out_pairs(train.embeddings[rows], train.labels[rows], groups, self.recipe)
