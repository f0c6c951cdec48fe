"""The one error that users see, and the words that errors share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class FlukeError(Exception):
    """Something the user can mend, in one sentence: the file, row or field; what is wrong; what would be right."""

    def __init__(self, sentence: str):
        # A DataLoader worker's exception arrives with its traceback as the sentence's beginning.
        super().__init__(sentence.rpartition("FlukeError: ")[2].rstrip("\n"))


class Interrupted(Exception):
    """A signal asked the run to stop; its state is saved."""


def did_you_mean(name: str, names: Iterable[str], cutoff: float = 0.5, otherwise: str = ".") -> str:
    """The end of a sentence about an unknown name: "; did you mean label?", or `otherwise` where none resembles it."""
    lower = {n.lower(): n for n in names}
    close = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=cutoff)
    return f"; did you mean {lower[close[0]]}?" if close else otherwise


def first_few(items: Iterable[Any], n: int = 5) -> str:
    """The first n items and how many more there are, for a sentence."""
    items = list(items)
    return ", ".join(map(str, items[:n])) + (f" and {len(items) - n:,} more" if len(items) > n else "")


def one_line(error: BaseException, most: int = 300) -> str:
    """Return an exception's message on one line without its last full stop, at most `most` characters; its type if it has none."""
    return " ".join(str(error).split())[:most].rstrip(".") or type(error).__name__
