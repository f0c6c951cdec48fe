"""What the recipe must know about each loss before torch is loaded: the targets that it fits, and how it compares images."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LossTraits:
    """Properties of a loss on which other choices depend."""

    targets: tuple[str, ...]
    """Targets that it fits: identity (train_embedding), all others (train_classifier)."""
    compares_pairs: bool = False
    """Compares the images of a batch with each other, without a weight vector per class: it can use unlabelled negatives."""
    has_centres: bool = False
    """Holds unit weight vectors per class that stand for the class in retrieval (`retrieval.centre_weight`)."""


LOSSES: dict[str, LossTraits] = {
    "cross_entropy": LossTraits(("one_label", "ordinal", "identity")),
    "focal": LossTraits(("one_label", "ordinal", "several_labels")),
    "mse": LossTraits(("regression", "ordinal")),
    "l1": LossTraits(("regression", "ordinal")),
    "huber": LossTraits(("regression", "ordinal")),
    "binned": LossTraits(("regression",)),
    "cumulative": LossTraits(("ordinal",)),
    "bce": LossTraits(("several_labels",)),
    "asymmetric": LossTraits(("several_labels",)),
    "arcface": LossTraits(("identity",), has_centres=True),
    "subcenter_arcface": LossTraits(("identity",), has_centres=True),
    "cosface": LossTraits(("identity",), has_centres=True),
    "triplet": LossTraits(("identity",), compares_pairs=True),
    "multi_similarity": LossTraits(("identity",), compares_pairs=True),
    "contrastive": LossTraits(("identity",), compares_pairs=True),
    "supcon": LossTraits(("identity",), compares_pairs=True),
    "proxy_anchor": LossTraits(("identity",)),
}
"""Names of `objective.name` and `objective.also`, in the order in which messages list them."""
