"""Writing a submission: rows are matched by image name, the file has the sample's format, and a refused one leaves the old file."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from lib.config.recipe import Predict
from lib.errors import FlukeError
from lib.scores.score_file import Scores
from lib.submission.decisions import Decisions
from lib.submission.writing import submit, submit_ranking
from lib.tables.sample import read_sample
from tests.submission import random_logits, read_rows, submit_logits, write_sample

LABEL = Predict(submission="label")


@pytest.mark.parametrize(
    ("ids", "names"),
    [
        (["1", "2"], ["images/2.jpg", "images/1.jpg"]),
        (["1.jpg", "2.jpg"], ["2", "1"]),
        (["test/1.png", "test/2.png"], ["2.png", "1.png"]),
        (["1.jpg", "2.jpg"], ["b/2.png", "a/1.png"]),
        (["v1.0", "v2.0"], ["v2.0.jpg", "v1.0.jpg"]),
        (["1", "2"], ["2.jpg", "unasked.jpg", "1.jpg"]),
    ],
)
def test_names_match_with_and_without_extension_and_folder(tmp_path: Path, ids: list[str], names: list[str]) -> None:
    sample = read_sample(write_sample(tmp_path, "image,label\n" + "".join(f"{i},x\n" for i in ids)))
    out = tmp_path / "out.csv"
    label = {"1": "one", "2": "two", "u": "none"}
    labels = [label[re.sub(r".*/|v", "", name)[0]] for name in names]
    submit_ranking(LABEL, out, sample, names, [[label] for label in labels], ["one", "two", "none"])
    assert read_rows(out)[1:] == [[ids[0], "one"], [ids[1], "two"]]


@pytest.mark.parametrize(
    ("ids", "names", "message"),
    [
        ("a b", ["x/a.jpg", "y/a.jpg", "b.jpg"], "1 of its images match several test images: 'a' ('x/a.jpg', 'y/a.jpg')"),
        ("a b", ["a", "a", "b"], "1 of its images match several test images: 'a' ('a', 'a')"),
        ("x/a y/a", ["a"], "1 test images match several of its images: 'a'"),
        ("a b c d", ["b.jpg", "a.jpg"], "2 of its 4 images have no prediction: 'c', 'd'"),
    ],
)
def test_names_that_do_not_match_are_refused(tmp_path: Path, ids: str, names: list[str], message: str) -> None:
    sample = read_sample(write_sample(tmp_path, "image,label\n" + "".join(f"{i},x\n" for i in ids.split())))
    with pytest.raises(FlukeError, match=re.escape(message)):
        submit_ranking(LABEL, tmp_path / "out.csv", sample, names, [["x"]] * len(names), ["x"])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize(
    "text",
    [
        "image,label\r\na.jpg,x\r\nb.jpg,y\r\n",
        '"image","label"\n"a.jpg","x"\n"b.jpg","y"\n',
        "image;label\na.jpg;x\nb.jpg;y\n",
        "image\tlabel\na, or so.jpg\tx\nb, or so.jpg\ty\n",
        "label,image\nx,a.jpg\ny,b.jpg\n",
    ],
)
def test_file_format_is_the_samples(tmp_path: Path, text: str, encoding: str) -> None:
    """Delimiter, quotes, line ends, byte order mark, column order: the sample's own labels give the sample's own bytes."""
    path = write_sample(tmp_path, text, encoding)
    sample = read_sample(path, "image")
    out = tmp_path / "out.csv"
    submit_ranking(LABEL, out, sample, sample.ids, [["x"], ["y"]], ["x", "y"])
    assert out.read_bytes() == path.read_bytes()


TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(lambda s: s.strip())


@settings(max_examples=150, deadline=None)
@given(
    labels=st.lists(TEXT, min_size=2, max_size=5, unique=True),
    ids=st.lists(TEXT, min_size=1, max_size=5, unique=True),
    delimiter=st.sampled_from(",;\t"),
    newline=st.sampled_from(["\n", "\r\n"]),
    submission=st.sampled_from(["label", "topk", "scores"]),
    seed=st.integers(0, 99),
)
def test_any_label_and_name_round_trips(
    tmp_path_factory: pytest.TempPathFactory,
    labels: list[str],
    ids: list[str],
    delimiter: str,
    newline: str,
    submission: str,
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("any")
    path = folder / "sample.csv"
    header = ["an image", *labels] if submission == "scores" else ["an image", "label"]
    with open(path, "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, delimiter=delimiter, lineterminator=newline, quoting=csv.QUOTE_ALL)
        writer.writerows([header, *([i, *["0"] * (len(header) - 1)] for i in ids)])
    assume("an image" not in labels)
    sample = read_sample(path)
    logits = random_logits(len(ids), len(labels), seed)
    separator = "\x00\x01"
    assume(not any(separator in label for label in labels))
    submit_logits(folder / "out.csv", sample, ids, logits, labels, submission=submission, topk=3, separator=separator)
    written = read_rows(folder / "out.csv", delimiter=delimiter)
    assert written[0] == header
    assert [row[0] for row in written[1:]] == ids
    if submission == "scores":
        exact = np.exp(logits.astype(float))
        np.testing.assert_allclose(np.array(written)[1:, 1:].astype(float), exact / exact.sum(1, keepdims=True), rtol=1e-9)
    else:
        best = np.argsort(-logits, axis=1)[:, : 3 if submission == "topk" else 1]
        assert [row[1].split(separator) for row in written[1:]] == [[labels[c] for c in row] for row in best]


def test_labels_with_special_characters_round_trip(tmp_path: Path) -> None:
    labels = ['a,"b"', "=SUM(A1)", "line\nbreak", "line\rbreak", "<script>", "ヒョウ", "NA", "01"]
    sample = read_sample(write_sample(tmp_path, "image,label\n" + "".join(f"{i},x\n" for i in range(len(labels)))))
    out = tmp_path / "out.csv"
    submit_logits(out, sample, sample.ids, np.eye(len(labels), dtype=np.float32), labels, submission="label")
    assert [row[1] for row in read_rows(out)[1:]] == labels


def test_refused_submission_leaves_the_old_one(tmp_path: Path) -> None:
    sample = read_sample(write_sample(tmp_path, "image,label\na,x\nb,x\n"))
    out = tmp_path / "submission.csv"
    out.write_text("old")
    message = r"submission.csv: does not fit .*sample_submission.csv: 1 cells with a label twice: line 3 \('x x'\)"
    with pytest.raises(FlukeError, match=message):
        submit_ranking(Predict(submission="topk"), out, sample, ["a", "b"], [["x", "y"], ["x", "x"]], ["x", "y"])
    with pytest.raises(FlukeError, match="scores of 1 images hold NaN or infinity: 'b'"):
        submit_logits(out, sample, ["a", "b"], np.array([[0, 1], [np.nan, 1]]), ["x", "y"], submission="label")
    with pytest.raises(FlukeError, match="1 labels contain the separator ' ': 'x y'"):
        submit_logits(out, sample, ["a", "b"], np.zeros((2, 2)), ["x y", "z"], submission="topk")
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sample_submission.csv", "submission.csv"]


@pytest.mark.parametrize(("columns", "temperature"), [("x,y", 2.5), ("x,y", 1.0), ("label", 2.5)])
def test_the_temperature_is_for_probabilities_alone_and_is_said(tmp_path: Path, columns: str, temperature: float) -> None:
    cells = ",".join(["0.5"] * (columns.count(",") + 1)) if columns != "label" else "x"
    sample = read_sample(write_sample(tmp_path, f"image,{columns}\na,{cells}\nb,{cells}\n"))
    logits, said = random_logits(2, 2), []
    scores = Scores(np.arange(2), ["a", "b"], ("x", "y"), logits)
    submit(Predict(), tmp_path / "out.csv", sample, scores, Decisions(temperature=temperature), said.append)
    rows = [row[1:] for row in read_rows(tmp_path / "out.csv")[1:]]
    if columns == "label":
        assert rows == [["xy"[row.argmax()]] for row in logits]
    else:
        expected = softmax(logits.astype(np.float64) / temperature, axis=1)
        assert np.array(rows, float) == pytest.approx(expected, abs=1e-6)
    assert ("probabilities at temperature 2.50" in said[0]) == (columns != "label" and temperature != 1)
