"""Held-out queries: labelled images that the network hasn't learnt, asked of the gallery as further queries will be."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lib.files import atomic_write
from lib.retrieval.rows import GalleryRows, LeftOut


class ValidationSet(NamedTuple):
    """n labelled rows, some of which are queries among the others."""

    embeddings: np.ndarray
    """(n, d)"""
    labels: np.ndarray
    """(n,) str"""
    is_query: np.ndarray
    """(n,) bool"""
    groups: np.ndarray | None
    """(n,) sightings; None: every row is a group."""
    ids: np.ndarray | None = None
    """(n,) row ids in the gallery; None: positions."""

    @property
    def row_ids(self) -> np.ndarray:
        """The rows' ids, (n,) int64."""
        return np.arange(len(self.labels)) if self.ids is None else self.ids


class HeldOut(NamedTuple):
    """q held-out queries, which may be rows of the gallery that is asked."""

    embeddings: np.ndarray
    """(q, d)"""
    labels: NDArray[np.str_]
    """(q,)"""
    ids: NDArray[np.int64]
    """(q,) row ids in the gallery."""
    is_new: NDArray[np.bool_]
    """(q,) whether none of the individual's images was learnt, so that the query stands for a new individual."""
    clusters: NDArray[np.str_]
    """(q,) what is independent: the individual, or for the new label, which isn't one, the sighting."""
    keys: NDArray[np.str_]
    """(q,) gallery images of the query's key don't answer it: of its individual, or of its sighting."""
    sightings: NDArray[np.str_] | None = None
    """(q,) photographs that were taken together, "" for one alone; None where none are known."""
    viewpoints: NDArray[np.str_] | None = None
    """(q,) "" where unknown; None: all are."""
    files: NDArray[np.str_] | None = None
    """(q, 3) path, content hash and box of each image, as in GalleryRows; None without retrieval.local."""

    def left_out(self, rows: GalleryRows) -> LeftOut:
        """Return which images of the gallery answer none of the queries: held-out ones of the query's key, or all of an individual
        that stands for a new one.

        So a query is asked of the gallery as it is, of its full size, and finds of its own individual the images that were learnt,
        or those of other sightings.
        """
        code = np.unique(self.keys, return_inverse=True)[1]
        order = np.argsort(self.ids, kind="stable")
        at = order[np.searchsorted(self.ids, rows.ids, sorter=order).clip(max=len(order) - 1)]
        of_row = np.where(self.ids[at] == rows.ids, code[at], -2)
        key_of = dict(zip(self.labels[self.is_new].tolist(), code[self.is_new].tolist()))
        of_new = np.array([key_of.get(label, -2) for label in rows.labels.tolist()], np.int64)
        return LeftOut(code, np.where(of_new >= 0, of_new, of_row))

    def relabel(self, ids: NDArray[np.int64], label: str) -> HeldOut:
        """Return the queries with another label for those of row `ids`.

        Where an individual becomes one that was learnt, its queries stand for a known one.
        """
        chosen = np.isin(self.ids, ids)

        def renamed(values: NDArray[np.str_]) -> NDArray[np.str_]:
            """Return values (q,) that begin with the label: it alone, or a sighting behind."""
            found = values.astype(object)
            found[chosen] = [label + value[len(old) :] for value, old in zip(values[chosen], self.labels[chosen])]
            return found.astype(np.str_)

        labels = renamed(self.labels)
        is_new = np.where(labels == label, self.is_new[labels == label].all(), self.is_new)
        return self._replace(labels=labels, clusters=renamed(self.clusters), keys=renamed(self.keys), is_new=is_new)

    def save(self, path: Path) -> None:
        """Write the queries as npz."""
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, allow_pickle=False, **{name: part for name, part in self._asdict().items() if part is not None})

    @classmethod
    def load(cls, path: Path) -> HeldOut:
        """Read what `save` wrote. Raises OSError, ValueError, KeyError or BadZipFile for a missing or damaged file."""
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            return cls(**{name: file[name] for name in cls._fields if name in file or name not in cls._field_defaults})


def hold_out(rows: ValidationSet, new_label: str | None) -> HeldOut:
    """Return the queries of a validation set."""
    q, labels = rows.is_query, rows.labels[rows.is_query].astype(str)
    is_new = ~np.isin(labels, rows.labels[~q]) | (labels == (new_label or ""))
    sightings = rows.row_ids if rows.groups is None else rows.groups
    alone = np.char.add(f"{new_label} ", sightings[q].astype(str))
    clusters = np.where(labels == (new_label or ""), alone, labels)
    together = None if rows.groups is None else np.asarray(rows.groups)[q].astype(str)
    return HeldOut(rows.embeddings[q], labels, rows.row_ids[q], is_new, clusters, labels, together)


def hold_out_catalogue(
    embeddings: np.ndarray, rows: GalleryRows, sightings: np.ndarray | None, share: float = 0.5, seed: int = 0
) -> HeldOut:
    """Return all images of a catalogue, (n, d), as queries: of a network that learnt none of them.

    A `share` of the individuals stands for new ones, and so does each that was sighted once; the images of the others are asked
    without those of their sighting. Without `sightings` (n,) each image is one.
    """
    sighting = np.arange(len(rows)).astype(str) if sightings is None else np.asarray(sightings).astype(str)
    keys = np.char.add(np.char.add(rows.labels, "\t"), sighting)
    names, code = np.unique(rows.labels, return_inverse=True)
    of_key = np.unique(keys, return_index=True)[1]
    again = np.bincount(code[of_key], minlength=len(names)) > 1
    is_new = ~again
    repeated = np.random.default_rng(seed).permutation(np.flatnonzero(again))
    is_new[repeated[: round(share * len(repeated))]] = True
    keys, together = np.where(is_new[code], rows.labels, keys), None if sightings is None else sighting
    return HeldOut(embeddings, rows.labels, rows.ids, is_new[code], rows.labels, keys, together)
