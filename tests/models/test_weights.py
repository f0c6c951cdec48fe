"""Loading of initial weights, saving of networks, and loading them again."""

import json
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from torch import nn

from lib.errors import FlukeError
from lib.models.network import Network
from lib.models.weights import load_initial_weights, load_network, read_spec, save_network
from lib.tables.target import IDENTITY
from tests.models.made_networks import make_network, random_images, train_step


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return all(torch.equal(first[key], second[key]) for key in first)


def load_into_new(path: Path, **fields: object) -> tuple[Network, str]:
    network = make_network(**{"weights": str(path), **fields})
    return network, load_initial_weights(network, network.spec.model)


@pytest.fixture(scope="module")
def timm_model() -> nn.Module:
    torch.manual_seed(7)
    return timm.create_model("test_resnet", pretrained=False, num_classes=10)


def test_weights_with_timms_names_are_loaded(timm_model: nn.Module, tmp_path: Path) -> None:
    state = timm_model.state_dict()
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pth")
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}, tmp_path / "c.bin")
    torch.save({"model_state_dict": state, "optimizer_state_dict": {}, "mAP": 0.7}, tmp_path / "d.pth")  # as reports 1 and 5 save
    for name in ("a.safetensors", "b.pth", "c.bin", "d.pth"):
        network, message = load_into_new(tmp_path / name)
        assert all(torch.equal(value, state[key]) for key, value in network.backbone.state_dict().items())
        assert "new head; left out 2: fc.bias, fc.weight" in message


class Exploit:
    """Code that runs when a file is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.touch, (self.mark,)


def test_pickled_code_is_refused_and_not_executed(tmp_path: Path) -> None:
    torch.save({"state_dict": Exploit(tmp_path / "ran")}, tmp_path / "bad.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Exploit(tmp_path / "ran")))
    torch.save(make_network(), tmp_path / "whole.pth")  # a pickled module, as report 4 saved it
    for name in ("bad.pth", "raw.pth", "whole.pth"):
        with pytest.raises(FlukeError, match=rf"{name}: not a weights file that can be read safely \(a pickle with more than"):
            load_into_new(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_files_that_are_not_weights_are_refused(timm_model: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(FlukeError, match=r"no.pth: no such file"):
        load_into_new(tmp_path / "no.pth")
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "cut.safetensors").write_bytes(safetensors.torch.save(timm_model.state_dict())[:1000])
    for name in ("text.pth", "cut.safetensors"):
        with pytest.raises(FlukeError, match=f"{name}: not a weights file that can be read safely"):
            load_into_new(tmp_path / name)
    torch.save({"mAP": 0.7}, tmp_path / "number.pth")
    with pytest.raises(FlukeError, match=r"number.pth: holds no named tensors"):
        load_into_new(tmp_path / "number.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(FlukeError, match=r"list.pth: "):
        load_into_new(tmp_path / "list.pth")
    torch.save(timm_model.state_dict(), tmp_path / "other.pth")
    with pytest.raises(
        FlukeError, match=r"other.pth: not weights of resnet18 \(\d+ of its 120 backbone tensors are missing or of another"
    ):
        load_into_new(tmp_path / "other.pth", name="resnet18")


def test_weights_of_a_run_are_reused_with_a_new_head(tmp_path: Path) -> None:
    small = make_network(hidden=[8])
    train_step(small)
    save_network(tmp_path / "best.safetensors", small)
    same, message = load_into_new(tmp_path / "best.safetensors", hidden=[8])
    assert same_weights(same.backbone, small.backbone)
    assert same_weights(same.head, small.head)
    assert "new head" not in message
    for other in (("ant", "bee", "cat", "dog"), ("dog", "eel", "fox")):  # as many but other classes need a new head too
        network, message = load_into_new(tmp_path / "best.safetensors", hidden=[8], classes=other)
        assert same_weights(network.backbone, small.backbone)
        assert not torch.equal(network.head[-1].weight[:3], small.head[-1].weight)
        assert "new head; left out 1: head (of other classes)" in message
    network, message = load_into_new(tmp_path / "best.safetensors", target=IDENTITY, embedding_dim=8, pool="gem")
    assert same_weights(network.backbone, small.backbone)
    assert "head (of a run of kind classifier)" in message


NAMES = ('a "quoted" class', "naïve/ß", "鯨\n2", "", "01", "'; --", "\U0001f40b")


def test_saved_network_is_loaded_bit_for_bit_with_its_class_names(tmp_path: Path) -> None:
    network = make_network(classes=NAMES, pool="gem", hidden=[8])
    train_step(network)
    averaged = timm.utils.ModelEmaV3(network, decay=0.5)
    train_step(network)
    averaged.update(network)
    save_network(tmp_path / "best.safetensors", averaged.module)
    loaded = load_network(tmp_path / "best.safetensors")
    assert loaded.spec == network.spec
    assert not loaded.training
    expected = {key: value for key, value in averaged.module.state_dict().items() if not key.startswith("objective.")}
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in loaded.state_dict().items())
    assert torch.equal(loaded(random_images())["output"], averaged.module.eval()(random_images())["output"])


def test_weights_without_a_valid_description_are_refused(timm_model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    safetensors.torch.save_file(timm_model.state_dict(), path)
    assert read_spec(path) is None
    with pytest.raises(FlukeError, match=r"foreign.safetensors: weights without a description; only the best weights of a run"):
        load_network(path)
    spec = {
        "model": {"name": "test_resnet"},
        "classes": ["a", "b"],
        "multi": False,
        "kind": "classifier",
        "size": 32,
        "fit": "squash",
    }
    safetensors.torch.save_file(timm_model.state_dict(), path, metadata={"fluke": json.dumps(spec)})
    with pytest.raises(FlukeError, match=r"tensors don't match its own description"):
        load_network(path)
    for text in ("{", "[]", "{}", json.dumps({**spec, "model": {"nam": 1, "dropout": 2}}), json.dumps({**spec, "more": 1})):
        safetensors.torch.save_file(timm_model.state_dict(), path, metadata={"fluke": text})
        with pytest.raises(FlukeError, match="its description can't be read") as caught:
            read_spec(path)
        assert "\n" not in str(caught.value)
