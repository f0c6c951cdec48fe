"""Heads for ordered classes: what their logits stand for."""

import numpy as np
import pytest
import torch
from scipy.special import expit
from scipy.stats import norm

from lib.models.heads import SPREAD, Cumulative, Place, place_of


def test_a_place_is_the_normal_distribution_around_it() -> None:
    head, x = Place(3, 5), torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    head.set_scale(torch.tensor([2.0]), torch.tensor([1.5]))
    logits = head(x)
    place = 2 + 1.5 * head.linear(x)[:, 0]
    torch.testing.assert_close(place_of(logits), place, atol=1e-5, rtol=0)
    density = norm.pdf(np.arange(5), place.detach().numpy()[:, None], SPREAD)
    assert logits.softmax(1).detach().numpy() == pytest.approx(density / density.sum(axis=1, keepdims=True), abs=1e-5)


@pytest.mark.parametrize("classes", [3, 6])
def test_cumulative_probabilities_are_those_of_proportional_odds(classes: int) -> None:
    head, x = Cumulative(4, classes), 2 * torch.randn(20, 4, generator=torch.Generator().manual_seed(1))
    cuts = np.arange(classes - 1) - (classes - 2) / 2  # one apart, and symmetric, before training
    above = expit(head.linear(x).detach().numpy() - cuts)
    bounds = np.concatenate([np.ones((20, 1)), above, np.zeros((20, 1))], axis=1)
    assert head(x).exp().detach().numpy() == pytest.approx(bounds[:, :-1] - bounds[:, 1:], abs=1e-4)
