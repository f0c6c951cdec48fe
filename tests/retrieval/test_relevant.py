"""How many images of a gallery may answer a query."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from lib.retrieval.evaluation import _relevant


def test_individuals_before_between_and_after_all_names_have_no_image() -> None:
    rows: Any = SimpleNamespace(labels=np.array(["bee", "dog", "bee"]))
    assert _relevant(rows, np.array(["ant", "bee", "cat", "dog", "eel"]), None).tolist() == [0, 2, 0, 1, 0]
