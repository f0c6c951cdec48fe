"""A whole run: what it leaves, when it stops, what is the same in two of them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from accelerate import Accelerator
from PIL import Image, ImageOps
from safetensors.torch import load_file
from sklearn.datasets import load_sample_images

from lib.images.augmentation import ResizeToSquare
from lib.images.dataset import ImageDataset
from lib.models.weights import load_network
from lib.pipelines import run_result
from lib.scores import score_file
from lib.tables.target import ONE_LABEL
from lib.training import loop, tasks
from lib.training.inference import InferenceOptions, predict
from lib.training.tasks import ClassificationTask
from scripts import kfold, train_classifier


def test_what_a_run_leaves(arguments: Callable, contest: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = tmp_path / "run"
    result = train_classifier.main(arguments(run, train_log_with="[tensorboard]"))
    files = {
        "recipe.yaml",
        "classes.json",
        "environment.json",
        "metrics.jsonl",
        "metrics.json",
        "log.txt",
        "report.html",
        "curves.png",
    }
    files |= {"best/model.safetensors", "last", "scores_val.npz", "scores_test.npz", "submission.csv", "confusion.png"}
    assert all((run / name).exists() for name in files)
    assert list((run / "fluke").glob("events.out.tfevents.*"))  # TensorBoard's
    assert json.loads((run / "classes.json").read_text()) == ["01", "ant", "bee", "cat"]
    assert json.loads((run / "metrics.json").read_text())["accuracy"] == result["accuracy"]

    # What stands in the files is what was validated and submitted.
    val, test = score_file.load_scores(run / "scores_val.npz"), score_file.load_scores(run / "scores_test.npz")
    truth = [label for (label,) in val.labels or []]
    answers = [val.classes[i] for i in val.logits.argmax(1)]
    assert np.mean([a == t for a, t in zip(answers, truth)]) == pytest.approx(result["accuracy"])
    sample, written = (pd.read_csv(path, dtype=str) for path in (contest / "sample_submission.csv", run / "submission.csv"))
    assert list(written.columns) == list(sample.columns)
    assert list(written["image"]) == list(sample["image"])
    chosen = dict(zip(test.names, [test.classes[i] for i in test.logits.argmax(1)]))
    assert list(written["label"]) == [chosen[name] for name in sample["image"]]
    printed = capsys.readouterr().out
    assert "train: 48 images" in printed
    assert "short side 24 px, long side 24 px" in printed
    assert "36 rows to train on, 12 held out" in printed


def test_it_learns(arguments: Callable, tmp_path: Path) -> None:
    """The tiny contest's hues tell its classes apart; chance is a half."""
    result = train_classifier.main(arguments(tmp_path / "run", train_epochs=12, optim_lr=3e-3, folds_holdout=16))
    assert result["accuracy"] > 0.8


@pytest.mark.parametrize(("metric", "values", "stopped", "best"), [
    ("accuracy", [0.5, 0.6, 0.6, 0.55, 0.9], 4, 2),
    ("loss", [1.0, 0.9, 0.9, 0.95, 0.1], 4, 2),
])  # fmt: skip
def test_early_stopping_in_either_direction(
    metric: str, values: list[float], stopped: int, best: int, arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = iter([0.5, *values])  # the first one is what chance gives

    monkeypatch.setattr(ClassificationTask, "measure", lambda *_: {"accuracy": 0.1, "loss": 0.1, metric: next(seen)})
    result = train_classifier.main(arguments(tmp_path / "run", train_epochs=5, train_patience=2, train_metric=metric))
    assert (result["epochs"], result["best_epoch"]) == (stopped, best)


def test_the_last_epoch_is_kept_if_the_recipe_says_so(
    arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_report: None
) -> None:
    real, values = ClassificationTask.measure, iter([0.5, 0.9, 0.1, 0.2] * 2)
    monkeypatch.setattr(ClassificationTask, "measure", lambda *args: real(*args) | {"accuracy": next(values)})
    best = train_classifier.main(arguments(tmp_path / "best", train_epochs=3))
    last = train_classifier.main(arguments(tmp_path / "last", train_epochs=3, train_keep="last"))
    assert (best["best_epoch"], last["best_epoch"]) == (1, 3)
    assert last["loss"] == pytest.approx(json.loads((tmp_path / "last/metrics.jsonl").read_text().splitlines()[-1])["loss"])
    assert best["loss"] != last["loss"]


def test_a_frozen_epoch_leaves_the_backbone_as_it_was(arguments: Callable, tmp_path: Path, no_report: None) -> None:
    train_classifier.main(arguments(tmp_path / "first", train_epochs=1))
    weights = tmp_path / "first" / "best" / "model.safetensors"
    before = load_file(weights)

    def changed(name: str, **fields: object) -> set[str]:
        train_classifier.main(arguments(tmp_path / name, train_epochs=1, model_weights=weights, **fields))
        after = load_file(tmp_path / name / "best" / "model.safetensors")
        return {name.split(".")[0] for name in after if not torch.equal(before[name], after[name])}

    assert changed("frozen", optim_freeze_epochs=1) == {"head"}  # weights, and BatchNorm's statistics
    assert changed("free") == {"head", "backbone"}


def test_weights_and_draws_come_from_the_training_rows_alone(
    arguments: Callable, contest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_report: None
) -> None:
    seen = []
    for name in ("make_classification_loss", "sampling_weights"):
        real = getattr(tasks, name)
        at = 1 if name == "make_classification_loss" else 0
        monkeypatch.setattr(tasks, name, lambda *args, real=real, at=at: seen.append(args[at]) or real(*args))
    fields = {"objective_class_weights": "balanced", "train_sampler": "weighted", "folds_stratify": False, "train_epochs": 1}
    train_classifier.main(arguments(tmp_path / "run", **fields))
    table = pd.read_csv(contest / "train.csv", dtype=str)
    trained = table[~table["image"].isin(score_file.load_scores(tmp_path / "run" / "scores_val.npz").names)]
    expected = np.sort(trained["label"].map(sorted(table["label"].unique()).index).to_numpy())
    assert len(seen) >= 2
    assert all(np.array_equal(np.sort(targets), expected) for targets in seen)


def test_the_loop_steps_the_schedule_once_an_optimiser_step(
    arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_report: None
) -> None:
    """36 rows in batches of 8 are 4 batches, 2 optimiser steps of two: torch's OneCycleLR over 3 epochs of 2."""
    rates: list[float] = []
    real = loop.set_learning_rate
    monkeypatch.setattr(loop, "set_learning_rate", lambda optimizer, rate: rates.append(rate) or real(optimizer, rate))
    train_classifier.main(arguments(tmp_path / "run", train_epochs=3, train_accumulate=2, optim_schedule="onecycle"))
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=6)
    expected = []
    for _ in range(6):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(expected) < 6:
            theirs.step()
    assert rates == pytest.approx(np.repeat(expected, 2))


def test_resuming_with_other_epochs_is_said_and_written(arguments: Callable, tmp_path: Path, capsys, no_report: None) -> None:
    train_classifier.main([*arguments(tmp_path / "run", train_epochs=4), "--train.max_minutes", "0.001"])
    train_classifier.main([*arguments(tmp_path / "run", train_epochs=5), "--resume"])
    assert "train.epochs was 4 and is 5: the learning rate continues as if it had been 5 from the start" in capsys.readouterr().out
    assert yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["train"]["epochs"] == 5


def test_weights_trained_on_held_out_images_are_named(arguments: Callable, tmp_path: Path, capsys, no_report: None) -> None:
    train_classifier.main(arguments(tmp_path / "first", train_epochs=1))
    weights = tmp_path / "first" / "best" / "model.safetensors"
    train_classifier.main(arguments(tmp_path / "same", train_epochs=1, model_weights=weights))
    assert "was trained on" not in capsys.readouterr().out
    train_classifier.main(arguments(tmp_path / "other", train_epochs=1, model_weights=weights, folds_seed=1))
    first, other = (set(score_file.load_scores(tmp_path / name / "scores_val.npz").names) for name in ("first", "other"))
    assert f"model.weights is a run that was trained on {len(other - first)} of the images held out here" in capsys.readouterr().out


def test_a_fold_trained_on_every_held_out_image_is_named(arguments: Callable, tmp_path: Path, capsys, no_report: None) -> None:
    argv = ["--folds.n", "2", "--only", "0"]
    kfold.main([*arguments(tmp_path / "first", train_epochs=1), *argv])
    weights = tmp_path / "first" / "fold0" / "best" / "model.safetensors"
    capsys.readouterr()
    kfold.main([*arguments(tmp_path / "second", train_epochs=1, model_weights=weights), "--folds.n", "2", "--only", "1"])
    held_out = len(score_file.load_scores(tmp_path / "second" / "fold1" / "scores_val.npz").names)
    assert f"model.weights is a run that was trained on {held_out} of the images held out here" in capsys.readouterr().out


def test_classes_are_drawn_more_often_as_the_recipe_says(arguments: Callable, tmp_path: Path, no_report: None) -> None:
    from lib.config import command_line
    from lib.tables.table import Table

    argv = arguments(tmp_path, train_sampler="weighted", train_sampler_power=0, train_sampler_factors="{b: 4}")[2:]
    recipe = command_line.parse(command_line.make_parser(""), argv).recipe
    names = [str(i) for i in range(100)]
    labels = [("a",), ("b",)] * 50
    table = Table(np.arange(100), names, [Path(name) for name in names], labels, ("a", "b"), None, ONE_LABEL)
    order = ClassificationTask(recipe, table, table).make_order()
    drawn = np.concatenate([order(epoch) for epoch in range(40)])
    assert np.mean(drawn % 2) == pytest.approx(0.8, abs=0.03)


def test_dry_run_takes_few_rows_and_submits_nothing(arguments: Callable, tmp_path: Path) -> None:
    train_classifier.main(arguments(tmp_path / "run", train_limit_rows=8))
    assert len(score_file.load_scores(tmp_path / "run" / "scores_val.npz").rows) == 8
    assert not (tmp_path / "run" / "submission.csv").exists()


def test_accumulated_batches_are_one_step(arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without BatchNorm, two batches of 4 in one step are a batch of 8."""
    monkeypatch.setattr(loop, "derive_seed", lambda *parts: 7)
    fixed = {"folds_holdout": 16, "model_name": "test_efficientnet_ln", "data_augment": "[]", "optim_name": "sgd", "optim_lr": 0.1}
    whole = train_classifier.main(arguments(tmp_path / "a", **fixed))
    parts = train_classifier.main(arguments(tmp_path / "b", **fixed, train_batch_size=4, train_accumulate=2))
    assert whole["loss"] == pytest.approx(parts["loss"], abs=1e-4)
    a, b = (score_file.load_scores(tmp_path / name / "scores_test.npz").logits for name in "ab")
    np.testing.assert_allclose(a, b, atol=1e-3)


def test_validating_every_other_epoch(
    arguments: Callable, tmp_path: Path, no_report: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last epoch is validated whatever its number, and patience counts epochs up to a validated one."""
    values = iter([0.1, 0.5, 0.4, 0.3, 0.2])
    monkeypatch.setattr(ClassificationTask, "measure", lambda *_: {"accuracy": next(values), "loss": 1.0})
    run = tmp_path / "run"
    result = train_classifier.main(arguments(run, train_epochs=7, train_validate_every=2))
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [entry.get("accuracy") for entry in history] == [None, 0.5, None, 0.4, None, 0.3, 0.2]
    assert all({"train_loss", "images_per_second", "waiting"} <= entry.keys() for entry in history)
    assert result["best_epoch"] == 2
    values = iter([0.1, 0.5, 0.4, 0.3])
    patient = train_classifier.main(arguments(tmp_path / "patient", train_epochs=9, train_validate_every=2, train_patience=3))
    assert (patient["best_epoch"], patient["epochs"]) == (2, 6)


def test_weights_that_are_kept_are_validated_once(
    arguments: Callable, tmp_path: Path, no_report: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles, real = [], loop.predict_batches
    monkeypatch.setattr(loop, "predict_batches", lambda *args, **more: titles.append(more["title"]) or real(*args, **more))
    monkeypatch.setattr(run_result, "predict", lambda *args, **more: titles.append(more["title"]) or predict(*args, **more))
    train_classifier.main(arguments(tmp_path / "run"))
    assert titles == ["validate", "validate", "predict test"]
    kept = score_file.load_scores(tmp_path / "run" / "scores_val.npz")
    again = load_network(tmp_path / "run" / "best" / "model.safetensors")
    images = ImageDataset([contest_image(arguments, name) for name in kept.names], ResizeToSquare(32, "squash"))
    found = predict([again], images, Accelerator(cpu=True), InferenceOptions(64, 0))[0]
    assert found == pytest.approx(kept.logits, abs=1e-6)  # some CPUs sum in another order for another memory format


def contest_image(arguments: Callable, name: str) -> Path:
    argv = arguments(Path("unused"))
    return Path(argv[argv.index("--data.root") + 1]) / "images" / name


def test_identical_images_are_never_on_both_sides(
    arguments: Callable, contest: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root = tmp_path / "contest"
    shutil.copytree(contest, root)
    rows = pd.read_csv(root / "train.csv", dtype=str)
    copies = rows.iloc[:16].assign(image=[f"copy_{name}" for name in rows["image"][:16]])
    copies.loc[0, "label"] = "cat"
    for name in rows["image"][:16]:
        shutil.copy(root / "images" / name, root / "images" / f"copy_{name}")
    shutil.copy(root / "images" / rows["image"][20], root / "images" / "2_003.png")
    pd.concat([rows, copies]).to_csv(root / "train.csv", index=False)
    train_classifier.main(arguments(tmp_path / "run", data_root=root, train_epochs=1))
    side = pd.read_csv(tmp_path / "run" / "split.csv", index_col="image")["side"]
    assert [side[name] == side[f"copy_{name}"] for name in rows["image"][:16]] == [True] * 16
    listed = pd.read_csv(tmp_path / "run" / "duplicates.csv")
    assert list(listed["image"][:2]) == [rows["image"][0], f"copy_{rows['image'][0]}"]
    assert len(listed) == 32
    printed = capsys.readouterr().out
    assert "duplicates: 32 images are 16 files under several names, kept on one side of a split; 1 have several labels" in printed
    assert "duplicates: 1 test images are training images, byte for byte" in printed
    assert "Copies of one image" in (tmp_path / "run" / "report.html").read_text()
    train_classifier.main(arguments(tmp_path / "off", data_root=root, train_epochs=1, data_duplicates="off"))
    side = pd.read_csv(tmp_path / "off" / "split.csv", index_col="image")["side"]
    assert any(side[name] != side[f"copy_{name}"] for name in rows["image"][:16])


def test_edited_copies_are_never_on_both_sides_if_asked(
    arguments: Callable, contest: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root = tmp_path / "contest"
    shutil.copytree(contest, root)
    rows = pd.read_csv(root / "train.csv", dtype=str)
    copies = rows.iloc[:16].assign(image=[f"copy_{name}" for name in rows["image"][:16]])
    for number, name in enumerate(rows["image"]):  # photographs instead of the few colors of the fixture
        photograph = Image.fromarray(load_sample_images().images[number % 2]).crop((5 * number, 0, 5 * number + 200, 200))
        (scrambled := photograph.rotate(37 * number)).save(root / "images" / name)
        if number < 16:
            ImageOps.mirror(scrambled).resize((150, 170)).save(root / "images" / f"copy_{name}")
    pd.concat([rows, copies]).to_csv(root / "train.csv", index=False)
    train_classifier.main(arguments(tmp_path / "run", data_root=root, train_epochs=1, data_duplicates="near"))
    side = pd.read_csv(tmp_path / "run" / "split.csv", index_col="image")["side"]
    assert [side[name] == side[f"copy_{name}"] for name in rows["image"][:16]] == [True] * 16
    assert "photographs, copied or edited, kept on one side of a split" in capsys.readouterr().out
