"""Backbones, pooling, heads, freezing and mixing."""

import numpy as np
import pytest
import torch
from torch import nn

from lib.config.recipe import Model, Objective
from lib.errors import FlukeError
from lib.images.samplers import derive_seed
from lib.models.backbone import take_channels
from lib.models.embedding_losses import make_embedding_loss
from lib.models.losses import make_classification_loss
from lib.models.network import GeM, Network, NetworkSpec, make_mixup
from lib.tables.target import IDENTITY, ONE_LABEL, SEVERAL_LABELS, Target
from tests.models.made_networks import CLASSES, make_network, random_images, train_step

# --- backbones --------------------------------------------------------------------------------------------------------------------

SMALL = ["resnet18", "efficientnet_b0", "mobilenetv2_100", "tf_mobilenetv3_small_minimal_100"]
LARGE = ["resnet34", "resnet50", "resnet50d", "resnet101", "vgg16", "tf_efficientnetv2_s", "efficientnet_b4", "mixnet_xl"]
LARGE += ["inception_resnet_v2", "resnext50_32x4d", "seresnext50_32x4d"]


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)])
def test_backbones_of_the_reports_train(name: str) -> None:
    size = 96 if name == "inception_resnet_v2" else 64
    network = make_network(name, size=size)
    before = {key: value.clone() for key, value in network.named_parameters()}
    assert train_step(network, size, lr=1e-3) > 0
    without_gradient = [key for key, value in network.named_parameters() if value.grad is None]
    assert not without_gradient
    assert any((value != before[key]).any() for key, value in network.backbone.named_parameters(prefix="backbone"))
    assert network.eval()(random_images(2, size))["output"].shape == (2, 3)


def test_unknown_backbone_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(FlukeError, match=r"model.name resnet81: timm has no such model; did you mean resnet18"):
        make_network("resnet81")
    with pytest.raises(FlukeError, match=r"model.name test_resnet: can't be built with kwargs .*no_such_thing"):
        make_network(kwargs={"no_such_thing": 1})


@pytest.mark.parametrize("target", [ONE_LABEL, IDENTITY], ids=lambda target: target.name)
def test_outputs_and_loss_have_float32_precision_under_autocast(target: Target) -> None:
    """In bfloat16, with 8 bits, hundreds of 1,000 logits would be equal."""
    network = make_network(classes=tuple(map(str, range(1000))), target=target).eval()
    if target is IDENTITY:
        network.objective = make_embedding_loss(Objective(name="arcface"), np.arange(1000), 1000, network.width)
    else:
        network.objective = torch.nn.CrossEntropyLoss()
    targets = torch.arange(4)
    with torch.autocast("cpu", torch.bfloat16):
        found = network(random_images(), targets)
    output = found["output"]
    assert output.dtype == found["loss"].dtype == torch.float32
    assert len(output[output != 0].unique()) > 0.9 * (output != 0).sum()  # a ReLU's zeros are equal
    torch.testing.assert_close(found["loss"], network.objective(output, targets), rtol=1e-6, atol=0)


def test_images_are_normalized_with_the_backbones_mean_and_deviation() -> None:
    network = make_network("tf_efficientnet_lite0").eval()  # mean = deviation = 0.5
    x = random_images()
    with torch.no_grad():
        expected = network.backbone(x / 127.5 - 1)
        assert torch.allclose(network(x)["output"], network.head(expected), atol=1e-5)
        assert torch.allclose(network.features(x), expected, atol=1e-5)
        assert torch.allclose(network(network.features(x))["output"], network.head(expected), atol=1e-5)


# --- pooling ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "tf_mobilenetv3_small_minimal_100"])
@pytest.mark.parametrize("pool", ["default", "avg", "max", "gem"])
def test_pooling_of_convolutional_backbones(name: str, pool: str) -> None:
    network = make_network(name, pool=pool)
    assert train_step(network) > 0
    assert ("pool.p" in dict(network.named_parameters())) == (pool == "gem")


@pytest.mark.parametrize(("pool", "reduce"), [("avg", torch.mean), ("max", torch.amax)])
def test_average_and_maximum_pooling(pool: str, reduce: object) -> None:
    network = make_network(pool=pool).eval()
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
        make_network("test_vit", pool="gem", size=160)
    assert make_network("test_vit", size=160)(random_images(2, 160))["output"].shape == (2, 3)


def test_image_size_that_a_backbone_cannot_take_is_refused() -> None:
    with pytest.raises(FlukeError, match=r"model.name test_vit: can't take images of 20 px \(.*patch size"):
        make_network("test_vit", size=20)


@pytest.mark.parametrize(
    ("name", "kwargs", "found"),
    [
        ("test_resnet", {"features_only": True}, r"gives list"),
        ("test_resnet", {"global_pool": ""}, r"gives \(1, 96, 1, 1\)"),
        ("test_vit", {"global_pool": ""}, r"gives \(1, 101, 64\)"),
    ],
)
def test_arguments_that_leave_no_vector_per_image_are_refused(name: str, kwargs: dict, found: str) -> None:
    with pytest.raises(FlukeError, match=rf"model.name {name}: {found} with kwargs .*, not a vector per image"):
        make_network(name, size=32 if name == "test_resnet" else 160, kwargs=kwargs)


def test_arguments_that_an_architecture_cannot_take_are_refused() -> None:
    for kwargs in ({"act_layer": "nope"}, {"norm_layer": 3}, {"num_classes": 5}, {"block_args": [[1]]}):
        with pytest.raises(FlukeError, match=r"model.name test_resnet: can't be built with kwargs"):
            make_network(kwargs=kwargs)
    with pytest.raises(FlukeError, match=r"model.kwargs: in_chans 1, but images have 3 channels; set data.channels"):
        take_channels(Model("test_resnet", kwargs={"in_chans": 1}), 3)


def test_channels_are_normalized_as_those_of_rgb_in_turn() -> None:
    mean, std = make_network().mean.flatten(), make_network().std.flatten()
    for channels, expected in ((5, [0, 1, 2, 0, 1]), (2, [0, 1])):
        network = make_network(kwargs=take_channels(Model("test_resnet"), channels).kwargs)
        assert torch.equal(network.mean.flatten(), mean[expected])
        assert torch.equal(network.std.flatten(), std[expected])
        assert network(torch.zeros(2, channels, 32, 32, dtype=torch.uint8))["output"].shape == (2, len(CLASSES))
        assert NetworkSpec.from_dict(network.spec.to_dict()) == network.spec
    assert make_network(kwargs={"in_chans": 1}).mean.flatten().tolist() == pytest.approx([float(mean.mean())])


# --- head -------------------------------------------------------------------------------------------------------------------------


def test_hidden_layers_have_their_widths_and_batchnorm() -> None:
    network = make_network("resnet18", tuple("abcde"), hidden=[128, 32], dropout=0.5)  # as in report 3: 512, 128, 32, 5
    linear = [module for module in network.head if isinstance(module, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(512, 128), (128, 32), (32, 5)]
    assert [m.num_features for m in network.head if isinstance(m, nn.BatchNorm1d)] == [128, 32]
    assert [m.p for m in network.head if isinstance(m, nn.Dropout)] == [0.5]
    assert train_step(network) > 0


def test_several_labels_start_at_a_low_probability() -> None:
    assert torch.allclose(make_network(target=SEVERAL_LABELS).head[-1].bias.sigmoid(), torch.tensor(0.05))


@pytest.mark.parametrize("dim", [None, 16])
def test_embeddings_have_length_1(dim: int | None) -> None:
    network = make_network(target=IDENTITY, embedding_dim=dim)
    output = network(random_images())["output"]
    assert output.shape == (4, network.width)
    assert network.width == (dim or 96)
    assert torch.allclose(output.norm(dim=1), torch.ones(4))


# --- freezing ---------------------------------------------------------------------------------------------------------------------


def changed_by_step(network: Network) -> set[str]:
    """Return the names of the parameters and BatchNorm statistics that a training step changes."""
    before = {key: value.clone() for key, value in network.state_dict().items()}
    train_step(network)
    return {key for key, value in network.state_dict().items() if not key.startswith("objective.") and (value != before[key]).any()}


def test_frozen_backbone_keeps_weights_and_batchnorm_statistics_until_unfrozen() -> None:
    network = make_network("resnet18", hidden=[8])
    network.freeze(("",))
    network.train()  # must not make a frozen BatchNorm update its statistics
    found = changed_by_step(network)
    assert found
    assert all(key.startswith("head.") for key in found)
    assert "head.1.running_mean" in found  # the head's own BatchNorm learns
    network.freeze(())
    found = changed_by_step(network)
    assert {"backbone.conv1.weight", "backbone.bn1.running_mean", "backbone.layer4.1.bn2.running_var"} <= found


def test_parts_are_frozen_by_prefix() -> None:
    network = make_network("resnet18")
    network.freeze(("conv1", "bn1", "layer1", "layer2.0"))
    found = changed_by_step(network)
    assert not [key for key in found if key.startswith(("backbone.conv1", "backbone.bn1", "backbone.layer1", "backbone.layer2.0"))]
    assert {"backbone.layer2.1.bn2.weight", "backbone.layer2.1.bn1.running_mean", "backbone.layer4.0.downsample.0.weight"} <= found
    network.freeze(("layer1",))
    assert "backbone.layer2.0.downsample.0.weight" in changed_by_step(network)


@pytest.mark.parametrize("prefix", ["layer9", "layer", "conv1."])
def test_prefix_of_no_part_is_refused(prefix: str) -> None:
    with pytest.raises(FlukeError, match=rf"optim.freeze: '{prefix}' is no part of resnet18; its parts are conv1, bn1"):
        make_network("resnet18").freeze((prefix,))


# --- mixing -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
@pytest.mark.parametrize("multi", [False, True])
def test_mixing_mixes_images_and_targets_alike(kind: str, multi: bool) -> None:
    mix = make_mixup(Objective(**{kind: 1.0}), 4)
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 64, 64)  # image i has the value i everywhere
    targets = torch.eye(4) if multi else torch.arange(4)
    torch.manual_seed(3)
    x, y = mix(images, targets)
    partner = torch.arange(4).roll(1)
    share = y[torch.arange(4), torch.arange(4)]
    assert ((share > 0.02) & (share < 0.98)).all()
    assert torch.allclose(y.sum(1), torch.ones(4))
    assert torch.allclose(y[torch.arange(4), partner], 1 - share)
    assert torch.allclose(x.mean((1, 2, 3)), share * torch.arange(4.0) + (1 - share) * partner, atol=1e-4)
    assert (x[1].unique().numel() == 1) == (kind == "mixup")  # CutMix pastes a rectangle, MixUp blends all pixels


@pytest.mark.parametrize(("prob", "least", "most"), [(0.0, 0, 0), (0.5, 60, 140), (1.0, 200, 200)])
def test_mix_prob_is_the_share_of_mixed_batches(prob: float, least: int, most: int) -> None:
    mix = make_mixup(Objective(mixup=1.0, cutmix=1.0, mix_prob=prob), 4)
    x, y = torch.rand(4, 3, 8, 8), torch.arange(4)
    torch.manual_seed(0)
    mixed = 0 if mix is None else sum(mix(x, y)[1].ndim == 2 for _ in range(200))
    assert least <= mixed <= most


def test_a_network_is_trained_on_mixed_images_with_their_mixed_targets() -> None:
    """The loss is that of labels which are shared as the pixels are."""
    torch.manual_seed(1)
    network = Network(make_network().spec, Objective(mixup=1.0))
    network.objective = make_classification_loss(Objective(), np.arange(3), CLASSES, ONE_LABEL)
    network.freeze(("",))  # BatchNorm as in evaluation
    network.head.eval()
    images, targets = random_images(3), torch.arange(3)
    torch.manual_seed(5)
    loss = network(images, targets)["loss"]
    torch.manual_seed(5)
    x, mixed = make_mixup(Objective(mixup=1.0), 3)((images - network.mean) / network.std, targets)
    assert mixed.shape == (3, 3)
    logits = network.head(network.pool(network.backbone(x)))
    assert loss.item() == pytest.approx(-(mixed * logits.log_softmax(1)).sum(1).mean().item(), rel=1e-5)


def test_mixing_depends_on_the_seed_and_is_off_in_evaluation() -> None:
    targets = torch.tensor([0, 1, 2, 0])
    network = Network(make_network().spec, Objective(mixup=0.4, cutmix=1.0))
    network.objective = make_classification_loss(Objective(), targets.numpy(), CLASSES, ONE_LABEL)
    losses = []
    for batch in (0, 0, 1):
        network.load_state_dict(make_network().state_dict(), strict=False)
        torch.manual_seed(derive_seed(0, 1, 0, batch, 0))
        losses.append(network(random_images(), targets)["loss"].item())
    assert losses[0] == losses[1] != losses[2]
    network.eval()
    assert network(random_images(), targets)["loss"].item() == network(random_images(), targets)["loss"].item()
