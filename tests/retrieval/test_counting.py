"""Numbers of clusters and of individuals."""

import numpy as np
import pytest

from lib.retrieval.counting import CountRatio


def test_bounds_of_the_number_of_clusters_are_whole() -> None:
    """A single photograph is one cluster, which is no surprise."""
    count = CountRatio(0.8, 0.1, (1.25, 4.0))
    assert count.expected_clusters(1) == (0, 1)
    assert count.expected_clusters(100) == (25, 80)
    assert count.expected_clusters(101) == (25, 81)


def test_the_interval_is_lognormal() -> None:
    middle, low, high = CountRatio(0.8, 0.1, (1.0, 2.0)).estimate(50)
    assert middle == pytest.approx(40)
    assert np.log([low / middle, high / middle]) == pytest.approx([-0.196, 0.196])
