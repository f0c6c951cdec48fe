"""Heads that start fitted, and training on the features of a frozen backbone, on the tiny contest."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from lib.errors import FlukeError
from lib.models.network import Network
from lib.pipelines import build
from lib.pipelines import train as train_pipeline
from lib.scores.score_file import load_scores
from lib.training import loop
from scripts import kfold, probe, train_classifier, train_embedding

pytestmark = pytest.mark.usefixtures("no_report")
FROZEN = {"optim_freeze": '[""]', "data_augment": "[]", "train_epochs": 2, "optim_lr": 0.01}


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def probed(arguments: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probed")
    argv = arguments(folder / "probe", folds_n=3)
    at = argv.index("--model.name")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        probe.main([*argv[:at], *argv[at + 2 :], "--models", "test_resnet"])
    return folder / "probe" / "test_resnet"


def weights_of(run: Path) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in load_file(run / "best" / "model.safetensors").items()}


def test_a_head_starts_at_the_scores_of_the_probe(probed: Path, arguments: Callable, tmp_path: Path) -> None:
    kfold.main(arguments(tmp_path / "cv", folds_n=3, train_epochs=1, model_head_from=probed, model_dropout=0.5))
    right = 0
    for fold in range(3):
        log = (tmp_path / "cv" / f"fold{fold}" / "log.txt").read_text()
        accuracy = float(re.findall(r"epoch 0, the fitted head: .*val accuracy ([\d.]+)", log)[0])
        right += accuracy * len(load_scores(tmp_path / "cv" / f"fold{fold}" / "scores_val.npz").rows)
    assert right / 48 == pytest.approx(json.loads((probed / "cv.json").read_text())["probe"]["heads"]["logistic"], abs=1e-4)


def test_the_head_is_fitted_on_the_training_rows_alone(
    probed: Path, arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held-out images of other labels change nothing in the head."""
    heads, real = [], loop.Trainer.validate

    def validate(trainer: loop.Trainer) -> dict[str, float]:
        if trainer.state.step == 0:
            heads.append((trainer.network.head[-1].weight.detach().clone(), len(trainer.task.train)))
        return real(trainer)

    monkeypatch.setattr(loop.Trainer, "validate", validate)
    fitted, real_layer = [], train_pipeline.fit_head.__globals__["LAYERS"]["logistic"]

    def layer(features: np.ndarray, targets: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
        fitted.append(len(features))
        return real_layer(features, targets, classes)

    monkeypatch.setitem(train_pipeline.fit_head.__globals__["LAYERS"], "logistic", layer)
    train_classifier.main(arguments(tmp_path / "run", train_epochs=1, model_head_from=probed))
    assert fitted == [heads[0][1]] == [36]
    assert heads[0][0].abs().sum() > 0


def test_a_head_of_numbers_starts_as_the_ridge_regression(arguments: Callable, contest: Path, tmp_path: Path) -> None:
    table = (contest / "train.csv").read_text().splitlines()
    named = [line.split(",") for line in table[1:]]
    value = {label: 100 + 20 * i for i, label in enumerate(sorted({label for _, label in named}))}  # what the images show
    rows = [f"{name},{value[label] + i % 3}" for i, (name, label) in enumerate(named)]
    (tmp_path / "numbers.csv").write_text("\n".join(["image,label", *rows]))
    fields = {"data_task": "number", "objective_name": "mse", "data_train_csv": tmp_path / "numbers.csv"}
    fields |= {"data_sample_submission": "null", "folds_n": 2, "data_test_csv": "null"}
    argv = arguments(tmp_path / "probe", **fields)
    at = argv.index("--model.name")
    probe.main([*argv[:at], *argv[at + 2 :], "--models", "test_resnet"])
    run = tmp_path / "probe" / "test_resnet"
    kfold.main(arguments(tmp_path / "cv", **fields, train_epochs=1, model_head_from=run))
    logs = [(tmp_path / "cv" / f"fold{fold}" / "log.txt").read_text() for fold in range(2)]
    found = [float(re.findall(r"fitted head: .*val rmse ([\d.]+)", log)[0]) for log in logs]
    pooled = np.sqrt(np.mean(np.square(found)))  # two folds of 24 rows
    assert pooled == pytest.approx(json.loads((run / "cv.json").read_text())["probe"]["heads"]["ridge"], rel=1e-3)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"model_head_from": "none"}, "none: no finished run of probe.py"),
        ({"model_name": "test_vit"}, "is of another backbone .model.name test_resnet there, test_vit here"),
        ({"model_pool": "max"}, "is of another backbone .model.pool default there, max here"),
        ({"train_seed": 1}, "its backbone had other weights"),  # new weights, which no file holds
        ({"data_min_images": 5}, "is of 4 classes, not of the 3 here"),
        ({"model_hidden": "[8]"}, r"model.head_from needs model.hidden \[\]"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(probed: Path, arguments: Callable, tmp_path: Path, fields: dict, says: str) -> None:
    with pytest.raises(FlukeError, match=says):
        train_classifier.main(arguments(tmp_path / "run", **{"model_head_from": probed} | fields))


def test_a_head_is_not_for_embeddings(probed: Path, arguments: Callable, tmp_path: Path) -> None:
    with pytest.raises(FlukeError, match="is for train_classifier"):
        train_embedding.main(arguments(tmp_path / "run", model_head_from=probed, data_sample_submission="null"))


# --- training on features ---------------------------------------------------------------------------------------------------------


def test_a_frozen_backbone_runs_once_and_trains_alike(
    arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    fields = FROZEN | {"train_ema": 0.9, "model_hidden": "[6]", "model_dropout": 0.3}
    with monkeypatch.context() as patch:
        patch.setattr(build, "trains_on_features", lambda recipe: False)
        train_classifier.main(arguments(tmp_path / "images", **fields))
    seen, real = [], Network._pooled_features

    def counted(network: Network, x: object) -> object:
        seen.append(len(x))
        return real(network, x)

    monkeypatch.setattr(Network, "_pooled_features", counted)
    capsys.readouterr()
    train_classifier.main(arguments(tmp_path / "features", **fields))
    assert "it has run once for 48 images" in capsys.readouterr().out
    assert sum(seen) <= 48 + 13 + 48 + 13  # once for training and validation, then for the test and its comparison
    images, features = weights_of(tmp_path / "images"), weights_of(tmp_path / "features")
    assert all(features[name] == pytest.approx(value, abs=2e-4) for name, value in images.items())
    outputs = [load_scores(tmp_path / name / "scores_val.npz").logits for name in ("images", "features")]
    assert outputs[1] == pytest.approx(outputs[0], abs=1e-3)
    history = [json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1]) for name in ("images", "features")]
    assert history[1]["train_loss"] == pytest.approx(history[0]["train_loss"], abs=1e-4)


def test_embeddings_of_a_frozen_backbone_train_alike(arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = FROZEN | {"objective_name": "arcface", "model_embedding_dim": 8, "data_sample_submission": "null", "train_epochs": 2}
    train_embedding.main(arguments(tmp_path / "features", **fields))
    assert "it has run once" in (tmp_path / "features" / "log.txt").read_text()
    monkeypatch.setattr(build, "trains_on_features", lambda recipe: False)
    train_embedding.main(arguments(tmp_path / "images", **fields))
    images, features = weights_of(tmp_path / "images"), weights_of(tmp_path / "features")
    assert all(features[name] == pytest.approx(value, abs=2e-4) for name, value in images.items())


def test_training_on_features_resumes_exactly(arguments: Callable, tmp_path: Path, killed_in_second_epoch: Callable) -> None:
    train_classifier.main(arguments(tmp_path / "whole", **FROZEN))
    argv = arguments(tmp_path / "run", **FROZEN)
    with killed_in_second_epoch():
        train_classifier.main(argv)
    for part in (tmp_path / "cache").rglob("*.npy"):  # the features are computed again
        part.unlink()
    train_classifier.main([*argv, "--resume"])
    whole, run = weights_of(tmp_path / "whole"), weights_of(tmp_path / "run")
    assert all((run[name] == value).all() for name, value in whole.items())


@pytest.mark.parametrize(
    "fields",
    [
        {"data_augment": "[RandomHorizontalFlip]"},
        {"optim_freeze": "[layer1]"},
        {"predict_tta": "[hflip]"},
        {"data_eval_size": 48},
        {"objective_mixup": 0.2},
        {"model_pool": "gem"},
    ],
)
def test_images_are_read_in_each_epoch_where_they_differ(fields: dict, arguments: Callable, tmp_path: Path) -> None:
    train_classifier.main(arguments(tmp_path / "run", **FROZEN | {"train_epochs": 1} | fields))
    assert "it has run once" not in (tmp_path / "run" / "log.txt").read_text()


def test_the_time_of_a_prediction_is_known_without_one(
    arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budgets, real = [], train_pipeline.fit

    def fit(trainer: loop.Trainer) -> object:
        budgets.append(trainer.budget)
        return real(trainer)

    monkeypatch.setattr(train_pipeline, "fit", fit)
    train_classifier.main(arguments(tmp_path / "run", **FROZEN, train_max_minutes=5))
    assert budgets[0].seconds_per_image > 1e-4
