"""What local scores add to cosines, against plain loops over pairs."""

import numpy as np

from lib.retrieval.local_fusion import Fusion, LocalScores
from tests.retrieval.conftest import unit

PAIRS = np.array([[0, 1], [0, 3], [1, 4], [2, 3], [2, 5], [3, 4], [1, 6]])


def test_local_scores_are_found_in_either_order():
    scores = LocalScores(PAIRS, np.arange(7.0))
    asked = np.array([[4, 3], [0, 1], [1, 0], [5, 2], [0, 2], [6, 6]])
    np.testing.assert_array_equal(scores.find(asked), [5, 0, 0, 4, np.nan, np.nan])


def test_local_scores_are_added_to_both_elements_of_a_pair():
    """Images 0 and 2 are of known individuals, 3 of none, and 6 isn't among the embeddings."""
    rng = np.random.default_rng(0)
    x, values, elements, known = unit(rng.normal(size=(6, 4))), rng.uniform(1, 3, 7), np.array([0, 2, 1, -1, 3, 2]), 2
    fusion = Fusion(0.3, (0.5, 1.2), {})
    expected = np.zeros((4, 4))
    for (i, j), value in zip(PAIRS, values):
        if j < 6 and min(elements[i], elements[j]) > -1 and elements[i] != elements[j]:
            for a, b in ((elements[i], elements[j]), (elements[j], elements[i])):
                expected[a, b] += 0.3 * (value - 0.5 - 1.2 * x[i] @ x[j])
    added = fusion.additions(x, LocalScores(PAIRS, values), elements, known, 4)
    assert added is not None
    np.testing.assert_allclose(added.toarray(), expected, atol=1e-12)
    assert expected[0, 2] != 0  # an image of a known individual and one of none
    of_known = fusion.additions(x, LocalScores(np.array([[0, 2]]), np.array([3.0])), elements, known, 4)
    assert of_known is not None
    assert not of_known.toarray().any()  # two known individuals stay apart
