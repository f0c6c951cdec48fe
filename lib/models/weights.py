"""Weights of a network: load initial weights, save a network with its description, load it again."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors
import safetensors.torch
from timm.models import clean_state_dict, load_state_dict
from torch import Tensor, nn

from lib.config.recipe import Model
from lib.errors import FlukeError, first_few
from lib.files import atomic_write
from lib.models.network import Network, NetworkSpec, make_backbone


def load_initial_weights(network: Network, m: Model) -> str:
    """Load a new network's initial weights by `model.pretrained` and `model.weights`; return a sentence on what was loaded.

    Raises FlukeError for a file of another architecture, and for one that isn't weights.
    """
    if m.weights is None:
        if not m.pretrained:
            return f"{m.name}: new weights."
        network.backbone.load_state_dict(make_backbone(m, pretrained=True).state_dict())
        return f"{m.name}: timm's pretrained weights, new head."
    path = Path(m.weights)
    state, left_out = _read_state_dict(path), []
    from_run = any(key.startswith("backbone.") for key in state)
    module: nn.Module = network if from_run else network.backbone
    if from_run and (reason := _why_other_head(path, network.spec)) is not None:
        state = {key: value for key, value in state.items() if not key.startswith(("head.", "objective."))}
        left_out = [f"head ({reason})"]
    expected = module.state_dict()
    loaded = {key: value for key, value in state.items() if key in expected and expected[key].shape == value.shape}
    left_out += sorted(set(state) - set(loaded))
    backbone = [key for key in expected if key.startswith("backbone.") or not from_run]
    missing = [key for key in backbone if key not in loaded and not key.endswith("num_batches_tracked")]
    if missing:
        raise FlukeError(
            f"model.weights {path}: not weights of {m.name} ({len(missing)} of its {len(backbone)} backbone tensors are missing or "
            f"of another shape, first {missing[0]}); name weights of that model, or set model.name."
        )
    module.load_state_dict(loaded, strict=False)
    new_head = not any(key.startswith("head.") for key in loaded) and len(list(network.head.parameters())) > 0
    sentence = f"{m.name}: {len(loaded)} tensors from {path}" + (", new head" if new_head else "")
    return sentence + (f"; left out {len(left_out)}: {first_few(left_out, 6)}." if left_out else ".")


def _why_other_head(path: Path, spec: NetworkSpec) -> str | None:
    """Return why a run's head doesn't fit a network; None if it does, or if the file doesn't describe its network."""
    saved = read_spec(path)
    if saved is None or (saved.classes, saved.kind) == (spec.classes, spec.kind):
        return None
    return "of other classes" if saved.kind == spec.kind else f"of a run of kind {saved.kind}"


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read named tensors from a .safetensors file or a pickle of tensors alone. Raises FlukeError."""
    if not path.is_file():
        raise FlukeError(f"model.weights {path}: no such file.")
    try:
        state = load_state_dict(str(path), weights_only=True)
        if "model_state_dict" in state:  # the name in PyTorch's tutorial; timm handles the other usual names
            state = clean_state_dict(state["model_state_dict"])
    except Exception as error:
        is_pickle = "weights_only" in str(error).lower()
        reason = "a pickle with more than tensors" if is_pickle else type(error).__name__
        raise FlukeError(f"model.weights {path}: not a weights file that can be read safely ({reason}).") from None
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise FlukeError(f"model.weights {path}: holds no named tensors; save a state_dict.")
    return state


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
    state = {key: value for key, value in _read_state_dict(path).items() if not key.startswith("objective.")}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise FlukeError(f"{path}: tensors don't match its own description ({str(error).splitlines()[-1].strip()}).") from None
    return network.eval()
