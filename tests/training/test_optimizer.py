"""Rates reach the groups they name; schedules are torch's own, step by step."""

import io
from collections.abc import Iterator

import pytest
import timm
import torch
from timm.optim import list_optimizers, param_groups_layer_decay
from torch import nn
from torch.optim import lr_scheduler

from lib.config.recipe import Optim
from lib.errors import FlukeError
from lib.training.optimizer import UNSUPPORTED, make_optimizer, make_plateau, plateau_factor, schedule_factor, set_learning_rate

EPOCHS, PER_EPOCH = 7, 5
TOTAL = EPOCHS * PER_EPOCH


@pytest.fixture
def backbone() -> nn.Module:
    return timm.create_model("resnet18", pretrained=False, num_classes=0)


@pytest.fixture
def rest() -> nn.Module:
    return nn.ModuleList([nn.Linear(512, 5), nn.BatchNorm1d(5)])


def group_of(optimizer: torch.optim.Optimizer) -> dict[int, dict]:
    """The group of each parameter, by the parameter's id; fails where one is in two groups."""
    found: dict[int, dict] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert id(parameter) not in found
            found[id(parameter)] = group
    return found


# --- groups -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer_decay", [None, 0.7])
def test_every_parameter_is_in_one_group_and_only_matrices_decay(
    layer_decay: float | None, backbone: nn.Module, rest: nn.Module
) -> None:
    o = Optim(weight_decay=0.3, layer_decay=layer_decay)
    found = group_of(make_optimizer(o, backbone, rest))
    every = [*backbone.parameters(), *rest.parameters()]
    assert len(found) == len(every)
    for parameter in every:
        assert found[id(parameter)]["weight_decay"] == (0.3 if parameter.ndim > 1 else 0.0)


def test_head_learns_at_its_own_rate(backbone: nn.Module, rest: nn.Module) -> None:
    optimizer = make_optimizer(Optim(name="adam", lr=1e-5, head_lr=100), backbone, rest)  # report 3: 1e-5 and 1e-3
    found = group_of(optimizer)
    assert {found[id(p)]["lr"] for p in backbone.parameters()} == {1e-5}
    assert [found[id(p)]["lr"] for p in rest.parameters()] == pytest.approx([1e-3] * 4)
    set_learning_rate(optimizer, 5e-6)
    assert {found[id(p)]["lr"] for p in backbone.parameters()} == {5e-6}
    assert [found[id(p)]["lr"] for p in rest.parameters()] == pytest.approx([5e-4] * 4)


def test_layer_decay_is_timms(backbone: nn.Module, rest: nn.Module) -> None:
    found = group_of(make_optimizer(Optim(lr=0.1, layer_decay=0.7, head_lr=2), backbone, rest))
    expected = {
        id(p): group["lr_scale"] for group in param_groups_layer_decay(backbone, 0.05, layer_decay=0.7) for p in group["params"]
    }
    for parameter in backbone.parameters():
        assert found[id(parameter)]["lr"] == pytest.approx(0.1 * expected[id(parameter)])
    last, first = backbone.layer4[-1].conv2.weight, backbone.conv1.weight
    assert found[id(last)]["lr"] == pytest.approx(0.1)
    assert found[id(first)]["lr"] < 0.1 * 0.7**4
    assert [found[id(p)]["lr"] for p in rest.parameters()] == pytest.approx([0.2] * 4)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "lamb", "lion", "AdamW"])
def test_optimisers_by_name_step(name: str, rest: nn.Module) -> None:
    backbone = nn.Linear(4, 512)
    optimizer = make_optimizer(Optim(name=name), backbone, rest)
    before = backbone.weight.clone()
    rest[0](backbone(torch.rand(2, 4))).sum().backward()
    optimizer.step()
    assert (backbone.weight != before).any()


def test_momentum_reaches_sgd(backbone: nn.Module, rest: nn.Module) -> None:
    assert {g["momentum"] for g in make_optimizer(Optim(name="sgd", momentum=0.7), backbone, rest).param_groups} == {0.7}


def test_unknown_optimiser_is_refused(backbone: nn.Module, rest: nn.Module) -> None:
    with pytest.raises(FlukeError, match=r"optim.name adamv: timm knows .*adamw"):
        make_optimizer(Optim(name="adamv"), backbone, rest)


# --- schedules --------------------------------------------------------------------------------------------------------------------


def ours(**fields: object) -> list[float]:
    o = Optim(lr=0.1, **fields)
    return [0.1 * schedule_factor(o, step, TOTAL, PER_EPOCH) for step in range(TOTAL)]


def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)


def rates(scheduler: lr_scheduler.LRScheduler) -> Iterator[float]:
    for _ in range(TOTAL):
        yield scheduler.optimizer.param_groups[0]["lr"]
        scheduler.optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(("warmup", "share"), [(0, 0.3), (1, 1 / EPOCHS), (3, 3 / EPOCHS)])
def test_onecycle_is_torchs(warmup: float, share: float) -> None:
    theirs = lr_scheduler.OneCycleLR(sgd(), max_lr=0.1, epochs=EPOCHS, steps_per_epoch=PER_EPOCH, pct_start=share)
    expected = [theirs.optimizer.param_groups[0]["lr"]]
    for _ in range(TOTAL - 1):
        theirs.optimizer.step()
        theirs.step()
        expected.append(theirs.optimizer.param_groups[0]["lr"])
    assert ours(schedule="onecycle", warmup_epochs=warmup) == pytest.approx(expected)


def test_cosine_is_torchs() -> None:  # report 5: to a twentieth
    assert ours(schedule="cosine", min_lr=0.05) == pytest.approx(
        list(rates(lr_scheduler.CosineAnnealingLR(sgd(), TOTAL, eta_min=0.005)))
    )


def test_step_is_torchs() -> None:  # report 4: a tenth every three epochs
    theirs = lr_scheduler.StepLR(sgd(), step_size=3 * PER_EPOCH, gamma=0.1)
    assert ours(schedule="step", step_epochs=3, factor=0.1) == pytest.approx(list(rates(theirs)))


def test_steps_at_epochs_of_ones_own_are_torchs() -> None:  # report 3: "a function of the epoch"
    theirs = lr_scheduler.MultiStepLR(sgd(), milestones=[PER_EPOCH, 3 * PER_EPOCH], gamma=0.3)
    assert ours(schedule="step", step_epochs=[1, 3], factor=0.3) == pytest.approx(list(rates(theirs)))


@pytest.mark.parametrize("layer_decay", [None, 0.8])
def test_positions_and_class_tokens_do_not_decay(layer_decay: float | None) -> None:
    backbone = timm.create_model("test_vit", num_classes=0)
    optimizer = make_optimizer(Optim(weight_decay=0.1, layer_decay=layer_decay), backbone, torch.nn.Linear(2, 2))
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays[id(backbone.pos_embed)] == decays[id(backbone.cls_token)] == 0
    assert decays[id(backbone.patch_embed.proj.weight)] == 0.1


def test_what_an_optimiser_does_not_take_is_said() -> None:
    with pytest.raises(FlukeError, match=r"optim.name sgd: Nesterov momentum requires a momentum and zero dampening"):
        make_optimizer(Optim(name="sgd", momentum=0.0), torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))


def test_warm_up_is_torchs_and_leads_into_the_cosine() -> None:
    optimizer = sgd()
    steps = 2 * PER_EPOCH
    warm = lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=steps)
    after = lr_scheduler.CosineAnnealingLR(optimizer, TOTAL - steps)
    expected = list(rates(lr_scheduler.SequentialLR(optimizer, [warm, after], milestones=[steps])))
    assert ours(schedule="cosine", warmup_epochs=2) == pytest.approx(expected)
    assert ours(schedule="constant", warmup_epochs=2)[: steps + 1] == pytest.approx(
        list(rates(lr_scheduler.LinearLR(sgd(), start_factor=0.01, total_iters=steps)))[: steps + 1]
    )
    assert ours(schedule="constant") == [0.1] * TOTAL


@pytest.mark.parametrize("epochs", [0.1, 0.3, 1 / 3, 0.7])
def test_fractions_of_an_epoch_drop_on_time(epochs: float) -> None:
    o = Optim(schedule="step", step_epochs=epochs, factor=0.5)
    drops = [schedule_factor(o, step, 2100, 210) for step in (0, round(210 * epochs) - 1, round(210 * epochs), round(420 * epochs))]
    assert drops == [1, 1, 0.5, 0.25]


@pytest.mark.parametrize("direction", ["min", "max"])
def test_plateau_is_torchs_and_resumes(direction: str) -> None:
    values = [1.0, 0.9, 0.95, 0.95, 0.95, 0.8, 0.8, 0.8, 0.8, 0.81, 0.81, 0.81, 0.81, 0.81, 0.81, 0.81, 0.81]
    values = values if direction == "min" else [-v for v in values]
    o = Optim(schedule="plateau", factor=0.1, plateau_patience=2, min_lr=0.005)
    theirs = lr_scheduler.ReduceLROnPlateau(sgd(), mode=direction, factor=0.1, patience=2, min_lr=0.0005)
    plateau = make_plateau(o, direction == "max")
    expected = []
    for i, value in enumerate(values):
        if i == 7:
            state, plateau = plateau.state_dict(), make_plateau(o, direction == "max")
            plateau.load_state_dict(state)
        plateau.step(value)
        theirs.step(value)
        expected.append(theirs.optimizer.param_groups[0]["lr"])
        assert 0.1 * plateau_factor(plateau) == pytest.approx(expected[-1])
    assert len(set(expected)) == 4  # it dropped, and stopped at the least rate


# --- resuming ---------------------------------------------------------------------------------------------------------------------


def small_network() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(128, 6)), nn.Linear(6, 4)


def take_steps(parts: tuple[nn.Module, nn.Module], optimizer: torch.optim.Optimizer, numbers: range) -> None:
    for number in numbers:
        torch.manual_seed(number)
        optimizer.zero_grad()
        parts[1](parts[0](torch.randn(5, 3, 6, 6))).square().mean().backward()
        optimizer.step()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in list_optimizers() if name not in UNSUPPORTED])
def test_every_optimiser_goes_on_from_its_saved_state_as_if_it_had_not_stopped(name: str) -> None:
    parts = small_network()
    try:
        optimizer = make_optimizer(Optim(name=name, lr=0.01), *parts)
    except FlukeError as error:
        pytest.skip(str(error))  # those of bitsandbytes and APEX need CUDA
    take_steps(parts, optimizer, range(3))
    file = io.BytesIO()
    torch.save([optimizer.state_dict(), *(part.state_dict() for part in parts)], file)
    take_steps(parts, optimizer, range(3, 6))
    file.seek(0)
    state, *weights = torch.load(file, weights_only=True)
    again = small_network()
    resumed = make_optimizer(Optim(name=name, lr=0.01), *again)
    resumed.load_state_dict(state)
    for part, saved in zip(again, weights):
        part.load_state_dict(saved)
    take_steps(again, resumed, range(3, 6))
    for part, other in zip(parts, again):
        assert all(torch.equal(a, b) for a, b in zip(part.parameters(), other.parameters(), strict=True))
