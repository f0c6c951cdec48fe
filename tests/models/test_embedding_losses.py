"""Losses of embeddings, compared with formulas written again here."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lib.config.recipe import Objective
from lib.errors import FlukeError
from lib.models.embedding_losses import make_embedding_loss

COUNTS = np.array([16, 4, 1])
WIDTH = 6


def make_loss(counts: np.ndarray = COUNTS, **fields: object) -> torch.nn.Module:
    torch.manual_seed(0)
    targets = np.append(np.repeat(np.arange(len(counts)), counts), -1)  # one image is unlabeled
    return make_embedding_loss(Objective(**fields), targets, len(counts), WIDTH)


def unit_vectors(n: int, seed: int = 1) -> torch.Tensor:
    return F.normalize(torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(seed))).requires_grad_()


def margin_loss(
    x: np.ndarray, targets: list[int], centres: np.ndarray, k: int, margins: list[float], scale: float, kind: str
) -> float:
    """Compute ArcFace with k centres per class, or CosFace, image by image."""
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
def test_margin_losses_and_margins_by_class_size(name: str, margin: float, k: int, power: float) -> None:
    loss = make_loss(name=name, margin=margin, scale=8.0, margin_power=power, sub_centers=3)
    x, targets = unit_vectors(7), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    centres = loss.centres()
    assert centres.shape == (3 * k, WIDTH)
    in_its_unit = margin if name == "cosface" else math.radians(margin)
    margins = [in_its_unit * count**-power for count in (16, 4, 1)]  # at power 1/4, 16 images halve the margin of the rarest class
    expected = margin_loss(x.detach().double().numpy(), targets.tolist(), centres.double().numpy(), k, margins, 8.0, name)
    value = loss(x, targets)
    assert value.item() == pytest.approx(expected, rel=1e-4)
    value.backward()
    assert x.grad.abs().sum() > 0
    assert next(loss.parameters()).grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["arcface", "subcenter_arcface", "cosface", "proxy_anchor"])
def test_class_centres_turn_within_a_hundred_steps_of_adamw(name: str) -> None:
    """Centres that start as N(0, 1), with a norm of 22, turn by 17 degrees at most."""
    torch.manual_seed(0)
    loss = make_embedding_loss(Objective(name=name, scale=16.0), np.repeat(np.arange(20), 4), 20, 512)
    (centres,) = loss.parameters()
    before = centres.detach().clone()
    x = F.normalize(torch.randn(80, 512) + 4 * torch.randn(20, 512).repeat_interleave(4, 0))
    optimizer = torch.optim.AdamW(loss.parameters(), lr=1e-3)
    for _ in range(100):
        optimizer.zero_grad()
        loss(x, torch.arange(20).repeat_interleave(4)).backward()
        optimizer.step()
    dim = 1 if name == "proxy_anchor" else 0  # (C, D), the others (D, C)
    turned = torch.rad2deg(torch.acos(F.cosine_similarity(before, centres, dim=dim)))
    assert turned.min() > 30


def test_target_cosine_falls_beyond_pi() -> None:
    loss = make_loss(np.array([1, 1]), name="arcface", margin=60.0, scale=1.0)
    centre = loss.centres()[0]
    losses = []
    for share in (0.0, 0.5, 0.8, 0.95, 0.999):  # from the other class centre to the opposite of its own
        x = F.normalize(-share * F.normalize(centre, dim=0) + (1 - share) * F.normalize(loss.centres()[1], dim=0), dim=0)[None]
        target = loss.parts["arcface"].loss.modify_cosine_of_target_classes
        cosine = F.cosine_similarity(x, centre[None])
        losses.append(float(target(cosine)))
    assert losses == sorted(losses, reverse=True)


def test_unlabeled_images_do_not_count_in_losses_with_class_weights() -> None:
    for name in ("arcface", "cosface", "subcenter_arcface", "proxy_anchor", "cross_entropy"):
        loss, x = make_loss(name=name), unit_vectors(5)
        targets = torch.tensor([0, -1, 1, -1, 2])
        assert torch.equal(loss(x, targets), loss(x[[0, 2, 4]], targets[[0, 2, 4]])), name
        no_label = loss(x, torch.full((5,), -1))
        no_label.backward()  # DistributedDataParallel requires a gradient from every batch
        assert no_label.item() == 0
        assert x.grad is not None


def distances(x: torch.Tensor) -> np.ndarray:
    v = x.detach().double().numpy()
    return np.sqrt(((v[:, None] - v[None]) ** 2).sum(-1))


def test_triplets_are_batch_hard_with_unlabeled_images_as_negatives() -> None:
    loss, x = make_loss(name="triplet", margin=0.9), unit_vectors(10)
    targets = [0, 0, 0, 1, 1, 2, 2, 2, -1, -1]
    d, terms = distances(x), []
    for a in range(10):
        same = [i for i in range(10) if i != a and targets[i] == targets[a] >= 0]
        other = [i for i in range(10) if i != a and (targets[i] != targets[a] or targets[i] < 0)]
        if same:
            terms.append(max(0.0, 0.9 + max(d[a, i] for i in same) - min(d[a, i] for i in other)))
    value = loss(x, torch.tensor(targets))
    assert value.item() == pytest.approx(np.mean([term for term in terms if term > 0]), rel=1e-4)  # the mean is over positive terms
    value.backward()
    assert (x.grad[8:].abs().sum(1) > 0).any()


def test_semihard_negatives_are_farther_than_the_positive_within_the_margin() -> None:
    loss, x = make_loss(name="triplet", margin=0.5, miner="semihard"), unit_vectors(9)
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


def test_supervised_contrastive_and_contrastive_loss() -> None:
    x, targets = unit_vectors(6), [0, 0, 1, 1, 1, -1]
    v = x.detach().double().numpy()
    terms = []
    for a in range(5):
        logits = np.array([v[a] @ v[i] / 0.1 for i in range(6) if i != a])
        log_sum = np.log(np.exp(logits).sum())
        terms.append(-np.mean([v[a] @ v[i] / 0.1 - log_sum for i in range(6) if i != a and targets[i] == targets[a]]))
    assert make_loss(name="supcon")(x, torch.tensor(targets)).item() == pytest.approx(np.mean(terms), rel=1e-4)
    d = distances(x)
    near = [d[a, b] for a in range(6) for b in range(6) if a != b and targets[a] == targets[b]]
    far = [max(0.0, 1.2 - d[a, b]) for a in range(6) for b in range(6) if targets[a] != targets[b]]
    expected = np.mean(near) + np.mean([value for value in far if value > 0])
    assert make_loss(name="contrastive", margin=1.2)(x, torch.tensor(targets)).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["triplet", "multi_similarity", "contrastive", "supcon"])
def test_unlabeled_images_are_negatives_and_never_a_positive_pair(name: str) -> None:
    loss, x = make_loss(name=name), unit_vectors(8)
    labeled = torch.tensor([0, 0, 1, 1, 2, 2])
    unlabeled = loss(x, torch.cat([labeled, torch.tensor([-1, -1])]))
    assert torch.allclose(unlabeled, loss(x, torch.cat([labeled, torch.tensor([7, 8])])))
    assert not torch.allclose(unlabeled, loss(x, torch.cat([labeled, torch.tensor([7, 7])])))
    unlabeled.backward()
    assert x.grad.abs().sum() > 0


def test_losses_are_summed_with_their_weights() -> None:
    x, targets = unit_vectors(8), torch.tensor([0, 0, 1, 1, 2, 2, -1, -1])
    both = make_loss(name="arcface", also={"triplet": 0.5, "cross_entropy": 2.0})
    parts = {name: part(x, targets) if name == "triplet" else part(x[:6], targets[:6]) for name, part in both.parts.items()}
    expected = parts["arcface"] + 0.5 * parts["triplet"] + 2 * parts["cross_entropy"]
    assert torch.allclose(both(x, targets), expected)


def test_batch_without_labels_gives_every_parameter_a_gradient() -> None:
    """Without one, the next step under DistributedDataParallel fails."""
    x = unit_vectors(4)
    loss = make_loss(name="arcface", also={"triplet": 0.5})
    loss(x, torch.tensor([-1, -1, -1, -1])).backward()
    assert all(parameter.grad is not None for parameter in loss.parameters())


def test_margin_applies_to_the_main_loss_only() -> None:
    for first, margin, second in (("arcface", 20.0, "triplet"), ("triplet", 0.5, "arcface"), ("arcface", 20.0, "cosface")):
        both = make_loss(name=first, margin=margin, also={second: 1.0})
        for name, value in {"arcface": 28.6, "triplet": 0.2, "cosface": 0.35, first: margin}.items():
            if name in both.parts:
                unit = math.radians(1) if name == "arcface" else 1.0
                assert both.parts[name].loss.margin == pytest.approx(value * unit)


def test_mirrored_individuals_have_their_own_class_weights() -> None:
    targets = np.repeat(np.arange(4), [12, 6, 5, 1])
    mirrored = np.concatenate([targets, targets + 4])  # as train_embedding numbers them
    loss = make_embedding_loss(Objective(name="arcface"), mirrored, 8, WIDTH)
    assert loss.centres().shape == (8, WIDTH)


def test_settings_that_are_not_for_embeddings_are_refused() -> None:
    with pytest.raises(FlukeError, match=r"objective bce is not for embeddings; train_embedding takes cross_entropy, arcface"):
        make_loss(name="bce")
    with pytest.raises(FlukeError, match=r"objective focal is not for embeddings"):
        make_loss(name="arcface", also={"focal": 0.5})
    with pytest.raises(FlukeError, match=r"objective.mixup and cutmix mix labels"):
        make_loss(name="arcface", mixup=0.2)


@pytest.mark.parametrize("name", ["cross_entropy", "arcface", "cosface", "subcenter_arcface"])
def test_without_unlabeled_images_a_step_does_not_ask_for_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking waits for the device, and for the other processes; the loss is the same."""
    targets = np.repeat(np.arange(3), 4)
    x, batch = unit_vectors(6), torch.tensor([0, 1, 2, 0, 1, 2])
    losses = []
    for train_targets in (targets, np.append(targets, -1)):
        torch.manual_seed(0)
        losses.append(make_embedding_loss(Objective(name=name, margin=0.2), train_targets, 3, WIDTH))
    assert losses[0](x, batch).item() == pytest.approx(losses[1](x, batch).item(), rel=1e-6)
    monkeypatch.setattr("lib.models.embedding_losses.relative_count", lambda labeled: pytest.fail("asked"))
    assert torch.isfinite(losses[0](x, batch))
