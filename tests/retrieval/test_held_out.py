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


def test_an_individual_that_was_learnt_makes_another_one_of_its_name_known():
    """b was held out whole; its photographs turn out to be of a, of which one was learnt."""
    labels = np.array(["a", "a", "b", "b", "c"])
    rows = ValidationSet(np.zeros((5, 2)), labels, np.array([False, True, True, True, True]), None)
    queries = hold_out(rows, "new")
    assert queries.is_new.tolist() == [False, True, True, True]
    assert queries.relabel(np.array([2, 3]), "a").is_new.tolist() == [False, False, False, True]
    assert queries.relabel(np.array([4]), "b").is_new.tolist() == [False, True, True, True]  # both were held out whole
