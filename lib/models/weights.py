"""Weights of a network: start from pretrained ones, save the network with its description, load it again."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors
import safetensors.torch
from timm.models import clean_state_dict, load_state_dict
from torch import Tensor

from lib.config.recipe import Model
from lib.errors import FlukeError
from lib.files import atomic_write
from lib.models.network import Network, NetworkSpec, make_backbone

# --- weights ----------------------------------------------------------------------------------------------------------------------


def load_initial_weights(network: Network, m: Model) -> str:
    """Fill a new network as `model.pretrained` and `model.weights` say; returns a sentence on what was loaded and left out.

    Raises FlukeError for a file of another architecture, or one that isn't weights.
    """
    if m.weights is None:
        if not m.pretrained:
            return f"{m.name}: new weights."
        network.backbone.load_state_dict(make_backbone(m, pretrained=True).state_dict())
        return f"{m.name}: timm's pretrained weights, new head."
    path = Path(m.weights)
    state = _read_state_dict(path)
    ours = any(key.startswith("backbone.") for key in state)
    wanted = network.state_dict() if ours else network.backbone.state_dict()
    left = []
    if ours and (saved := read_spec(path)) is not None and (saved.classes, saved.kind) != (network.spec.classes, network.spec.kind):
        state = {key: value for key, value in state.items() if not key.startswith(("head.", "objective."))}
        left = ["head (its classes are others)" if saved.kind == network.spec.kind else f"head (of a run of kind {saved.kind})"]
    fits = {key: value for key, value in state.items() if key in wanted and wanted[key].shape == value.shape}
    left += sorted(set(state) - set(fits))
    body = [key for key in wanted if key.startswith("backbone.") or not ours]
    missing = [key for key in body if key not in fits and not key.endswith("num_batches_tracked")]
    if missing:
        raise FlukeError(
            f"model.weights {path}: not weights of {m.name}: {len(missing)} of its {len(body)} backbone tensors are missing or "
            f"of another shape, first {missing[0]}."
        )
    (network if ours else network.backbone).load_state_dict(fits, strict=False)
    new_head = not any(key.startswith("head.") for key in fits) and len(list(network.head.parameters())) > 0
    return (
        f"{m.name}: {len(fits)} tensors from {path}"
        + (", new head" if new_head else "")
        + (f"; left out {len(left)}: {', '.join(left[:6])}{' ...' if len(left) > 6 else ''}." if left else ".")
    )


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FlukeError(f"model.weights {path}: no such file.")
    try:
        state = load_state_dict(str(path), weights_only=True)
        if "model_state_dict" in state:  # as PyTorch's tutorial saves it; timm knows the other names
            state = clean_state_dict(state["model_state_dict"])
    except Exception as error:
        pickled = "weights_only" in str(error).lower()
        reason = "a pickle with more than tensors" if pickled else type(error).__name__
        raise FlukeError(f"model.weights {path}: not a weights file that can be read safely ({reason}).") from None
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise FlukeError(f"model.weights {path}: holds no tensors by name (a state_dict is expected).")
    return state


def save_network(path: Path, network: Network) -> None:
    """Write weights and Spec as one safetensors file, atomically; `load_network` needs nothing else."""
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    with atomic_write(path) as temporary:
        safetensors.torch.save_file(state, temporary, metadata={"fluke": json.dumps(network.spec.to_dict(), ensure_ascii=False)})


def read_spec(path: Path) -> NetworkSpec | None:
    """The Spec inside a weights file; None if it holds none. Raises FlukeError for a file that isn't safetensors."""
    try:
        with safetensors.safe_open(path, framework="pt") as handle:
            text = (handle.metadata() or {}).get("fluke")
    except FileNotFoundError:
        raise FlukeError(f"{path}: no such file.") from None
    except Exception as error:
        if path.suffix != ".safetensors":
            return None
        raise FlukeError(f"{path}: not a safetensors file, or cut short ({type(error).__name__}).") from None
    if text is None:
        return None
    try:
        return NetworkSpec.from_dict(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FlukeError(f"{path}: its description can't be read ({error}).") from None


def load_network(path: Path) -> Network:
    """The network that `save_network` wrote, in evaluation mode, without objective. Raises FlukeError."""
    spec = read_spec(path)
    if spec is None:
        raise FlukeError(f"{path}: weights without a description; only a run's best/model.safetensors loads without its recipe.")
    network = Network(spec)
    state = {key: value for key, value in _read_state_dict(path).items() if not key.startswith("objective.")}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise FlukeError(f"{path}: tensors don't fit its own description ({str(error).splitlines()[-1].strip()}).") from None
    return network.eval()
