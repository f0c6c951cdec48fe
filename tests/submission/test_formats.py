"""Formats of a submission: which one a sample asks for, what does not fit its columns, and what is written in its cells."""

import csv
import itertools
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest

from lib.config.recipe import Predict
from lib.errors import FlukeError
from lib.scores.score_file import Scores
from lib.submission.choice import check_sample, resolve_format
from lib.submission.decisions import Decisions
from lib.submission.formats import FORMATS, IMAGE_ANSWERS
from lib.submission.writing import submit, submit_ranking
from lib.tables.sample import Sample, read_sample
from lib.tables.target import ONE_LABEL, SEVERAL_LABELS, Target
from tests.submission import random_logits, read_rows, submit_logits, write_sample


def infer(sample: Sample, classes: list[str], target: Target) -> str:
    return resolve_format(sample, Predict(), classes, target).name


def train_labels(path: Path, column: str, separator: str | None = None) -> list[str]:
    with open(path, encoding="utf-8", newline="") as handle:
        cells = [row[column] for row in csv.DictReader(handle)]
    return sorted({label for cell in cells for label in (cell.split(separator) if separator else [cell])})


def test_the_recipe_names_every_format() -> None:
    assert {*FORMATS, *IMAGE_ANSWERS, "auto"} == set(get_args(get_type_hints(Predict)["submission"]))


# --- the five contests' formats ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("contest", ["fashion20", "grocery81", "lesion5"])
def test_label_per_row(shared: Path, tmp_path: Path, contest: str) -> None:
    folder = shared / "data" / contest
    sample = read_sample(folder / "sample_submission.csv")
    if contest == "lesion5":
        classes = sorted(path.name for path in (folder / "train").iterdir())
    else:
        classes = train_labels(folder / "train.csv", "label")
    assert infer(sample, classes, ONE_LABEL) == "label"
    logits = random_logits(len(sample.ids), len(classes))
    out = tmp_path / "submission.csv"
    order = np.random.default_rng(1).permutation(len(sample.ids))  # predictions come in another order
    submit_logits(out, sample, [sample.ids[i] for i in order], logits[order], classes, submission="label")
    written, wanted = read_rows(out), read_rows(folder / "sample_submission.csv")
    assert written[0] == wanted[0]
    assert [row[0] for row in written] == [row[0] for row in wanted]
    assert [row[1] for row in written[1:]] == [classes[i] for i in logits.argmax(axis=1)]


def test_column_of_probabilities_per_label(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "fashion79"
    sample = read_sample(folder / "sample_submission.csv")
    classes = train_labels(folder / "train.csv", "labels", " ")[::-1]  # the classes' order differs from the columns'
    assert infer(sample, classes, SEVERAL_LABELS) == "scores"
    logits = random_logits(len(sample.ids), len(classes))
    out = tmp_path / "submission.csv"
    submit_logits(out, sample, sample.ids, logits, classes, SEVERAL_LABELS, submission="scores")
    written = read_rows(out)
    assert written[0] == read_rows(folder / "sample_submission.csv")[0]
    values = np.array([[float(cell) for cell in row[1:]] for row in written[1:]])
    expected = 1 / (1 + np.exp(-logits.astype(float)))
    np.testing.assert_allclose(values, expected[:, [classes.index(c) for c in written[0][1:]]], rtol=1e-12)


def test_five_labels_per_row(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "nyala"
    sample = read_sample(folder / "sample_submission.csv")
    classes = train_labels(folder / "train.csv", "Id")
    assert infer(sample, classes, ONE_LABEL) == "topk"
    logits = random_logits(len(sample.ids), len(classes))
    out = tmp_path / "submission.csv"
    submit_logits(out, sample, sample.ids, logits, classes, submission="topk")
    best = np.argsort(-logits, axis=1)[:, :5]
    assert [row[1] for row in read_rows(out)[1:]] == [" ".join(classes[c] for c in row) for row in best]
    ranked = [[classes[c] for c in row[: 1 + i % 7]] for i, row in enumerate(np.argsort(-logits, axis=1))]
    submit_ranking(Predict(submission="topk"), out, sample, sample.ids, ranked, classes)  # short and long lists
    assert [row[1].split(" ") for row in read_rows(out)[1:]] == [row[:5] for row in ranked]


def test_label_with_spaces_is_one_label(tmp_path: Path) -> None:
    sample = read_sample(write_sample(tmp_path, "image,label\na,Formal Shoes\nb,Formal Shoes\nc,Shirts\n"))
    assert infer(sample, ["Formal Shoes", "Shirts", "Formal", "Shoes"], ONE_LABEL) == "label"


# --- cells ------------------------------------------------------------------------------------------------------------------------


def test_labels_above_their_thresholds(tmp_path: Path) -> None:
    sample = read_sample(write_sample(tmp_path, "image,labels\na,x\nb,x\nc,x\n"))
    assert infer(sample, ["x", "y", "z"], SEVERAL_LABELS) == "labels"
    probabilities = np.array([[0.9, 0.5, 0.1], [0.2, 0.1, 0.3], [0.6, 0.3, 0.65]])
    logits = np.log(probabilities / (1 - probabilities))
    scores = Scores(np.arange(3), ["a", "b", "c"], ("x", "y", "z"), logits, target=SEVERAL_LABELS)
    out = tmp_path / "out.csv"
    submit(Predict(submission="labels"), out, sample, scores)
    assert [row[1] for row in read_rows(out)] == ["labels", "x y", "z", "x z"]
    submit(Predict(submission="labels", allow_empty=True, separator="|"), out, sample, scores)
    assert [row[1] for row in read_rows(out)] == ["labels", "x|y", "", "x|z"]
    messages: list[str] = []
    submit(Predict(), out, sample, scores, Decisions({"x": 0.7, "y": 0.2, "z": 0.7}), messages.append)
    assert [row[1] for row in read_rows(out)] == ["labels", "x y", "z", "y"]
    assert messages[0].endswith("out.csv, 3 rows in the sample's order, format labels")
    assert "probability 0.200 to 0.700, median 0.700" in messages[1]


@pytest.mark.parametrize("target", [SEVERAL_LABELS, ONE_LABEL], ids=lambda target: target.name)
def test_scores_keep_the_ranking_of_confident_logits(tmp_path: Path, target: Target) -> None:
    """In float32 all of these would be 1.0."""
    ids = [f"{i}.jpg" for i in range(50)]
    sample = read_sample(write_sample(tmp_path, "image,cat,dog\n" + "".join(f"{i},0,0\n" for i in ids)))
    logits = np.stack([np.linspace(18, 20, 50), np.zeros(50)], axis=1).astype(np.float32)
    out = tmp_path / "out.csv"
    submit_logits(out, sample, ids, logits, ["cat", "dog"], target, submission="scores")
    cats = [float(row[1]) for row in read_rows(out)[1:]]
    assert all(a < b for a, b in itertools.pairwise(cats))


def test_equal_logits_rank_by_class(tmp_path: Path) -> None:
    sample = read_sample(write_sample(tmp_path, "image,id\na,x\n"))
    out = tmp_path / "out.csv"
    classes = [f"n{i}" for i in range(200, 0, -1)]
    logits = np.random.default_rng(0).integers(0, 3, (1, 200)).astype(np.float32)
    submit_logits(out, sample, ["a"], logits, classes, submission="topk")
    best = sorted(range(200), key=lambda c: (-logits[0, c], c))[:5]
    assert read_rows(out)[1] == ["a", " ".join(classes[c] for c in best)]


@pytest.mark.parametrize("submission", ["auto", "label", "topk", "labels", "scores"])
def test_ranking_is_written_as_label_or_topk(tmp_path: Path, submission: str) -> None:
    sample = read_sample(write_sample(tmp_path, "image,label\na,x\nb,x\n"))
    out = tmp_path / "out.csv"
    p = Predict(submission=submission, topk=2)  # type: ignore[arg-type]
    submit_ranking(p, out, sample, ["b", "a"], [["x", "y", "z"], ["z"]], ["x", "y", "z"])
    assert [row[1] for row in read_rows(out)[1:]] == ["z", "x" if submission == "label" else "x y"]
    with pytest.raises(ValueError, match="1 lists of labels for 2 images"):
        submit_ranking(p, out, sample, ["a", "b"], [["x"]], ["x"])


@pytest.mark.parametrize(
    ("column", "classes", "of"), [("target", ["0", "1"], 1), ("dog", ["cat", "dog"], 1), ("cat", ["cat", "dog"], 0)]
)
def test_one_column_is_the_probability_of_one_of_two_classes(tmp_path: Path, column: str, classes: list[str], of: int) -> None:
    sample = read_sample(write_sample(tmp_path, f"image,{column}\na,0.5\nb,0.5\n"))
    assert infer(sample, classes, ONE_LABEL) == "scores"
    logits = np.array([[1.0, 2.0], [0.5, -3.0]])
    submit_logits(tmp_path / "out.csv", sample, ["a", "b"], logits, classes, submission="scores")
    expected = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))[:, of]
    assert [float(row[1]) for row in read_rows(tmp_path / "out.csv")[1:]] == pytest.approx(expected)


# --- samples that are refused -----------------------------------------------------------------------------------------------------


def test_column_of_numbers_without_a_class_is_refused(tmp_path: Path) -> None:
    sample = read_sample(write_sample(tmp_path, "image,label\na,0.5\nb,0.5\n"))
    with pytest.raises(FlukeError, match=r"column label holds numbers \(0.5\) but is not named after a class \(cat, dog\)"):
        infer(sample, ["cat", "dog"], ONE_LABEL)
    lists = read_sample(write_sample(tmp_path, "image,label\na,cat dog\nb,dog cat\nc,0.5\n"))
    with pytest.raises(FlukeError, match=r"column label holds numbers \(0.5\)"):
        infer(lists, ["cat", "dog"], ONE_LABEL)
    for placeholder in ("0", "nan"):
        sample = read_sample(write_sample(tmp_path, f"image,label\na,{placeholder}\nb,{placeholder}\n"))
        assert infer(sample, ["cat", "dog"], ONE_LABEL) == "label"


@pytest.mark.parametrize(
    ("text", "submission", "classes", "target", "message"),
    [
        ("image,target\na,0.5\n", "scores", ["x", "y", "z"], ONE_LABEL, "1 of its columns are not classes: 'target'"),
        ("image,x,y,z\na,0,0,1\n", "label", ["x", "y", "z"], ONE_LABEL, "label fills 1 column, but the sample has 3"),
        ("image,label\na,x 1 y\n", "topk", ["x 1", "y"], ONE_LABEL, "1 labels contain the separator ' ': 'x 1'"),
        ("image,labels\na,x|y\n", "auto", ["x", "y"], SEVERAL_LABELS, r"labels by '\|', not by ' '; set predict.separator"),
        ("image,label\na,x|y\n", "auto", ["x", "y"], ONE_LABEL, r"its cells separate labels by '\|', not by ' '"),
    ],
)
def test_predictions_that_do_not_fit_are_refused_before_training(
    text: str, submission: str, classes: list[str], target: Target, message: str, tmp_path: Path
) -> None:
    sample = read_sample(write_sample(tmp_path, text))
    with pytest.raises(FlukeError, match=message):
        check_sample(sample, Predict(submission=submission), ["a"], classes, target)  # type: ignore[arg-type]


def test_images_without_prediction_are_refused_before_training(tmp_path: Path) -> None:
    sample = read_sample(write_sample(tmp_path, "image,label\na,x\nb,x\n"))
    with pytest.raises(FlukeError, match="1 of its 2 images have no prediction: 'b'"):
        check_sample(sample, Predict(), ["a"], ["x", "y"], ONE_LABEL)


def test_columns_that_are_not_the_classes_are_refused(tmp_path: Path) -> None:
    sample = read_sample(write_sample(tmp_path, "image,x,q\na,0,0\n"))
    with pytest.raises(FlukeError, match=r"are not the 3 classes \(not classes: 'q'; missing: 'y', 'z'\)"):
        infer(sample, ["x", "y", "z"], SEVERAL_LABELS)
