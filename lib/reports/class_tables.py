"""A classifier's results per class: metrics, the most frequent confusions, the most confident mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_fscore_support


@dataclass(frozen=True)
class Mistake:
    """An image whose predicted label differs from its true label, with the probability of the prediction."""

    image: Path
    label: str
    predicted: str
    probability: float


def class_table(
    logits: NDArray[np.floating], targets: NDArray[Any], classes: Sequence[str], train_images: Sequence[int] | None = None
) -> pd.DataFrame:
    """Return a row of metrics per class, lowest recall first (several labels per image: lowest average precision first).

    `logits`: (n, C); `targets`: (n,) indices into `classes`, or (n, C) 0 or 1; `train_images`: (C,) numbers of training images.
    With one label per image, a column names the class that is most often predicted instead. Undefined values, of classes without
    images, are NaN and come last.
    """
    several = targets.ndim == 2
    predicted = (logits > 0).astype(int) if several else logits.argmax(axis=1)
    precision, recall, f1, images = precision_recall_fscore_support(
        targets, predicted, labels=range(len(classes)), average=None, zero_division=np.nan
    )
    table = pd.DataFrame({"#": range(len(classes)), "class": list(classes), "images": images})
    if train_images is not None:
        table.insert(2, "training images", list(train_images))
    if several:
        table["share of images"] = targets.mean(axis=0)
        table["average precision"] = [average_precision_score(t, z) if t.any() else np.nan for t, z in zip(targets.T, logits.T)]
    table = table.assign(recall=recall, precision=precision, F1=f1)
    if not several:
        pairs = confused_pairs(targets, predicted, classes, limit=None).drop_duplicates("true class")
        mistaken = {true: f"{other} ({n:,})" for true, other, n in zip(pairs["true class"], pairs["predicted"], pairs["images"])}
        table["most often mistaken for"] = [mistaken.get(name, "") for name in classes]
    order = ["average precision" if several else "recall", "F1"]
    return table.sort_values(order, kind="stable", na_position="last", ignore_index=True)


def confused_pairs(
    targets: NDArray[np.int64], predicted: NDArray[np.int64], classes: Sequence[str], limit: int | None = 20
) -> pd.DataFrame:
    """Return the most frequent confusions: true class, predicted, number of images, their share of the true class.

    `targets`, `predicted`: (n,) indices into `classes`; `limit`: the number of rows (None: all).
    """
    frame = pd.DataFrame({"true": targets, "predicted": predicted})
    wrong = frame[frame["true"] != frame["predicted"]].value_counts(sort=False).rename("images").reset_index()
    wrong = wrong.sort_values("images", ascending=False, kind="stable", ignore_index=True)[:limit]
    totals = np.bincount(targets, minlength=len(classes))
    names = np.asarray(classes, dtype=object)
    columns = {"true class": names[wrong["true"]], "predicted": names[wrong["predicted"]], "images": wrong["images"]}
    return pd.DataFrame({**columns, "share of the class": wrong["images"] / totals[wrong["true"]]})


def confident_mistakes(
    images: Sequence[Path], targets: NDArray[Any], probabilities: NDArray[np.floating], classes: Sequence[str], limit: int = 48
) -> list[Mistake]:
    """Return the `limit` most confident mistakes, most confident first.

    `probabilities`: (n, C); `targets`: (n,) indices into `classes`, or (n, C) 0 or 1 with several labels per image. In that case
    an image's mistake is the label whose probability is furthest from its target; "no X" means that label X was missed.
    """
    row = np.arange(len(images))
    if targets.ndim == 1:
        predicted = probabilities.argmax(axis=1)
        confidence = np.where(predicted != targets, probabilities[row, predicted], 0)
        names = [(classes[t], classes[p]) for t, p in zip(targets.tolist(), predicted.tolist())]
    else:
        distance = np.abs(probabilities - targets)
        furthest = distance.argmax(axis=1)
        confidence = np.where(distance[row, furthest] > 0.5, distance[row, furthest], 0)
        joined = [", ".join(classes[i] for i in np.flatnonzero(labels).tolist()) for labels in targets]
        names = [(joined[i], f"no {classes[c]}" if targets[i, c] else classes[c]) for i, c in enumerate(furthest.tolist())]
    order = [int(i) for i in np.argsort(-confidence, kind="stable")[:limit] if confidence[i] > 0]
    return [Mistake(images[i], *names[i], float(confidence[i])) for i in order]
