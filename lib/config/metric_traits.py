"""What is known of each metric before NumPy is loaded: targets, formula, direction, range, and what a submission holds.

The functions are in lib/metrics. A name with K or B stands for a family: map@3, top5_accuracy, f2_samples.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

Answer = Literal["label", "ranking", "scores", "labels", "confidence", "numbers"]
"""What a contest with a metric wants for an image: one label, the best labels, a probability per class, all labels that apply, a
label with its confidence, or a number."""


@dataclass(frozen=True)
class MetricTraits:
    """Properties of a metric on which other choices depend."""

    targets: tuple[str, ...]
    """Targets that it is for."""
    formula: str
    """What it computes, for --help."""
    answer: Answer | None = None
    """What a submission of a contest with this metric holds; None where it says nothing about it."""
    higher_is_better: bool = True
    range: tuple[float, float] = (0.0, 1.0)
    two_classes: bool = False
    """Whether it is of the second of two classes, and undefined for more."""


ONE, ORDINAL, SEVERAL, NUMBERS, RETRIEVAL = "one_label", "ordinal", "several_labels", "regression", "identity"
CLASSES = (ONE, ORDINAL)
ANY = (0.0, math.inf)
METRICS: dict[str, MetricTraits] = {
    "loss": MetricTraits((*CLASSES, SEVERAL, NUMBERS), "the recipe's objective on the held-out rows", None, False, ANY),
    "accuracy": MetricTraits(CLASSES, "share of rows whose best class is right", "label"),
    "balanced_accuracy": MetricTraits(CLASSES, "mean recall over the classes that have rows", "label"),
    "topK_accuracy": MetricTraits(CLASSES, "share of rows with the right class among the K best", "ranking"),
    "map@K": MetricTraits(CLASSES, "mean of 1 / rank of the right class, 0 below rank K", "ranking"),
    "macro_f1": MetricTraits(
        (*CLASSES, SEVERAL),
        "mean over classes (labels from probability 0.5 on) of 2 TP / (2 TP + FP + FN), without those neither true nor predicted",
        "label",
    ),
    "micro_f1": MetricTraits((SEVERAL,), "F1 of all labels together, each from probability 0.5 on", "labels"),
    "samples_f1": MetricTraits(
        (SEVERAL,), "mean F1 over rows, labels from probability 0.5 on; 1 for none given where none is right", "labels"
    ),
    "fB_samples": MetricTraits(
        (SEVERAL,),
        "mean over rows of F-beta = (1 + B^2) TP / ((1 + B^2) TP + B^2 FN + FP), labels given as in the submission",
        "labels",
    ),
    "fB_macro": MetricTraits((SEVERAL,), "mean F-beta over labels, labels given as in the submission", "labels"),
    "fB_micro": MetricTraits((SEVERAL,), "F-beta of all labels together, labels given as in the submission", "labels"),
    "quadratic_kappa": MetricTraits(
        (ORDINAL,),
        "1 - mean (i - j)^2 / the same of independent i and j, which are the given and the right class's places in the order, "
        "classes given as in the submission",
        "label",
        range=(-1.0, 1.0),
    ),
    "matthews": MetricTraits(
        CLASSES,
        "Matthews correlation of given and right classes: (c n - sum p t) / sqrt((n^2 - sum p^2) (n^2 - sum t^2)), c right "
        "rows, p given and t right rows of a class",
        "label",
        range=(-1.0, 1.0),
    ),
    "f1": MetricTraits(CLASSES, "F1 of the second of two classes", "label", two_classes=True),
    "roc_auc": MetricTraits(
        (*CLASSES, SEVERAL),
        "area under the ROC curve: of the second of two classes, else the mean over classes (one against the rest)",
        "scores",
    ),
    "weighted_auc": MetricTraits(
        CLASSES,
        "ROC AUC of the second of two classes, the area below a true positive rate of 0.4 twice",
        "scores",
        two_classes=True,
    ),
    "partial_auc": MetricTraits(
        CLASSES,
        "ROC AUC of the second of two classes, the area above a true positive rate of 0.8 alone",
        "scores",
        range=(0.0, 0.2),
        two_classes=True,
    ),
    "average_precision": MetricTraits(
        CLASSES, "sum over recalls of (R_n - R_n-1) * P_n: of the second of two classes, else the mean over classes", "scores"
    ),
    "macro_map": MetricTraits((SEVERAL,), "mean average precision over the labels that have rows", "scores"),
    "micro_map": MetricTraits((SEVERAL,), "average precision over all pairs of row and label", "scores"),
    "probabilistic_f1": MetricTraits(
        CLASSES, "2 sum(p y) / (sum(p) + sum(y)) of the second of two classes", "scores", two_classes=True
    ),
    "log_loss": MetricTraits(
        (*CLASSES, SEVERAL),
        "mean of -log(probability of the right class); several labels: of each label's right side",
        "scores",
        False,
        ANY,
    ),
    "brier": MetricTraits(
        (*CLASSES, SEVERAL),
        "mean of (p - y)^2, y 1 or 0; summed over classes where there are more than two",
        "scores",
        False,
        (0.0, 2.0),
    ),
    "ece": MetricTraits(CLASSES, "expected calibration error: mean |confidence - accuracy| over 15 bins", None, False),
    "gap": MetricTraits(
        CLASSES,
        "global average precision: the answers ordered by confidence, sum of precision at i * right at i / rows",
        "confidence",
    ),
    "rmse": MetricTraits((NUMBERS,), "root of mean (p - y)^2; the mean over several numbers", "numbers", False, ANY),
    "mae": MetricTraits((NUMBERS,), "mean of |p - y|", "numbers", False, ANY),
    "r2": MetricTraits(
        (NUMBERS,), "1 - mean (p - y)^2 / variance of y; the mean over several numbers", "numbers", range=(-math.inf, 1.0)
    ),
    "map@5": MetricTraits((RETRIEVAL,), "mean of 1 / rank of the right identity, 0 below rank 5", "ranking"),
    "recall@1": MetricTraits((RETRIEVAL,), "share of queries whose best identity is right"),
    "recall@5": MetricTraits((RETRIEVAL,), "share of queries with the right identity among the 5 best"),
    "map@r": MetricTraits(
        (RETRIEVAL,), "mean average precision over the R nearest images, R images of the identity (Musgrave et al.)"
    ),
    "known_accuracy": MetricTraits((RETRIEVAL,), "mean over known individuals of the share of queries named right (BAKS)", "label"),
    "new_accuracy": MetricTraits((RETRIEVAL,), "mean over new individuals of the share of queries called new (BAUS)", "label"),
    "open_set_accuracy": MetricTraits((RETRIEVAL,), "square root of known_accuracy * new_accuracy (AnimalCLEF 2025)", "label"),
    "auroc": MetricTraits((RETRIEVAL,), "ROC AUC of known against unknown identities by their best score"),
}
"""Metrics by their name, or a family's."""

FAMILIES = {"topK_accuracy": r"top([1-9]\d*)_accuracy", "map@K": r"map@([1-9]\d*)"}
FAMILIES |= {f"fB_{average}": rf"f((?=.*[1-9])\d+(?:\.\d+)?)_{average}" for average in ("samples", "macro", "micro")}
"""Patterns of the names of each family's members; the group is K or B."""

HINTS = {"auc": "roc_auc", "auroc": "roc_auc", "ap": "average_precision", "map": "macro_map", "logloss": "log_loss"}
HINTS |= {"f1_score": "macro_f1", "micro_f1": "accuracy", "f2": "f2_samples", "mcc": "matthews", "qwk": "quadratic_kappa"}
HINTS |= {"kappa": "quadratic_kappa", "mse": "rmse", "f1_micro": "accuracy", "f1_macro": "macro_f1"}
"""Names that other programs use for some metrics."""


def find_traits(name: str, target: str | None = None) -> MetricTraits | None:
    """Return the traits of a metric, or of its family; None for an unknown name, and where it doesn't fit the target."""
    keys = [key for key, pattern in FAMILIES.items() if re.fullmatch(pattern, name)]
    keys += [name] if name in METRICS and name not in FAMILIES else []
    return next((METRICS[key] for key in keys if target is None or target in METRICS[key].targets), None)


def family_value(name: str) -> float | None:
    """Return the number in a family member's name, K or B; None for another name."""
    return next((float(match[1]) for pattern in FAMILIES.values() if (match := re.fullmatch(pattern, name))), None)


def list_metrics() -> str:
    """Return one line per metric, with its formula and its targets, for --help."""
    wide = max(map(len, METRICS))
    words = {
        ONE: "one label",
        ORDINAL: "ordered classes",
        SEVERAL: "several labels",
        NUMBERS: "numbers",
        RETRIEVAL: "train_embedding",
    }
    lines = []
    for name, traits in METRICS.items():
        fits = ", ".join(words[target] for target in traits.targets if target != ORDINAL or ONE not in traits.targets)
        direction = "" if traits.higher_is_better else "; lower is better"
        lines.append(f"  {name:{wide}}  {traits.formula} ({fits}{direction})")
    return "\n".join(lines)
