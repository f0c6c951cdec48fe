"""Input sizes of backbones, and names that say where a configuration is."""

import shutil
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from lib.config.recipe import Model
from lib.errors import FlukeError
from lib.models.backbone import resolve_model
from lib.models.network import Network, NetworkSpec
from lib.models.weights import load_initial_weights, load_network, save_network
from lib.tables.target import ONE_LABEL
from tests.models.made_networks import CLASSES, make_network, random_images


def resolve(name: str, *sizes: int, **fields: object) -> Model:
    return resolve_model(Model(name=name, **fields), sizes)


def test_backbones_of_fixed_input_size_are_built_for_the_images() -> None:
    vit = "vit_tiny_patch16_224"
    assert resolve(vit, 224, 224).kwargs == {}  # its own size
    assert resolve("test_resnet", 96, 128).kwargs == {}
    assert resolve("test_vit", 96, 128).kwargs == {}  # takes any size
    assert resolve(vit, 32, 32).kwargs == {"img_size": 32}
    assert resolve(vit, 32, 48).kwargs == {"dynamic_img_size": True}
    for said in ({"img_size": 64}, {"dynamic_img_size": True}):
        assert resolve(vit, 32, 32, kwargs=said).kwargs == said
    for sizes in ((32, 32), (32, 48)):
        network = make_network(vit, size=32, kwargs=resolve(vit, *sizes).kwargs)
        assert all(network(random_images(2, size))["output"].shape == (2, 3) for size in sizes)


def test_size_that_leaves_out_pixels_of_a_patch_is_refused() -> None:
    with pytest.raises(FlukeError, match=r"takes images of a multiple of 16 px \(40\); set another data.size"):
        resolve("vit_tiny_patch16_224", 40, 40)
    assert resolve("xcit_nano_12_p16_224", 72, 72).kwargs == {}  # of fixed size by its configuration, but it takes any


def test_second_size_is_refused_where_a_backbone_takes_one() -> None:
    with pytest.raises(FlukeError, match=r"data.eval_size 128: pit_ti_224 takes images of one size; set it to null"):
        resolve("pit_ti_224", 96, 128)


@pytest.fixture
def local_model(tmp_path: Path) -> tuple[str, nn.Module]:
    """Return the name of a saved ViT of 96 px with its own mean, and the ViT."""
    torch.manual_seed(5)
    overlay = {"mean": (0.1, 0.2, 0.3)}
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=7, img_size=96, depth=2, pretrained_cfg_overlay=overlay)
    timm.models.save_for_hf(vit, tmp_path / "saved")
    return f"local-dir:{tmp_path / 'saved'}", vit


@pytest.mark.parametrize("sizes", [(96, 96), (64, 64), (64, 96)])
def test_run_of_a_named_folder_loads_without_that_folder(
    sizes: tuple[int, int], local_model: tuple[str, nn.Module], tmp_path: Path
) -> None:
    name, vit = local_model
    named = Model(name=name)
    network = Network(NetworkSpec(resolve_model(named, sizes), CLASSES, ONE_LABEL, sizes[-1], "squash")).eval()
    assert network.spec.model.name == "vit_tiny_patch16_224"
    load_initial_weights(network, named)
    assert torch.equal(network.backbone.blocks[0].attn.qkv.weight, vit.blocks[0].attn.qkv.weight)
    assert torch.allclose(network.mean.flatten() / 255, torch.tensor([0.1, 0.2, 0.3]))
    if sizes == (96, 96):
        x = random_images(2, 96)
        expected = vit.eval().forward_head(vit.forward_features((x.float() - network.mean) / network.std), pre_logits=True)
        torch.testing.assert_close(network.backbone((x.float() - network.mean) / network.std), expected)
    save_network(tmp_path / "best.safetensors", network)
    shutil.rmtree(tmp_path / "saved")
    loaded = load_network(tmp_path / "best.safetensors")
    images = random_images(2, sizes[-1])
    assert torch.equal(loaded(images)["output"], network(images)["output"])
    assert torch.equal(loaded.mean, network.mean)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("BVRA/MegaDescriptor-T-224", "Use 'hf-hub:BVRA/MegaDescriptor-T-224' to load from the Hub"),
        ("local-dir:/nowhere", r"can't be read \(Config file not found: .*\); name a folder with config.json"),
        ("hub:x", "valid sources: hf-hub, local-dir"),
        ("resnet81", "timm has no such model; did you mean resnet18"),
        ("resnet18.no_such_tag", "can't be built with kwargs .*no_such_tag"),
    ],
)
def test_names_of_no_model_are_refused_with_the_way(name: str, sentence: str) -> None:
    with pytest.raises(FlukeError, match=sentence):
        make_network(name, kwargs=resolve(name, 32).kwargs)
