"""Probing backbones, end to end on the tiny contest."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lib.errors import FlukeError, Interrupted
from lib.pipelines import features as features_pipeline
from lib.pipelines.probe import propose
from lib.scores import score_file
from scripts import compare, ensemble, probe, train_classifier


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def without_model(argv: list[str]) -> list[str]:
    at = argv.index("--model.name")
    return argv[:at] + argv[at + 2 :]


def test_backbones_are_compared_and_each_is_a_run(arguments: Callable, contest: Path, tmp_path: Path, capsys) -> None:
    argv = [*without_model(arguments(tmp_path / "probe", folds_n=3)), "--models", "test_resnet", "test_vit"]
    table = probe.main(argv)
    printed = capsys.readouterr().out
    assert sorted(table["model"]) == ["test_resnet", "test_vit"]
    assert "proposal: train" in printed
    assert (tmp_path / "probe" / "probe.csv").exists()
    train, sample = pd.read_csv(contest / "train.csv", dtype=str), pd.read_csv(contest / "sample_submission.csv", dtype=str)
    for row in table.to_dict("records"):
        run = Path(row["run"])
        oof = score_file.load_scores(run / "oof.npz")
        assert sorted(oof.names) == sorted(train["image"])
        right = [oof.classes[i] == label for i, (label,) in zip(oof.logits.argmax(axis=1), oof.labels)]
        cv = json.loads((run / "cv.json").read_text())
        assert row["accuracy"] == cv["pooled"] == pytest.approx(np.mean(right))
        assert row["low"] <= row["accuracy"] <= row["high"]
        assert cv["probe"]["heads"][row["head"]] == max(cv["probe"]["heads"].values())
        handed_in = pd.read_csv(run / "submission.csv", dtype=str)
        assert handed_in.iloc[:, 0].to_list() == sample.iloc[:, 0].to_list()
        assert (run / "report.html").exists()
    runs = table["run"].to_list()
    assert probe.main(argv)["accuracy"].to_list() == table["accuracy"].to_list()  # finished already
    assert len(compare.main([*runs, "--out", str(tmp_path / "compared")])) == 2
    result = ensemble.main(["--runs", *runs, "--method", "mean", "--out", str(tmp_path / "both")])
    assert result is not None
    assert (tmp_path / "both" / "submission.csv").exists()


def test_features_are_computed_once_and_a_killed_pass_goes_on(
    arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(features_pipeline, "PART", 10)
    real, computed = features_pipeline.predict, []

    def counted(networks, images, *args, **more):
        if len(computed) == 3 and fail:
            raise Interrupted("stopped")
        computed.append(len(images))
        return real(networks, images, *args, **more)

    monkeypatch.setattr(features_pipeline, "predict", counted)
    argv = without_model(arguments(tmp_path / "probe", folds_n=3))
    fail = True
    with pytest.raises(Interrupted):
        probe.main([*argv, "--models", "test_resnet"])
    fail = False
    first = probe.main([*argv, "--models", "test_resnet"])
    assert sum(computed) == 48 + 13  # each image of the training and of the test once
    argv[argv.index("--out") + 1] = str(tmp_path / "again")
    again = probe.main([*argv, "--models", "test_resnet"])
    assert sum(computed) == 48 + 13
    assert again["accuracy"].to_list() == first["accuracy"].to_list()
    assert "48 of 48 images computed before" in capsys.readouterr().out
    argv[argv.index("--out") + 1] = str(tmp_path / "larger")
    probe.main([*argv, "--models", "test_resnet", "--data.eval_size", "48"])
    assert sum(computed) == 2 * (48 + 13)


def test_weights_of_a_file_for_each_backbone(arguments: Callable, tmp_path: Path) -> None:
    train_classifier.main(arguments(tmp_path / "run", train_epochs=1))
    weights = str(tmp_path / "run" / "best" / "model.safetensors")
    argv = without_model(arguments(tmp_path / "probe", folds_n=3))
    table = probe.main([*argv, "--models", "test_resnet", "--weights", weights])
    assert f"from {weights}" in (Path(table["run"][0]) / "log.txt").read_text()
    with pytest.raises(FlukeError, match="--weights: 1 files for 2 models; give one file for each"):
        probe.main([*argv, "--models", "test_resnet", "test_vit", "--weights", weights])


def test_the_proposal_names_backbones_that_cannot_be_told_apart() -> None:
    table = pd.DataFrame({"model": list("abc"), "head": "logistic", "accuracy": [0.9, 0.89, 0.7]})
    table = table.assign(low=[0.88, 0.87, 0.68], high=[0.92, 0.91, 0.72], images_per_second=[10.0, 30.0, 90.0])
    said = propose(table, "accuracy")
    assert "train a (accuracy 0.9000" in said
    assert "; b can't be told from it by these rows, and b is 3.0 times as fast" in said
    assert "can't be told" not in propose(table.drop(index=1), "accuracy")
