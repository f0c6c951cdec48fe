"""What single steps of the training loop do, seen from outside: gradients, averages, rates, precision."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from lib.config.recipe import Model
from lib.images.augmentation import ResizeToSquare
from lib.images.dataset import ImageDataset
from lib.models.network import Network, NetworkSpec
from lib.models.weights import load_network
from lib.scores import score_file
from lib.tables.target import ONE_LABEL
from lib.training import loop
from lib.training.accelerator import make_accelerator
from lib.training.inference import InferenceOptions, predict
from lib.training.tasks import ClassificationTask
from scripts import train_classifier

pytestmark = pytest.mark.usefixtures("no_report")
PLAIN = {"train_epochs": 1, "optim_name": "momentum", "optim_momentum": 0, "optim_weight_decay": 0, "optim_schedule": "constant"}


def snapshots(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """Note the network's parameters before the first optimizer step and after each one."""
    seen: list[dict[str, torch.Tensor]] = []
    real = loop.Trainer.train_step

    def noting(trainer: loop.Trainer, *args: Any) -> bool:
        def copy() -> None:
            seen.append({name: value.detach().clone() for name, value in trainer.network.named_parameters()})

        if not seen:
            copy()
        stepped = real(trainer, *args)
        if stepped:
            copy()
        return stepped

    monkeypatch.setattr(loop.Trainer, "train_step", noting)
    return seen


def test_gradients_are_clipped_to_the_norm(arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With plain gradient descent at rate 1, a step is as long as its clipped gradient."""
    seen = snapshots(monkeypatch)
    train_classifier.main(arguments(tmp_path / "run", **PLAIN, optim_lr=1.0, optim_clip_norm=0.01))
    for before, after in itertools.pairwise(seen):
        length = torch.sqrt(sum((after[name] - before[name]).double().square().sum() for name in before))
        assert length.item() == pytest.approx(0.01, rel=1e-3)


def test_the_average_of_the_weights_warms_up_and_is_what_is_kept(
    arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = snapshots(monkeypatch)
    train_classifier.main(arguments(tmp_path / "run", train_epochs=2, train_ema=0.9999, train_keep="last", optim_lr=0.01))
    average = {name: value.double() for name, value in seen[0].items()}
    for step, weights in enumerate(seen[1:], start=1):
        decay = min(0.9999, 1 - step ** (-2 / 3))  # timm's warm-up, which counts from 0
        average = {name: decay * value + (1 - decay) * weights[name] for name, value in average.items()}
    kept = load_file(tmp_path / "run" / "best" / "model.safetensors")
    assert all(torch.allclose(kept[name].double(), value, atol=1e-5) for name, value in average.items())
    assert not all(torch.allclose(kept[name], value, atol=1e-4) for name, value in seen[-1].items())


@pytest.mark.parametrize("fields", [{}, {"train_ema": 0.5}], ids=["raw", "averaged"])
def test_what_is_validated_is_what_is_kept(fields: dict, arguments: Callable, contest: Path, tmp_path: Path) -> None:
    train_classifier.main(arguments(tmp_path / "run", **fields))
    saved = score_file.load_scores(tmp_path / "run" / "scores_val.npz")
    network = load_network(tmp_path / "run" / "best" / "model.safetensors")
    images = ImageDataset([contest / "images" / name for name in saved.names], ResizeToSquare(32, "squash"))
    found = predict([network], images, Accelerator(cpu=True), InferenceOptions(64, 0))[0]
    assert found == pytest.approx(saved.logits, abs=1e-6)  # some CPUs sum in another order for another memory format


@pytest.mark.parametrize(("schedule", "rates"), [("constant", [1e-3] * 4), ("plateau", [1e-3, 1e-3, 1e-4, 1e-5])])
def test_only_plateau_follows_the_metric(
    schedule: str, rates: list[float], arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    falling = iter([0.5, 0.9, 0.8, 0.7, 0.6])
    monkeypatch.setattr(ClassificationTask, "measure", lambda *_: {"accuracy": next(falling), "loss": 1.0})
    train_classifier.main(arguments(tmp_path / "run", train_epochs=4, optim_schedule=schedule, optim_plateau_patience=0))
    history = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [entry["lr"] for entry in history] == pytest.approx(rates)


def test_each_window_of_accumulation_counts_as_one_batch(
    arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """36 rows in batches of 8 are windows of three batches and of one: each divides by its own number."""
    shares, real = [], Accelerator.backward

    def noting(accelerator: Accelerator, loss: torch.Tensor, **more: Any) -> None:
        shares.append(loss.item())
        real(accelerator, loss, **more)

    losses, forward = [], Network.forward

    def noting_loss(network: Network, images: torch.Tensor, targets: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        found = forward(network, images, targets)
        if targets is not None:
            losses.append(found["loss"].item())
        return found

    monkeypatch.setattr(Accelerator, "backward", noting)
    monkeypatch.setattr(Network, "forward", noting_loss)
    train_classifier.main(arguments(tmp_path / "run", train_epochs=1, train_accumulate=3))
    assert np.array(losses) / np.array(shares) == pytest.approx([3, 3, 3, 1])


def test_inference_has_the_precision_of_the_run(monkeypatch: pytest.MonkeyPatch, contest: Path) -> None:
    enabled, forward = [], Network.forward

    def noting(network: Network, *args: Any) -> dict[str, torch.Tensor]:
        enabled.append((torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")))
        return forward(network, *args)

    monkeypatch.setattr(Network, "forward", noting)
    network = Network(NetworkSpec(Model("test_resnet", pretrained=False), ("a", "b"), ONE_LABEL, 32, "squash"))
    images = ImageDataset(sorted((contest / "images").iterdir())[:3], ResizeToSquare(32, "squash"))
    for precision in ("bf16", "fp32"):
        predict([network], images, make_accelerator(precision, Path("unused")), InferenceOptions(2, 0))
    assert enabled == [(True, torch.bfloat16)] * 2 + [(False, torch.bfloat16)] * 2


@pytest.mark.parametrize(("flips", "axes"), [(("hflip",), [(3,)]), (("hflip", "vflip", "hvflip"), [(3,), (2,), (2, 3)])])
def test_flips_are_averaged(flips: tuple[str, ...], axes: list[tuple[int, ...]], contest: Path) -> None:
    torch.manual_seed(0)
    network = Network(NetworkSpec(Model("test_resnet", pretrained=False), ("a", "b"), ONE_LABEL, 32, "squash")).eval()
    images = ImageDataset(sorted((contest / "images").iterdir())[:3], ResizeToSquare(32, "squash"))
    found = predict([network], images, Accelerator(cpu=True), InferenceOptions(2, 0, flips))[0]
    x = torch.stack([images[0, i, 0][0] for i in range(3)])
    with torch.no_grad():
        each = [network(x)["output"], *(network(x.flip(axis))["output"] for axis in axes)]
    assert found == pytest.approx(torch.stack(each).mean(0).numpy(), abs=1e-5)
    assert not np.allclose(found, each[0].numpy(), atol=1e-4)


def test_the_loss_scale_is_part_of_the_state(arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fp16's gradient scaler, which only a GPU has: its state goes into the file and comes back."""
    loaded: list[dict[str, float]] = []
    scaler = SimpleNamespace(state_dict=lambda: {"scale": 512.0}, load_state_dict=loaded.append)

    def with_scaler(real: Callable) -> Callable:
        def call(trainer: loop.Trainer, *args: Any) -> None:
            trainer.accelerator.scaler = scaler
            real(trainer, *args)
            trainer.accelerator.scaler = None

        return call

    for name in ("save", "resume"):
        monkeypatch.setattr(loop.Trainer, name, with_scaler(getattr(loop.Trainer, name)))
    argv = arguments(tmp_path / "run")
    train_classifier.main([*argv, "--train.max_minutes", "0.01"])
    train_classifier.main([*argv, "--resume"])
    assert loaded == [{"scale": 512.0}]


def test_a_launchers_accumulation_does_not_divide_the_loss_again(
    arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_classifier.main(arguments(tmp_path / "plain", train_epochs=1))
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    train_classifier.main(arguments(tmp_path / "exported", train_epochs=1))
    plain, exported = ((tmp_path / name / "best/model.safetensors").read_bytes() for name in ("plain", "exported"))
    assert plain == exported
