"""A k-fold run: nothing leaks between folds, what is summed up is right, and a run that was cut goes on to the same files."""

import gc
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState
from scipy.special import expit
from sklearn.metrics import average_precision_score

from lib.errors import FlukeError, Interrupted
from lib.images.decoding import decode
from lib.metrics.intervals import bootstrap_interval
from lib.models.network import Network
from lib.pipelines import folds_result, run_result, run_tables, train
from lib.pipelines import kfold as kfold_pipeline
from lib.reports import run_page
from lib.scores import alignment, score_file
from lib.training import loop
from lib.training.run import Run
from scripts import kfold, predict, train_classifier

FOLD = ("best/model.safetensors", "metrics.json", "scores_val.npz")
WHOLE = ("folds.csv", "oof.npz", "cv.json", "scores_test.npz", "submission.csv")


def contents(folder: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names}


def make_argv(arguments: Callable[..., list[str]], out: Path, **fields: object) -> list[str]:
    return arguments(out, **({"folds_n": 3, "train_epochs": 2, "model_dropout": 0.2} | fields))


@pytest.fixture(scope="module", autouse=True)
def _no_reports() -> Iterator[None]:
    """Half of a tiny fold's time goes into drawing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_result, "write_run_page", lambda *_: None)
        patch.setattr(folds_result, "write_folds_page", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, arguments: Callable[..., list[str]]) -> Path:
    """A finished run of three folds. Its last folder name is always `run`, for files tell the name."""
    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folds_result, "write_folds_page", run_page.write_folds_page)
        kfold.main(make_argv(arguments, out))
    return out


def test_a_fold_alone_is_the_same_to_the_last_bit(whole: Path, arguments: Callable, tmp_path: Path, capsys) -> None:
    argv = make_argv(arguments, tmp_path / "run")
    assert kfold.main([*argv, "--only", "2"]) == {}
    assert "need all 3 folds, and 0, 1 are missing" in capsys.readouterr().out
    assert contents(tmp_path / "run" / "fold2", FOLD) == contents(whole / "fold2", FOLD)
    assert sorted(path.name for path in (tmp_path / "run").glob("fold*")) == ["fold2", "folds.csv"]
    kfold.main([*argv, "--resume", "--only", "0", "1"])
    assert contents(tmp_path / "run", WHOLE) == contents(whole, WHOLE)


def test_page_shows_every_out_of_fold_row(whole: Path) -> None:
    page, cv = (whole / "report.html").read_text(), json.loads((whole / "cv.json").read_text())
    assert f"{cv['pooled']:.4f}" in page
    assert f"accuracy over 3 folds: mean {cv['mean']:.4f}, spread {cv['spread']:.4f}" in page
    assert all(f"{value:.3f}" in page for value in cv["per_fold"])
    oof = score_file.load_scores(whole / "oof.npz")
    right = oof.logits.argmax(1) == alignment.encode_targets(oof)
    shown = [name in page for name in oof.names]
    assert shown == (~right).tolist()  # every mistake, from whichever fold


def test_what_is_summed_up(whole: Path, contest: Path) -> None:
    oof, cv = score_file.load_scores(whole / "oof.npz"), json.loads((whole / "cv.json").read_text())
    truth = pd.read_csv(contest / "train.csv", dtype=str)
    folds = pd.read_csv(whole / "folds.csv")
    assert oof.names == truth["image"].tolist() == folds["image"].tolist()
    assert [label for (label,) in oof.labels or []] == truth["label"].tolist()
    of_fold = []
    for k in range(3):
        val = score_file.load_scores(whole / f"fold{k}" / "scores_val.npz")
        held = np.flatnonzero(folds["fold"] == k)
        assert sorted(val.rows.tolist()) == held.tolist()
        np.testing.assert_array_equal(oof.logits[val.rows], val.logits)
        of_fold.append(np.mean([oof.classes[c] for c in val.logits.argmax(1)] == truth["label"].to_numpy()[val.rows]))
        assert not (whole / f"fold{k}" / "scores_test.npz").exists()
    assert cv["per_fold"] == pytest.approx(of_fold)
    assert cv["mean"] == pytest.approx(np.mean(of_fold))
    assert cv["spread"] == pytest.approx(np.std(of_fold, ddof=1))
    assert cv["pooled"] == pytest.approx(np.mean([oof.classes[c] for c in oof.logits.argmax(1)] == truth["label"]))
    assert cv["interval"][0] <= cv["pooled"] <= cv["interval"][1]
    assert cv["test_interval"][0] < cv["interval"][0]


def test_test_scores_are_the_mean_of_what_each_fold_says_and_each_image_is_read_once(
    whole: Path, arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = make_argv(arguments, tmp_path / "run")
    kfold.main([*argv, "--only", "0", "1"])
    reads: list[Path] = []
    monkeypatch.setattr("lib.images.dataset.decode", lambda path, *given: reads.append(path) or decode(path, *given))
    kfold.main([*argv, "--resume"])
    test_images = [path for path in reads if path.name.startswith("2_")]
    assert len(test_images) == len(set(test_images)) == 13
    alone = []
    for k in range(3):
        predict_argv = ["--run", str(whole / f"fold{k}"), "--out", str(tmp_path / f"alone{k}")]
        predict.main(predict_argv)
        alone.append(score_file.load_scores(tmp_path / f"alone{k}" / "scores_test.npz").logits)
    np.testing.assert_allclose(score_file.load_scores(whole / "scores_test.npz").logits, np.mean(alone, axis=0), atol=1e-6)


def test_a_signal_saves_and_the_run_goes_on(
    whole: Path, arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = make_argv(arguments, tmp_path / "run")
    calls, real = [0], loop.schedule_factor

    def signalled(*args: object) -> float:
        calls[0] += 1
        if calls[0] == 11:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "schedule_factor", signalled)
        with pytest.raises(Interrupted, match=r"in fold 1; go on with: --out \S*/run --resume"):
            kfold.main(argv)
    kfold.main([*argv, "--resume"])
    assert contents(tmp_path / "run", WHOLE) == contents(whole, WHOLE)


def test_a_signal_after_a_folds_last_step_stops_before_the_next(
    whole: Path, arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = make_argv(arguments, tmp_path / "run")

    def signalled(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(run_result, "write_run_page", signalled)
    with pytest.raises(Interrupted, match="in fold 1"):
        kfold.main(argv)
    assert not (tmp_path / "run" / "fold1").exists()


def test_the_time_limit_is_for_all_folds_and_resuming_ends_the_same(
    whole: Path, arguments: Callable, tmp_path: Path, capsys
) -> None:
    argv = make_argv(arguments, tmp_path / "run")
    result = kfold.main([*argv, "--train.max_minutes", "0.01"])
    assert len(result["per_fold"]) == 3
    assert (tmp_path / "run" / "submission.csv").exists()
    assert not (tmp_path / "run" / "cv.json").exists()
    assert f"go on with: --out {tmp_path / 'run'} --resume" in capsys.readouterr().out
    kfold.main([*argv, "--resume"])
    assert contents(tmp_path / "run", WHOLE) == contents(whole, WHOLE)


def test_time_left_is_shared_among_the_folds_to_come(
    whole: Path, arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float, int]] = []
    now = [1000.0]
    monkeypatch.setattr("lib.pipelines.kfold.time.monotonic", lambda: now[0])
    monkeypatch.setattr("lib.pipelines.runs.time.monotonic", lambda: now[0])
    monkeypatch.setattr(kfold_pipeline, "train_run", lambda recipe, run, target, fold: _record(seen, now, run, fold))
    with pytest.raises(FlukeError):  # there are no scores to sum up
        kfold.main([*make_argv(arguments, tmp_path / "run"), "--train.max_minutes", "10"])
    assert seen == [(1000 + 600 / 3, 13), (1060 + 540 / 2, 20), (1120 + 480, 39)]


def _record(seen: list, now: list[float], run: Run, fold: run_tables.Fold) -> dict[str, object]:
    seen.append((run.deadline, fold.images_to_predict))
    now[0] += 60
    return {"metric": "accuracy", "accuracy": 0.5}


def test_a_finished_run_is_left_as_it_is(whole: Path, arguments: Callable, capsys) -> None:
    before = contents(whole, WHOLE)
    assert kfold.main([*make_argv(arguments, whole), "--resume"]) == json.loads(before["cv.json"])
    assert "finished already" in capsys.readouterr().out
    assert contents(whole, WHOLE) == before


def test_bad_input_is_one_sentence(whole: Path, arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = make_argv(arguments, whole)
    with pytest.raises(FlukeError, match=r"--only 3 7: with folds\.n 3, folds are 0 to 2"):
        kfold.main([*argv, "--only", "0", "3", "7"])
    with pytest.raises(FlukeError, match="holds a run already"):
        kfold.main(argv)
    with pytest.raises(FlukeError, match=r"another recipe; .*folds.n \(now 4, was 3\)"):
        kfold.main([*argv, "--resume", "--folds.n", "4"])
    with pytest.raises(FlukeError, match=r"belongs to a k-fold run; kfold\.py --out"):
        train_classifier.main([*argv, "--resume"])
    with pytest.raises(FlukeError, match=r"belongs to a k-fold run; kfold\.py --out"):
        train_classifier.main([*make_argv(arguments, whole / "fold1"), "--resume"])
    single = make_argv(arguments, tmp_path / "single", train_limit_rows=8)
    train_classifier.main(single)
    with pytest.raises(FlukeError, match="no k-fold run"):
        kfold.main([*single, "--resume"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FlukeError, match=r"no unfinished k-fold run runs/run-\*"):
        kfold.main([*argv[2:], "--resume"])


def test_another_table_or_kind_is_refused_on_resume(arguments: Callable, contest: Path, tmp_path: Path) -> None:
    root = tmp_path / "contest"
    shutil.copytree(contest, root)
    argv = make_argv(arguments, tmp_path / "run", data_root=root, train_epochs=1)
    kfold.main([*argv, "--only", "1"])
    with pytest.raises(FlukeError, match="of kind classifier; go on with --kind classifier"):
        kfold.main([*argv, "--resume", "--kind", "embedding"])
    table = pd.read_csv(root / "train.csv", dtype=str)
    table[1:].to_csv(root / "train.csv", index=False)
    with pytest.raises(FlukeError, match=r"folds.csv: \d+ images had another fold, or none, when this run began \('?1_000.png"):
        kfold.main([*argv, "--resume"])


def test_folds_of_another_run_are_not_pooled(whole: Path, arguments: Callable, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    (out / "cv.json").unlink()
    shutil.rmtree(out / "fold1")
    shutil.copytree(out / "fold0", out / "fold1")
    before = contents(out, ("oof.npz", "submission.csv"))
    with pytest.raises(FlukeError, match="hold each of the 48 training rows once"):
        kfold.main([*make_argv(arguments, out), "--resume"])
    assert contents(out, ("oof.npz", "submission.csv")) == before


def test_a_sample_that_does_not_fit_is_said_before_training(arguments: Callable, contest: Path, tmp_path: Path) -> None:
    root = tmp_path / "contest"
    shutil.copytree(contest, root)
    sample = pd.read_csv(root / "sample_submission.csv", dtype=str)
    sample.assign(more="x").to_csv(root / "sample_submission.csv", index=False)
    with pytest.raises(FlukeError, match="the 2 columns besides the image names are not the 4 classes"):
        kfold.main(make_argv(arguments, tmp_path / "run", data_root=root))
    assert not (tmp_path / "run" / "fold0").exists()


def test_a_dry_run_goes_through_everything(arguments: Callable, tmp_path: Path) -> None:
    result = kfold.main(make_argv(arguments, tmp_path / "run", train_limit_rows=8, train_epochs=1))
    assert result["rows"] == len(score_file.load_scores(tmp_path / "run" / "oof.npz").names) == 24
    assert len(score_file.load_scores(tmp_path / "run" / "scores_test.npz").names) == 8
    assert not (tmp_path / "run" / "submission.csv").exists()


def test_several_labels_in_the_users_own_folds(arguments: Callable, contest: Path, tmp_path: Path) -> None:
    table = pd.read_csv(contest / "train.csv", dtype=str)
    table["label"] = [label if i % 3 else f"{label} cat" if label != "cat" else "cat ant" for i, label in enumerate(table["label"])]
    own = pd.DataFrame({"image": table["image"], "fold": np.arange(len(table)) // 24})
    table.to_csv(tmp_path / "train.csv", index=False)
    own.to_csv(tmp_path / "own.csv", index=False)
    fields = {"folds_n": 2, "train_epochs": 1, "data_label_separator": " ", "objective_name": "bce", "predict_submission": "labels"}
    paths = {"data_train_csv": tmp_path / "train.csv", "folds_csv": tmp_path / "own.csv"}
    result = kfold.main(make_argv(arguments, tmp_path / "run", **fields, **paths))
    oof = score_file.load_scores(tmp_path / "run" / "oof.npz")
    assert oof.labels == [tuple(sorted(row.split(), key=row.split().index)) for row in table["label"]]
    for k in (0, 1):
        of_fold = score_file.load_scores(tmp_path / "run" / f"fold{k}" / "scores_val.npz")
        assert sorted(of_fold.names) == sorted(own["image"][own["fold"] == k])
    assert result["pooled"] == pytest.approx(
        average_precision_score([[c in row for c in oof.classes] for row in oof.labels], oof.logits, average="macro")
    )
    given = json.loads((tmp_path / "run" / "thresholds.json").read_text())
    test = score_file.load_scores(tmp_path / "run" / "scores_test.npz")
    least = np.array([given[c] for c in test.classes])
    answers = pd.read_csv(tmp_path / "run" / "submission.csv", dtype=str).set_index("image")["label"]
    for name, row in zip(test.names, expit(test.logits.astype(np.float64))):
        chosen = row >= least if (row >= least).any() else row == row.max()
        assert answers[name] == " ".join(np.array(test.classes)[chosen])


def test_groups_stay_together_in_folds_and_interval(arguments: Callable, contest: Path, tmp_path: Path) -> None:
    names = pd.read_csv(contest / "train.csv", dtype=str)["image"]
    pd.DataFrame({"image": names, "group": np.arange(len(names)) // 6}).to_csv(tmp_path / "groups.csv", index=False)
    fields = {"folds_n": 2, "train_epochs": 1, "folds_group_csv": tmp_path / "groups.csv"}
    result = kfold.main(make_argv(arguments, tmp_path / "run", **fields))
    folds = pd.read_csv(tmp_path / "run" / "folds.csv")["fold"].to_numpy()
    assert all(len(set(folds[start : start + 6])) == 1 for start in range(0, len(names), 6))
    oof = score_file.load_scores(tmp_path / "run" / "oof.npz")
    answers = "accuracy", oof.logits, alignment.encode_targets(oof)
    assert result["interval"] == bootstrap_interval(answers, groups=np.arange(len(names)) // 6)
    assert result["interval"] != bootstrap_interval(answers)


def test_a_dry_run_of_unequal_folds(arguments: Callable, contest: Path, tmp_path: Path) -> None:
    """Four groups of seven or less make three unequal folds: all the same each row is out of fold once."""
    names = pd.read_csv(contest / "train.csv", dtype=str)["image"]
    pd.DataFrame({"image": names, "group": np.arange(len(names)) // 14}).to_csv(tmp_path / "groups.csv", index=False)
    fields = {"train_limit_rows": 8, "train_epochs": 1, "folds_group_csv": tmp_path / "groups.csv"}
    result = kfold.main(make_argv(arguments, tmp_path / "run", **fields))
    assert result["rows"] == 24
    assert len({fold["rows"] for fold in result["folds"]}) > 1


def test_finished_folds_and_others_train_alike(arguments: Callable, tmp_path: Path) -> None:
    argv = make_argv(arguments, tmp_path / "run", train_epochs=1)
    kfold.main([*argv, "--only", "0"])
    with pytest.raises(FlukeError, match="fold0: finished with train.epochs 1, not 3; all folds are treated alike"):
        kfold.main([*argv, "--resume", "--train.epochs", "3"])
    with pytest.raises(FlukeError, match=r"these may not change: predict.tta \(now \['hflip'\], was \[\]\)"):
        kfold.main([*argv, "--resume", "--predict.tta", "[hflip]"])


def test_epochs_may_change_while_no_fold_is_finished(arguments: Callable, tmp_path: Path) -> None:
    kfold.main([*make_argv(arguments, tmp_path / "run", train_epochs=3), "--only", "0", "--train.max_minutes", "0.001"])
    assert not (tmp_path / "run" / "fold0" / "metrics.json").exists()
    argv = make_argv(arguments, tmp_path / "run", train_epochs=2)
    kfold.main([*argv, "--resume", "--only", "0"])
    assert kfold.main([*argv, "--resume"])["folds"][0]["epochs"] == 2
    assert yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["train"]["epochs"] == 2


def test_a_fold_without_the_classes_to_be_trained_is_named_before_any_training(
    arguments: Callable, contest: Path, tmp_path: Path
) -> None:
    table = pd.read_csv(contest / "train.csv", dtype=str)
    some = sorted(table["label"].unique())[:2]
    folds = np.where(table["label"].isin(some), np.arange(len(table)) % 2, np.arange(len(table)) % 3)
    pd.DataFrame({"image": table["image"], "fold": folds}).to_csv(tmp_path / "folds.csv", index=False)
    argv = make_argv(arguments, tmp_path / "run", folds_csv=tmp_path / "folds.csv")
    with pytest.raises(FlukeError, match="fold 2 holds no image of the 2 classes to be trained"):
        kfold.main([*argv, "--data.only_classes", f"[{', '.join(map(repr, some))}]"])
    assert not (tmp_path / "run" / "fold0").exists()


def test_folds_leave_no_network_in_memory_and_share_one_cache(
    arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, alive = train.train_run, []

    def count() -> int:
        return sum(type(thing) in (Network, AcceleratedOptimizer) for thing in gc.get_objects())

    def counting(*args: object) -> object:
        alive.append(count())
        return real(*args)

    monkeypatch.setattr(kfold_pipeline, "train_run", counting)
    gc.collect()
    before = count()
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")  # whose wrappers make cycles
    AcceleratorState._reset_state(reset_partial_state=True)
    gc.disable()  # or small folds' many objects would go by themselves; a large one's tensors are few
    try:
        kfold.main(make_argv(arguments, tmp_path / "run", data_cache_dir=tmp_path / "cache", train_epochs=1))
    finally:
        gc.enable()
        AcceleratorState._reset_state(reset_partial_state=True)
    assert alive == [before] * 3
    (index,) = (tmp_path / "cache").glob("*/pictures.npz")
    with np.load(index) as stored:
        assert len(stored["entries"]) == 13 + 48  # the test images, and the training images of all folds, once


@pytest.mark.parametrize("keep", ["best", "last"])
def test_a_score_that_chose_its_epoch_is_called_too_high(keep: str) -> None:
    said = folds_result.describe_folds_result(
        {"keep": keep, **folds_result.summarise([{"metric": "accuracy", "accuracy": a} for a in (0.5, 0.7)])}
    )
    assert "accuracy over folds: 0.6000, spread 0.1414" in said
    assert ("slightly too high" in said) == (keep == "best")


def test_folds_of_embeddings_have_metrics_only(arguments: Callable, tmp_path: Path, capsys) -> None:
    argv = make_argv(arguments, tmp_path / "run", folds_n=2, train_epochs=1, objective_name="arcface", data_new_label="01")
    argv += ["--kind", "embedding"]
    kfold.main([*argv, "--only", "1"])
    cv = kfold.main([*argv, "--resume"])
    assert "embeddings of different folds are not comparable" in capsys.readouterr().out
    assert cv["metric"] == "map@5"
    assert cv["mean"] == pytest.approx(
        np.mean([json.loads((tmp_path / f"run/fold{k}/metrics.json").read_text())["map@5"] for k in (0, 1)])
    )
    assert not (tmp_path / "run" / "oof.npz").exists()
    folds = [json.loads((tmp_path / f"run/fold{k}/metrics.json").read_text()) for k in (0, 1)]
    rows = [fold["rows"] for fold in folds]
    assert cv["rows"] == sum(rows) == 48  # each image is asked about once
    known, new = (np.array([fold[f"map@5_{kind}"] for fold in folds]) for kind in ("known", "new"))
    assert (known.min() + new.min()) / 2 <= cv["pooled"] <= (known.max() + new.max()) / 2  # with half of the queries new
    (low, high), of_one = cv["interval"], np.diff([fold["interval"] for fold in folds]).mean()
    assert low < cv["pooled"] < high
    assert high - low <= 1.1 * of_one  # twice as many queries, but hardly more individuals


def test_groups_of_scores_are_those_of_their_rows(arguments: Callable, contest: Path, tmp_path: Path) -> None:
    table = pd.read_csv(contest / "train.csv", dtype=str)
    table["burst"] = [f"burst {i * 7 % 16}" for i in range(len(table))]
    table.to_csv(tmp_path / "train.csv", index=False)
    argv = make_argv(arguments, tmp_path / "run", data_train_csv=tmp_path / "train.csv", folds_group_column="burst", train_epochs=1)
    kfold.main(argv)
    group_of = dict(zip(table["image"], table["burst"]))
    for path in (tmp_path / "run" / "oof.npz", *sorted((tmp_path / "run").glob("fold*/scores_val.npz"))):
        scores = score_file.load_scores(path)
        assert scores.groups == [group_of[name] for name in scores.names]
