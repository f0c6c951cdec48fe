"""Targets: labels to numbers, logits to probabilities and back, decisions."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import expit, softmax
from sklearn.metrics import log_loss
from sklearn.preprocessing import MultiLabelBinarizer

from lib.errors import FlukeError
from lib.tables.target import IDENTITY, ONE_LABEL, SEVERAL_LABELS, TARGETS, Target, recipe_target, stored_target

CLASSES = ("ant", "bee", "cat")
LOGITS = hnp.arrays(np.float32, (4, 3), elements=st.floats(-20, 20, width=32))


def test_one_label_becomes_a_class_index() -> None:
    encoded = ONE_LABEL.encode([("cat",), ("ant",)], CLASSES, "t.csv")
    assert encoded.dtype == np.int64
    assert encoded.tolist() == [2, 0]
    assert ONE_LABEL.counts(encoded, 3).tolist() == [1, 0, 1]


def test_several_labels_become_an_indicator_matrix() -> None:
    labels = [("cat", "ant"), (), ("bee",)]
    encoded = SEVERAL_LABELS.encode(labels, CLASSES, "t.csv")
    assert encoded.dtype == np.float32
    assert np.array_equal(encoded, MultiLabelBinarizer(classes=CLASSES).fit_transform(labels))
    assert SEVERAL_LABELS.counts(encoded, 3).tolist() == [1, 1, 1]


@pytest.mark.parametrize("target", [ONE_LABEL, SEVERAL_LABELS])
def test_labels_outside_the_class_list_are_counted(target: Target) -> None:
    with pytest.raises(FlukeError, match=r"t\.csv: 2 labels are not among the 3 classes: 'dog' \(2 images\), 'elk' \(1 images\)"):
        target.encode([("dog",), ("ant",), ("elk",), ("dog",)], CLASSES, "t.csv")


@given(LOGITS)
def test_probabilities_are_scipys_and_come_back_as_logits(logits: np.ndarray) -> None:
    p, q = ONE_LABEL.probabilities(logits), SEVERAL_LABELS.probabilities(logits)
    np.testing.assert_allclose(p, softmax(logits.astype(np.float64), axis=1))
    np.testing.assert_allclose(q, expit(logits.astype(np.float64)))
    np.testing.assert_allclose(ONE_LABEL.probabilities(ONE_LABEL.to_logits(p)), p, atol=1e-6)
    np.testing.assert_allclose(SEVERAL_LABELS.to_logits(q), logits, atol=1e-3)
    for target in (ONE_LABEL, SEVERAL_LABELS):
        np.testing.assert_allclose(np.exp(target.log_probabilities(logits)), target.probabilities(logits), rtol=1e-4, atol=1e-7)


def test_impossible_and_certain_probabilities_have_finite_logits() -> None:
    extreme = np.array([[0.0, 1.0]])
    for target in (ONE_LABEL, SEVERAL_LABELS):
        assert np.isfinite(target.to_logits(extreme)).all()


def test_log_likelihood_is_scikit_learns() -> None:
    logits, encoded = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 3
    assert -ONE_LABEL.log_likelihood(logits, encoded).mean() == pytest.approx(log_loss(encoded, softmax(logits, axis=1)))
    several = (np.random.default_rng(1).random((20, 3)) < 0.4).astype(np.float32)
    expected = np.mean([log_loss(several[:, c], expit(logits[:, c])) for c in range(3)])
    assert -SEVERAL_LABELS.log_likelihood(logits, several).mean() == pytest.approx(expected)


def test_decisions() -> None:
    logits = np.array([[0.1, 0.3, -1.0], [-2.0, -1.0, -3.0]])
    assert ONE_LABEL.decide(logits).tolist() == [[False, True, False], [False, True, False]]
    assert SEVERAL_LABELS.decide(logits).tolist() == [[True, True, False], [False, False, False]]


def test_a_specialist_redistributes_only_the_probability_of_its_classes() -> None:
    first, specialist = np.log([[0.5, 0.3, 0.2]]), np.log([[0.9, 0.1]])
    p = softmax(ONE_LABEL.extend(first, specialist, np.array([1, 2])), axis=1)
    np.testing.assert_allclose(p, [[0.5, 0.45, 0.05]], rtol=1e-6)
    assert SEVERAL_LABELS.extend(first, specialist, np.array([1, 2])).tolist() == [
        np.float32([first[0, 0], specialist[0, 0], specialist[0, 1]]).tolist()
    ]


def test_a_target_is_one_object_also_in_another_process() -> None:
    for target in TARGETS:
        assert pickle.loads(pickle.dumps(target)) is target
        assert stored_target(target.outputs, target.several, target.name) is target
    for target in (ONE_LABEL, SEVERAL_LABELS, IDENTITY):  # as files before targets had names
        assert stored_target(target.outputs, target.several) is target
    assert recipe_target(None, embedding=True) is IDENTITY
    assert recipe_target("|", embedding=False) is SEVERAL_LABELS
    with pytest.raises(FlukeError, match="an embedding has one identity per image"):
        recipe_target("|", embedding=True)
