"""Metrics per class, confusions and mistakes are right and in the promised order."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import recall_score

from lib.reports.class_tables import Mistake, class_table, confident_mistakes, confused_pairs


def test_class_table_has_lowest_recall_first() -> None:
    targets = np.array([0, 0, 0, 1, 1, 2])
    predicted = np.array([1, 1, 0, 1, 1, 0])
    table = class_table(np.eye(4)[predicted], targets, list("abcd"), train_images=[9, 8, 7, 6])
    assert list(table["class"]) == ["c", "a", "b", "d"]
    np.testing.assert_allclose(table["recall"][:3], recall_score(targets, predicted, average=None)[[2, 0, 1]])
    assert np.isnan(table["recall"][3])
    assert list(table["most often mistaken for"]) == ["a (1)", "b (2)", "", ""]
    assert list(table["training images"]) == [7, 9, 8, 6]
    pairs = confused_pairs(targets, predicted, list("abcd"))
    assert pairs.to_numpy().tolist() == [["a", "b", 2, pytest.approx(2 / 3)], ["c", "a", 1, 1.0]]


def test_class_table_of_several_labels_per_image() -> None:
    targets = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0]])
    logits = np.array([[2.0, 1.0, -1.0], [1.0, -1.0, -1.0], [-2.0, -2.0, -1.0]])
    table = class_table(logits, targets, list("abc"))
    assert list(table["class"]) == ["b", "a", "c"]
    assert np.isnan(table["average precision"][2])


def test_mistakes_are_sorted_by_confidence() -> None:
    images = [Path(f"{i}.jpg") for i in range(4)]
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.01, 0.99], [0.4, 0.6]])
    found = confident_mistakes(images, np.array([1, 1, 0, 0]), probabilities, ["cat", "dog"], limit=2)
    assert found == [Mistake(images[2], "cat", "dog", 0.99), Mistake(images[0], "dog", "cat", 0.9)]
    assert confident_mistakes(images, probabilities.argmax(axis=1), probabilities, ["cat", "dog"]) == []
    several = confident_mistakes(images[:2], np.array([[1, 1], [0, 1]]), probabilities[:2], ["cat", "dog"])
    assert several == [Mistake(images[0], "cat, dog", "no dog", pytest.approx(0.9))]
