"""Sets of like images, compared with a search of all thresholds and all pairs."""

import numpy as np
import pytest

from lib.retrieval import image_sets
from lib.retrieval.image_sets import fit_image_sets, nearest


def mean_f1(scores: np.ndarray, labels: np.ndarray, threshold: float) -> float:
    values = []
    for i, label in enumerate(labels):
        given = set(np.flatnonzero(scores[i] >= threshold)) | {i}
        right = set(np.flatnonzero(labels == label))
        values.append(2 * len(given & right) / (len(given) + len(right)))
    return float(np.mean(values))


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_has_the_best_mean_f1(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_sets, "THRESHOLDS", 10_000)  # all of them
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 12, 40).astype(str)
    centres = rng.normal(size=(12, 6))
    embeddings = centres[labels.astype(int)] + rng.normal(0, 0.6, (40, 6))
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    scores = unit @ unit.T
    found = fit_image_sets(embeddings, labels, 39, "cosine")
    best = max(mean_f1(scores, labels, t) for t in np.append(np.unique(scores[~np.eye(40, dtype=bool)]) - 1e-7, 2))
    assert found.f1 == pytest.approx(best, abs=1e-6)
    assert mean_f1(scores, labels, found.threshold) == pytest.approx(found.f1, abs=1e-6)
    assert found.interval[0] < found.f1 < found.interval[1]
    distant = fit_image_sets(unit, labels, 39, "l2")
    assert distant.f1 == pytest.approx(found.f1, abs=1e-6)
    assert distant.threshold == pytest.approx(2 * found.threshold - 2, abs=1e-4)


def test_images_alone_match_nothing_else() -> None:
    embeddings = np.random.default_rng(0).normal(size=(10, 8))
    found = fit_image_sets(embeddings, np.arange(10).astype(str), 5, "cosine")
    assert found.f1 == 1
    assert found.threshold > nearest(embeddings, embeddings, 2, "cosine")[0][:, 1].max()
    twins = fit_image_sets(np.repeat(embeddings[:3], 2, axis=0), np.array(list("aabbcc")), 1, "cosine")
    assert twins.f1 == 1
    assert twins.images == 6


def test_nearest_are_in_order() -> None:
    points = np.array([[1.0, 0], [0.9, 0.1], [0, 1]])
    scores, at = nearest(points[:1], points, 9, "cosine")
    assert at.tolist() == [[0, 1, 2]]
    assert (np.diff(scores) < 0).all()


def test_an_image_is_its_own_match_before_an_identical_one_of_another_individual() -> None:
    embeddings = np.repeat(np.random.default_rng(1).normal(size=(4, 8)), 2, axis=0)
    found = fit_image_sets(embeddings, np.arange(8).astype(str), 3, "cosine")
    assert found.f1 == 1
    assert found.threshold > 1 - 1e-6
