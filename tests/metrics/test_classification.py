import warnings

import numpy as np
import pytest
from scipy import special as sp
from sklearn import metrics as sk

from lib.errors import FlukeError
from lib.metrics.registry import CORRECTED, METRICS, compute_metrics, resolve_metric
from lib.metrics.retrieval import map_at_r, reciprocal_ranks
from lib.metrics.verification import verify_pairs
from lib.tables.target import IDENTITY, ONE_LABEL, SEVERAL_LABELS, TARGETS, Target


def single(n: int = 300, classes: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Classes of unequal size, the last two without a row."""
    rng = np.random.default_rng(seed)
    shares = np.geomspace(20, 1, classes - 2)
    targets = rng.choice(classes - 2, n, p=shares / shares.sum())
    logits = rng.normal(size=(n, classes)).astype(np.float32)
    logits[np.arange(n), targets] += 1.5
    return logits, targets


def multi(n: int = 300, labels: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels from frequent to rare, the last without a positive; some rows without a label; some logits equal."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((n, labels)) < np.append(np.geomspace(0.5, 0.01, labels - 1), 0)).astype(int)
    return np.round(rng.normal(size=(n, labels)) * 2 - 2 + 2 * targets, 1).astype(np.float32), targets


# --- against scikit-learn ---------------------------------------------------------------------------------------------------------


def test_single_label_metrics_equal_scikit_learn() -> None:
    logits, targets = single()
    found = compute_metrics(ONE_LABEL, logits, targets)
    predicted = logits.argmax(axis=1)
    probabilities = np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum(axis=1, keepdims=True)
    every = np.arange(logits.shape[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # predicted classes that no row has
        balanced = sk.balanced_accuracy_score(targets, predicted)
    expected = {
        "accuracy": sk.accuracy_score(targets, predicted),
        "balanced_accuracy": balanced,
        "macro_f1": sk.f1_score(targets, predicted, average="macro"),
        "top5_accuracy": sk.top_k_accuracy_score(targets, logits, k=5, labels=every),
        "log_loss": sk.log_loss(targets, probabilities, labels=every),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-9)


def test_multi_label_metrics_equal_scikit_learn() -> None:
    logits, targets = multi()
    found = compute_metrics(SEVERAL_LABELS, logits, targets)
    predicted, has = (logits >= 0).astype(int), targets.any(axis=0)
    expected = {
        "macro_map": sk.average_precision_score(targets[:, has], logits[:, has], average="macro"),
        "micro_map": sk.average_precision_score(targets, logits, average="micro"),
        "macro_f1": sk.f1_score(targets, predicted, average="macro", zero_division=np.nan),
        "micro_f1": sk.f1_score(targets, predicted, average="micro"),
        "samples_f1": sk.f1_score(targets, predicted, average="samples", zero_division=1.0),
        "log_loss": -sp.log_expit(np.where(targets, logits, -logits).astype(float)).mean(),
        "brier": ((sp.expit(logits.astype(float)) - targets) ** 2).mean(),
        "roc_auc": sk.roc_auc_score(targets[:, has], logits[:, has], average="macro"),
        "n_left_out": 1.0,
    }
    assert {name: found[name] for name in found if not name.endswith(CORRECTED)} == pytest.approx(expected, rel=1e-9)


def test_macro_map_leaves_out_and_counts_labels_without_a_positive() -> None:
    logits, targets = multi()
    wider = np.pad(targets, ((0, 0), (0, 3))), np.pad(logits, ((0, 0), (0, 3)))
    found, more = compute_metrics(SEVERAL_LABELS, logits, targets), compute_metrics(SEVERAL_LABELS, wider[1], wider[0])
    assert more["macro_map"] == found["macro_map"]
    assert more["n_left_out"] == found["n_left_out"] + 3


def test_calibration_error_of_a_loop_over_bins() -> None:
    logits, targets = single()
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    confidence, right = probabilities.max(axis=1), logits.argmax(axis=1) == targets
    expected = 0.0
    for low, high in zip(np.arange(15) / 15, np.arange(1, 16) / 15):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert compute_metrics(ONE_LABEL, logits, targets)["ece"] == pytest.approx(expected, rel=1e-5)


# --- MAP@k, mAP@R -----------------------------------------------------------------------------------------------------------------


def contest_ap(truth: str, ranked: list[str], k: int) -> float:
    """The contest's sum of P(i) * rel(i), where a label that was right once is not relevant again."""
    total, right, given = 0.0, 0, set()
    for i, label in enumerate(ranked[:k], start=1):
        if label == truth and label not in given:
            right += 1
            total += right / i
        given.add(label)
    return total


def test_map_at_k_of_1000_lists_with_repeats_new_labels_and_short_lists() -> None:
    rng = np.random.default_rng(0)
    names = [*"abcdefgh", "new_whale"]
    truth = rng.choice([*names, "never_named"], 1000).tolist()
    ranked = [rng.choice(names, rng.integers(0, 8)).tolist() for _ in truth]  # with replacement: repeats
    expected = [contest_ap(t, r, 5) for t, r in zip(truth, ranked)]
    assert reciprocal_ranks(truth, ranked).tolist() == pytest.approx(expected)
    assert reciprocal_ranks(truth, ranked).mean() == pytest.approx(np.mean(expected))
    assert reciprocal_ranks(["a", "a"], [list("aaaaa"), list("bbbba")]).mean() == pytest.approx((1 + 1 / 5) / 2)


def test_map5_of_1000_rows_of_logits_with_ties() -> None:
    rng = np.random.default_rng(0)
    logits = rng.integers(0, 4, (1000, 9)).astype(np.float32)
    targets = rng.integers(0, 9, 1000)
    expected = 0.0
    for row, target in zip(logits.tolist(), targets.tolist()):
        ranked = sorted(range(9), key=lambda c: (-row[c], c))  # ties: the lower column first
        expected += contest_ap(str(target), [str(c) for c in ranked], 5) / 1000
    found = compute_metrics(ONE_LABEL, logits, targets)
    assert found["map@5"] == pytest.approx(expected)
    assert found["accuracy"] == np.mean(logits.argmax(axis=1) == targets)


def test_map_at_r_equals_pytorch_metric_learning() -> None:
    torch = pytest.importorskip("torch")
    calculator = pytest.importorskip("pytorch_metric_learning.utils.accuracy_calculator").AccuracyCalculator
    rng = np.random.default_rng(0)
    gallery, queries = rng.normal(size=(200, 6)).astype(np.float32), rng.normal(size=(60, 6)).astype(np.float32)
    gallery_labels, query_labels = rng.integers(0, 12, 200), rng.integers(0, 14, 60)  # 12 and 13 are unknown
    queries[:, :2] += query_labels[:, None] / 4
    gallery[:, :2] += gallery_labels[:, None] / 4
    theirs = calculator(include=("mean_average_precision_at_r",), k=None, device=torch.device("cpu")).get_accuracy(
        torch.from_numpy(queries), torch.from_numpy(query_labels), torch.from_numpy(gallery), torch.from_numpy(gallery_labels)
    )
    nearest = np.argsort(((queries[:, None] - gallery[None]) ** 2).sum(axis=2), axis=1)
    relevant = (query_labels[:, None] == gallery_labels[None]).sum(axis=1)
    hits = (gallery_labels[nearest] == query_labels[:, None])[:, : relevant.max()]
    assert map_at_r(hits, relevant).mean() == pytest.approx(theirs["mean_average_precision_at_r"], rel=1e-6)


# --- verification -----------------------------------------------------------------------------------------------------------------


def test_equal_error_rate_of_two_normal_distributions() -> None:
    """Means two standard deviations apart: both errors are Phi(-1) half-way between."""
    rng = np.random.default_rng(0)
    same = np.arange(200_000) % 2 == 0
    found = verify_pairs(same, rng.normal(size=200_000) + 2 * same)
    assert found.equal_error_rate == pytest.approx(0.1587, abs=0.003)
    assert found.equal_error_threshold == pytest.approx(1, abs=0.02)
    assert found.auroc == pytest.approx(0.9214, abs=0.003)


def test_equal_error_rate_of_perfect_and_of_reversed_scores() -> None:
    same = np.array([True, True, False, False])
    assert verify_pairs(same, np.array([4.0, 3.0, 2.0, 1.0])).equal_error_rate == 0
    assert verify_pairs(same, np.array([1.0, 2.0, 3.0, 4.0])).equal_error_rate == 1
    assert verify_pairs(same, np.ones(4)).equal_error_rate == pytest.approx(0.5)
    with pytest.raises(FlukeError, match="all of one kind"):
        verify_pairs(np.ones(4, bool), np.arange(4.0))


# --- intervals --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_resampled_metrics_equal_metrics_of_repeated_rows(target: Target) -> None:
    """A row with weight 3 counts as three rows."""
    logits, targets = multi(80) if target.several or target.numeric else single(80)
    if target is IDENTITY:
        targets = np.where(targets == 0, logits.shape[1] - 1, targets)
    weights = np.random.default_rng(0).integers(0, 4, (80, 6))
    for name, metric in METRICS.items():
        if target.name in metric.targets and metric.resampled is not None:
            found = metric.resampled(logits, targets, weights.astype(float))
            repeats = [np.repeat(np.arange(80), w) for w in weights.T]
            assert found == pytest.approx([metric.function(logits[r], targets[r]) for r in repeats], rel=1e-9, nan_ok=True), name


# --- names, directions, bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [ONE_LABEL, SEVERAL_LABELS])
def test_every_target_has_its_metrics(target: Target) -> None:
    logits, targets = multi(50) if target.several else single(50)
    names = {name for name in compute_metrics(target, logits, targets) if not name.endswith(CORRECTED)} - {"n_left_out"}
    fitting = {name for name, metric in METRICS.items() if target.name in metric.targets}
    assert names == fitting - {"loss", "f1", "weighted_auc", "partial_auc", "probabilistic_f1"}  # these are for two classes
    assert target.default_metric in names
    for name in [*names, "loss"]:
        resolve_metric(name, target)


def test_directions() -> None:
    assert {name for name in METRICS if not METRICS[name].higher_is_better} == {"loss", "log_loss", "brier", "ece", "rmse", "mae"}


def test_an_unknown_or_unfit_metric_is_refused() -> None:
    with pytest.raises(FlukeError, match=r"Unknown metric 'acuracy'; did you mean accuracy\?"):
        resolve_metric("acuracy", ONE_LABEL)
    with pytest.raises(FlukeError, match=r"Metric accuracy doesn't fit several labels per image; these do: loss, .*macro_map"):
        resolve_metric("accuracy", SEVERAL_LABELS)
    with pytest.raises(FlukeError, match=r"micro_f1 doesn't fit one label per image; did you mean accuracy\?"):
        resolve_metric("micro_f1", ONE_LABEL)
    with pytest.raises(FlukeError, match=r"Unknown metric 'F2'; did you mean f2_samples\?"):
        resolve_metric("F2", SEVERAL_LABELS)
    with pytest.raises(FlukeError, match="Metric recall@1 doesn't fit one label per image"):
        resolve_metric("recall@1", ONE_LABEL)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(value: float) -> None:
    logits, targets = single(20)
    logits[[3, 7], 2] = value
    with pytest.raises(FlukeError, match=r"2 of 20 rows of scores hold NaN or infinity \(counted from 0: 3, 7\)"):
        compute_metrics(ONE_LABEL, logits, targets)
    with pytest.raises(FlukeError, match="no row"):
        compute_metrics(ONE_LABEL, logits[:0], targets[:0])
    with pytest.raises(ValueError, match="targets"):
        compute_metrics(ONE_LABEL, np.zeros((2, 3)), np.array([0, -1]))


def test_metrics_of_large_and_of_infinite_logits_are_finite() -> None:
    logits = np.array([[1e4, -1e4, 0], [0, -np.inf, 1], [3e4, 3e4, 0]], np.float32)
    found = compute_metrics(ONE_LABEL, logits, np.array([0, 2, 1]))
    assert all(np.isfinite(list(found.values())))
    assert np.isfinite(compute_metrics(ONE_LABEL, logits, np.array([0, 1, 1]))["log_loss"])


def test_undefined_metrics_are_left_out() -> None:
    logits, targets = multi(20)
    empty = compute_metrics(SEVERAL_LABELS, logits, np.zeros_like(targets))
    assert "macro_map" not in empty
    assert "micro_map" not in empty


def test_a_class_of_one_row_counts() -> None:
    logits, targets = np.float32([[2, 0, 0], [2, 0, 0], [0, 3, 0], [2, 0, 1]]), np.array([0, 0, 1, 2])
    found = compute_metrics(ONE_LABEL, logits, targets)
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(targets, logits.argmax(1)))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(targets, logits.argmax(1), average="macro"))


@pytest.mark.parametrize(
    ("targets", "said"), [(np.zeros(3, int), "don't belong"), (np.zeros((2, 5), int), "don't belong"), ([0, 4], "0 to 4")]
)
def test_targets_of_other_rows_or_classes_are_refused(targets: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        METRICS["accuracy"].function(np.zeros((2, 4), np.float32), np.asarray(targets))


def test_answers_of_other_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        reciprocal_ranks(["a", "b"], [["a"]])
