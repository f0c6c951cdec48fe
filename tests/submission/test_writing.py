import csv
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lib.config.recipe import Predict
from lib.errors import FlukeError
from lib.submission.formats import check_sample, infer_format
from lib.submission.writing import check, write
from lib.tables.sample import read_sample
from lib.tables.target import ONE_LABEL, SEVERAL_LABELS


def rows_of(path: Path, **fmt: str) -> list[list[str]]:
    with open(path, encoding="utf-8-sig", newline="") as handle:
        return list(csv.reader(handle, **fmt))


def sample_file(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "sample_submission.csv"
    path.write_text(text, encoding=encoding, newline="")
    return path


def train_labels(path: Path, column: str, separator: str | None = None) -> list[str]:
    with open(path, encoding="utf-8", newline="") as handle:
        cells = [row[column] for row in csv.DictReader(handle)]
    return sorted({label for cell in cells for label in (cell.split(separator) if separator else [cell])})


def random_logits(n: int, classes: int, seed: int = 0) -> np.ndarray:
    return (5 * np.random.default_rng(seed).normal(size=(n, classes))).astype(np.float32)


# --- the five contests' formats ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("contest", ["fashion20", "grocery81", "lesion5"])
def test_one_label_a_row_as_the_contest_wants_it(shared: Path, tmp_path: Path, contest: str) -> None:
    folder = shared / "data" / contest
    sample = read_sample(folder / "sample_submission.csv")
    if contest == "lesion5":
        classes = sorted(path.name for path in (folder / "train").iterdir())
    else:
        classes = train_labels(folder / "train.csv", "label")
    assert infer_format(sample, classes, target=ONE_LABEL) == "label"
    logits = random_logits(len(sample.ids), len(classes))
    out = tmp_path / "submission.csv"
    order = np.random.default_rng(1).permutation(len(sample.ids))  # predictions come in another order
    write(out, sample, [sample.ids[i] for i in order], "label", logits[order], classes)
    written, wanted = rows_of(out), rows_of(folder / "sample_submission.csv")
    assert written[0] == wanted[0]
    assert [row[0] for row in written] == [row[0] for row in wanted]
    assert [row[1] for row in written[1:]] == [classes[i] for i in logits.argmax(axis=1)]


def test_a_column_of_probabilities_a_label(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "fashion79"
    sample = read_sample(folder / "sample_submission.csv")
    classes = train_labels(folder / "train.csv", "labels", " ")[::-1]  # the class list's order is not the columns'
    assert infer_format(sample, classes, target=SEVERAL_LABELS) == "scores"
    logits = random_logits(len(sample.ids), len(classes))
    out = tmp_path / "submission.csv"
    write(out, sample, sample.ids, "scores", logits, classes, target=SEVERAL_LABELS)
    written = rows_of(out)
    assert written[0] == rows_of(folder / "sample_submission.csv")[0]
    values = np.array([[float(cell) for cell in row[1:]] for row in written[1:]])
    expected = 1 / (1 + np.exp(-logits.astype(float)))
    np.testing.assert_allclose(values, expected[:, [classes.index(c) for c in written[0][1:]]], rtol=1e-12)


def test_five_names_a_row(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "nyala"
    sample = read_sample(folder / "sample_submission.csv")
    classes = train_labels(folder / "train.csv", "Id")
    assert infer_format(sample, classes, target=ONE_LABEL) == "topk"
    logits = random_logits(len(sample.ids), len(classes))
    out = tmp_path / "submission.csv"
    write(out, sample, sample.ids, "topk", logits, classes)
    best = np.argsort(-logits, axis=1)[:, :5]
    assert [row[1] for row in rows_of(out)[1:]] == [" ".join(classes[c] for c in row) for row in best]
    ranked = [[classes[c] for c in row[: 1 + i % 7]] for i, row in enumerate(np.argsort(-logits, axis=1))]
    write(out, sample, sample.ids, "topk", ranked, classes)  # from a retrieval, with short and long lists
    assert [row[1].split(" ") for row in rows_of(out)[1:]] == [row[:5] for row in ranked]


def test_a_label_with_blanks_is_one_label(tmp_path: Path) -> None:
    sample = read_sample(sample_file(tmp_path, "image,label\na,Formal Shoes\nb,Formal Shoes\nc,Shirts\n"))
    assert infer_format(sample, ["Formal Shoes", "Shirts", "Formal", "Shoes"], target=ONE_LABEL) == "label"


# --- what is written --------------------------------------------------------------------------------------------------------------


def test_labels_over_their_thresholds_and_never_none_unless_allowed(tmp_path: Path) -> None:
    sample = read_sample(sample_file(tmp_path, "image,labels\na,x\nb,x\nc,x\n"))
    assert infer_format(sample, ["x", "y", "z"], target=SEVERAL_LABELS) == "labels"
    probabilities = np.array([[0.9, 0.5, 0.1], [0.2, 0.1, 0.3], [0.6, 0.3, 0.65]])
    logits = np.log(probabilities / (1 - probabilities))
    out = tmp_path / "out.csv"
    write(out, sample, ["a", "b", "c"], "labels", logits, ["x", "y", "z"])
    assert [row[1] for row in rows_of(out)] == ["labels", "x y", "z", "x z"]
    write(out, sample, ["a", "b", "c"], "labels", logits, ["x", "y", "z"], allow_empty=True, separator="|")
    assert [row[1] for row in rows_of(out)] == ["labels", "x|y", "", "x|z"]
    write(out, sample, ["a", "b", "c"], "labels", logits, ["x", "y", "z"], thresholds=np.array([0.7, 0.2, 0.7]))
    assert [row[1] for row in rows_of(out)] == ["labels", "x y", "z", "y"]


@pytest.mark.parametrize("multi", [True, False])
def test_scores_keep_the_ranking_of_confident_logits(tmp_path: Path, multi: bool) -> None:
    """In float32 all of these would be 1.0."""
    ids = [f"{i}.jpg" for i in range(50)]
    sample = read_sample(sample_file(tmp_path, "image,cat,dog\n" + "".join(f"{i},0,0\n" for i in ids)))
    logits = np.stack([np.linspace(18, 20, 50), np.zeros(50)], axis=1).astype(np.float32)
    out = tmp_path / "out.csv"
    write(out, sample, ids, "scores", logits, ["cat", "dog"], target=SEVERAL_LABELS if multi else ONE_LABEL)
    cats = [float(row[1]) for row in rows_of(out)[1:]]
    assert all(a < b for a, b in itertools.pairwise(cats))


def test_equal_logits_fall_to_the_first_class(tmp_path: Path) -> None:
    sample = read_sample(sample_file(tmp_path, "image,id\na,x\n"))
    out = tmp_path / "out.csv"
    classes = [f"n{i}" for i in range(200, 0, -1)]
    logits = np.random.default_rng(0).integers(0, 3, (1, 200)).astype(np.float32)
    write(out, sample, ["a"], "topk", logits, classes)
    best = sorted(range(200), key=lambda c: (-logits[0, c], c))[:5]
    assert rows_of(out)[1] == ["a", " ".join(classes[c] for c in best)]


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
def test_names_are_matched_with_and_without_extension_and_folder(tmp_path: Path, ids: list[str], names: list[str]) -> None:
    sample = read_sample(sample_file(tmp_path, "image,label\n" + "".join(f"{i},x\n" for i in ids)))
    out = tmp_path / "out.csv"
    answer = {"1": "one", "2": "two", "u": "none"}
    labels = [answer[re.sub(r".*/|v", "", name)[0]] for name in names]
    write(out, sample, names, "label", [[label] for label in labels], ["one", "two", "none"])
    assert rows_of(out)[1:] == [[ids[0], "one"], [ids[1], "two"]]


@pytest.mark.parametrize(
    ("ids", "names", "sentence"),
    [
        ("a b", ["x/a.jpg", "y/a.jpg", "b.jpg"], "several predictions fit: 'a' ('x/a.jpg', 'y/a.jpg')"),
        ("a b", ["a", "a", "b"], "several predictions fit: 'a' ('a', 'a')"),
        ("x/a y/a", ["a"], "1 predictions fit several of its images: 'a'"),
        ("a b c d", ["b.jpg", "a.jpg"], "2 of its 4 images have no prediction: 'c', 'd'"),
    ],
)
def test_names_that_do_not_match_get_a_sentence(tmp_path: Path, ids: str, names: list[str], sentence: str) -> None:
    sample = read_sample(sample_file(tmp_path, "image,label\n" + "".join(f"{i},x\n" for i in ids.split())))
    with pytest.raises(FlukeError, match=re.escape(sentence)):
        write(tmp_path / "out.csv", sample, names, "label", [["x"]] * len(names), ["x"])


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
def test_the_file_is_made_as_the_sample_is(tmp_path: Path, text: str, encoding: str) -> None:
    """Separators, quotes, line ends, byte order mark, column order: the sample's own answers give the sample's own bytes."""
    path = sample_file(tmp_path, text, encoding)
    sample = read_sample(path, "image")
    out = tmp_path / "out.csv"
    write(out, sample, sample.ids, "label", [["x"], ["y"]], ["x", "y"])
    assert out.read_bytes() == path.read_bytes()


LABEL = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(lambda s: s.strip())


@settings(max_examples=150, deadline=None)
@given(
    labels=st.lists(LABEL, min_size=2, max_size=5, unique=True),
    ids=st.lists(LABEL, min_size=1, max_size=5, unique=True),
    delimiter=st.sampled_from(",;\t"),
    newline=st.sampled_from(["\n", "\r\n"]),
    kind=st.sampled_from(["label", "topk", "scores"]),
    seed=st.integers(0, 99),
)
def test_any_label_and_name_survives(
    tmp_path_factory: pytest.TempPathFactory, labels: list[str], ids: list[str], delimiter: str, newline: str, kind: str, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("any")
    path = folder / "sample.csv"
    header = ["an image", *labels] if kind == "scores" else ["an image", "label"]
    with open(path, "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, delimiter=delimiter, lineterminator=newline, quoting=csv.QUOTE_ALL)
        writer.writerows([header, *([i, *["0"] * (len(header) - 1)] for i in ids)])
    assume("an image" not in labels)
    sample = read_sample(path)
    logits = random_logits(len(ids), len(labels), seed)
    separator = "\x00\x01"
    assume(not any(separator in label for label in labels))
    write(folder / "out.csv", sample, ids, kind, logits, labels, k=3, separator=separator)  # type: ignore[arg-type]
    written = rows_of(folder / "out.csv", delimiter=delimiter)
    assert written[0] == header
    assert [row[0] for row in written[1:]] == ids
    if kind == "scores":
        exact = np.exp(logits.astype(float))
        np.testing.assert_allclose(np.array(written)[1:, 1:].astype(float), exact / exact.sum(1, keepdims=True), rtol=1e-9)
    else:
        best = np.argsort(-logits, axis=1)[:, : 3 if kind == "topk" else 1]
        assert [row[1].split(separator) for row in written[1:]] == [[labels[c] for c in row] for row in best]


def test_labels_that_are_dangerous_elsewhere_survive(tmp_path: Path) -> None:
    labels = ['a,"b"', "=SUM(A1)", "line\nbreak", "line\rbreak", "<script>", "ヒョウ", "NA", "01"]
    sample = read_sample(sample_file(tmp_path, "image,label\n" + "".join(f"{i},x\n" for i in range(len(labels)))))
    out = tmp_path / "out.csv"
    write(out, sample, sample.ids, "label", np.eye(len(labels), dtype=np.float32), labels)
    assert [row[1] for row in rows_of(out)[1:]] == labels


# --- what is refused --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "body", "sentence"),
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
        ("label", "image,label\na,\nb, \nc,x\n", "2 blank answers: line 2 (''), line 3 (' ')"),
        ("label", "image,label\na,x y\nb,y\nc,x\n", "1 answers with several labels where one belongs: line 2 ('x y')"),
        ("topk", "image,label\na,x y\nb,y x y\nc,x\n", "1 answers with a label twice: line 3 ('y x y')"),
        ("topk", "image,label\na,x  y\nb,y\nc,x\n", "1 answers with blank labels (a separator too many): line 2"),
        ("topk", "image,label\na,x q\nb,y\nc,x\n", "1 answers with unknown labels: line 2 ('x q')"),
        ("topk", "image,label\na,x y z w\nb,y\nc,x\n", "1 answers with more than 3 labels: line 2"),
        ("labels", "image,label\na,\nb,y\nc,x\n", "1 blank answers: line 2"),
        ("label", 'image,label\na,"x\nb,y\nc,x\n', "not readable as CSV"),
    ],
)
def test_check_names_the_fault(tmp_path: Path, kind: str, body: str, sentence: str) -> None:
    sample = read_sample(sample_file(tmp_path, "image,label\na,x\nb,x\nc,x\n"))
    path = tmp_path / "submission.csv"
    path.write_text(body, encoding="utf-8")
    with pytest.raises(FlukeError, match=re.escape(sentence)):
        check(path, sample, ["x", "y", "z", "w"], kind, k=3)  # type: ignore[arg-type]


def test_check_counts_all_faults_and_accepts_what_is_right(tmp_path: Path) -> None:
    sample = read_sample(sample_file(tmp_path, "image,label\n" + "".join(f"{i},x\n" for i in range(20))))
    path = tmp_path / "submission.csv"
    path.write_text("image,label\n" + "".join(f"{i},{'bad' if i % 2 else 'x'}\n" for i in range(20)))
    with pytest.raises(FlukeError, match=r"10 unknown labels: line 3 \('bad'\), .* and 5 more"):
        check(path, sample, ["x"], "label")
    path.write_text("image,label\n" + "".join(f"{i},x\n" for i in range(20)))
    check(path, sample, ["x"], "label")


@pytest.mark.parametrize("cell", ["nan", "inf", "-inf", "", "high", "1_0"])
def test_scores_have_to_be_finite_numbers(tmp_path: Path, cell: str) -> None:
    sample = read_sample(sample_file(tmp_path, "image,x,y\na,0,0\nb,0,0\n"))
    path = tmp_path / "submission.csv"
    path.write_text(f"image,x,y\na,0.5,1e-7\nb,{cell},0.5\n")
    with pytest.raises(FlukeError, match="1 scores that are no finite numbers: line 3"):
        check(path, sample, ["y", "x"], "scores")


def test_a_refused_submission_leaves_the_old_one(tmp_path: Path) -> None:
    sample = read_sample(sample_file(tmp_path, "image,label\na,x\nb,x\n"))
    out = tmp_path / "submission.csv"
    out.write_text("old")
    with pytest.raises(FlukeError, match=r"submission.csv: not what .* asks for: 1 answers with a label twice: line 3 \('x x'\)"):
        write(out, sample, ["a", "b"], "topk", [["x", "y"], ["x", "x"]], ["x", "y"])
    with pytest.raises(FlukeError, match="1 predictions hold NaN or infinity: 'b'"):
        write(out, sample, ["a", "b"], "label", np.array([[0, 1], [np.nan, 1]]), ["x", "y"])
    with pytest.raises(FlukeError, match="1 labels hold the separator ' ': 'x y'"):
        write(out, sample, ["a", "b"], "topk", np.zeros((2, 2)), ["x y", "z"])
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sample_submission.csv", "submission.csv"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "its header has 0"),
        ("image\na\n", "its header has 1"),
        ("image,label\n", "has a header but no rows"),
        ("image,label\na,x\na,x\n", "1 images come more than once: 'a'"),
        ("image,label\n,x\n", "1 rows have a blank image: line 2"),
        ("image,label,label\na,x,x\n", "has several columns 'label'"),
        ("image,label\na,x\nb\n", "1 rows don't have the header's 2 fields: line 3 (1)"),
        ('image,label\n"a,x\n', "is a quote left open"),
    ],
)
def test_a_bad_sample_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(FlukeError, match=re.escape(sentence)):
        read_sample(sample_file(tmp_path, text))


def test_a_sample_of_another_encoding_or_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FlukeError, match="not UTF-8 text"):
        read_sample(sample_file(tmp_path, "image,label\né,x\n", "latin-1"))
    with pytest.raises(FlukeError, match="No such file"):
        read_sample(tmp_path / "nowhere.csv")


@pytest.mark.parametrize(
    ("column", "classes", "of"), [("target", ["0", "1"], 1), ("dog", ["cat", "dog"], 1), ("cat", ["cat", "dog"], 0)]
)
def test_one_column_is_the_probability_of_one_of_two_classes(tmp_path: Path, column: str, classes: list[str], of: int) -> None:
    sample = read_sample(sample_file(tmp_path, f"image,{column}\na,0.5\nb,0.5\n"))
    assert infer_format(sample, classes, target=ONE_LABEL) == "scores"
    logits = np.array([[1.0, 2.0], [0.5, -3.0]])
    write(tmp_path / "out.csv", sample, ["a", "b"], "scores", logits, classes)
    expected = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))[:, of]
    assert [float(row[1]) for row in rows_of(tmp_path / "out.csv")[1:]] == pytest.approx(expected)


def test_one_column_of_numbers_that_could_be_either_classs_is_refused(tmp_path: Path) -> None:
    sample = read_sample(sample_file(tmp_path, "image,label\na,0.5\nb,0.5\n"))
    with pytest.raises(FlukeError, match=r"column label holds numbers \(0.5\), but no class \(cat, dog\)"):
        infer_format(sample, ["cat", "dog"], target=ONE_LABEL)
    for placeholder in ("0", "nan"):
        sample = read_sample(sample_file(tmp_path, f"image,label\na,{placeholder}\nb,{placeholder}\n"))
        assert infer_format(sample, ["cat", "dog"], target=ONE_LABEL) == "label"


@pytest.mark.parametrize(
    ("text", "wish", "classes", "multi", "sentence"),
    [
        ("image,target\na,0.5\n", "scores", ["x", "y", "z"], False, "1 of its columns are no classes: 'target'"),
        ("image,x,y,z\na,0,0,1\n", "label", ["x", "y", "z"], False, "label go into one column, but the sample has 3"),
        ("image,label\na,x 1 y\n", "topk", ["x 1", "y"], False, "1 labels hold the separator ' ': 'x 1'"),
        ("image,labels\na,x|y\n", "auto", ["x", "y"], True, r"labels parted by '\|', not by ' ' \(set predict.separator\)"),
        ("image,label\na,x|y\n", "auto", ["x", "y"], False, r"labels parted by '\|', not by ' '"),
    ],
)
def test_answers_that_do_not_fit_are_refused_before_training(
    text: str, wish: str, classes: list[str], multi: bool, sentence: str, tmp_path: Path
) -> None:
    sample = read_sample(sample_file(tmp_path, text))
    with pytest.raises(FlukeError, match=sentence):
        check_sample(sample, Predict(submission=wish), ["a"], classes, SEVERAL_LABELS if multi else ONE_LABEL)


def test_columns_that_are_not_the_classes_are_refused(tmp_path: Path) -> None:
    sample = read_sample(sample_file(tmp_path, "image,x,q\na,0,0\n"))
    with pytest.raises(FlukeError, match="no classes: 'q'; lacking: 'y', 'z'"):
        infer_format(sample, ["x", "y", "z"], target=SEVERAL_LABELS)
