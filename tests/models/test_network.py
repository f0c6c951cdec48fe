"""Backbones, pooling, heads, freezing, and weights on their way in and out."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import nn

from lib.config.recipe import Model, Objective
from lib.errors import FlukeError
from lib.images.samplers import derive_seed
from lib.models.embedding_losses import make_embedding_loss
from lib.models.losses import make_classification_loss
from lib.models.network import GeM, Network, NetworkSpec, make_mixup
from lib.models.weights import load_initial_weights, load_network, read_spec, save_network
from lib.tables.target import IDENTITY, ONE_LABEL, SEVERAL_LABELS

CLASSES = ("ant", "bee", "cat")


def make(
    name: str = "test_resnet",
    classes: tuple[str, ...] = CLASSES,
    multi: bool = False,
    kind: str = "classifier",
    size: int = 32,
    **m: object,
) -> Network:
    torch.manual_seed(0)
    return Network(
        NetworkSpec(
            Model(name=name, pretrained=False, **m),
            classes,
            IDENTITY if kind == "embedding" else SEVERAL_LABELS if multi else ONE_LABEL,
            size,
            "squash",
        )
    )


def pictures(n: int = 4, size: int = 32) -> torch.Tensor:
    return torch.randint(256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(n))


def step(network: Network, size: int = 32, lr: float = 0.1) -> float:
    """One step of SGD on two batches' worth of noise; returns the loss."""
    targets = torch.arange(4) % len(network.spec.classes)
    network.objective = make_classification_loss(Objective(), targets.numpy(), network.spec.classes, ONE_LABEL)
    network.train()
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=lr)
    loss = network(pictures(size=size), targets)["loss"]
    loss.backward()
    optimizer.step()
    return loss.item()


# --- backbones --------------------------------------------------------------------------------------------------------------------

SMALL = ["resnet18", "efficientnet_b0", "mobilenetv2_100", "tf_mobilenetv3_small_minimal_100"]
LARGE = ["resnet34", "resnet50", "resnet50d", "resnet101", "vgg16", "tf_efficientnetv2_s", "efficientnet_b4", "mixnet_xl"]
LARGE += ["inception_resnet_v2", "resnext50_32x4d", "seresnext50_32x4d"]


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)])
def test_every_backbone_of_the_reports_takes_a_training_step(name: str) -> None:
    size = 96 if name == "inception_resnet_v2" else 64
    network = make(name, size=size)
    before = {key: value.clone() for key, value in network.named_parameters()}
    assert step(network, size, lr=1e-3) > 0
    still = [key for key, value in network.named_parameters() if value.grad is None]
    assert not still
    assert any((value != before[key]).any() for key, value in network.backbone.named_parameters(prefix="backbone"))
    assert network.eval()(pictures(2, size))["output"].shape == (2, 3)


def test_unknown_backbone_names_the_nearest() -> None:
    with pytest.raises(FlukeError, match=r"model.name resnet81: timm has no such model; did you mean resnet18"):
        make("resnet81")
    with pytest.raises(FlukeError, match=r"model.name test_resnet with kwargs .*no_such_thing"):
        make(kwargs={"no_such_thing": 1})


@pytest.mark.parametrize("kind", ["classifier", "embedding"])
def test_outputs_and_loss_have_float32_digits_under_autocast(kind: str) -> None:
    """Of 1,000 classes' logits in bfloat16, with 8 bits, hundreds are equal."""
    network = make(classes=tuple(map(str, range(1000))), kind=kind).eval()
    if kind == "embedding":
        network.objective = make_embedding_loss(Objective(name="arcface"), np.arange(1000), 1000, network.width)
    else:
        network.objective = torch.nn.CrossEntropyLoss()
    targets = torch.arange(4)
    with torch.autocast("cpu", torch.bfloat16):
        found = network(pictures(), targets)
    output = found["output"]
    assert output.dtype == found["loss"].dtype == torch.float32
    assert len(output[output != 0].unique()) > 0.9 * (output != 0).sum()  # a ReLU's zeros are equal
    torch.testing.assert_close(found["loss"], network.objective(output, targets), rtol=1e-6, atol=0)


def test_images_are_normalised_as_the_backbone_wants() -> None:
    network = make("tf_efficientnet_lite0").eval()  # mean = deviation = 0.5
    x = pictures()
    with torch.no_grad():
        expected = network.head(network.backbone(x / 127.5 - 1))
        assert torch.allclose(network(x)["output"], expected, atol=1e-5)


# --- pooling ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "tf_mobilenetv3_small_minimal_100"])
@pytest.mark.parametrize("pool", ["default", "avg", "max", "gem"])
def test_pools_of_convolutional_backbones(name: str, pool: str) -> None:
    network = make(name, pool=pool)
    assert step(network) > 0
    assert ("pool.p" in dict(network.named_parameters())) == (pool == "gem")


@pytest.mark.parametrize(("pool", "reduce"), [("avg", torch.mean), ("max", torch.amax)])
def test_average_and_maximum_of_the_map(pool: str, reduce: object) -> None:
    network = make(pool=pool).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(network.backbone(x), reduce(network.backbone.forward_features(x), (2, 3)), atol=1e-6)


def test_gem_is_the_mean_at_1_and_the_maximum_at_infinity() -> None:
    x, pool = torch.rand(2, 5, 4, 4), GeM()
    pool.p.data.fill_(1.0)
    assert torch.allclose(pool(x), x.mean((2, 3)))
    pool.p.data.fill_(200.0)
    assert torch.allclose(pool(x), x.amax((2, 3)), rtol=0.02)
    pool.p.data.fill_(3.0)
    assert torch.allclose(pool(x), (x**3).mean((2, 3)) ** (1 / 3))
    pool(x).sum().backward()
    assert pool.p.grad.abs() > 0


def test_gem_without_a_feature_map_is_refused() -> None:
    with pytest.raises(FlukeError, match=r"model.pool gem: test_vit has no feature map"):
        make("test_vit", pool="gem", size=160)
    assert make("test_vit", size=160)(pictures(2, 160))["output"].shape == (2, 3)


def test_size_that_a_backbone_cannot_take_is_one_sentence() -> None:
    with pytest.raises(FlukeError, match=r"model.name test_vit: can't take images of 20 px \(.*patch size"):
        make("test_vit", size=20)


# --- head -------------------------------------------------------------------------------------------------------------------------


def test_hidden_layers_have_their_widths_and_batchnorm() -> None:
    network = make("resnet18", tuple("abcde"), hidden=[128, 32], dropout=0.5)  # report 3: 512, 128, 32, 5
    linear = [module for module in network.head if isinstance(module, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(512, 128), (128, 32), (32, 5)]
    assert [m.num_features for m in network.head if isinstance(m, nn.BatchNorm1d)] == [128, 32]
    assert [m.p for m in network.head if isinstance(m, nn.Dropout)] == [0.5]
    assert step(network) > 0


def test_several_labels_start_at_a_low_probability() -> None:
    assert torch.allclose(make(multi=True).head[-1].bias.sigmoid(), torch.tensor(0.05))


@pytest.mark.parametrize("dim", [None, 16])
def test_embeddings_have_length_1(dim: int | None) -> None:
    network = make(kind="embedding", embedding_dim=dim)
    output = network(pictures())["output"]
    assert output.shape == (4, network.width)
    assert network.width == (dim or 96)
    assert torch.allclose(output.norm(dim=1), torch.ones(4))


# --- freezing ---------------------------------------------------------------------------------------------------------------------


def moved(network: Network) -> set[str]:
    """Names of the tensors, parameters and BatchNorm statistics alike, that a step changes."""
    before = {key: value.clone() for key, value in network.state_dict().items()}
    step(network)
    return {key for key, value in network.state_dict().items() if not key.startswith("objective.") and (value != before[key]).any()}


def test_frozen_backbone_keeps_weights_and_batchnorm_statistics_and_thaws() -> None:
    network = make("resnet18", hidden=[8])
    network.freeze(("",))
    network.train()  # would put a frozen BatchNorm back to collecting statistics
    found = moved(network)
    assert found
    assert all(key.startswith("head.") for key in found)
    assert "head.1.running_mean" in found  # the head's own BatchNorm learns
    network.freeze(())
    found = moved(network)
    assert {"backbone.conv1.weight", "backbone.bn1.running_mean", "backbone.layer4.1.bn2.running_var"} <= found


def test_frozen_parts_by_the_beginning_of_their_names() -> None:
    network = make("resnet18")
    network.freeze(("conv1", "bn1", "layer1", "layer2.0"))
    found = moved(network)
    assert not [key for key in found if key.startswith(("backbone.conv1", "backbone.bn1", "backbone.layer1", "backbone.layer2.0"))]
    assert {"backbone.layer2.1.bn2.weight", "backbone.layer2.1.bn1.running_mean", "backbone.layer4.0.downsample.0.weight"} <= found
    network.freeze(("layer1",))
    assert "backbone.layer2.0.downsample.0.weight" in moved(network)


@pytest.mark.parametrize("prefix", ["layer9", "layer", "conv1."])
def test_prefix_that_fits_no_part_is_refused(prefix: str) -> None:
    with pytest.raises(FlukeError, match=rf"optim.freeze: '{prefix}' fits no part of resnet18; its parts are conv1, bn1"):
        make("resnet18").freeze((prefix,))


# --- mixing -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
@pytest.mark.parametrize("multi", [False, True])
def test_mixing_mixes_images_and_targets_alike(kind: str, multi: bool) -> None:
    mix = make_mixup(Objective(**{kind: 1.0}), 4)
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 64, 64)  # each image is its own number
    targets = torch.eye(4) if multi else torch.arange(4)
    torch.manual_seed(3)
    x, y = mix(images, targets)
    partner = torch.arange(4).roll(1)
    share = y[torch.arange(4), torch.arange(4)]
    assert ((share > 0.02) & (share < 0.98)).all()
    assert torch.allclose(y.sum(1), torch.ones(4))
    assert torch.allclose(y[torch.arange(4), partner], 1 - share)
    assert torch.allclose(x.mean((1, 2, 3)), share * torch.arange(4.0) + (1 - share) * partner, atol=1e-4)
    assert (x[1].unique().numel() == 1) == (kind == "mixup")  # CutMix pastes a rectangle, MixUp blends all over


@pytest.mark.parametrize(("prob", "least", "most"), [(0.0, 0, 0), (0.5, 60, 140), (1.0, 200, 200)])
def test_mix_prob_is_the_share_of_mixed_batches(prob: float, least: int, most: int) -> None:
    mix = make_mixup(Objective(mixup=1.0, cutmix=1.0, mix_prob=prob), 4)
    x, y = torch.rand(4, 3, 8, 8), torch.arange(4)
    torch.manual_seed(0)
    mixed = 0 if mix is None else sum(mix(x, y)[1].ndim == 2 for _ in range(200))
    assert least <= mixed <= most


def test_mixing_is_a_function_of_the_seed_and_off_in_evaluation() -> None:
    targets = torch.tensor([0, 1, 2, 0])
    network = Network(make().spec, Objective(mixup=0.4, cutmix=1.0))
    network.objective = make_classification_loss(Objective(), targets.numpy(), CLASSES, ONE_LABEL)
    losses = []
    for batch in (0, 0, 1):
        network.load_state_dict(make().state_dict(), strict=False)
        torch.manual_seed(derive_seed(0, 1, 0, batch, 0))
        losses.append(network(pictures(), targets)["loss"].item())
    assert losses[0] == losses[1] != losses[2]
    network.eval()
    assert network(pictures(), targets)["loss"].item() == network(pictures(), targets)["loss"].item()


# --- weights ----------------------------------------------------------------------------------------------------------------------


def same_backbone(a: nn.Module, b: nn.Module) -> bool:
    mine, yours = a.state_dict(), b.state_dict()
    return all(torch.equal(mine[key], yours[key]) for key in mine)


def fill(path: Path, **fields: object) -> tuple[Network, str]:
    network = make(**{"weights": str(path), **fields})
    return network, load_initial_weights(network, network.spec.model)


@pytest.fixture(scope="module")
def timm_model() -> nn.Module:
    torch.manual_seed(7)
    return timm.create_model("test_resnet", pretrained=False, num_classes=10)


def test_timms_own_names_in_safetensors_and_pth(timm_model: nn.Module, tmp_path: Path) -> None:
    state = timm_model.state_dict()
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pth")
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}, tmp_path / "c.bin")
    torch.save({"model_state_dict": state, "optimizer_state_dict": {}, "mAP": 0.7}, tmp_path / "d.pth")  # as reports 1 and 5 save
    for name in ("a.safetensors", "b.pth", "c.bin", "d.pth"):
        network, said = fill(tmp_path / name)
        assert all(torch.equal(value, state[key]) for key, value in network.backbone.state_dict().items())
        assert "new head; left out 2: fc.bias, fc.weight" in said


class Bomb:
    """What a hostile .pth does when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.touch, (self.mark,)


def test_pickled_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": Bomb(tmp_path / "ran")}, tmp_path / "bad.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    torch.save(make(), tmp_path / "whole.pth")  # a whole module, as report 4 saved it
    for name in ("bad.pth", "raw.pth", "whole.pth"):
        with pytest.raises(FlukeError, match=rf"{name}: not a weights file that can be read safely \(a pickle with more than"):
            fill(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_other_files_are_refused_in_a_sentence(timm_model: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(FlukeError, match=r"no.pth: no such file"):
        fill(tmp_path / "no.pth")
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "cut.safetensors").write_bytes(safetensors.torch.save(timm_model.state_dict())[:1000])
    for name in ("text.pth", "cut.safetensors"):
        with pytest.raises(FlukeError, match=f"{name}: not a weights file that can be read safely"):
            fill(tmp_path / name)
    torch.save({"mAP": 0.7}, tmp_path / "number.pth")
    with pytest.raises(FlukeError, match=r"number.pth: holds no tensors by name"):
        fill(tmp_path / "number.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(FlukeError, match=r"list.pth: "):
        fill(tmp_path / "list.pth")
    torch.save(timm_model.state_dict(), tmp_path / "other.pth")
    with pytest.raises(
        FlukeError, match=r"other.pth: not weights of resnet18: \d+ of its 120 backbone tensors are missing or of another"
    ):
        fill(tmp_path / "other.pth", name="resnet18")


def test_small_problem_first_then_the_same_weights_with_a_new_head(tmp_path: Path) -> None:
    small = make(hidden=[8])
    step(small)
    save_network(tmp_path / "best.safetensors", small)
    same, said = fill(tmp_path / "best.safetensors", hidden=[8])
    assert same_backbone(same.backbone, small.backbone)
    assert same_backbone(same.head, small.head)
    assert "new head" not in said
    for other in (("ant", "bee", "cat", "dog"), ("dog", "eel", "fox")):  # the same number of other classes is another head too
        network, said = fill(tmp_path / "best.safetensors", hidden=[8], classes=other)
        assert same_backbone(network.backbone, small.backbone)
        assert not torch.equal(network.head[-1].weight[:3], small.head[-1].weight)
        assert "new head; left out 1: head (its classes are others)" in said
    network, said = fill(tmp_path / "best.safetensors", kind="embedding", embedding_dim=8, pool="gem")
    assert same_backbone(network.backbone, small.backbone)
    assert "head (of a run of kind classifier)" in said


NAMES = ('a "quoted" class', "naïve/ß", "鯨\n2", "", "01", "'; --", "\U0001f40b")


def test_best_comes_back_bit_for_bit_with_its_class_names(tmp_path: Path) -> None:
    network = make(classes=NAMES, pool="gem", hidden=[8])
    step(network)
    averaged = timm.utils.ModelEmaV3(network, decay=0.5)
    step(network)
    averaged.update(network)
    save_network(tmp_path / "best.safetensors", averaged.module)
    back = load_network(tmp_path / "best.safetensors")
    assert back.spec == network.spec
    assert not back.training
    expected = {key: value for key, value in averaged.module.state_dict().items() if not key.startswith("objective.")}
    assert back.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in back.state_dict().items())
    assert torch.equal(back(pictures())["output"], averaged.module.eval()(pictures())["output"])


def test_strangers_safetensors_are_told_from_a_runs(timm_model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "stranger.safetensors"
    safetensors.torch.save_file(timm_model.state_dict(), path)
    assert read_spec(path) is None
    with pytest.raises(
        FlukeError, match=r"stranger.safetensors: weights without a description; only a run's best/model.safetensors"
    ):
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
    with pytest.raises(FlukeError, match=r"tensors don't fit its own description"):
        load_network(path)
    for text in ("{", "[]", "{}", json.dumps({**spec, "model": {"nam": 1}}), json.dumps({**spec, "more": 1})):
        safetensors.torch.save_file(timm_model.state_dict(), path, metadata={"fluke": text})
        with pytest.raises(FlukeError, match="its description can't be read"):
            read_spec(path)
