"""One answer for several images."""

import numpy as np
import pytest
from scipy.special import expit, softmax

from lib.errors import FlukeError
from lib.scores.score_file import Scores
from lib.submission.pooling import pool_images
from lib.tables.target import ONE_LABEL, SEVERAL_LABELS, Target

IDS = ["b", "a", "b", "c", "b"]
LOGITS = np.random.default_rng(0).normal(0, 2, (5, 3)).astype(np.float32)


def scores(target: Target, logits: np.ndarray = LOGITS) -> Scores:
    classes = tuple("xyz"[: logits.shape[1]])
    return Scores(np.arange(5), [f"{i}.png" for i in range(5)], classes, logits, None, target, ids=list(IDS))


@pytest.mark.parametrize("target", [ONE_LABEL, SEVERAL_LABELS])
@pytest.mark.parametrize("how", ["mean", "max"])
def test_probabilities_of_an_id_are_pooled(target: Target, how: str) -> None:
    pooled = pool_images(scores(target), how)
    assert pooled.names == ["b", "a", "c"]
    p = (expit if target.several else lambda x: softmax(x, axis=1))(LOGITS.astype(float))
    expected = np.array([getattr(np, how)(p[[0, 2, 4]], axis=0), p[1], p[3]])
    if how == "max" and not target.several:
        expected /= expected.sum(axis=1, keepdims=True)
    assert target.probabilities(pooled.logits.astype(float)) == pytest.approx(expected, abs=1e-6)


def test_any_image_may_show_it() -> None:
    p = expit(LOGITS.astype(float))
    pooled = pool_images(scores(SEVERAL_LABELS), "noisy_or")
    assert expit(pooled.logits[0].astype(float)) == pytest.approx(1 - np.prod(1 - p[[0, 2, 4]], axis=0), abs=1e-6)
    two = softmax(LOGITS[:, :2].astype(float), axis=1)[:, 1]
    of_two = pool_images(scores(ONE_LABEL, LOGITS[:, :2]), "noisy_or")
    found = ONE_LABEL.probabilities(of_two.logits.astype(float))
    assert found[0] == pytest.approx([np.prod(1 - two[[0, 2, 4]]), 1 - np.prod(1 - two[[0, 2, 4]])], abs=1e-6)
    with pytest.raises(FlukeError, match="several labels per image or two classes"):
        pool_images(scores(ONE_LABEL), "noisy_or")


def test_ids_of_one_image_each_are_only_names() -> None:
    one = scores(ONE_LABEL)
    one.ids = list("edcba")
    pooled = pool_images(one, "max")
    assert pooled.names == list("edcba")
    assert np.array_equal(pooled.logits, LOGITS)
