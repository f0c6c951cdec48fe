"""Reading a sample submission: what is refused, in one sentence."""

import re
from pathlib import Path

import pytest

from lib.errors import FlukeError
from lib.tables.sample import read_sample


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "its header has 0 columns"),
        ("image\na\n", "its header has 1 columns"),
        ("image,label\n", "has a header but no rows"),
        ("image,label\na,x\na,x\n", "1 images come more than once: 'a'"),
        ("image,label\n,x\n", "1 rows have a blank image: line 2"),
        ("image,label,label\na,x,x\n", "has several columns 'label'"),
        ("image,label\na,x\nb\n", "1 rows don't have the header's 2 fields: line 3 (1)"),
        ('image,label\n"a,x\n', "check for an unclosed quote"),
    ],
)
def test_broken_sample_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "sample.csv").write_text(text, encoding="utf-8", newline="")
    with pytest.raises(FlukeError, match=re.escape(message)):
        read_sample(tmp_path / "sample.csv")


def test_sample_of_another_encoding_or_path_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sample.csv").write_text("image,label\né,x\n", encoding="latin-1")
    with pytest.raises(FlukeError, match="not UTF-8 text"):
        read_sample(tmp_path / "sample.csv")
    with pytest.raises(FlukeError, match="No such file"):
        read_sample(tmp_path / "nowhere.csv")
