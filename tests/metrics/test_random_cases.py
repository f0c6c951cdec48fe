"""Each metric against scikit-learn, or a contest's published formula, on random cases: ties, constant columns, missing classes."""

import os
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn import metrics as sk

from lib.metrics.registry import METRICS

CASES = int(os.environ.get("METRIC_CASES", "60"))
Case = tuple[np.ndarray, np.ndarray]


def one_label(seed: int, classes: int | None = None) -> Case:
    """Few or many rows; some with equal scores, some with a constant column, some classes without a row."""
    rng = np.random.default_rng(seed)
    n, c = int(rng.integers(2, 60)), classes or int(rng.integers(2, 7))
    logits = rng.normal(size=(n, c)) * rng.choice([0.1, 1, 5])
    if seed % 3 == 0:
        logits = np.round(logits)  # ties
    if seed % 5 == 0:
        logits[:, rng.integers(c)] = 0.5
    targets = rng.choice(rng.permutation(c)[: rng.integers(1, c + 1)], n)
    return logits.astype(np.float32), targets


def several_labels(seed: int) -> Case:
    logits, _ = one_label(seed)
    rng = np.random.default_rng(seed)
    targets = (rng.random(logits.shape) < rng.random(logits.shape[1]) ** 2).astype(np.float32)
    if seed % 4 == 0:
        targets[:, 0] = seed % 8 == 0  # a label that all rows have, or none
    return logits, targets


def numbers(seed: int) -> Case:
    """Numbers far from 0 and near; one of several is constant."""
    logits, _ = one_label(seed)
    rng = np.random.default_rng(seed)
    targets = (logits + rng.normal(size=logits.shape) + rng.choice([0, 1000])).astype(np.float32)
    if seed % 4 == 0:
        targets[:, 0] = 2.5
    return logits, targets


def r2(logits: np.ndarray, targets: np.ndarray) -> float:
    return mean([sk.r2_score(t.astype(float), p.astype(float)) for t, p in zip(targets.T, logits.T) if np.ptp(t) > 0])


def rmse(logits: np.ndarray, targets: np.ndarray) -> float:
    return sk.root_mean_squared_error(targets.astype(float), logits.astype(float))


def mae(logits: np.ndarray, targets: np.ndarray) -> float:
    return sk.mean_absolute_error(targets.astype(float), logits.astype(float))


def mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else np.nan


def probabilities(logits: np.ndarray) -> np.ndarray:
    return softmax(logits.astype(float), axis=1)


def columns(logits: np.ndarray, targets: np.ndarray) -> list[Case]:
    if targets.ndim == 2:
        return list(zip(targets.T.astype(int), logits.T))
    p, true = probabilities(logits), np.arange(logits.shape[1]) == targets[:, None]
    return [(true[:, c].astype(int), p[:, c]) for c in ([1] if p.shape[1] == 2 else range(p.shape[1]))]


def roc_auc(logits: np.ndarray, targets: np.ndarray) -> float:
    return mean([sk.roc_auc_score(t, p) for t, p in columns(logits, targets) if 0 < t.sum() < len(t)])


def average_precision(logits: np.ndarray, targets: np.ndarray) -> float:
    return mean([sk.average_precision_score(t, p) for t, p in columns(logits, targets) if t.any()])


def weighted_auc(logits: np.ndarray, targets: np.ndarray) -> float:
    ((true, p),) = columns(logits, targets)
    if not 0 < true.sum() < len(true):
        return np.nan
    fpr, tpr, _ = sk.roc_curve(true, p)
    area = 0.0
    for low, high, weight in ((0.0, 0.4, 2), (0.4, 1.0, 1)):
        at = np.unique(np.r_[low, tpr[(tpr > low) & (tpr < high)], high])
        middle = (at[1:] + at[:-1]) / 2
        area += weight * float(((1 - np.interp(middle, tpr, fpr)) * np.diff(at)).sum())
    return area / 1.4


def partial_auc(logits: np.ndarray, targets: np.ndarray) -> float:
    """As the host of ISIC 2024 published it."""
    ((true, p),) = columns(logits, targets)
    if not 0 < true.sum() < len(true):
        return np.nan
    largest = 0.2
    scaled = sk.roc_auc_score(1 - true, 1 - p, max_fpr=largest)
    return 0.5 * largest**2 + (largest - 0.5 * largest**2) / 0.5 * (scaled - 0.5)


def probabilistic_f1(logits: np.ndarray, targets: np.ndarray) -> float:
    """As published with RSNA 2022: precision and recall of probabilities."""
    ((true, p),) = columns(logits, targets)
    if not true.any():
        return np.nan
    precision, recall = p[true == 1].sum() / p.sum(), p[true == 1].sum() / true.sum()
    return 2 * precision * recall / (precision + recall)


def gap(logits: np.ndarray, targets: np.ndarray) -> float:
    """As published for Google landmarks, answers of one confidence taken together."""
    p = probabilities(logits)
    best, correct = p.max(axis=1), logits.argmax(axis=1) == targets
    return sum(np.mean(correct[best >= best[i]]) for i in np.flatnonzero(correct)) / len(targets)


def log_loss(logits: np.ndarray, targets: np.ndarray) -> float:
    return sk.log_loss(targets, probabilities(logits), labels=range(logits.shape[1]))


def brier(logits: np.ndarray, targets: np.ndarray) -> float:
    if targets.ndim == 2:
        return mean([((expit(s.astype(float)) - t) ** 2).mean() for t, s in zip(targets.T, logits.T)])
    return sk.brier_score_loss(
        targets, probabilities(logits) if logits.shape[1] > 2 else probabilities(logits)[:, 1], labels=range(logits.shape[1])
    )


def labels_log_loss(logits: np.ndarray, targets: np.ndarray) -> float:
    return mean([sk.log_loss(t, expit(s.astype(float)), labels=[0, 1]) for t, s in zip(targets.T, logits.T)])


def balanced_accuracy(logits: np.ndarray, targets: np.ndarray) -> float:
    return sk.balanced_accuracy_score(targets, logits.argmax(axis=1))


def kappa(logits: np.ndarray, targets: np.ndarray) -> float:
    return sk.cohen_kappa_score(targets, logits.argmax(axis=1), weights="quadratic", labels=range(logits.shape[1]))


def top_k(k: int, logits: np.ndarray, targets: np.ndarray) -> float:
    order = np.argsort(-logits, axis=1, kind="stable")[:, :k].tolist()
    return mean([target in row for row, target in zip(order, targets.tolist())])


def map_at_k(k: int, logits: np.ndarray, targets: np.ndarray) -> float:
    order = np.argsort(-logits, axis=1, kind="stable")[:, :k].tolist()
    return mean([1 / (1 + row.index(t)) if t in row else 0 for row, t in zip(order, targets.tolist())])


def f_beta(beta: float, average: str, logits: np.ndarray, targets: np.ndarray) -> float:
    given = logits >= 0
    if average == "micro" and not given.any() and not targets.any():
        return np.nan
    undefined = {"samples": 1.0, "macro": np.nan, "micro": 0.0}[average]
    if average == "macro":  # a label that is neither right nor given is left out, any other has a value
        there = given.any(axis=0) | targets.any(axis=0)
        given, targets, undefined = given[:, there], targets[:, there], 0.0
        if not there.any():
            return np.nan
    return sk.fbeta_score(targets, given, beta=beta, average=average, zero_division=undefined)


def f1(logits: np.ndarray, targets: np.ndarray) -> float:
    return sk.f1_score(targets, logits.argmax(axis=1), zero_division=np.nan)


PUBLISHED: list[tuple[str, Callable[[int], Case], Callable[[np.ndarray, np.ndarray], float]]] = [
    ("roc_auc", one_label, roc_auc),
    ("roc_auc", partial(one_label, classes=2), roc_auc),
    ("roc_auc", several_labels, roc_auc),
    ("average_precision", one_label, average_precision),
    ("average_precision", partial(one_label, classes=2), average_precision),
    ("weighted_auc", partial(one_label, classes=2), weighted_auc),
    ("partial_auc", partial(one_label, classes=2), partial_auc),
    ("probabilistic_f1", partial(one_label, classes=2), probabilistic_f1),
    ("f1", partial(one_label, classes=2), f1),
    ("gap", one_label, gap),
    ("log_loss", one_label, log_loss),
    ("matthews", one_label, lambda logits, targets: sk.matthews_corrcoef(targets, logits.argmax(axis=1))),
    ("log_loss", several_labels, labels_log_loss),
    ("brier", one_label, brier),
    ("brier", several_labels, brier),
    ("balanced_accuracy", one_label, balanced_accuracy),
    ("rmse", numbers, rmse),
    ("mae", numbers, mae),
    ("r2", numbers, r2),
    ("quadratic_kappa", one_label, kappa),
    *((f"top{k}_accuracy", one_label, partial(top_k, k)) for k in (1, 3, 5, 10)),
    *((f"map@{k}", one_label, partial(map_at_k, k)) for k in (1, 3, 5, 12)),
    *(
        (f"f{beta}_{average}", several_labels, partial(f_beta, float(beta), average))
        for beta in ("1", "2", "0.5")
        for average in ("samples", "macro", "micro")
    ),
]


@pytest.mark.parametrize(("name", "make", "published"), PUBLISHED)
def test_metric_equals_the_published_one(
    name: str, make: Callable[[int], Case], published: Callable[[np.ndarray, np.ndarray], float]
) -> None:
    function, defined = METRICS[name].function, 0
    for seed in range(CASES):
        logits, targets = make(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn's, on classes without a row
            expected = published(logits, targets)
        assert function(logits, targets) == pytest.approx(expected, rel=1e-9, abs=1e-12, nan_ok=True), f"case {seed}"
        defined += not np.isnan(expected)
    assert defined > CASES / 4


@pytest.mark.parametrize(("name", "make", "published"), PUBLISHED)
def test_a_row_of_weight_three_counts_as_three_rows(
    name: str, make: Callable[[int], Case], published: Callable[[np.ndarray, np.ndarray], float]
) -> None:
    resampled, function = METRICS[name].resampled, METRICS[name].function
    assert resampled is not None
    for seed in range(CASES // 4):
        logits, targets = make(seed)
        weights = np.random.default_rng(seed).integers(0, 4, (len(logits), 3))
        weights[0] += 1
        repeated = [np.repeat(np.arange(len(logits)), w) for w in weights.T]
        expected = [function(logits[rows], targets[rows]) for rows in repeated]
        found = resampled(logits, targets, weights.astype(float))
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12, nan_ok=True), f"case {seed}"
