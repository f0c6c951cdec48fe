"""Checking a written submission: every fault is counted and named by its line."""

import re
from pathlib import Path

import pytest

from lib.errors import FlukeError
from lib.submission.checking import check_file
from lib.submission.formats import FORMATS, LabelFormat, ScoresFormat
from lib.tables.sample import read_sample
from tests.submission import write_sample


@pytest.mark.parametrize(
    ("submission", "body", "message"),
    [
        ("label", "img,label\na,x\nb,y\nc,x\n", "its columns are 'img', 'label', not 'image', 'label'"),
        ("label", "label,image\nx,a\ny,b\nx,c\n", "its columns are 'label', 'image', not"),
        ("label", "", "its columns are none"),
        ("label", "image,label\na,x\n", "2 rows missing: 'b', 'c'"),
        ("label", "image,label\na,x\nb,y\nc,x\nd,x\n", "1 rows too many: line 5 ('d')"),
        ("label", "image,label\na,x\nb,y\nb,x\nc,x\n", "1 rows repeated: line 4 ('b')"),
        ("label", "image,label\na,x\nc,y\nb,x\n", "2 rows not in the sample's order: line 3 ('c'), line 4 ('b')"),
        ("label", "image,label\na,x\nb\nc,x\n", "1 rows don't have the header's 2 fields: line 3 (1)"),
        ("label", "image,label\na,X\nb,y\nc,q\n", "2 unknown labels: line 2 ('X'), line 4 ('q')"),
        ("label", "image,label\na,\nb, \nc,x\n", "2 blank cells: line 2 (''), line 3 (' ')"),
        ("label", "image,label\na,x y\nb,y\nc,x\n", "1 cells with several labels where one belongs: line 2 ('x y')"),
        ("topk", "image,label\na,x y\nb,y x y\nc,x\n", "1 cells with a label twice: line 3 ('y x y')"),
        ("topk", "image,label\na,x  y\nb,y\nc,x\n", "1 cells with blank labels (a separator too many): line 2"),
        ("topk", "image,label\na,x q\nb,y\nc,x\n", "1 cells with unknown labels: line 2 ('x q')"),
        ("topk", "image,label\na,x y z w\nb,y\nc,x\n", "1 cells with more than 3 labels: line 2"),
        ("labels", "image,label\na,\nb,y\nc,x\n", "1 blank cells: line 2"),
        ("label", 'image,label\na,"x\nb,y\nc,x\n', "not readable as CSV"),
    ],
)
def test_faults_are_named(tmp_path: Path, submission: str, body: str, message: str) -> None:
    sample = read_sample(write_sample(tmp_path, "image,label\na,x\nb,x\nc,x\n"))
    path = tmp_path / "submission.csv"
    path.write_text(body, encoding="utf-8")
    with pytest.raises(FlukeError, match=re.escape(message)):
        check_file(path, sample, FORMATS[submission](["x", "y", "z", "w"], topk=3))


def test_faults_are_counted_and_valid_files_accepted(tmp_path: Path) -> None:
    sample = read_sample(write_sample(tmp_path, "image,label\n" + "".join(f"{i},x\n" for i in range(20))))
    path = tmp_path / "submission.csv"
    path.write_text("image,label\n" + "".join(f"{i},{'bad' if i % 2 else 'x'}\n" for i in range(20)))
    with pytest.raises(FlukeError, match=r"10 unknown labels: line 3 \('bad'\), .* and 5 more"):
        check_file(path, sample, LabelFormat(["x"]))
    path.write_text("image,label\n" + "".join(f"{i},x\n" for i in range(20)))
    check_file(path, sample, LabelFormat(["x"]))


@pytest.mark.parametrize("cell", ["nan", "inf", "-inf", "", "high", "1_0"])
def test_scores_are_finite_numbers(tmp_path: Path, cell: str) -> None:
    sample = read_sample(write_sample(tmp_path, "image,x,y\na,0,0\nb,0,0\n"))
    path = tmp_path / "submission.csv"
    path.write_text(f"image,x,y\na,0.5,1e-7\nb,{cell},0.5\n")
    with pytest.raises(FlukeError, match="1 scores that are not finite numbers: line 3"):
        check_file(path, sample, ScoresFormat(["y", "x"]))
