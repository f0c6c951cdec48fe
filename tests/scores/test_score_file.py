"""Score files and their alignment."""

import json
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lib.errors import FlukeError
from lib.run_folder import RunFolder
from lib.scores import alignment, score_file
from lib.scores.alignment import align_scores, load_aligned_scores, load_run_scores
from lib.scores.score_file import Scores, load_scores, save_scores
from lib.tables.target import IDENTITY, ONE_LABEL, SEVERAL_LABELS, TARGETS

TEXT = st.text(max_size=8) | st.sampled_from(["", " ", "a ", "NA", "01", "x\0", "\0", "naïve", "=1+1", "\ud800", "a\nb,\"c'"])


def make(n=6, classes=("ant", "bee", "cat"), multi=False, seed=0, rows=None, **more) -> Scores:
    rng = np.random.default_rng(seed)
    rows = np.arange(n) if rows is None else np.asarray(rows)
    labels = [(classes[r % len(classes)],) for r in rows]
    logits = rng.normal(size=(len(rows), len(classes))).astype(np.float32)
    return Scores(
        rows.astype(np.int64),
        [f"{r}.jpg" for r in rows],
        classes,
        logits,
        labels,
        SEVERAL_LABELS if multi else ONE_LABEL,
        {"run": f"run{seed}"},
        **more,
    )


@st.composite
def any_scores(draw) -> Scores:
    n, target = draw(st.integers(0, 5)), draw(st.sampled_from(TARGETS))
    classes = tuple(draw(st.lists(TEXT, unique=True, max_size=4))) if target.outputs == "logits" else ()
    width = len(classes) if target.outputs == "logits" else draw(st.integers(1, 4))
    finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
    cell = finite.map(str) if target.numeric else TEXT
    row = st.lists(cell, min_size=0 if target.several else 1, max_size=3 if target.several else 1).map(tuple)
    return Scores(
        np.array(draw(st.lists(st.integers(0, 2**62), min_size=n, max_size=n, unique=True)), dtype=np.int64),
        draw(st.lists(TEXT, min_size=n, max_size=n)),
        classes,
        draw(hnp.arrays(np.float32, (n, width), elements=finite)),
        draw(st.none() | st.lists(row, min_size=n, max_size=n)),
        target,
        draw(st.dictionaries(TEXT, st.none() | st.integers() | TEXT | st.lists(st.booleans(), max_size=2), max_size=3)),
    )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(any_scores())
def test_saved_scores_are_loaded_with_every_character_and_bit(tmp_path, before):
    save_scores(tmp_path / "s.npz", before)
    after = load_scores(tmp_path / "s.npz")
    for name in ("names", "classes", "labels", "target", "source"):
        assert getattr(after, name) == getattr(before, name), name
    assert after.rows.tolist() == before.rows.tolist()
    assert after.logits.dtype == np.float32
    assert after.logits.tobytes() == before.logits.tobytes()
    assert [p.name for p in tmp_path.iterdir()] == ["s.npz"]  # no temporary file is left


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_torn_or_altered_file_is_refused_or_harmless(tmp_path, data):
    save_scores(tmp_path / "s.npz", make())
    raw = bytearray((tmp_path / "s.npz").read_bytes())
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
    else:
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "torn.npz").write_bytes(raw)
    try:
        found = load_scores(tmp_path / "torn.npz")
    except FlukeError as error:
        sentence = str(error)
    else:  # a changed byte of no meaning, such as a date; the data's bytes are under a checksum
        assert found.logits.tobytes() == make().logits.tobytes()
        return
    assert "torn.npz" in sentence
    assert "\n" not in sentence


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("boom"),))


def npz(path: Path, compression: int = zipfile.ZIP_STORED, **parts: bytes) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in parts.items():
            archive.writestr(f"{name}.npy", data)
    return path


def npy(array: np.ndarray) -> bytes:
    import io

    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def parts(**change: object) -> dict[str, bytes]:
    meta = {"format": score_file.FORMAT, "kind": "logits", "multi": False, "names": ["a", "b"], "classes": ["x"], "labels": None}
    meta |= {"source": {}} | {k: v for k, v in change.items() if k in (*meta, "source")}
    arrays = {"rows": np.arange(2), "logits": np.zeros((2, 1), np.float32)} | {k: v for k, v in change.items() if k not in meta}
    return {"meta": npy(np.frombuffer(json.dumps(meta).encode(), np.uint8)), **{k: npy(v) for k, v in arrays.items()}}


def test_pickles_never_run_and_zip_bombs_are_never_expanded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_scores(npz(tmp_path / "good.npz", **parts())).names == ["a", "b"]  # `npz` makes valid files too
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(Bomb()))
    np.save(tmp_path / "pickle.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    npz(tmp_path / "object.npz", **parts(rows=np.array([Bomb(), 1], dtype=object)))
    npz(tmp_path / "meta.npz", **parts() | {"meta": npy(np.array([Bomb()], dtype=object))})
    npz(tmp_path / "deflated.npz", zipfile.ZIP_DEFLATED, **parts(logits=np.zeros((2, 10**7), np.float32)))
    huge = parts()["logits"].replace(b"(2, 1)", b"(2, 9" + b"9" * 13 + b")").replace(b" " * 13 + b"\n", b"\n")
    npz(tmp_path / "header.npz", **parts() | {"logits": huge})
    npz(tmp_path / "nested.npz", **parts() | {"meta": npy(np.frombuffer(b"[" * 10**6, np.uint8))})
    for name in ("pickle.npz", "pickle.npy", "object.npz", "meta.npz", "deflated.npz", "header.npz", "nested.npz"):
        with pytest.raises(FlukeError, match=name):
            load_scores(tmp_path / name)
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rows": np.array([1, 1])}, "1 rows are there more than once: 1"),
        ({"rows": np.array([-1, 1])}, "1 negative row ids"),
        ({"rows": np.array([0.0, 1.0])}, "row ids are float64"),
        ({"rows": np.arange(3)}, "row ids are int64 (3,), not int64 (2,)"),
        ({"logits": np.array([[0], [np.nan]], np.float32)}, "1 of 2 rows hold NaN or infinity: b"),
        ({"logits": np.zeros((2, 1))}, "float64"),
        ({"logits": np.zeros((2, 3), np.float32)}, "3 columns for 1 classes"),
        ({"logits": np.zeros(2, np.float32)}, "not float32 with 2 rows"),
        ({"classes": ["x", "x"], "logits": np.zeros((2, 2), np.float32)}, "classes named more than once: x"),
        ({"labels": [["x"]]}, "1 rows of labels for 2 names"),
        ({"labels": [["x"], []]}, "1 rows have labels that don't fit one label per image: b"),
        ({"names": ["a", 5]}, "not a scores file"),
        ({"labels": [["x"], 7]}, "not a scores file"),
        ({"format": "fluke scores 9"}, "not a scores file"),
        ({"kind": "rows"}, "not a scores file"),
        ({"source": []}, "not a scores file"),
        ({"spam": np.zeros(1)}, "not a scores file"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused_in_a_sentence(tmp_path, change, sentence):
    with pytest.raises(FlukeError) as error:
        load_scores(npz(tmp_path / "bad.npz", **parts(**change)))
    assert sentence in str(error.value)
    assert str(error.value).startswith(f"{tmp_path / 'bad.npz'}: ")


def test_other_files_are_refused_and_a_refused_save_keeps_the_old_file(tmp_path):
    (tmp_path / "s.npz").write_text("image,label\n")
    for path, words in ((tmp_path / "s.npz", "not a scores file"), (tmp_path / "no", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(FlukeError, match=words):
            load_scores(path)
    save_scores(tmp_path / "s.npz", make())
    bad = make()
    bad.logits[1, 1] = np.nan
    with pytest.raises(FlukeError, match=r"1 of 6 rows hold NaN or infinity: 1\.jpg"):
        save_scores(tmp_path / "s.npz", bad)
    assert load_scores(tmp_path / "s.npz").logits.tobytes() == make().logits.tobytes()


def test_targets():
    assert alignment.encode_targets(make()).tolist() == [0, 1, 2, 0, 1, 2]
    several = replace(make(n=3, multi=True), labels=[(), ("cat", "ant"), ("bee",)])
    assert alignment.encode_targets(several).tolist() == [[0, 0, 0], [1, 0, 1], [0, 1, 0]]
    with pytest.raises(FlukeError, match=r"here: 1 labels are not among the 3 classes: 'dog' .1 images"):
        alignment.encode_targets(replace(make(n=1), labels=[("dog",)]), "here")
    with pytest.raises(FlukeError, match="no labels"):
        alignment.encode_targets(replace(make(), labels=None))


# --- alignment --------------------------------------------------------------------------------------------------------------------


def shuffled(s: Scores, rows: list[int], columns: list[int]) -> Scores:
    return Scores(
        s.rows[rows],
        [s.names[i] for i in rows],
        tuple(s.classes[c] for c in columns),
        s.logits[rows][:, columns],
        s.labels and [s.labels[i] for i in rows],
        s.target,
        s.source,
    )


def test_align_undoes_any_order_of_rows_and_classes():
    a, b = make(seed=1), make(seed=2)
    mixed = shuffled(b, [3, 0, 5, 1, 4, 2], [2, 0, 1])
    first, second = align_scores([a, mixed])
    assert first.logits.tobytes() == a.logits.tobytes()
    for name in ("names", "classes", "labels", "source"):
        assert getattr(second, name) == getattr(b, name), name
    assert second.rows.tolist() == b.rows.tolist()
    np.testing.assert_array_equal(second.logits, b.logits)


def test_align_a_subset_of_the_classes_by_name():
    a, b = make(seed=1), make(seed=2)
    specialist = shuffled(b, [1, 0, 2, 3, 4, 5], [2, 0])
    second = align_scores([a, specialist])[1]
    assert second.classes == ("ant", "cat")
    np.testing.assert_array_equal(second.logits, b.logits[:, [0, 2]])
    with pytest.raises(FlukeError, match=r"A knows 1 classes that B doesn't \(bee\); name A first"):
        align_scores([specialist, a], ["B", "A"])


def test_align_refuses_what_is_not_the_same_table():
    a = make(seed=1)
    cases = [
        (make(rows=[0, 1, 2, 3, 4, 9]), r"B has 6 rows and A 6: 1 only in B \(9\.jpg\) and 1 only in A \(5\.jpg\)"),
        (make(rows=[0, 1, 2, 3]), r"B has 4 rows and A 6: 2 only in A \(4\.jpg, 5\.jpg\)"),
        (replace(a, names=["0.jpg", "z.jpg", *a.names[2:]]), r"name 1 rows differently \(z\.jpg / 1\.jpg\)"),
        (replace(a, labels=[("cat",), *a.labels[1:]]), r"different labels for 1 rows \(0\.jpg\)"),
        (replace(a, classes=("x", "y", "z")), "no class in common: runs of different contests"),
        (replace(a, classes=("ant", "bee", "cow")), r"1 only in the first \(cow\), 1 only in the second \(cat\)"),
        (replace(a, target=SEVERAL_LABELS), "several labels per image"),
        (replace(a, target=IDENTITY, classes=()), "retrieval"),
    ]
    for other, sentence in cases:
        with pytest.raises(FlukeError, match=sentence):
            align_scores([a, other], ["A", "B"])


def test_runs_and_their_missing_parts(tmp_path):
    single, kfold = tmp_path / "single", tmp_path / "kfold"
    with pytest.raises(FlukeError, match="no such run folder"):
        load_run_scores(RunFolder(single))
    save_scores(single / "scores_val.npz", make(rows=[1, 3]))
    save_scores(single / "scores_test.npz", make(seed=5))
    oof, test = load_run_scores(RunFolder(single))
    assert (oof.rows.tolist(), test.source["run"]) == ([1, 3], "run5")
    (kfold / "fold0").mkdir(parents=True)
    save_scores(kfold / "scores_val.npz", make(rows=[1, 3]))
    with pytest.raises(FlukeError, match=r"a k-fold run without oof\.npz \(fold0 begun\)"):
        load_run_scores(RunFolder(kfold))
    save_scores(kfold / "oof.npz", make())
    assert load_run_scores(RunFolder(kfold))[0].rows.tolist() == list(range(6))
    with pytest.raises(FlukeError, match=r"has 6 rows and .*single 2: 4 only in .*kfold"):
        load_aligned_scores([str(single), str(kfold)])
    save_scores(kfold / "oof.npz", make(rows=[1, 3]))
    with pytest.raises(FlukeError, match=r"kfold: no test scores \(scores_test\.npz\), which other runs have"):
        load_aligned_scores([str(single), str(kfold)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FlukeError, match="holds no scores"):
        load_run_scores(RunFolder(tmp_path / "empty"))
    save_scores(kfold / "oof.npz", replace(make(), target=IDENTITY))
    with pytest.raises(FlukeError, match="embeddings"):
        load_aligned_scores([str(kfold)])
