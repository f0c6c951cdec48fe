"""The history of a gallery: each change is a line of history.jsonl in its folder, and the last ones can be undone.

A change writes a new generation of the gallery's files, then its line, and replaces gallery.json last: what is killed before that
leaves the old gallery, and its line doesn't count. The generations of the last KEPT changes stay, so that undoing one restores the
very files; an index that a change leaves alone is linked, not copied.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lib.errors import FlukeError
from lib.files import read_json, write_json, write_text
from lib.retrieval.gallery import Gallery, next_generation, remove_generations

HISTORY = "history.jsonl"
EARLIER = "changes.txt"  # the history of galleries by version 0.1
KEPT = 5
"""Changes that can be undone."""


@dataclass(frozen=True)
class Change:
    """A line of history.jsonl."""

    time: str
    """UTC, ISO 8601."""
    what: str
    """In words: "rename w_1 to w_7"."""
    rows: int
    """Images that it concerns."""
    generation: int
    """Number of the change, and of the gallery's files that it made."""
    before: int
    """The generation that it replaced."""
    undoes: int | None = None
    """The generation that it undid."""


def read_history(folder: Path) -> list[Change]:
    """Return the changes of a gallery, oldest first. Raises FlukeError for a damaged file.

    A line that is newer than the gallery is of a change that was killed, and is left out.
    """
    path = folder / HISTORY
    if not path.exists():
        return []
    latest = next_generation(folder) - 1
    try:
        found = [Change(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
        return [change for change in found if change.generation <= latest]
    except (ValueError, TypeError) as error:
        raise FlukeError(f"{path}: not a gallery's history ({error}); delete it, and no change can be undone.") from None


def save_change(gallery: Gallery, folder: Path, what: str, rows: int) -> None:
    """Save a changed gallery over the one in `folder`, in one step, with a line in the history."""
    before, number = read_json(folder / "gallery.json"), next_generation(folder)
    write_json(_description(folder, before["generation"]), before)
    _commit(folder, gallery.write(folder, number), Change(_now(), what, rows, number, before["generation"]))


def undo_change(folder: Path) -> Change:
    """Restore the gallery before the last change that isn't undone, and return that change. Raises FlukeError without one."""
    undoable = _undoable(folder, read_history(folder))
    if not undoable:
        raise FlukeError(f"{folder}: no change is left to undo (of each gallery the last {KEPT} can be).")
    last, current = undoable[-1], read_json(folder / "gallery.json")
    restored, number = read_json(_description(folder, last.before)), next_generation(folder)
    line = Change(_now(), f"undo: {last.what}", last.rows, number, current["generation"], last.generation)
    _commit(folder, restored | {"latest": number}, line)
    return last


def require_unchanged(folder: Path) -> None:
    """Raise FlukeError where building the gallery in `folder` again would lose changes."""
    history = read_history(folder)
    undone = {change.undoes for change in history}
    if (folder / EARLIER).exists() or any(change.undoes is None and change.generation not in undone for change in history):
        raise FlukeError(
            f"{folder}: was changed ({HISTORY} says how), which building it again would undo; search it with --gallery {folder}, "
            "or name another --out, or delete it."
        )


def _undoable(folder: Path, history: list[Change]) -> list[Change]:
    """Return the last changes that aren't undone, and before which the gallery's files are kept."""
    undone = {change.undoes for change in history}
    effective = [change for change in history if change.undoes is None and change.generation not in undone]
    return [change for change in effective if _description(folder, change.before).exists()][-KEPT:]


def _commit(folder: Path, about: dict[str, Any], change: Change) -> None:
    history = [*read_history(folder), change]
    write_text(folder / HISTORY, "".join(json.dumps(asdict(line), ensure_ascii=False) + "\n" for line in history))
    write_json(folder / "gallery.json", about)
    remove_generations(folder, {about["generation"], *(line.before for line in _undoable(folder, history))})


def _description(folder: Path, number: int) -> Path:
    """Return the path of a replaced generation's gallery.json."""
    return folder / f"gallery-{number}.json"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
