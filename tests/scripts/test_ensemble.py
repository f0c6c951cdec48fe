"""scripts/ensemble.py from run folders to a submission."""

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.metrics import f1_score

from lib.errors import FlukeError
from lib.metrics.registry import METRICS
from lib.scores import averaging, combination
from lib.scores.alignment import align_scores
from lib.scores.decisions import OFFSET_METRICS
from lib.scores.score_file import Scores, load_scores, save_scores
from lib.tables.target import ONE_LABEL, SEVERAL_LABELS
from scripts import ensemble
from tests.scores.synthetic import labels, members

accuracy = METRICS["accuracy"].function


def write_runs(root: Path, z, targets, multi=False, test=True, names=None):
    classes = tuple("abcdefgh"[: z[0].shape[1]])
    for k, m in enumerate(z):
        half = len(m) // 2
        for name, rows in (("oof.npz", np.arange(half)), ("scores_test.npz", np.arange(half, len(m)))):
            if name == "oof.npz" or test:
                true = [tuple(classes[c] for c in np.flatnonzero(targets[r])) if multi else (classes[targets[r]],) for r in rows]
                known = true if name == "oof.npz" else None
                save_scores(
                    root / f"r{k}" / name,
                    Scores(
                        rows,
                        [f"{r}.jpg" for r in rows],
                        classes,
                        m[rows],
                        known,
                        SEVERAL_LABELS if multi else ONE_LABEL,
                        {"run": f"r{k}"},
                    ),
                )
    return [str(root / f"r{k}") for k in range(len(z))]


def recipe(run: str, sample: str, **predict):
    path = Path(run) / "sample.csv"
    path.write_text(sample)
    fields = {"data": {"root": run, "sample_submission": "sample.csv"}, "predict": predict}
    (Path(run) / "recipe.yaml").write_text(json.dumps(fields))


@pytest.mark.parametrize("method", ["mean", "rank", "weighted", "greedy", "optimal", "stack_lr"])
def test_script_from_runs_to_submission(tmp_path, method, capsys):
    z, targets = members(n=600)
    runs = write_runs(tmp_path, z, targets)
    recipe(runs[0], "image,label\n" + "".join(f"{r},a\n" for r in range(599, 299, -1)))
    found = ensemble.main(["--runs", *runs, "--method", method, "--out", str(tmp_path / "ens")])
    out = tmp_path / "ens"
    written = {"ensemble.json", "oof.npz", "scores_test.npz", "submission.csv", "recipe.yaml", "report.html"}
    assert {p.name for p in out.iterdir()} == written
    assert json.loads((out / "ensemble.json").read_text())["score"] == found["score"]
    assert found["score"] == accuracy(load_scores(out / "oof.npz").logits, targets[:300])
    assert found["score"] > accuracy(z[0][:300], targets[:300]) - 0.02
    on_test, on_rows = (found["score"] - found[name][0] for name in ("test_interval", "interval"))
    assert on_test == pytest.approx(on_rows * np.sqrt(2))  # as many test images as rows
    test = load_scores(out / "scores_test.npz")
    assert accuracy(test.logits, targets[300:]) == pytest.approx(found["score"], abs=0.04)
    lines = (out / "submission.csv").read_text().splitlines()
    assert lines[0] == "image,label"
    assert lines[1] == f"599,{test.classes[test.logits[-1].argmax()]}"
    printed = capsys.readouterr().out
    for words in (runs[2], "95% interval", "on rows that nothing was fitted on", f"{found['disagreement'][0][1]:.1%}", "gain"):
        assert words in printed
    again = ensemble.main(["--runs", str(out), runs[1], "--method", "mean", "--out", str(tmp_path / "twice")])
    assert again["members"][0]["score"] == found["score"]  # an ensemble is a run


def test_script_with_several_labels_and_thresholds(tmp_path):
    z, targets = labels(n=600)
    runs = write_runs(tmp_path, z, targets, multi=True)
    recipe(runs[0], "image,labels\n" + "".join(f"{r}.jpg,a\n" for r in range(300, 600)), separator="|")
    plain = ensemble.main(["--runs", *runs, "--method", "mean", "--metric", "macro_f1", "--out", str(tmp_path / "a")])
    tuned = ensemble.main(
        ["--runs", *runs, "--method", "mean", "--metric", "macro_f1", "--thresholds", "--out", str(tmp_path / "b")]
    )
    assert tuned["score"] > plain["score"]
    assert tuned["fitted_score"] >= tuned["score"]
    test = load_scores(tmp_path / "b" / "scores_test.npz")
    row = np.flatnonzero((test.logits >= 0).sum(axis=1) > 1)[0]
    line = (tmp_path / "b" / "submission.csv").read_text().splitlines()[1 + row]
    assert line == f"{300 + row}.jpg," + "|".join(c for c, given in zip(test.classes, test.logits[row] >= 0) if given)


def test_thresholds_are_no_gain_of_combining(tmp_path):
    """Two equal runs whose labels never reach a probability of 1/2: combining gains nothing, thresholds gain everything."""
    z, targets = labels(n=600)
    runs = write_runs(tmp_path, [z[0] - 8, z[0] - 8], targets, multi=True)
    argv = ["--runs", *runs, "--method", "mean", "--metric", "macro_f1", "--thresholds", "--out", str(tmp_path / "a")]
    found = ensemble.main(argv)
    assert found["members"][0]["score"] == pytest.approx(found["score"])
    assert found["score"] > 0.5
    assert found["gain"] == pytest.approx(0)


def test_groups_of_one_run_apply_to_all(tmp_path):
    z, targets = members(n=400)
    runs = write_runs(tmp_path, z, targets)
    grouped = load_scores(tmp_path / "r1" / "oof.npz")
    save_scores(tmp_path / "r1" / "oof.npz", replace(grouped, groups=[f"s{row // 8}" for row in grouped.rows]))
    argv = ["--method", "weighted", "--runs"]
    first = ensemble.main([*argv, *runs, "--out", str(tmp_path / "a")])
    turned = ensemble.main([*argv, *runs[::-1], "--out", str(tmp_path / "b")])
    assert load_scores(tmp_path / "a" / "oof.npz").groups == [f"s{row // 8}" for row in grouped.rows]
    assert first["inner_folds"] == turned["inner_folds"] == "5, random, of whole groups"
    assert [m["interval"] for m in first["members"]] == [m["interval"] for m in turned["members"]][::-1]


def test_script_writes_the_five_best_labels(tmp_path):
    z, targets = members(n=200)
    runs = write_runs(tmp_path, z, targets)
    recipe(runs[0], "Image,Id\n" + "".join(f"{r}.jpg,a b c d e\n" for r in range(100, 200)))
    ensemble.main(["--runs", *runs, "--metric", "map@5", "--method", "vote", "--out", str(tmp_path / "ens")])
    test = load_scores(tmp_path / "ens" / "scores_test.npz")
    best = [test.classes[c] for c in np.argsort(-test.logits[0], kind="stable")[:5]]
    assert (tmp_path / "ens" / "submission.csv").read_text().splitlines()[1] == "100.jpg," + " ".join(best)


def test_script_with_a_specialist(tmp_path):
    """A run with three classes, on which it is better than the first run, helps, whatever its scores of other images."""
    z, targets = members(n=1200, skills=(0.8, 1.8))
    runs = write_runs(tmp_path, z, targets)
    for name in ("oof.npz", "scores_test.npz"):
        scores = load_scores(tmp_path / "r1" / name)
        save_scores(tmp_path / "r1" / name, replace(scores, classes=("f", "d", "e"), logits=scores.logits[:, [5, 3, 4]]))
    found = ensemble.main(["--runs", *runs, "--method", "mean_prob", "--out", str(tmp_path / "ens")])
    assert found["gain_interval"][0] > 0 or found["best_member"] == runs[1]
    assert found["members"][1]["score"] > found["members"][0]["score"] + 0.02


def test_script_combines_test_scores_alone_where_nothing_is_fitted(tmp_path):
    z, targets = members(n=40)
    runs = write_runs(tmp_path, z, targets)
    for run in runs:
        (Path(run) / "oof.npz").unlink()
    found = ensemble.main(["--runs", *runs, "--method", "mean", "--out", str(tmp_path / "ens")])
    assert "score" not in found
    np.testing.assert_allclose(
        load_scores(tmp_path / "ens" / "scores_test.npz").logits, np.mean([m[20:] for m in z], axis=0), rtol=1e-5
    )
    for extra in (["--method", "greedy"], ["--method", "mean", "--temperature"]):
        with pytest.raises(FlukeError, match="needs out-of-fold scores"):
            ensemble.main(["--runs", *runs, *extra, "--out", str(tmp_path / "other")])


def test_the_folds_of_the_first_run_are_the_inner_folds(tmp_path):
    z, targets = members(n=100)
    runs = write_runs(tmp_path, z, targets, test=False)
    (tmp_path / "r0" / "folds.csv").write_text("image,fold\n" + "".join(f"{r}.jpg,{r % 3}\n" for r in range(50)))
    found = ensemble.main(["--runs", *runs, "--out", str(tmp_path / "ens")])
    assert found["inner_folds"] == str(tmp_path / "r0" / "folds.csv")


def test_bad_input_is_refused_in_a_sentence_and_overwrites_nothing(tmp_path):
    z, targets = members(n=100)
    runs = write_runs(tmp_path, z, targets)
    out = tmp_path / "ens"
    ensemble.main(["--runs", *runs, "--out", str(out)])
    before = {p.name: p.read_bytes() for p in out.iterdir()}

    def refused(sentence, *options, where=out):
        with pytest.raises(FlukeError, match=sentence) as error:
            ensemble.main(["--runs", *runs, "--out", str(where), *options])
        assert "\n" not in str(error.value)
        assert {p.name: p.read_bytes() for p in out.iterdir()} == before
        assert not (tmp_path / "new").exists()

    new = tmp_path / "new"
    refused("is there already, and not empty")
    refused("--thresholds: doesn't fit one label per image; use --offsets", "--thresholds", where=new)
    refused("Unknown metric 'acuracy'; did you mean accuracy", "--metric", "acuracy", where=new)
    refused("macro_map doesn't fit one label per image", "--metric", "macro_map", where=new)
    refused("--metric loss: is computed in training only", "--metric", "loss", where=new)
    refused("did you mean greedy", "--method", "gredy", where=new)
    recipe(runs[0], "image,label\nelsewhere.jpg,a\n")
    refused("no prediction: 'elsewhere.jpg'", where=new / "never")
    (Path(runs[0]) / "recipe.yaml").unlink()
    (tmp_path / "r1" / "fold0").mkdir()
    (tmp_path / "r1" / "oof.npz").unlink()
    refused(r"a k-fold run without oof\.npz", where=new)


def test_nothing_is_overwritten(tmp_path):
    z, targets = members(n=60)
    runs, out = write_runs(tmp_path, z, targets), tmp_path / "predictions"
    out.mkdir()
    (out / "scores_test.npz").write_bytes(b"of predict.py")
    with pytest.raises(FlukeError, match="predictions: is there already, and not empty"):
        ensemble.main(["--runs", *runs, "--out", str(out)])
    assert (out / "scores_test.npz").read_bytes() == b"of predict.py"


def test_choices_of_the_command_line_are_the_registries():
    assert tuple(combination.METHODS) == ensemble.METHODS
    assert tuple(OFFSET_METRICS) == ensemble.OFFSET_METRICS


@pytest.mark.parametrize("options", [["--help"], ["--runs", "nowhere"], ["--runs", "a", "--metod", "mean"]])
def test_help_and_errors_are_answered_before_scikit_learn_is_imported(options):
    code = f"""
import sys
from lib.errors import FlukeError
from scripts import ensemble
try:
    ensemble.main({options!r})
except (FlukeError, SystemExit) as stop:
    print(stop)
assert not {{"sklearn", "scipy", "torch", "pandas"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2], capture_output=True)


def test_groups_stay_together_in_the_evaluation_of_a_fit(tmp_path):
    """Six images per sighting, whose label is random: a stack fitted on some of them predicts the others' label."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 6)
    targets = rng.integers(0, 4, 60)[groups]
    z = [(rng.normal(size=(60, 4))[groups] + 0.1 * rng.normal(size=(360, 4))).astype(np.float32) for _ in range(3)]
    runs = write_runs(tmp_path, [np.concatenate([m, m]) for m in z], np.concatenate([targets, targets]), test=False)
    by_row = ensemble.main(["--runs", *runs, "--method", "stack_gb", "--out", str(tmp_path / "by_row")])
    for run in runs:
        found = load_scores(Path(run) / "oof.npz")
        save_scores(Path(run) / "oof.npz", replace(found, groups=[f"sighting {g}" for g in groups]))
    by_group = ensemble.main(["--runs", *runs, "--method", "stack_gb", "--out", str(tmp_path / "by_group")])
    assert by_row["score"] > 0.8  # the leak
    assert by_group["score"] < 0.5  # nothing can be known
    assert by_group["inner_folds"] == "5, random, of whole groups"
    widths = [np.ptp(found["members"][0]["interval"]) for found in (by_row, by_group)]
    assert widths[1] > 1.8 * widths[0]
    assert load_scores(tmp_path / "by_group" / "oof.npz").groups[:7] == ["sighting 0"] * 6 + ["sighting 1"]


def test_thresholds_keep_the_order_within_a_label(tmp_path):
    z, targets = labels(n=600)
    runs = write_runs(tmp_path, z, targets, multi=True, test=False)
    argv = ["--runs", *runs, "--method", "mean", "--metric", "macro_map"]
    plain = ensemble.main([*argv, "--out", str(tmp_path / "a")])
    tuned = ensemble.main([*argv, "--thresholds", "--temperature", "--out", str(tmp_path / "b")])
    assert tuned["score"] == plain["score"] == pytest.approx(tuned["fitted_score"], abs=1e-6)
    assert ensemble.main(["--runs", *runs, "--thresholds", "--out", str(tmp_path / "c")])["metric"] == "macro_f1"


def test_label_lists_of_an_ensemble_use_fitted_thresholds(tmp_path, capsys):
    z, targets = labels(n=600)
    runs = write_runs(tmp_path, [m - 3 for m in z], targets, multi=True)  # few reach a probability of 1/2
    recipe(runs[0], "image,labels\n" + "".join(f"{r}.jpg,a\n" for r in range(300, 600)), separator="|")
    ensemble.main(["--runs", *runs, "--method", "mean", "--out", str(tmp_path / "ens")])
    given = [line.split(",")[1].split("|") for line in (tmp_path / "ens" / "submission.csv").read_text().splitlines()[1:]]
    classes = load_scores(tmp_path / "ens" / "scores_test.npz").classes
    predicted = np.array([[c in row for c in classes] for row in given])
    untuned = expit(load_scores(tmp_path / "ens" / "scores_test.npz").logits) >= 0.5
    truth = targets[300:]
    assert f1_score(truth, predicted, average="macro") > f1_score(truth, untuned, average="macro", zero_division=0) + 0.1
    assert "thresholds of the labels: probability " in capsys.readouterr().out


@pytest.mark.parametrize("script", ["train_classifier", "kfold"])
def test_a_specialist_is_split_like_the_first_run_and_scores_every_held_out_row(
    tmp_path: Path, arguments: Callable[..., list[str]], script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main = importlib.import_module(f"scripts.{script}").main
    first, second = tmp_path / "first", tmp_path / "second"
    fields = {"train_epochs": 1, "folds_n": 2, "data_min_images": 5}
    main(arguments(first, **fields))
    main(arguments(second, data_only_classes="[ant, bee]", **fields))
    name = "oof.npz" if script == "kfold" else "scores_val.npz"
    general, specialist = load_scores(first / name), load_scores(second / name)
    assert sorted(specialist.rows) == sorted(general.rows)
    assert set(specialist.labels or []) == {("ant",), ("bee",), ("cat",)}
    assert specialist.classes == ("ant", "bee")
    result = json.loads((second / ("cv.json" if script == "kfold" else "metrics.json")).read_text())
    assert result["rows"] == sum(label != ("cat",) for label in specialist.labels or [])  # measured on its own classes only
    assert not (second / "submission.csv").exists()
    assert "images of other classes are scored in validation but not trained on" in capsys.readouterr().out
    found = ensemble.main(["--runs", str(first), str(second), "--method", "mean_prob", "--out", str(tmp_path / "both")])
    assert len(found["members"]) == 2
    assert (tmp_path / "both" / "submission.csv").exists()
    p, q = (softmax(m, axis=1) for m in (general.logits, averaging.extend_members(align_scores([general, specialist]))[1]))
    np.testing.assert_allclose(q[:, :2].sum(axis=1), p[:, :2].sum(axis=1), atol=1e-6)  # their probability is the first run's
    np.testing.assert_allclose(q[:, 2], p[:, 2], atol=1e-6)
