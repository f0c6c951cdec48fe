"""Weights files of other programs: containers, prefixes, sizes, stems, precisions, shards."""

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import Tensor, nn

from lib.errors import FlukeError
from lib.models.network import Network
from lib.models.weights import load_initial_weights, save_network
from tests.models.made_networks import make_network, random_images, train_step

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(7)
    return timm.create_model("test_resnet", num_classes=10).state_dict()


def load_into_new(path: Path, **fields: object) -> tuple[Network, str]:
    network = make_network(**{"weights": str(path), **fields})
    return network, load_initial_weights(network, network.spec.model)


def prefixed(state: State, prefix: str) -> State:
    return {prefix + key: value for key, value in state.items()}


def zeros(state: State) -> State:
    return {key: torch.zeros_like(value) for key, value in state.items()}


CONTAINERS: dict[str, Callable[[State], dict]] = {
    "as it is, with an epoch": lambda s: {**s, "epoch": torch.tensor(3)},
    "Lightning": lambda s: {"state_dict": prefixed(s, "model."), "hyper_parameters": {"lr": 1e-3}, "epoch": 3},
    "Lightning, deeper": lambda s: {"state_dict": {**prefixed(s, "net.encoder."), "net.head.weight": torch.zeros(3, 3)}},
    "timm's EMA": lambda s: {"state_dict": zeros(s), "state_dict_ema": prefixed(s, "module."), "args": argparse.Namespace(lr=1)},
    "basicsr's EMA": lambda s: {"params": zeros(s), "params_ema": s},
    "DINO's teacher": lambda s: {"student": prefixed(zeros(s), "module.backbone."), "teacher": prefixed(s, "backbone.")},
    "PyTorch's tutorial": lambda s: {"model_state_dict": s, "optimizer_state_dict": {"state": {0: s}, "param_groups": []}},
    "nested twice": lambda s: {"weights": {"network": prefixed(s, "module.")}, "score": np.float64(0.7)},
    "compiled": lambda s: prefixed(s, "_orig_mod.module."),
    "compiled parts": lambda s: {key.replace("layer1.", "layer1._orig_mod."): value for key, value in s.items()},
    "half precision": lambda s: {key: value.half() if value.is_floating_point() else value for key, value in s.items()},
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_weights_are_found_in_the_containers_of_other_programs(kind: str, state: State, tmp_path: Path) -> None:
    torch.save(CONTAINERS[kind](state), tmp_path / "w.ckpt")
    network, message = load_into_new(tmp_path / "w.ckpt")
    for key, value in network.backbone.state_dict().items():
        torch.testing.assert_close(value, state[key], atol=1e-3, rtol=1e-3, check_dtype=True)
    assert "75 tensors" in message or "90 tensors" in message


def test_the_place_of_the_weights_is_said(state: State, tmp_path: Path) -> None:
    torch.save(CONTAINERS["timm's EMA"](state), tmp_path / "w.pth.tar")
    assert "under state_dict_ema.module." in load_into_new(tmp_path / "w.pth.tar")[1]


def test_shards_are_joined_and_a_single_one_is_refused(state: State, tmp_path: Path) -> None:
    names = sorted(state)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, keys in shards.items():
        safetensors.torch.save_file({key: state[key] for key in keys}, tmp_path / file)
    index = {"weight_map": {key: file for file, keys in shards.items() for key in keys}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    network, _ = load_into_new(tmp_path / "model.safetensors.index.json")
    assert all(torch.equal(value, state[key]) for key, value in network.backbone.state_dict().items())
    with pytest.raises(FlukeError, match=r"one of several shards, whose .index.json loads all"):
        load_into_new(tmp_path / "model-00001-of-00002.safetensors")
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FlukeError, match=r"00002-of-00002.safetensors: no such file"):
        load_into_new(tmp_path / "model.safetensors.index.json")


def test_folders_are_refused_with_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(FlukeError, match=r"a folder; name a file in it, of a run best/model.safetensors\.$"):
        load_into_new(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FlukeError, match="model.name local-dir:"):
        load_into_new(tmp_path)


def test_stem_of_one_channel_is_spread_over_three(tmp_path: Path) -> None:
    grey = timm.create_model("test_resnet", in_chans=1, num_classes=0).eval()
    torch.save(grey.state_dict(), tmp_path / "grey.pth")
    network, message = load_into_new(tmp_path / "grey.pth")
    assert "conv1.0 spread from 1 channel to 3" in message
    x = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(network.backbone.eval()(x.expand(-1, 3, -1, -1)), grey(x), rtol=1e-4, atol=1e-5)


def test_stem_of_rgb_is_repeated_over_other_channels(tmp_path: Path) -> None:
    rgb = timm.create_model("test_resnet", num_classes=0).eval()
    torch.save(rgb.state_dict(), tmp_path / "rgb.pth")
    network, message = load_into_new(tmp_path / "rgb.pth", kwargs={"in_chans": 6})
    assert "conv1.0 spread from 3 channels to 6" in message
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(network.backbone.eval()(x.repeat(1, 2, 1, 1)), rgb(x), rtol=1e-4, atol=1e-5)


def test_stem_of_four_channels_is_refused_with_both_shapes(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_resnet", in_chans=4).state_dict(), tmp_path / "w.pth")
    expected = r"first conv1.0.weight \(16, 3, 3, 3\), in the file conv1.0.weight \(16, 4, 3, 3\)"
    with pytest.raises(FlukeError, match=expected):
        load_into_new(tmp_path / "w.pth")


def test_weights_of_torchvision_under_its_own_names_give_its_features(tmp_path: Path) -> None:
    torch.manual_seed(3)
    theirs = torchvision.models.mobilenet_v2().eval()
    for name, value in theirs.state_dict().items():
        if value.is_floating_point() and value.ndim == 1:  # all of BatchNorm, which starts as ones and zeros
            value.copy_(torch.rand(value.shape) + 0.5 * ("var" in name or "weight" in name))
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    network, message = load_into_new(tmp_path / "w.pth", name="mobilenetv2_100")
    assert "names differ, taken in the file's order" in message
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network.backbone.eval()(x), theirs.features(x).mean((2, 3)), rtol=1e-3, atol=1e-3)


def test_older_names_are_converted_by_timms_filter(tmp_path: Path) -> None:
    state = timm.create_model("densenet121", num_classes=0).state_dict()
    older = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key): value for key, value in state.items()}
    assert older.keys() != state.keys()
    torch.save(older, tmp_path / "w.pth")
    network, message = load_into_new(tmp_path / "w.pth", name="densenet121")
    assert "names and sizes converted by timm" in message
    assert all(torch.equal(value, state[key]) for key, value in network.backbone.state_dict().items())


def test_same_tensors_under_other_names_are_taken_in_order(state: State, tmp_path: Path) -> None:
    kinds = {key: f"features.{i}.{key.rpartition('.')[2]}" for i, key in enumerate(state)}
    torch.save({kinds[key]: value for key, value in state.items()}, tmp_path / "w.pth")
    network, message = load_into_new(tmp_path / "w.pth")
    assert "names differ, taken in the file's order" in message
    assert "left out 2" in message
    tracked = "num_batches_tracked"
    assert all(torch.equal(value, state[key]) for key, value in network.backbone.state_dict().items() if not key.endswith(tracked))
    swapped = {key.replace("weight", "bias") if "bn1.weight" in key else key: value for key, value in state.items()}
    torch.save({f"x.{i}.{key.rpartition('.')[2]}": value for i, (key, value) in enumerate(swapped.items())}, tmp_path / "w.pth")
    with pytest.raises(FlukeError, match="not weights of test_resnet"):
        load_into_new(tmp_path / "w.pth")


def test_vit_of_another_size_gets_resampled_positions(tmp_path: Path) -> None:
    torch.manual_seed(1)
    vit = timm.create_model("test_vit", num_classes=9)
    torch.save({"state_dict": prefixed(vit.state_dict(), "model.")}, tmp_path / "w.pth")
    network, message = load_into_new(tmp_path / "w.pth", name="test_vit", size=96, kwargs={"img_size": 96})
    assert "sizes converted by timm" in message
    overlay = {"state_dict": vit.state_dict()}
    expected = timm.create_model("test_vit", pretrained=True, pretrained_cfg_overlay=overlay, img_size=96, num_classes=0)
    assert expected.pos_embed.shape != vit.pos_embed.shape
    for key, value in network.backbone.state_dict().items():
        assert torch.equal(value, expected.state_dict()[key]), key


def test_own_weights_of_another_size_keep_their_head(tmp_path: Path) -> None:
    first = make_network("test_vit", size=160)
    train_step(first, 160)
    save_network(tmp_path / "best.safetensors", first)
    second, message = load_into_new(tmp_path / "best.safetensors", name="test_vit", size=96, kwargs={"img_size": 96})
    assert "new head" not in message
    assert "under backbone." not in message
    assert torch.equal(second.head[-1].weight, first.head[-1].weight)
    assert torch.equal(second.backbone.blocks[0].attn.qkv.weight, first.backbone.blocks[0].attn.qkv.weight)
    assert second(random_images(2, 96))["output"].shape == (2, 3)


def test_weights_of_another_architecture_are_refused_with_names_of_both(state: State, tmp_path: Path) -> None:
    torch.save({"encoder.stages.0.kernel": torch.zeros(3), "encoder.stages.0.offset": torch.zeros(3)}, tmp_path / "w.pth")
    with pytest.raises(FlukeError, match=r"first conv1.0.weight \(16, 3, 3, 3\); the file has encoder.stages.0.kernel, encoder"):
        load_into_new(tmp_path / "w.pth")
    module: nn.Module = timm.create_model("test_efficientnet")
    torch.save(module.state_dict(), tmp_path / "w.pth")
    with pytest.raises(FlukeError, match=r"not weights of test_resnet \(\d+ of its 90"):
        load_into_new(tmp_path / "w.pth")
