"""Heads on frozen features, against scikit-learn used directly and against brute force."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lib.scores.probes import HEADS, NEIGHBOURS, SCALE, STRENGTH, cross_fit, heads_for
from lib.tables.target import ONE_LABEL, REGRESSION, SEVERAL_LABELS


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    pixels, targets = load_digits(return_X_y=True)
    return pixels[:600], targets[:600], np.arange(600) * 7 % 5


def test_out_of_fold_probabilities_are_those_of_scikit_learn(digits: tuple[np.ndarray, ...]) -> None:
    pixels, targets, fold = digits
    model = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=500, tol=1e-3))
    expected = cross_val_predict(model, pixels, targets, cv=PredefinedSplit(fold), method="predict_proba")
    found = cross_fit("logistic", pixels, targets, 10, fold)
    assert np.exp(found) == pytest.approx(np.maximum(expected, 1e-6), abs=1e-5)
    assert (found.argmax(axis=1) == targets).mean() > 0.9
    expected = cross_val_predict(model, pixels, targets % 2, cv=PredefinedSplit(fold), method="predict_proba")
    assert np.exp(cross_fit("logistic", pixels, targets % 2, 2, fold)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", heads_for(ONE_LABEL))
def test_every_head_learns_and_never_sees_the_rows_that_it_scores(digits: tuple[np.ndarray, ...], name: str) -> None:
    pixels, targets, fold = digits
    assert (cross_fit(name, pixels, targets, 10, fold).argmax(axis=1) == targets).mean() > 0.8
    noise = np.random.default_rng(0).normal(size=(600, 300))  # would be learnt by heart
    assert (cross_fit(name, noise, targets, 10, fold).argmax(axis=1) == targets).mean() < 0.2


def test_a_class_that_the_fitted_rows_lack_is_possible_but_improbable(digits: tuple[np.ndarray, ...]) -> None:
    pixels, targets, _ = digits
    kept = targets != 4
    for name in ("logistic", "neighbours"):
        logits = HEADS[name][0](pixels[kept], targets[kept], 11)(pixels)
        assert logits.shape == (600, 11)
        assert np.isfinite(logits).all()
        assert not np.isin(logits.argmax(axis=1), [4, 10]).any()


def test_several_labels_are_fitted_one_by_one(digits: tuple[np.ndarray, ...]) -> None:
    pixels, targets, fold = digits
    labels = np.stack([targets % 2, targets > 4, targets == 99], axis=1).astype(np.float32)
    logits = cross_fit("logistic", pixels, labels, 3, fold)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=500, tol=1e-3))
    for label in range(2):
        alone = cross_val_predict(model, pixels, labels[:, label], cv=PredefinedSplit(fold), method="decision_function")
        assert logits[:, label] == pytest.approx(alone, abs=1e-3)
    assert (logits[:, 2] < -10).all()


def test_neighbours_vote_by_their_similarity() -> None:
    rng = np.random.default_rng(0)
    features, targets, others = rng.normal(size=(60, 5)), rng.integers(0, 3, 60), rng.normal(size=(7, 5))
    unit, asked = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (features, others))
    for row, logits in zip(asked, HEADS["neighbours"][0](features, targets, 3)(others)):
        cosine = unit @ row
        nearest = np.argsort(-cosine)[:NEIGHBOURS]
        votes = np.bincount(targets[nearest], np.exp(SCALE * cosine[nearest]), minlength=3)
        assert np.exp(logits) == pytest.approx(np.maximum(votes / votes.sum(), 1e-6), abs=1e-6)


def test_numbers_are_predicted_by_ridge_regression() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 10))
    numbers = (features @ rng.normal(size=(10, 2)) * 50 + 7 + rng.normal(size=(200, 2))).astype(np.float32)
    assert heads_for(REGRESSION) == ["ridge"]
    assert heads_for(SEVERAL_LABELS) == ["logistic", "neighbours"]
    for target in (numbers, numbers[:, :1]):
        found = cross_fit("ridge", features, target, target.shape[1], np.arange(200) % 4)
        assert found.shape == target.shape
        assert np.sqrt(((found - target) ** 2).mean()) < 2
