"""One answer for all images of one row of a sample submission: the photographs of a product, the views of a breast."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lib.errors import FlukeError
from lib.scores.score_file import Scores


def pool_images(scores: Scores, how: str) -> Scores:
    """Return one row per id of `scores`, with the pooled probabilities as logits; the scores as they are without ids.

    `how` is mean, max or noisy_or (predict.pool); numbers are pooled by their mean or largest. The rows are in the order in which
    ids first occur. Raises FlukeError for noisy_or of more than two classes.
    """
    if scores.ids is None:
        return scores
    target = scores.target
    names, first, unit = np.unique(np.array(scores.ids), return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    pooled_names = names[order].tolist()
    if len(names) == len(scores.ids):
        return replace(scores, names=list(scores.ids), ids=None)
    values = scores.logits.astype(np.float64) if target.numeric else target.probabilities(scores.logits.astype(np.float64))
    of_row, sums = rank[unit], np.zeros((len(names), values.shape[1]))
    if how == "max":
        sums[:] = -np.inf
        np.maximum.at(sums, of_row, values)
        pooled = sums  # of one label, probabilities() of their logarithms sum to 1
    elif how == "noisy_or":
        if target.numeric or (not target.several and len(scores.classes) != 2):
            raise FlukeError("predict.pool noisy_or is for several labels per image or two classes; use mean or max.")
        np.add.at(sums, of_row, np.log1p(-np.minimum(values, 1 - 1e-12)))
        pooled = -np.expm1(sums)
        if not target.several:
            pooled[:, 0] = 1 - pooled[:, 1]
    else:
        np.add.at(sums, of_row, values)
        pooled = sums / np.bincount(of_row)[:, None]
    logits = pooled if target.numeric else target.to_logits(pooled)
    return replace(
        scores,
        rows=scores.rows[first[order]],
        names=pooled_names,
        logits=logits.astype(np.float32),
        labels=None if scores.labels is None else [scores.labels[i] for i in first[order]],
        groups=None if scores.groups is None else [scores.groups[i] for i in first[order]],
        ids=None,
    )
