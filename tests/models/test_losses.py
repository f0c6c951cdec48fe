"""Losses against formulas written a second time, in loops where that is plainest."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight

from lib.config.recipe import Objective
from lib.errors import FlukeError
from lib.models.embedding_losses import make_embedding_loss
from lib.models.losses import class_weights, make_classification_loss
from lib.tables.target import ONE_LABEL, SEVERAL_LABELS

CLASSES = ("a", "b", "c", "d")
TARGETS = np.array([0] * 12 + [1] * 6 + [2] * 5 + [3])
LABELS = np.array([[1, 0, 0, 1], [1, 1, 0, 1], [0, 0, 0, 1], [1, 0, 0, 1], [0, 0, 0, 1]], np.float32)  # c never, d always


def single(**fields: object) -> torch.nn.Module:
    return make_classification_loss(Objective(**fields), TARGETS, CLASSES, ONE_LABEL)


def multi(**fields: object) -> torch.nn.Module:
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


# --- one label per image ---


def test_class_weights_are_scikit_learns() -> None:
    expected = compute_class_weight("balanced", classes=np.arange(4), y=TARGETS)
    assert class_weights(TARGETS, 4) == pytest.approx(expected)
    assert class_weights(TARGETS, 4, 0.5) == pytest.approx(expected**0.5)
    assert class_weights(TARGETS, 4, 0) == pytest.approx(np.ones(4))
    assert class_weights(TARGETS, 6)[4:] == pytest.approx([1, 1])  # a fold may miss a class


def test_cross_entropy_with_weights_and_smoothing(logits: torch.Tensor, targets: torch.Tensor) -> None:
    assert torch.allclose(single()(logits, targets), F.cross_entropy(logits, targets))
    weight = torch.tensor(compute_class_weight("balanced", classes=np.arange(4), y=TARGETS)).float()
    weight[1] *= 3
    loss = single(class_weights="balanced", class_factors={"b": 3.0}, label_smoothing=0.1)(logits, targets)
    log_p, expected = logits.log_softmax(1), 0.0
    for row, target in enumerate(targets.tolist()):
        for c in range(4):
            y = (0.9 if c == target else 0.0) + 0.1 / 4
            expected -= y * float(weight[c] * log_p[row, c].detach()) / len(targets)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_focal_with_gamma_0_is_cross_entropy(smoothing: float, logits: torch.Tensor, targets: torch.Tensor) -> None:
    fields = {"label_smoothing": smoothing, "class_weights": "balanced"}
    a, b = single(name="focal", gamma=0, **fields)(logits, targets), single(**fields)(logits, targets)
    assert torch.allclose(a, b, rtol=1e-5)
    assert torch.allclose(*(torch.autograd.grad(loss, logits)[0] for loss in (a, b)), atol=1e-6)


def test_focal_is_the_papers_formula(logits: torch.Tensor, targets: torch.Tensor) -> None:
    p = logits.softmax(1)[torch.arange(9), targets]
    assert torch.allclose(single(name="focal", gamma=2, alpha=0.25)(logits, targets), (-0.25 * (1 - p) ** 2 * p.log()).mean())


@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
def test_hard_and_one_hot_targets_give_the_same(name: str, logits: torch.Tensor, targets: torch.Tensor) -> None:
    loss = single(name=name, label_smoothing=0.1, class_weights="balanced")
    assert torch.allclose(loss(logits, targets), loss(logits, F.one_hot(targets, 4).float()), rtol=1e-5)


@pytest.mark.parametrize("gamma", [0, 0.5, 1, 2])
def test_focal_keeps_finite_gradients_when_it_is_sure(gamma: float) -> None:
    x = torch.tensor([[40.0, -40.0, 0.0, 0.0], [-40.0, 40.0, 0.0, 0.0]], requires_grad=True)
    single(name="focal", gamma=gamma)(x, torch.tensor([0, 0])).backward()
    assert torch.isfinite(x.grad).all()
    x.grad = None
    multi(name="focal", gamma=gamma)(x, torch.tensor([[1.0, 0, 0, 0]] * 2)).backward()
    assert torch.isfinite(x.grad).all()


def test_logit_adjustment_is_the_papers_and_in_training_only(logits: torch.Tensor, targets: torch.Tensor) -> None:
    loss = single(logit_adjustment=1.5)
    prior = torch.tensor([12, 6, 5, 1]) / 24
    assert torch.allclose(loss(logits, targets), F.cross_entropy(logits + 1.5 * prior.log(), targets))
    assert torch.allclose(loss.eval()(logits, targets), F.cross_entropy(logits, targets))


def test_two_halves_of_a_batch_average_to_the_whole(logits: torch.Tensor, targets: torch.Tensor) -> None:
    loss = single(class_weights="balanced")
    halves = (loss(logits[:4], targets[:4]) + loss(logits[4:8], targets[4:8])) / 2
    assert torch.allclose(halves, loss(logits[:8], targets[:8]))


# --- several labels ---------------------------------------------------------------------------------------------------------------


def test_bce_and_its_positive_weights(logits: torch.Tensor, labels: torch.Tensor) -> None:
    assert torch.allclose(multi(name="bce")(logits, labels), F.binary_cross_entropy_with_logits(logits, labels))
    weight = torch.tensor([2 / 3, 4.0, 1.0, 1.0])  # negatives / positives; 1 where one of them is missing
    assert class_weights(LABELS, 4) == pytest.approx(weight.numpy())
    expected = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=weight)
    assert torch.allclose(multi(name="bce", class_weights="balanced")(logits, labels), expected)


def test_focal_on_bce_is_the_formula_of_report_1(logits: torch.Tensor, labels: torch.Tensor) -> None:
    bce = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    expected = (0.7 * (1 - torch.exp(-bce)) ** 2 * bce).mean()
    assert torch.allclose(multi(name="focal", alpha=0.7, gamma=2)(logits, labels), expected)
    assert torch.allclose(multi(name="focal", gamma=0)(logits, labels), bce.mean())


def test_asymmetric_is_the_papers_formula(logits: torch.Tensor, labels: torch.Tensor) -> None:
    expected = 0.0
    for x, y in zip(logits.detach().double().flatten().tolist(), labels.flatten().tolist()):
        p = 1 / (1 + math.exp(-x))
        shifted = max(p - 0.05, 0)
        expected -= (1 - p) * math.log(p) if y else shifted**4 * math.log(1 - shifted)
    assert multi(name="asymmetric")(logits, labels).item() == pytest.approx(expected / 36, rel=1e-4)


@pytest.mark.parametrize("fields", [{"name": "bce"}, {"name": "focal", "gamma": 2.0}, {"name": "asymmetric"}], ids=str)
def test_mixed_labels_are_losses_of_both_sides(fields: dict, logits: torch.Tensor, labels: torch.Tensor) -> None:
    """MixUp's 0.3 of a label: 0.3 of the loss of having it, at its weight, and 0.7 of the loss of not having it."""
    loss, share = multi(**fields, class_weights="balanced"), torch.tensor(0.3)
    mixed = share * loss(logits, torch.ones_like(labels)) + (1 - share) * loss(logits, torch.zeros_like(labels))
    assert torch.allclose(loss(logits, share.expand_as(labels)), mixed)
    if fields["name"] == "bce":
        weight = torch.tensor([2 / 3, 4.0, 1.0, 1.0])
        expected = F.binary_cross_entropy_with_logits(logits, share.expand_as(labels), pos_weight=weight)
        assert torch.allclose(loss(logits, share.expand_as(labels)), expected)


# --- what doesn't fit -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bce", "asymmetric", "arcface", "triplet"])
def test_objective_that_is_not_for_one_label_is_refused(name: str) -> None:
    with pytest.raises(
        FlukeError, match=f"objective.name {name} is not for one label per image in train_classifier; it takes cross_"
    ):
        single(name=name)


def test_other_misfits_are_refused() -> None:
    with pytest.raises(FlukeError, match=r"objective.name cross_entropy is not for several labels per image"):
        multi()
    with pytest.raises(FlukeError, match=r"objective.class_factors names 'z', which is not a class"):
        single(class_factors={"a": 2.0, "z": 2.0})
    with pytest.raises(FlukeError, match=r"logit_adjustment and label_smoothing are for one label per image"):
        multi(name="bce", label_smoothing=0.1)
    with pytest.raises(FlukeError, match=r"objective bce is not for embeddings; train_embedding takes cross_entropy, arcface"):
        embedding(name="bce")
    with pytest.raises(FlukeError, match=r"objective focal is not for embeddings"):
        embedding(name="arcface", also={"focal": 0.5})
    with pytest.raises(FlukeError, match=r"objective.mixup and cutmix mix labels"):
        embedding(name="arcface", mixup=0.2)


# --- embeddings -------------------------------------------------------------------------------------------------------------------

COUNTS = np.array([16, 4, 1])
WIDTH = 6


def embedding(counts: np.ndarray = COUNTS, **fields: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return make_embedding_loss(Objective(**fields), np.repeat(np.arange(len(counts)), counts), len(counts), WIDTH)


def unit_vectors(n: int, seed: int = 1) -> torch.Tensor:
    return F.normalize(torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(seed))).requires_grad_()


def margin_loss(
    x: np.ndarray, targets: list[int], centres: np.ndarray, k: int, margins: list[float], scale: float, kind: str
) -> float:
    """ArcFace, with k centres a class, or CosFace, image by image."""
    centres = centres / np.linalg.norm(centres, axis=1, keepdims=True)
    total = 0.0
    for vector, target in zip(x / np.linalg.norm(x, axis=1, keepdims=True), targets):
        cosines = [max(float(vector @ centres[c * k + i]) for i in range(k)) for c in range(len(centres) // k)]
        margin, angle = margins[target], math.acos(cosines[target])
        cosines[target] = cosines[target] - margin if kind == "cosface" else math.cos(angle + margin)
        logits = scale * np.array(cosines)
        total += float(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[target])
    return total / len(x)


@pytest.mark.parametrize(("name", "margin", "k"), [("arcface", 20.0, 1), ("subcenter_arcface", 20.0, 3), ("cosface", 0.3, 1)])
@pytest.mark.parametrize("power", [0.0, 0.25])
def test_margins_and_their_size_by_class(name: str, margin: float, k: int, power: float) -> None:
    loss = embedding(name=name, margin=margin, scale=8.0, margin_power=power, sub_centers=3)
    x, targets = unit_vectors(7), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    centres = loss.centres()
    assert centres.shape == (3 * k, WIDTH)
    in_its_unit = margin if name == "cosface" else math.radians(margin)
    margins = [in_its_unit * count**-power for count in (16, 4, 1)]  # n = 16: half of the rarest class's, at power 1/4
    expected = margin_loss(x.detach().double().numpy(), targets.tolist(), centres.double().numpy(), k, margins, 8.0, name)
    value = loss(x, targets)
    assert value.item() == pytest.approx(expected, rel=1e-4)
    value.backward()
    assert x.grad.abs().sum() > 0
    assert next(loss.parameters()).grad.abs().sum() > 0


def test_angle_past_pi_does_not_reward() -> None:
    loss = embedding(np.array([1, 1]), name="arcface", margin=60.0, scale=1.0)
    centre = loss.centres()[0]
    losses = []
    for share in (0.0, 0.5, 0.8, 0.95, 0.999):  # from the side to the opposite of its class
        x = F.normalize(-share * F.normalize(centre, dim=0) + (1 - share) * F.normalize(loss.centres()[1], dim=0), dim=0)[None]
        target = loss.parts["arcface"].loss.modify_cosine_of_target_classes
        cosine = F.cosine_similarity(x, centre[None])
        losses.append(float(target(cosine)))
    assert losses == sorted(losses, reverse=True)


def test_strangers_are_ignored_by_class_centres() -> None:
    for name in ("arcface", "cosface", "subcenter_arcface", "proxy_anchor", "cross_entropy"):
        loss, x = embedding(name=name), unit_vectors(5)
        targets = torch.tensor([0, -1, 1, -1, 2])
        assert torch.equal(loss(x, targets), loss(x[[0, 2, 4]], targets[[0, 2, 4]])), name
        nobody = loss(x, torch.full((5,), -1))
        nobody.backward()  # DistributedDataParallel wants a gradient from every batch
        assert nobody.item() == 0
        assert x.grad is not None


def distances(x: torch.Tensor) -> np.ndarray:
    v = x.detach().double().numpy()
    return np.sqrt(((v[:, None] - v[None]) ** 2).sum(-1))


def test_triplets_are_batch_hard_and_strangers_only_negatives() -> None:
    loss, x = embedding(name="triplet", margin=0.9), unit_vectors(10)
    targets = [0, 0, 0, 1, 1, 2, 2, 2, -1, -1]
    d, terms = distances(x), []
    for a in range(10):
        same = [i for i in range(10) if i != a and targets[i] == targets[a] >= 0]
        other = [i for i in range(10) if i != a and (targets[i] != targets[a] or targets[i] < 0)]
        if same:
            terms.append(max(0.0, 0.9 + max(d[a, i] for i in same) - min(d[a, i] for i in other)))
    value = loss(x, torch.tensor(targets))
    assert value.item() == pytest.approx(np.mean([term for term in terms if term > 0]), rel=1e-4)  # zero terms don't dilute it
    value.backward()
    assert (x.grad[8:].abs().sum(1) > 0).any()


def test_semihard_negatives_lie_between_positive_and_margin() -> None:
    loss, x = embedding(name="triplet", margin=0.5, miner="semihard"), unit_vectors(9)
    targets = [0, 0, 0, 1, 1, 1, 2, 2, 2]
    d = distances(x)
    terms = [
        0.5 + d[a, p] - d[a, n]
        for a in range(9)
        for p in range(9)
        for n in range(9)
        if a != p and targets[a] == targets[p] != targets[n] and d[a, p] < d[a, n] < d[a, p] + 0.5
    ]
    assert loss(x, torch.tensor(targets)).item() == pytest.approx(np.mean(terms), rel=1e-4)


def test_supcon_and_contrastive_against_loops() -> None:
    x, targets = unit_vectors(6), [0, 0, 1, 1, 1, -1]
    v = x.detach().double().numpy()
    terms = []
    for a in range(5):
        logits = np.array([v[a] @ v[i] / 0.1 for i in range(6) if i != a])
        log_sum = np.log(np.exp(logits).sum())
        terms.append(-np.mean([v[a] @ v[i] / 0.1 - log_sum for i in range(6) if i != a and targets[i] == targets[a]]))
    assert embedding(name="supcon")(x, torch.tensor(targets)).item() == pytest.approx(np.mean(terms), rel=1e-4)
    d = distances(x)
    near = [d[a, b] for a in range(6) for b in range(6) if a != b and targets[a] == targets[b]]
    far = [max(0.0, 1.2 - d[a, b]) for a in range(6) for b in range(6) if targets[a] != targets[b]]
    expected = np.mean(near) + np.mean([value for value in far if value > 0])
    assert embedding(name="contrastive", margin=1.2)(x, torch.tensor(targets)).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["triplet", "multi_similarity", "contrastive", "supcon"])
def test_strangers_are_negatives_and_never_a_pair(name: str) -> None:
    loss, x = embedding(name=name), unit_vectors(8)
    known = torch.tensor([0, 0, 1, 1, 2, 2])
    strangers = loss(x, torch.cat([known, torch.tensor([-1, -1])]))
    assert torch.allclose(strangers, loss(x, torch.cat([known, torch.tensor([7, 8])])))
    assert not torch.allclose(strangers, loss(x, torch.cat([known, torch.tensor([7, 7])])))
    strangers.backward()
    assert x.grad.abs().sum() > 0


def test_objectives_add_up_with_their_weights() -> None:
    x, targets = unit_vectors(8), torch.tensor([0, 0, 1, 1, 2, 2, -1, -1])
    both = embedding(name="arcface", also={"triplet": 0.5, "cross_entropy": 2.0})
    parts = {name: part(x, targets) if name == "triplet" else part(x[:6], targets[:6]) for name, part in both.parts.items()}
    expected = parts["arcface"] + 0.5 * parts["triplet"] + 2 * parts["cross_entropy"]
    assert torch.allclose(both(x, targets), expected)


def test_a_batch_of_strangers_alone_reaches_every_weight() -> None:
    """DistributedDataParallel waits for the gradient of each; without one the next step fails."""
    x = unit_vectors(4)
    loss = embedding(name="arcface", also={"triplet": 0.5})
    loss(x, torch.tensor([-1, -1, -1, -1])).backward()
    assert all(parameter.grad is not None for parameter in loss.parameters())


def test_margin_is_that_of_the_main_objective() -> None:
    for first, margin, second in (("arcface", 20.0, "triplet"), ("triplet", 0.5, "arcface"), ("arcface", 20.0, "cosface")):
        both = embedding(name=first, margin=margin, also={second: 1.0})
        for name, value in {"arcface": 28.6, "triplet": 0.2, "cosface": 0.35, first: margin}.items():
            if name in both.parts:
                unit = math.radians(1) if name == "arcface" else 1.0
                assert both.parts[name].loss.margin == pytest.approx(value * unit)


def test_mirrored_individuals_have_centres_of_their_own() -> None:
    mirrored = np.concatenate([TARGETS, TARGETS + 4])  # as lib.tasks doubles them
    loss = make_embedding_loss(Objective(name="arcface"), mirrored, 8, WIDTH)
    assert loss.centres().shape == (8, WIDTH)
