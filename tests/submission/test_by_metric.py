"""The metric decides what a submission holds, not the placeholders of the sample."""

from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax

from lib.config.recipe import Predict
from lib.scores.score_file import Scores
from lib.submission.choice import check_sample
from lib.submission.writing import submit, submit_ranking
from lib.tables.sample import read_sample
from lib.tables.target import ONE_LABEL, ORDINAL, SEVERAL_LABELS, Target
from tests.submission import random_logits, read_rows, write_sample

NAMES = ["a.png", "b.png", "c.png"]


def written(
    folder: Path, cells: list[str], classes: tuple[str, ...], metric: str, target: Target = ONE_LABEL, column: str = "target"
) -> tuple[list[str], str, np.ndarray]:
    """Return the written cells, what was said before training, and the logits."""
    path = write_sample(folder, f"image,{column}\n" + "".join(f"{name},{cell}\n" for name, cell in zip(NAMES, cells)))
    sample, logits = read_sample(path, "image"), random_logits(3, len(classes))
    said = check_sample(sample, Predict(), NAMES, classes, target, metric)
    submit(Predict(), folder / "submission.csv", sample, Scores(np.arange(3), NAMES, classes, logits, target=target), metric=metric)
    return [row[1] for row in read_rows(folder / "submission.csv")[1:]], said, logits


@pytest.mark.parametrize("metric", ["roc_auc", "log_loss", "partial_auc"])
@pytest.mark.parametrize("classes", [("0", "1"), ("benign", "malignant")])
def test_a_metric_of_probabilities_gets_that_of_the_second_class(tmp_path: Path, metric: str, classes: tuple[str, ...]) -> None:
    cells, said, logits = written(tmp_path, ["0"] * 3, classes, metric)
    assert np.array(cells, float) == pytest.approx(softmax(logits.astype(float), axis=1)[:, 1])
    assert f"the probability of {classes[1]!r} (for train.metric {metric}; predict.submission says otherwise)" in said
    assert ("look like labels: '0'" in said) == (classes == ("0", "1"))


def test_a_metric_of_labels_gets_labels_where_the_sample_holds_probabilities(tmp_path: Path) -> None:
    cells, said, logits = written(tmp_path, ["0.5"] * 3, ("0", "1"), "accuracy")
    assert cells == [str(c) for c in logits.argmax(axis=1)]
    assert "hold something else: '0.5'" in said


def test_without_a_metric_placeholders_that_may_be_either_are_said(tmp_path: Path) -> None:
    cells, said, _ = written(tmp_path, ["0"] * 3, ("0", "1"), "auto")
    assert set(cells) <= {"0", "1"}
    assert "all '0', which may stand for a label or for a probability" in said
    assert "train.metric or predict.submission say otherwise" in said


def test_a_ranking_has_the_length_of_its_metric(tmp_path: Path) -> None:
    classes = tuple("abcdefg")
    cells, said, logits = written(tmp_path, ["a"] * 3, classes, "map@3")
    assert cells == [" ".join(classes[c] for c in row) for row in np.argsort(-logits, axis=1)[:, :3]]
    assert "the 3 best labels" in said


def test_a_metric_of_confidence_gets_label_and_probability(tmp_path: Path) -> None:
    cells, _, logits = written(tmp_path, [""] * 3, ("10", "2", "33"), "gap")
    p = softmax(logits.astype(float), axis=1)
    assert [cell.split()[0] for cell in cells] == [("10", "2", "33")[c] for c in p.argmax(axis=1)]
    assert [float(cell.split()[1]) for cell in cells] == pytest.approx(p.max(axis=1))


def test_a_metric_that_the_columns_have_no_place_for_leaves_the_choice_to_the_sample(tmp_path: Path) -> None:
    cells, said, _ = written(tmp_path, ["x y"] * 3, ("x", "y", "z"), "macro_map", SEVERAL_LABELS)
    assert all(set(cell.split()) <= {"x", "y", "z"} for cell in cells)
    assert "no place for what train.metric macro_map wants" in said


def test_a_ranking_of_individuals_is_cut_to_one_where_the_metric_wants_one(tmp_path: Path) -> None:
    path = write_sample(tmp_path, "image,id\na.png,new\nb.png,new\n")
    ranked = [["x", "new", "y"], ["new", "y", "x"]]
    for metric, cells in (("open_set_accuracy", ["x", "new"]), ("map@5", ["x new y", "new y x"]), ("auto", ["x new y", "new y x"])):
        out = tmp_path / f"{metric}.csv"
        submit_ranking(Predict(), out, read_sample(path, "image"), ["a.png", "b.png"], ranked, ["x", "y", "new"], metric)
        assert [row[1] for row in read_rows(out)[1:]] == cells


@pytest.mark.parametrize(("task", "said"), [(ORDINAL, "for train.metric quadratic_kappa"), (ONE_LABEL, "by the sample")])
def test_why_a_format_is_chosen_is_said(tmp_path: Path, task: Target, said: str) -> None:
    assert said in written(tmp_path, ["0"] * 3, ("0", "1", "2"), "auto", task)[1]


def test_a_format_that_fits_the_metric_is_not_blamed_on_the_sample(tmp_path: Path) -> None:
    for metric, classes in (("gap", ("10", "2", "33")), ("map@3", ("a", "b", "c", "d")), ("accuracy", ("a", "b"))):
        assert f"for train.metric {metric}" in written(tmp_path, [""] * 3, classes, metric)[1]
