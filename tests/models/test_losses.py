"""Losses of classifiers, compared with formulas written again here, with PyTorch and with scikit-learn."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight

from lib.config.recipe import Objective
from lib.config.traits import LOSSES
from lib.errors import FlukeError
from lib.models.embedding_losses import EMBEDDING_LOSSES, PairLoss
from lib.models.heads import Binned, Numbers
from lib.models.losses import CLASSIFICATION_LOSSES, BinnedLoss, NumberLoss, class_weights, make_classification_loss
from lib.tables.target import ONE_LABEL, REGRESSION, SEVERAL_LABELS

CLASSES = ("a", "b", "c", "d")
TARGETS = np.array([0] * 12 + [1] * 6 + [2] * 5 + [3])
LABELS = np.array(
    [[1, 0, 0, 1], [1, 1, 0, 1], [0, 0, 0, 1], [1, 0, 0, 1], [0, 0, 0, 1]], np.float32
)  # no image has c, every image has d


def one_label_loss(**fields: object) -> torch.nn.Module:
    return make_classification_loss(Objective(**fields), TARGETS, CLASSES, ONE_LABEL)


def several_labels_loss(**fields: object) -> torch.nn.Module:
    return make_classification_loss(Objective(**fields), LABELS, CLASSES, SEVERAL_LABELS)


@pytest.fixture
def logits() -> torch.Tensor:
    return (3 * torch.randn(9, 4, generator=torch.Generator().manual_seed(0))).requires_grad_()


@pytest.fixture
def targets() -> torch.Tensor:
    return torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 0])


@pytest.fixture
def labels() -> torch.Tensor:
    return (torch.rand(9, 4, generator=torch.Generator().manual_seed(1)) < 0.3).float()


# --- one label per image ----------------------------------------------------------------------------------------------------------


def test_class_weights_are_those_of_scikit_learn() -> None:
    expected = compute_class_weight("balanced", classes=np.arange(4), y=TARGETS)
    assert class_weights(TARGETS, 4) == pytest.approx(expected)
    assert class_weights(TARGETS, 4, 0.5) == pytest.approx(expected**0.5)
    assert class_weights(TARGETS, 4, 0) == pytest.approx(np.ones(4))
    assert class_weights(TARGETS, 6)[4:] == pytest.approx([1, 1])  # classes that a fold lacks


def test_cross_entropy_with_weights_and_smoothing(logits: torch.Tensor, targets: torch.Tensor) -> None:
    assert torch.allclose(one_label_loss()(logits, targets), F.cross_entropy(logits, targets))
    weight = torch.tensor(compute_class_weight("balanced", classes=np.arange(4), y=TARGETS)).float()
    loss = one_label_loss(class_weights="balanced", label_smoothing=0.1)(logits, targets)
    log_p, expected = logits.log_softmax(1), 0.0
    for row, target in enumerate(targets.tolist()):
        for c in range(4):
            y = (0.9 if c == target else 0.0) + 0.1 / 4
            expected -= y * float(weight[c] * log_p[row, c].detach()) / len(targets)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_focal_loss_with_gamma_0_is_cross_entropy(smoothing: float, logits: torch.Tensor, targets: torch.Tensor) -> None:
    fields = {"label_smoothing": smoothing, "class_weights": "balanced"}
    a, b = one_label_loss(name="focal", gamma=0, **fields)(logits, targets), one_label_loss(**fields)(logits, targets)
    assert torch.allclose(a, b, rtol=1e-5)
    assert torch.allclose(*(torch.autograd.grad(loss, logits)[0] for loss in (a, b)), atol=1e-6)


def test_focal_loss_follows_the_paper(logits: torch.Tensor, targets: torch.Tensor) -> None:
    p = logits.softmax(1)[torch.arange(9), targets]
    assert torch.allclose(one_label_loss(name="focal", gamma=2)(logits, targets), (-((1 - p) ** 2) * p.log()).mean())


@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
def test_indices_and_one_hot_targets_give_the_same_loss(name: str, logits: torch.Tensor, targets: torch.Tensor) -> None:
    loss = one_label_loss(name=name, label_smoothing=0.1, class_weights="balanced")
    assert torch.allclose(loss(logits, targets), loss(logits, F.one_hot(targets, 4).float()), rtol=1e-5)


@pytest.mark.parametrize("gamma", [0, 0.1, 0.5, 1, 2])
def test_focal_loss_has_finite_gradients_at_probabilities_near_1(gamma: float) -> None:
    x = torch.tensor([[40.0, -40.0, 0.0, 0.0], [-40.0, 40.0, 0.0, 0.0]], requires_grad=True)
    one_label_loss(name="focal", gamma=gamma)(x, torch.tensor([0, 0])).backward()
    assert torch.isfinite(x.grad).all()
    x.grad = None
    several_labels_loss(name="focal", gamma=gamma)(x, torch.tensor([[1.0, 0, 0, 0]] * 2)).backward()
    assert torch.isfinite(x.grad).all()


def test_logit_adjustment_follows_the_paper_in_training_only(logits: torch.Tensor, targets: torch.Tensor) -> None:
    loss = one_label_loss(logit_adjustment=1.5)
    prior = torch.tensor([12, 6, 5, 1]) / 24
    assert torch.allclose(loss(logits, targets), F.cross_entropy(logits + 1.5 * prior.log(), targets))
    assert torch.allclose(loss.eval()(logits, targets), F.cross_entropy(logits, targets))


def test_losses_of_half_batches_average_to_that_of_the_batch(logits: torch.Tensor, targets: torch.Tensor) -> None:
    loss = one_label_loss(class_weights="balanced")
    halves = (loss(logits[:4], targets[:4]) + loss(logits[4:8], targets[4:8])) / 2
    assert torch.allclose(halves, loss(logits[:8], targets[:8]))


# --- several labels ---------------------------------------------------------------------------------------------------------------


def test_binary_cross_entropy_and_positive_weights(logits: torch.Tensor, labels: torch.Tensor) -> None:
    assert torch.allclose(several_labels_loss(name="bce")(logits, labels), F.binary_cross_entropy_with_logits(logits, labels))
    weight = torch.tensor([2 / 3, 4.0, 1.0, 1.0])  # negatives / positives; 1 where one of them is 0
    assert class_weights(LABELS, 4) == pytest.approx(weight.numpy())
    expected = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=weight)
    assert torch.allclose(several_labels_loss(name="bce", class_weights="balanced")(logits, labels), expected)


def test_sigmoid_focal_loss_is_the_formula_of_report_1(logits: torch.Tensor, labels: torch.Tensor) -> None:
    bce = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    expected = ((1 - torch.exp(-bce)) ** 2 * bce).mean()
    assert torch.allclose(several_labels_loss(name="focal", gamma=2)(logits, labels), expected)
    assert torch.allclose(several_labels_loss(name="focal", gamma=0)(logits, labels), bce.mean())


def test_asymmetric_loss_follows_the_paper(logits: torch.Tensor, labels: torch.Tensor) -> None:
    expected = 0.0
    for x, y in zip(logits.detach().double().flatten().tolist(), labels.flatten().tolist()):
        p = 1 / (1 + math.exp(-x))
        shifted = max(p - 0.05, 0)
        expected -= (1 - p) * math.log(p) if y else shifted**4 * math.log(1 - shifted)
    assert several_labels_loss(name="asymmetric")(logits, labels).item() == pytest.approx(expected / 36, rel=1e-4)


@pytest.mark.parametrize("fields", [{"name": "bce"}, {"name": "focal", "gamma": 2.0}, {"name": "asymmetric"}], ids=str)
def test_loss_of_mixed_labels_is_the_weighted_sum_of_both_losses(fields: dict, logits: torch.Tensor, labels: torch.Tensor) -> None:
    """A target of 0.3 gives 0.3 of the positive loss, with its weight, and 0.7 of the negative loss."""
    loss, share = several_labels_loss(**fields, class_weights="balanced"), torch.tensor(0.3)
    mixed = share * loss(logits, torch.ones_like(labels)) + (1 - share) * loss(logits, torch.zeros_like(labels))
    assert torch.allclose(loss(logits, share.expand_as(labels)), mixed)
    if fields["name"] == "bce":
        weight = torch.tensor([2 / 3, 4.0, 1.0, 1.0])
        expected = F.binary_cross_entropy_with_logits(logits, share.expand_as(labels), pos_weight=weight)
        assert torch.allclose(loss(logits, share.expand_as(labels)), expected)


# --- refused settings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bce", "asymmetric", "arcface", "triplet"])
def test_loss_that_is_not_for_one_label_is_refused(name: str) -> None:
    with pytest.raises(
        FlukeError, match=f"objective.name {name} is not for one label per image in train_classifier; it takes cross_"
    ):
        one_label_loss(name=name)


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(FlukeError, match=r"objective.name cross_entropy is not for several labels per image"):
        several_labels_loss()
    with pytest.raises(FlukeError, match=r"logit_adjustment and label_smoothing are for one label per image"):
        several_labels_loss(name="bce", label_smoothing=0.1)


# --- bins of numbers --------------------------------------------------------------------------------------------------------------


def test_a_number_is_shared_between_its_neighbouring_bins() -> None:
    numbers = np.array([[0.0, 5.0], [10.0, 5.0]])
    loss = make_classification_loss(Objective(name="binned", bins=6), numbers, ("a", "b"), REGRESSION)
    head = Binned(3, 2, 6)
    assert isinstance(loss, BinnedLoss)
    head.set_range(loss.low, loss.high)
    assert head.train()(torch.zeros(4, 3)).shape == (4, 12)
    torch.testing.assert_close(head.eval()(torch.zeros(4, 3)).shape, torch.Size([4, 2]))
    p = torch.full((1, 2, 6), 1e-9)
    p[0, 0, 1], p[0, 0, 2], p[0, 1, 0] = 0.25, 0.75, 1  # bins at 2 and 4 of 0 ... 10; a constant number has its value first
    outputs = p.log().flatten(1)
    expected = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75)) / 2
    assert float(loss.train()(outputs, torch.tensor([[3.5, 5.0]]))) == pytest.approx(expected, abs=1e-5)
    with torch.no_grad():
        head.linear.weight.zero_()
        head.linear.bias.copy_(outputs[0])
    torch.testing.assert_close(head(torch.zeros(1, 3)), torch.tensor([[3.5, 5.0]]))
    assert float(loss.train()(outputs, torch.tensor([[99.0, 5.0]]))) < 30  # outside of the training rows' range: the last bin
    assert float(loss.eval()(torch.tensor([[3.0, 5.0]]), torch.tensor([[8.0, 5.0]]))) == pytest.approx(0.5)


def test_bins_learn_a_curve_as_well_as_squared_errors_do() -> None:
    torch.manual_seed(0)
    x = torch.rand(400, 1) * 2 - 1
    y = 100 + 20 * torch.sin(4 * x) + torch.randn(400, 1)

    def error(name: str) -> float:
        loss = make_classification_loss(Objective(name=name), y[:300].numpy(), ("y",), REGRESSION)
        head = Binned(32, 1, 32) if isinstance(loss, BinnedLoss) else Numbers(32, 1)
        network = torch.nn.Sequential(torch.nn.Linear(1, 32), torch.nn.ReLU(), head)
        head.set_range(loss.low, loss.high) if isinstance(loss, BinnedLoss) else head.set_scale(loss.mean, loss.std)
        optimizer = torch.optim.Adam(network.parameters(), lr=0.03)
        for _ in range(400):
            optimizer.zero_grad()
            loss.train()(network.train()(x[:300]), y[:300]).backward()
            optimizer.step()
        with torch.no_grad():
            return float((network.eval()(x[300:]) - y[300:]).square().mean().sqrt())

    binned, mse = error("binned"), error("mse")
    assert binned < 1.2 * mse
    assert mse < 0.25 * float(y.std())


# --- traits -----------------------------------------------------------------------------------------------------------------------


def test_traits_of_the_recipe_describe_the_losses() -> None:
    for target, fitting in {**CLASSIFICATION_LOSSES, "identity": EMBEDDING_LOSSES}.items():
        numbers = [*NumberLoss.LOSSES] if target in ("ordinal", "regression") else []
        numbers += ["binned"] if target == "regression" else []
        assert {name for name, traits in LOSSES.items() if target in traits.targets} == {*fitting, *numbers}, target
    for name, make in EMBEDDING_LOSSES.items():
        loss = make(Objective(name=name), np.array([2, 3]), 4)
        assert isinstance(loss, PairLoss) == LOSSES[name].compares_pairs, name
        assert (loss.centres() is not None) == LOSSES[name].has_centres, name
