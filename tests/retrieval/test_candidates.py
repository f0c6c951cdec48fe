"""Conditions on a gallery's columns, against pandas, and what they refuse."""

import numpy as np
import pandas as pd
import pytest

from lib.errors import FlukeError
from lib.retrieval.candidates import narrow_gallery, select_rows
from lib.retrieval.gallery import build_gallery, open_gallery
from tests.retrieval.conftest import made

COLUMNS = {"site": np.array([*"AABBC"]), "year": np.array(["2019", "2021", "2020", "", "100"])}


CONDITIONS = """site == 'A'
site == 'A' and year >= 2020
year < 2020
site in ['B', 'C']
not (site == 'A' or year == 100)
site not in ('A',)
2020 <= year
site != 'B'"""


@pytest.mark.parametrize("condition", CONDITIONS.splitlines())
def test_a_condition_selects_as_pandas_does(condition):
    table = pd.DataFrame({"site": COLUMNS["site"], "year": pd.to_numeric(COLUMNS["year"])})
    assert select_rows(COLUMNS, condition).tolist() == table.eval(condition).tolist()


@pytest.mark.parametrize(
    ("condition", "sentence"),
    [
        ("site = 'A'", "is no condition"),
        ("sites == 'A'", "no column 'sites'; did you mean site"),
        ("year > 'x'", "text with numbers"),
        ("site", "isn't a comparison"),
        ("__import__('os').system('true') == 0", "text with numbers"),
    ],
)
def test_nothing_else_is_taken(condition, sentence):
    with pytest.raises(FlukeError, match=sentence):
        select_rows(COLUMNS, condition)


def test_a_narrow_gallery_answers_as_one_of_the_candidates(tmp_path):
    x, rows = made(200, 8, 20)
    rows.details = {"site": np.where(np.arange(200) % 2, "A", "B")}
    build_gallery(x, rows, "m", factory="IVF8,Flat").save(tmp_path)
    narrow = narrow_gallery(open_gallery(tmp_path), "site == 'A'")
    alone = build_gallery(x[1::2], rows.take(np.arange(1, 200, 2)), "m")
    np.testing.assert_array_equal(narrow.search(x, 5, "m")[1], alone.search(x, 5, "m")[1])
    with pytest.raises(FlukeError, match="holds for none of the 200 images"):
        narrow_gallery(open_gallery(tmp_path), "site == 'Z'")
