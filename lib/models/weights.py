"""Weights of a network: load initial weights, save a network with its description, load it again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import safetensors
import safetensors.torch

from lib.config.recipe import Model
from lib.errors import FlukeError, first_few
from lib.files import atomic_write
from lib.models.backbone import make_backbone
from lib.models.foreign_weights import explain_misfit, match_backbone, match_embedding, read_weights
from lib.models.network import Network, NetworkSpec


def load_initial_weights(network: Network, m: Model) -> str:
    """Load a new network's initial weights by `model.pretrained` and `model.weights`; return a sentence on what was loaded.

    Raises FlukeError for a file of another architecture, and for one that isn't weights.
    """
    if m.weights is None:
        if not m.pretrained:
            return f"{m.name}: new weights."
        # Under the recipe's name: hf-hub: and local-dir: say where the weights are.
        pretrained = make_backbone(replace(network.spec.model, name=m.name), pretrained=True)
        network.backbone.load_state_dict(pretrained.state_dict())
        return f"{m.name}: timm's pretrained weights, new head."
    path = Path(m.weights)
    stored, saved = read_weights(path), read_spec(path)
    parts, left_out = {}, []
    if saved is not None:  # a run's weights: pooling, head and loss beside the backbone
        parts = {key: value for key, value in stored.items() if not key.startswith("backbone.")}
        stored = {key.removeprefix("backbone."): value for key, value in stored.items() if key not in parts}
        own = network.spec
        if (saved.classes, saved.kind, saved.head, saved.target.numeric) != (own.classes, own.kind, own.head, own.target.numeric):
            parts = {key: value for key, value in parts.items() if not key.startswith(("head.", "objective."))}
            left_out = ["head (of other classes)" if saved.kind == network.spec.kind else f"head (of a run of kind {saved.kind})"]
    match = match_backbone(stored, network.backbone)
    if misfit := explain_misfit(path, stored, match, network.backbone):
        raise FlukeError(
            f"model.weights {path}: not weights of {m.name} ({misfit}); name weights of that model, or set model.name."
        )
    expected = network.state_dict()
    fitting = {key: value for key, value in parts.items() if key in expected and expected[key].shape == value.shape}
    if saved is None:
        found = match_embedding(stored, network)
        fitting |= dict(found.values())
        match = replace(match, left_out=[name for name in match.left_out if not {name, f"backbone.{name}"} & set(found)])
        if not found and {"bn.weight", "bn.running_mean"} <= set(stored):
            match.notes.append("not its pooling and batch normalization, as MiewID has them: these need model.pool gem")
    network.backbone.load_state_dict(match.tensors, strict=False)
    network.load_state_dict(fitting, strict=False)
    left_out += sorted(set(parts) - set(fitting)) + match.left_out
    new_head = not any(key.startswith("head.") for key in fitting) and len(list(network.head.parameters())) > 0
    said = [f"{m.name}: {len(match.tensors) + len(fitting)} tensors from {path}", *match.notes, *(["new head"] if new_head else [])]
    return ", ".join(said) + (f"; left out {len(left_out)}: {first_few(left_out, 6)}." if left_out else ".")


def save_network(path: Path, network: Network) -> None:
    """Write a network's weights and NetworkSpec as one safetensors file, atomically; `load_network` needs nothing else."""
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    with atomic_write(path) as temporary:
        safetensors.torch.save_file(state, temporary, metadata={"fluke": json.dumps(network.spec.to_dict(), ensure_ascii=False)})


def read_spec(path: Path) -> NetworkSpec | None:
    """Return the NetworkSpec in a weights file; None if it has none. Raises FlukeError for a .safetensors file that isn't one."""
    try:
        with safetensors.safe_open(path, framework="pt") as handle:
            text = (handle.metadata() or {}).get("fluke")
    except FileNotFoundError:
        raise FlukeError(f"{path}: no such file.") from None
    except Exception as error:
        if path.suffix != ".safetensors":
            return None
        raise FlukeError(f"{path}: not a safetensors file, or truncated ({type(error).__name__}).") from None
    if text is None:
        return None
    try:
        return NetworkSpec.from_dict(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FlukeError(f"{path}: its description can't be read ({error}).") from None


def load_network(path: Path) -> Network:
    """Return the network that `save_network` wrote, in evaluation mode, without its loss. Raises FlukeError."""
    spec = read_spec(path)
    if spec is None:
        raise FlukeError(f"{path}: weights without a description; only the best weights of a run load without its recipe.")
    network = Network(spec)
    state = {key: value for key, value in safetensors.torch.load_file(path).items() if not key.startswith("objective.")}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise FlukeError(f"{path}: tensors don't match its own description ({str(error).splitlines()[-1].strip()}).") from None
    return network.eval()
