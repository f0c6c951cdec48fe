"""Images that are known to be of one individual, or of different ones, joined as far as they don't contradict each other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

Pair = tuple[int, int]


@dataclass(frozen=True)
class Joined:
    """n elements in nodes."""

    node: np.ndarray
    """(n,) int64 from 0, in the order of each node's first element."""
    apart: list[set[int]]
    """By node: nodes that share a number are different individuals."""
    contradictions: list[Pair]
    """Pairs said to be the same that weren't joined, because others keep them apart."""


def join_elements(n: int, same: Iterable[Pair], apart: list[set[int]]) -> Joined:
    """Join n elements by pairs that are the same, earlier pairs first; elements that share a number of `apart` (n,) stay apart."""
    parent, numbers, contradictions = list(range(n)), [set(own) for own in apart], []

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for a, b in same:
        i, j = sorted((root(a), root(b)))
        if i == j:
            continue
        if numbers[i] & numbers[j]:
            contradictions.append((a, b))
            continue
        parent[j] = i
        numbers[i] |= numbers[j]
    roots, node = np.unique([root(i) for i in range(n)], return_inverse=True)
    return Joined(node, [numbers[i] for i in roots.tolist()], contradictions)


def chain(values: np.ndarray) -> list[Pair]:
    """Return the pairs that join elements of equal value, (n,): each with the one before it."""
    order = np.argsort(values, kind="stable")
    equal = values[order[1:]] == values[order[:-1]]
    return list(zip(order[:-1][equal].tolist(), order[1:][equal].tolist()))
