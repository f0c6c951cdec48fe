"""Which held-out queries stand for new individuals."""

import numpy as np

from lib.retrieval.held_out import ValidationSet, hold_out, hold_out_catalogue
from tests.retrieval.conftest import made


def test_rows_of_the_new_label_are_new_though_some_are_trained_on():
    labels = np.array(["a", "a", "new", "new", "b"])
    rows = ValidationSet(np.zeros((5, 2)), labels, np.array([False, True, False, True, True]), None)
    assert hold_out(rows, "new").is_new.tolist() == [False, True, True]
    assert hold_out(rows, None).is_new.tolist() == [False, False, True]


def test_a_share_of_the_individuals_stands_for_new_ones():
    x, rows = made(400, classes=40)
    for share in (0.0, 0.25, 1.0):
        queries = hold_out_catalogue(x, rows, None, share)
        assert len(np.unique(queries.labels[queries.is_new])) == round(share * len(np.unique(rows.labels)))
