"""FlukeError, the error that users see, and phrases that error messages share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class FlukeError(Exception):
    """A fault that the user can correct, in one sentence: `place: what is wrong (what was found); what to do.`"""

    def __init__(self, sentence: str):
        # An exception of a DataLoader worker arrives with its traceback before the sentence.
        super().__init__(sentence.rpartition("FlukeError: ")[2].rstrip("\n"))


class InUse(FlukeError):
    """Another process writes to the folder."""


class Interrupted(Exception):
    """A signal has stopped the run; its state is saved. The same command goes on, with `options` added where they are missing."""

    def __init__(self, message: str, options: tuple[str, ...] = ("--resume",)):
        super().__init__(message)
        self.options = options


class Pruned(Exception):
    """A run that isn't worth going on with (`Run.is_hopeless`) has ended after an epoch."""


def did_you_mean(name: str, names: Iterable[str], cutoff: float = 0.5, otherwise: str = ".") -> str:
    """Return the end of a sentence about an unknown name: "; did you mean label?", or `otherwise` if none of `names` is similar."""
    by_lower_case = {known.lower(): known for known in names}
    close = difflib.get_close_matches(name.lower(), by_lower_case, n=1, cutoff=cutoff)
    return f"; did you mean {by_lower_case[close[0]]}?" if close else otherwise


def first_few(items: Iterable[Any], n: int = 5) -> str:
    """Return the first n items, joined by commas, and the number of the others: "a, b and 3 more"."""
    items = list(items)
    return ", ".join(map(str, items[:n])) + (f" and {len(items) - n:,} more" if len(items) > n else "")


def one_line(error: BaseException, limit: int = 300) -> str:
    """Return an exception's message on one line without its last full stop, at most `limit` characters; its type if it has none."""
    return " ".join(str(error).split())[:limit].rstrip(".") or type(error).__name__
