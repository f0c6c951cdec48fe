"""Small networks, random images and training steps for tests."""

import torch

from lib.config.recipe import Model, Objective
from lib.models.losses import make_classification_loss
from lib.models.network import Network, NetworkSpec
from lib.tables.target import ONE_LABEL, Target

CLASSES = ("ant", "bee", "cat")


def make_network(
    name: str = "test_resnet", classes: tuple[str, ...] = CLASSES, target: Target = ONE_LABEL, size: int = 32, **model: object
) -> Network:
    """Return a network with seeded weights; `model` are fields of the recipe's section."""
    torch.manual_seed(0)
    return Network(NetworkSpec(Model(name=name, pretrained=False, **model), classes, target, size, "squash"))


def random_images(n: int = 4, size: int = 32) -> torch.Tensor:
    """Return images (n, 3, size, size) uint8, the same for the same n."""
    return torch.randint(256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(n))


def train_step(network: Network, size: int = 32, lr: float = 0.1) -> float:
    """Take one step of SGD on random images; return the loss."""
    targets = torch.arange(4) % len(network.spec.classes)
    network.objective = make_classification_loss(Objective(), targets.numpy(), network.spec.classes, ONE_LABEL)
    network.train()
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=lr)
    loss = network(random_images(size=size), targets)["loss"]
    loss.backward()
    optimizer.step()
    return loss.item()
