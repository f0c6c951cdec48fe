"""Prediction with what a run left: the run's own scores again, any table, without the recipe, several networks at once."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.metrics import accuracy_score, f1_score

from lib.errors import FlukeError
from lib.scores import alignment, decisions, score_file
from scripts import kfold, predict, train_classifier, train_embedding
from tests.conftest import paint


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, arguments: Callable[..., list[str]]) -> Path:
    out = tmp_path_factory.mktemp("predict") / "run"
    train_classifier.main(arguments(out, predict_tta="[hflip]"))
    return out


@pytest.fixture(scope="module")
def multi(tmp_path_factory: pytest.TempPathFactory, arguments: Callable[..., list[str]]) -> Path:
    """A run on a contest with several labels per image, 40 images and 10 to answer."""
    root = tmp_path_factory.mktemp("labels")
    rng = np.random.default_rng(0)
    names, test = paint(root / "images", list("abab") * 10, 1), paint(root / "images", list("ab") * 5, 2)
    labels = [" ".join(np.array(["x", "y", "z"])[rng.random(3) < [0.6, 0.3, 0.15]]) for _ in names]
    pd.DataFrame({"image": names, "label": labels}).to_csv(root / "train.csv", index=False)
    pd.DataFrame({"image": test, "label": ["x y"] * 10}).to_csv(root / "sample_submission.csv", index=False)
    out = root / "runs" / "run"
    train_classifier.main(arguments(out, data_root=root, data_label_separator=" ", objective_name="bce"))
    return out


def test_the_runs_own_test_again(run: Path, tmp_path: Path) -> None:
    assert predict.main(["--run", str(run), "--out", str(tmp_path / "out")]) == {}
    first, again = (score_file.load_scores(folder / "scores_test.npz") for folder in (run, tmp_path / "out"))
    np.testing.assert_array_equal(first.logits, again.logits)
    assert first.names == again.names
    assert (run / "submission.csv").read_bytes() == (tmp_path / "out" / "submission.csv").read_bytes()


def test_images_named_with_another_extension_are_the_samples_own(run: Path, contest: Path, tmp_path: Path) -> None:
    sample = pd.read_csv(contest / "sample_submission.csv")
    bare = sample["image"].str.removesuffix(".png").rename("image").to_frame()
    bare.to_csv(tmp_path / "bare.csv", index=False)
    predict.main(["--run", str(run), "--table", str(tmp_path / "bare.csv"), "--out", str(tmp_path / "out")])
    assert (tmp_path / "out" / "submission.csv").read_bytes() == (run / "submission.csv").read_bytes()


def test_any_table_without_the_recipe_and_its_metrics(run: Path, contest: Path, tmp_path: Path, capsys) -> None:
    model = tmp_path / "model.safetensors"
    shutil.copy(run / "best" / "model.safetensors", model)
    table = pd.read_csv(contest / "train.csv", dtype=str).rename(columns={"image": "file", "label": "what"})[::-2]
    table.loc[table.index[:3], "what"] = ["dog", "dog", "eel"]
    table.to_csv(tmp_path / "new.csv", index=False)
    argv = ["--run", str(model), "--table", str(tmp_path / "new.csv"), "--image_dir", str(contest / "images")]
    found = predict.main([*argv, "--image_column", "file", "--label_column", "what", "--out", str(tmp_path / "out")])
    made = score_file.load_scores(tmp_path / "out" / "scores_test.npz")
    assert made.names == table["file"].tolist()
    answers = [made.classes[c] for c in made.logits.argmax(1)]
    assert found["accuracy"] == pytest.approx(accuracy_score(table["what"][3:], answers[3:]))
    assert found["rows"] == 21
    assert "2 labels that the network doesn't know: 'dog' (2 images), 'eel' (1 images)" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["accuracy"] == found["accuracy"]
    assert not (tmp_path / "out" / "submission.csv").exists()


def test_a_folder_of_images_and_a_sample(run: Path, contest: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    names = paint(folder, ["ant", "cat", "bee"], 7)
    pd.DataFrame({"id": names[1:], "answer": "?"}).to_csv(tmp_path / "sample.csv", index=False)
    model = run / "best" / "model.safetensors"
    argv = ["--run", str(model), "--table", str(folder), "--sample", str(tmp_path / "sample.csv"), "--out", str(tmp_path / "out")]
    predict.main(argv)
    written = pd.read_csv(tmp_path / "out" / "submission.csv", dtype=str)
    made = score_file.load_scores(tmp_path / "out" / "scores_test.npz")
    assert written["id"].tolist() == names[1:]
    assert written["answer"].tolist() == [made.classes[c] for c in made.logits[1:].argmax(1)]


def test_the_recipes_sample_is_only_for_its_own_images(run: Path, contest: Path, tmp_path: Path, capsys) -> None:
    predict.main(["--run", str(run), "--table", str(contest / "train.csv"), "--out", str(tmp_path / "out")])
    assert "no submission: " in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["metrics.json", "scores_test.npz"]


def test_a_kfold_run_answers_with_the_mean_of_its_folds(arguments: Callable, tmp_path: Path, capsys) -> None:
    argv = arguments(tmp_path / "cv", folds_n=2, train_epochs=1)
    kfold.main([*argv, "--only", "0"])
    with pytest.raises(FlukeError, match="fold1 of its 2 folds have no weights yet"):
        predict.main(["--run", str(tmp_path / "cv"), "--out", str(tmp_path / "out")])
    kfold.main([*argv, "--resume"])
    predict.main(["--run", str(tmp_path / "cv"), "--out", str(tmp_path / "out")])
    both = [score_file.load_scores(tmp_path / name / "scores_test.npz").logits for name in ("cv", "out")]
    np.testing.assert_array_equal(*both)
    assert (tmp_path / "cv" / "submission.csv").read_bytes() == (tmp_path / "out" / "submission.csv").read_bytes()


def test_labels_are_given_by_thresholds_fitted_on_validation(multi: Path, tmp_path: Path, capsys) -> None:
    thresholds = json.loads((multi / "thresholds.json").read_text())
    val = score_file.load_scores(multi / "scores_val.npz")
    fitted = expit(decisions.fit_thresholds(val.logits, alignment.encode_targets(val)))
    assert [thresholds[label] for label in val.classes] == pytest.approx(fitted)
    predict.main(["--run", str(multi), "--out", str(tmp_path / "out")])
    assert "best F1 per label on validation rows" in capsys.readouterr().out
    for folder in (multi, tmp_path / "out"):
        test = score_file.load_scores(folder / "scores_test.npz")
        written = pd.read_csv(folder / "submission.csv", dtype=str)
        for row, answer in zip(expit(test.logits.astype(float)), written["label"]):
            over = [label for label, p in zip(test.classes, row) if p >= thresholds[label]]
            assert answer.split(" ") == (over or [test.classes[row.argmax()]])


def test_weights_alone_find_their_runs_thresholds(multi: Path, tmp_path: Path) -> None:
    copy, root = tmp_path / "run", multi.parents[1]
    shutil.copytree(multi, copy)
    (copy / "thresholds.json").write_text(json.dumps(dict.fromkeys("xyz", 1e-9)))
    argv = [
        "--table",
        str(root / "sample_submission.csv"),
        "--sample",
        str(root / "sample_submission.csv"),
        "--out",
        str(tmp_path / "out"),
    ]
    predict.main(["--run", str(copy / "best" / "model.safetensors"), *argv, "--image_dir", str(root / "images")])
    assert set(pd.read_csv(tmp_path / "out" / "submission.csv", dtype=str)["label"]) == {"x y z"}


def test_f1_is_measured_at_the_thresholds_that_labels_are_given_by(multi: Path, tmp_path: Path) -> None:
    train = pd.read_csv(multi.parents[1] / "train.csv", dtype=str)
    train["label"] = train["label"].fillna("")
    found = predict.main(["--run", str(multi), "--table", str(multi.parents[1] / "train.csv"), "--out", str(tmp_path / "out")])
    thresholds = json.loads((multi / "thresholds.json").read_text())
    answers = score_file.load_scores(tmp_path / "out" / "scores_test.npz")
    given = expit(answers.logits.astype(float)) >= [thresholds[label] for label in answers.classes]
    truth = [[label in cell.split(" ") for label in answers.classes] for cell in train["label"]]
    assert found["macro_f1"] == pytest.approx(f1_score(truth, given, average="macro"))
    assert found["micro_f1"] == pytest.approx(f1_score(truth, given, average="micro"))


def test_no_empty_answers_unless_they_are_allowed(multi: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "run"
    shutil.copytree(multi, copy)
    (copy / "thresholds.json").write_text(json.dumps(dict.fromkeys("xyz", 1.0)))
    predict.main(["--run", str(copy), "--out", str(tmp_path / "never")])
    answers = pd.read_csv(tmp_path / "never" / "submission.csv", dtype=str)["label"]
    assert answers.notna().all()
    recipe = (copy / "recipe.yaml").read_text()
    (copy / "recipe.yaml").write_text(recipe.replace("allow_empty: false", "allow_empty: true"))
    predict.main(["--run", str(copy), "--out", str(tmp_path / "allowed")])
    assert pd.read_csv(tmp_path / "allowed" / "submission.csv", dtype=str)["label"].isna().all()
    (copy / "thresholds.json").write_text('{"x": 0.5}')
    with pytest.raises(FlukeError, match="expected a probability for each of the 3 labels"):
        predict.main(["--run", str(copy), "--out", str(tmp_path / "bad")])


def test_embeddings_are_saved_and_say_who_answers(arguments: Callable, contest: Path, tmp_path: Path) -> None:
    fields = {"train_epochs": 1, "objective_name": "arcface", "data_new_label": "01"}
    train_embedding.main(arguments(tmp_path / "run", **fields))
    assert predict.main(["--run", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == {}
    made = score_file.load_scores(tmp_path / "out" / "scores_test.npz")
    assert made.target.outputs == "embeddings"
    np.testing.assert_allclose(np.linalg.norm(made.logits, axis=1), 1, atol=1e-5)
    with pytest.raises(FlukeError, match=r"retrieve\.py writes their submission"):
        predict.main(
            ["--run", str(tmp_path / "run"), "--sample", str(contest / "sample_submission.csv"), "--out", str(tmp_path / "b")]
        )


def test_bad_input_is_one_sentence_and_leaves_nothing(run: Path, contest: Path, tmp_path: Path) -> None:
    out, model = tmp_path / "out", run / "best" / "model.safetensors"

    def refused(sentence: str, *argv: object) -> None:
        with pytest.raises(FlukeError, match=sentence):
            predict.main([*map(str, argv), "--out", str(out)])
        assert not out.exists()

    refused("no such folder or file; is it a run", "--run", tmp_path / "none")
    refused("has no best/model.safetensors; is it a run", "--run", contest)
    refused("not a safetensors file|weights without a description", "--run", contest / "train.csv", "--table", contest / "images")
    refused("name a table or a folder with --table", "--run", model)
    refused("none.csv: No such file", "--run", model, "--table", tmp_path / "none.csv")
    refused("has no column 'file'", "--run", run, "--table", contest / "train.csv", "--image_column", "file")
    (tmp_path / "empty").mkdir()
    elsewhere = ("--image_dir", tmp_path / "empty")
    refused("48 of 48 images can't be read", "--run", model, "--table", contest / "train.csv", *elsewhere)
    short = pd.read_csv(contest / "sample_submission.csv", dtype=str)
    pd.concat([short, short[:1].assign(image="other.png")]).to_csv(tmp_path / "sample.csv", index=False)
    refused("1 of its 14 images have no prediction: 'other.png'", "--run", run, "--sample", tmp_path / "sample.csv")
    photos = tmp_path / "photos"
    paint(photos, ["ant", "bee"], 3)
    (photos / "torn.png").write_bytes((photos / "3_000.png").read_bytes()[:300])
    refused(r"1 of 3 images can't be read: 'torn.png'", "--run", model, "--table", photos)
    with pytest.raises(FlukeError, match=r"holds recipe.yaml and scores_test.npz and submission.csv already"):
        predict.main(["--run", str(run), "--out", str(run)])


def test_data_that_has_moved_is_said(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    recipe = (moved / "recipe.yaml").read_text()
    root = next(line.split(": ", 1)[1] for line in recipe.splitlines() if line.startswith("  root:"))
    (moved / "recipe.yaml").write_text(recipe.replace(root, "/no/such/folder"))
    with pytest.raises(FlukeError, match=r"data.root /no/such/folder isn't there, .* with --table, --image_dir and --sample"):
        predict.main(["--run", str(moved), "--out", str(tmp_path / "out")])
