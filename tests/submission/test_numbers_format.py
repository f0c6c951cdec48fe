"""Cells and columns of predicted numbers."""

from pathlib import Path

import pytest

from lib.submission.formats import NumbersFormat
from lib.tables.sample import read_sample
from lib.tables.target import ONE_LABEL, REGRESSION
from tests.submission import write_sample


@pytest.mark.parametrize("cell", ["nan", "inf", "", "many", "1_000"])
def test_a_cell_that_is_no_finite_number_is_named(cell: str) -> None:
    numbers = NumbersFormat(["age"], REGRESSION)
    assert numbers.cell_fault(cell) == "cells that are not finite numbers"
    assert numbers.cell_fault("-1.5e3") is None


def test_columns_that_are_no_predicted_numbers_are_named(tmp_path: Path) -> None:
    sample = read_sample(write_sample(tmp_path, "image,age,height\na,0,0\nb,0,0\n"))
    assert NumbersFormat(["height", "age"], REGRESSION).column_fault(sample) is None
    assert str(NumbersFormat(["age", "weight"], REGRESSION).column_fault(sample)).startswith("1 of its columns are no predicted")
    assert NumbersFormat(["height", "age"], ONE_LABEL).column_fault(sample) == "numbers are for data.task number"
