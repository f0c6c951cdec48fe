"""MiewID's tensors, by their own names, give MiewID's embeddings; its code isn't run."""

from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F

from lib.config.recipe import Model
from lib.models.network import Network, NetworkSpec
from lib.models.weights import load_initial_weights
from lib.tables.target import IDENTITY

NAME = "test_efficientnet"  # MiewID's is efficientnetv2_rw_m, of the same family


def checkpoint(path: Path, pooling: str) -> dict[str, torch.Tensor]:
    """Write what MiewID's training saves, with values that training would have changed."""
    torch.manual_seed(3)
    backbone = timm.create_model(NAME, num_classes=0)
    width = backbone.num_features
    state = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    state |= {pooling: torch.tensor([2.5]), "bn.weight": torch.rand(width) + 0.5, "bn.bias": torch.randn(width)}
    state |= {"bn.running_mean": torch.rand(width), "bn.running_var": torch.rand(width) + 0.5}
    state |= {"bn.num_batches_tracked": torch.tensor(7), "final.weight": torch.randn(10, width)}
    safetensors.torch.save_file(state, path)
    return state


def spec(**fields: object) -> NetworkSpec:
    return NetworkSpec(Model(name=NAME, embedding_dim=None, hidden=[], **fields), (), IDENTITY, 64, "squash")


@pytest.mark.parametrize("pooling", ["pooling.p", "global_pool.p", "backbone.global_pool.p"])
def test_embeddings_are_those_of_miewid(pooling: str, tmp_path: Path) -> None:
    state = checkpoint(tmp_path / "model.safetensors", pooling)
    network = Network(spec(pool="gem", weights=str(tmp_path / "model.safetensors")))
    said = load_initial_weights(network, network.spec.model)
    assert "new head" not in said
    assert "left out 1: final.weight" in said
    images = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    backbone = timm.create_model(NAME, num_classes=0, global_pool="").eval()
    backbone.load_state_dict({name.removeprefix("backbone."): v for name, v in state.items() if name[9:] in backbone.state_dict()})
    with torch.no_grad():
        maps = backbone((images.float() - network.mean) / network.std)
        pooled = maps.clamp(min=1e-6).pow(2.5).mean((2, 3)).pow(1 / 2.5)
        expected = F.batch_norm(pooled, *(state[f"bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")))
        torch.testing.assert_close(network.eval()(images)["output"], F.normalize(expected), rtol=1e-4, atol=1e-5)


def test_another_pooling_is_named(tmp_path: Path) -> None:
    checkpoint(tmp_path / "model.safetensors", "pooling.p")
    network = Network(spec(weights=str(tmp_path / "model.safetensors")))
    assert "these need model.pool gem" in load_initial_weights(network, network.spec.model)
