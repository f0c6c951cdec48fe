"""What only a CUDA GPU shows, on the tiny contest: `make gpu` runs these tests; without a GPU they are skipped."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lib.config.command_line import read_tree
from lib.errors import FlukeError
from lib.models.network import Network
from lib.training import loop
from scripts import train_classifier, train_embedding

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here"),
    pytest.mark.usefixtures("no_report"),
]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_each_precision_trains(precision: str, arguments: Callable, tmp_path: Path) -> None:
    result = train_classifier.main(arguments(tmp_path / "run", train_precision=precision, train_epochs=4, optim_lr=0.01))
    history = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert 0 <= result["accuracy"] <= 1
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["precision"] == precision
    assert environment["device"].startswith("cuda")
    (state, *_) = sorted((tmp_path / "run" / "last").glob("e*"), reverse=True)
    saved = torch.load(state / "optimizer.pt", weights_only=True)
    assert ("scaler" in saved) == (precision == "fp16")


def test_weights_are_float32_whatever_the_precision(arguments: Callable, tmp_path: Path) -> None:
    train_classifier.main(arguments(tmp_path / "run", train_precision="bf16", train_epochs=1))
    found = {tensor.dtype for tensor in load_file(tmp_path / "run" / "best" / "model.safetensors").values()}
    assert found <= {torch.float32, torch.int64}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_interrupted_run_goes_on(precision: str, arguments: Callable, tmp_path: Path, killed_in_second_epoch: Callable) -> None:
    """To the last bits but those that sums on a GPU leave open."""
    fields = {"train_precision": precision, "train_epochs": 3, "train_ema": 0.9, "optim_lr": 1e-3}
    train_classifier.main(arguments(tmp_path / "whole", **fields))
    argv = arguments(tmp_path / "run", **fields)
    with killed_in_second_epoch():
        train_classifier.main(argv)
    train_classifier.main([*argv, "--resume"])
    whole, run = (load_file(tmp_path / name / "best" / "model.safetensors") for name in ("whole", "run"))
    for name, tensor in whole.items():
        assert torch.allclose(run[name].float(), tensor.float(), atol=1e-2), name


def test_batches_are_pinned_and_arrive_in_channels_last(
    arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, real, step = [], Network.forward, loop.Trainer.train_step

    def forward(network: Network, images: torch.Tensor, targets: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        seen.append((images.device.type, images.is_contiguous(memory_format=torch.channels_last)))
        return real(network, images, targets)

    def train_step(trainer: loop.Trainer, batch: int, images: torch.Tensor, targets: torch.Tensor) -> bool:
        assert images.is_pinned()
        return step(trainer, batch, images, targets)

    monkeypatch.setattr(Network, "forward", forward)
    monkeypatch.setattr(loop.Trainer, "train_step", train_step)
    train_classifier.main(arguments(tmp_path / "run", train_epochs=1, data_workers=1))
    assert set(seen) == {("cuda", True)}


def test_a_compiled_backbone_trains(arguments: Callable, tmp_path: Path) -> None:
    train_classifier.main(arguments(tmp_path / "run", train_compile=True, train_epochs=1))
    assert (tmp_path / "run" / "metrics.json").exists()


def test_gradient_checkpointing_trains(arguments: Callable, tmp_path: Path) -> None:
    train_classifier.main(arguments(tmp_path / "run", model_name="resnet18", train_grad_checkpointing=True, train_epochs=1))
    assert (tmp_path / "run" / "metrics.json").exists()


def test_too_little_memory_is_one_sentence(arguments: Callable, tmp_path: Path) -> None:
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(2e8 / torch.cuda.get_device_properties(0).total_memory)
    try:
        with pytest.raises(FlukeError, match="Out of GPU memory with train.batch_size 36 on 1 process; try --train.batch_size 18"):
            train_classifier.main(arguments(tmp_path / "run", model_name="resnet18", data_size=448, train_batch_size=36))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def test_embeddings_train(arguments: Callable, tmp_path: Path) -> None:
    fields = {"objective_name": "arcface", "model_embedding_dim": 8, "data_sample_submission": "null", "train_epochs": 2}
    result = train_embedding.main(arguments(tmp_path / "run", **fields))
    assert 0 <= result["map@5"] <= 1


def test_auto_is_the_largest_batch_that_fits(arguments: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    fields = {"model_name": "resnet18", "data_size": 224, "train_batch_size": "auto", "train_accumulate": 8, "train_epochs": 1}
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(2e9 / torch.cuda.get_device_properties(0).total_memory)
    try:
        train_classifier.main(arguments(tmp_path / "small", **fields))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    train_classifier.main(arguments(tmp_path / "whole", **fields))
    print(capsys.readouterr().out)
    found = {name: read_tree(str(tmp_path / name / "recipe.yaml"))["train"] for name in ("small", "whole")}
    assert found["small"]["batch_size"] < found["whole"]["batch_size"] == 256
    assert {train["batch_size"] * train["accumulate"] for train in found.values()} == {256}


RANK = """
import sys
from datetime import timedelta

from accelerate import PartialState

PartialState(backend="gloo", timeout=timedelta(minutes=5))  # NCCL refuses two processes on one GPU
from scripts import train_classifier

train_classifier.main(sys.argv[1:])
"""


@pytest.mark.parametrize("sync_batchnorm", [True, False])
def test_two_ranks_on_one_gpu_train_as_one(sync_batchnorm: bool, arguments: Callable, tmp_path: Path) -> None:
    """With the statistics of all images; without, each rank normalizes its own."""
    fields = {"train_precision": "fp32", "train_epochs": 2, "train_sync_batchnorm": sync_batchnorm, "optim_lr": 1e-3}
    fields |= {"data_augment": "[]"}
    argv = arguments(tmp_path / "two", **fields)
    environment = {**os.environ, "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[2]) + os.pathsep + os.environ.get("PYTHONPATH", "")}
    command = [sys.executable, "-c", RANK, *argv]
    ranks = [subprocess.Popen(command, env={**environment, "RANK": str(rank)}, stderr=subprocess.PIPE) for rank in (0, 1)]
    try:
        errors = [rank.communicate(timeout=300)[1].decode() for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    environment_file = json.loads((tmp_path / "two" / "environment.json").read_text())
    assert (environment_file["processes"], environment_file["device"]) == (2, "cuda:0")
    train_classifier.main(arguments(tmp_path / "one", **fields))
    two, one = (json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0]) for name in ("two", "one"))
    assert (abs(two["train_loss"] - one["train_loss"]) < 0.02) == sync_batchnorm, (two, one)
