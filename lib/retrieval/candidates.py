"""Candidates by metadata: the rows of a gallery for which a condition on its columns holds."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lib.errors import FlukeError, did_you_mean
from lib.retrieval.gallery import Gallery, build_gallery
from lib.retrieval.milvus_index import MilvusIndex

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda values, allowed: pd.Series(values).isin(allowed).to_numpy(),
    ast.NotIn: lambda values, allowed: ~pd.Series(values).isin(allowed).to_numpy(),
}


def select_rows(columns: Mapping[str, NDArray[np.str_]], condition: str) -> NDArray[np.bool_]:
    """Return the rows (n,) bool for which a condition such as "site == 'A' and year >= 2020" holds.

    Names are columns (n,), compared as numbers where all their cells are numbers or blank. Known are and, or, not, parentheses, ==,
    !=, <, <=, >, >=, in, not in; nothing is executed. Raises FlukeError for anything else.
    """
    try:
        tree = ast.parse(condition.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise FlukeError(
            f"--where {condition}: is no condition ({error}); write one like \"site == 'A' and year >= 2020\"."
        ) from None
    return _holds(tree, columns, condition)


def _holds(node: ast.expr, columns: Mapping[str, NDArray[np.str_]], condition: str) -> NDArray[np.bool_]:
    if isinstance(node, ast.BoolOp):
        parts = [_holds(part, columns, condition) for part in node.values]
        return np.logical_and.reduce(parts) if isinstance(node.op, ast.And) else np.logical_or.reduce(parts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return ~_holds(node.operand, columns, condition)
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _COMPARISONS:
        try:
            left = _value(node.left, columns, condition)
            found = _COMPARISONS[type(node.ops[0])](left, _value(node.comparators[0], columns, condition))
            return np.broadcast_to(np.asarray(found, bool), (len(next(iter(columns.values()))),))
        except (TypeError, ValueError):
            raise FlukeError(f"--where {condition}: {ast.unparse(node)} compares text with numbers; quote text only.") from None
    raise FlukeError(
        f"--where {condition}: {ast.unparse(node)!r} isn't a comparison of a column with a value, or several joined; write one "
        "like \"site == 'A' and year >= 2020\"."
    )


def _value(node: ast.expr, columns: Mapping[str, NDArray[np.str_]], condition: str) -> Any:
    """Return a column as an array, or a constant or list of constants."""
    if not isinstance(node, ast.Name):
        return ast.literal_eval(node)
    if node.id not in columns:
        hint = did_you_mean(node.id, list(columns), otherwise=f"; there are {', '.join(columns)}.")
        raise FlukeError(f"--where {condition}: the gallery has no column {node.id!r}{hint}")
    cells = columns[node.id]
    filled = cells != ""
    numbers = pd.to_numeric(pd.Series(cells[filled]), errors="coerce").to_numpy(float)
    if not len(numbers) or np.isnan(numbers).any():
        return cells
    values = np.full(len(cells), np.nan)
    values[filled] = numbers
    return values


def narrow_gallery(gallery: Gallery, condition: str) -> Gallery:
    """Return a gallery of the candidates alone, exact; its open-set model has to be fitted again, because it is smaller.

    Raises FlukeError for a condition that holds for no row.
    """
    rows = gallery.rows
    columns = {"name": rows.names, "label": rows.labels, **rows.details}
    kept = select_rows(columns, condition)
    if not kept.any():
        raise FlukeError(f"--where {condition}: holds for none of the {len(rows):,} images of the gallery; change the condition.")
    candidates = take_rows(gallery, kept)
    candidates.held_out = gallery.held_out
    return candidates


def take_rows(gallery: Gallery, kept: NDArray[Any]) -> Gallery:
    """Return a gallery of the rows that `kept` (integers or booleans) selects: with an exact index, or in Milvus by a filter."""
    rows = gallery.rows.take(kept)
    if isinstance(gallery.index, MilvusIndex):
        return Gallery(gallery.index.subset(rows.ids), rows, gallery.model, gallery.metric)
    return build_gallery(gallery.embeddings(rows.ids), rows, gallery.model, gallery.metric)
