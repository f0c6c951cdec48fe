"""Weights files of other programs: read what they hold, and find the tensors of a backbone in it."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from timm.models import adapt_input_conv, get_model_traits
from torch import Tensor, nn

from lib.errors import FlukeError, first_few

AVERAGED = ("state_dict_ema", "model_ema", "ema", "params_ema", "teacher")
"""Names of averaged weights in checkpoints; they are taken before others that fit as well, as in timm."""

WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch.compile, FSDP and activation checkpointing insert into names, at any place."""

SHARD = re.compile(r"-\d+-of-\d+\.")

# Numbers of NumPy stand in many checkpoints (the best score so far), argparse's Namespace in timm's. None of them runs code.
_SCALAR = np.float64(0).__reduce__()[0]
HARMLESS: list[Any] = [argparse.Namespace, np.dtype, _SCALAR, (_SCALAR, "numpy.core.multiarray.scalar")]
HARMLESS += [type(np.dtype(kind)) for kind in (np.float16, np.float32, np.float64, np.int32, np.int64, np.bool_)]


def read_weights(path: Path) -> dict[str, Any]:
    """Read a .safetensors file, a pickle of tensors and plain values, or the shards named by an .index.json. Raises FlukeError."""
    place = f"model.weights {path}"
    if path.is_dir():
        hub = f"; model.name local-dir:{path} takes it whole" if (path / "config.json").is_file() else ""
        raise FlukeError(f"{place}: a folder; name a file in it, of a run best/model.safetensors{hub}.")
    if not path.is_file():
        raise FlukeError(f"{place}: no such file; name one on this machine, or set model.weights to null for timm's weights.")
    try:
        if path.name.endswith(".index.json"):
            shards = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
            return {name: value for shard in shards for name, value in read_weights(path.parent / Path(shard).name).items()}
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with torch.serialization.safe_globals(HARMLESS):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FlukeError:
        raise
    except Exception as error:
        reason = "a pickle with more than tensors" if "weights_only" in str(error).lower() else type(error).__name__
        raise FlukeError(
            f"{place}: not a weights file that can be read safely ({reason}); where you trust it, load it and save its tensors "
            "alone: torch.save(model.state_dict(), FILE)."
        ) from None
    if not isinstance(checkpoint, dict) or next(_named_tensors(checkpoint), None) is None:
        raise FlukeError(f"{place}: holds no named tensors; save a state_dict.")
    return checkpoint


@dataclass(frozen=True)
class Match:
    """The tensors of a file that fit a backbone."""

    tensors: dict[str, Tensor]
    """By the backbone's names."""
    left_out: list[str] = field(default_factory=list)
    """Names in the file of the tensors that no part of the backbone takes."""
    notes: list[str] = field(default_factory=list)
    """What was guessed: where in the file the tensors are, and how they were converted."""


def match_backbone(checkpoint: Mapping[str, Any], backbone: nn.Module) -> Match:
    """Return the tensors of a checkpoint that fit `backbone`, from the one of its parts that fits best.

    Weights under a prefix (module., model., backbone., ...) and in nested dictionaries are found. Names and sizes that differ go
    through timm's filters of the architecture, which resample position embeddings and know the names of other programs.
    """
    best = Match({})
    for place, tensors in _named_tensors(checkpoint):
        for match in _readings(place, tensors, backbone):
            if len(match.tensors) > len(best.tensors):
                best = match
    return best


def match_embedding(checkpoint: Mapping[str, Any], network: nn.Module) -> dict[str, tuple[str, Tensor]]:
    """Return, by its name in a checkpoint of MiewID, the name and tensor of each part behind the backbone.

    MiewID normalizes the features (BatchNorm, `bn`) after generalized-mean pooling (`p`), as an embedding network with model.pool
    gem does, whose head is that BatchNorm alone. {} where the network isn't one, or the checkpoint lacks a tensor.
    """
    expected = network.state_dict()
    norm = {name.rpartition(".")[2]: name for name in expected if re.fullmatch(r"head\.1\.\w+", name)}
    pooling = next((name for name in checkpoint if re.fullmatch(r"(backbone\.)?(pooling|global_pool)\.p", name)), None)
    if pooling is None or "pool.p" not in expected or "running_mean" not in norm:
        return {}
    names = {pooling: "pool.p"} | {f"bn.{part}": ours for part, ours in norm.items()}
    found = {}
    for theirs, ours in names.items():
        tensor = checkpoint.get(theirs)
        if not isinstance(tensor, Tensor) or tensor.numel() != expected[ours].numel():
            return {}
        found[theirs] = (ours, tensor.reshape(expected[ours].shape))
    return found


def _named_tensors(checkpoint: Mapping[Any, Any], place: str = "") -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield each dictionary of named tensors in a checkpoint and its place ("model_ema."), averaged weights first."""
    tensors = {
        WRAPPERS.sub("", key): value for key, value in checkpoint.items() if isinstance(value, Tensor) and isinstance(key, str)
    }
    if tensors:
        yield place, tensors
    if "param_groups" in checkpoint:  # an optimizer's
        return
    for key in sorted(checkpoint, key=lambda key: key not in AVERAGED):
        if isinstance(checkpoint[key], Mapping):
            yield from _named_tensors(checkpoint[key], f"{place}{key}.")


def _readings(place: str, tensors: dict[str, Tensor], backbone: nn.Module) -> Iterator[Match]:
    """Yield what fits of a dictionary of tensors: as it is named, through timm's filters, and in its order."""
    expected = backbone.state_dict()
    prefix = _prefix(tensors, expected)
    state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    others = [key for key in tensors if not key.startswith(prefix)]
    notes = [f"its tensors are under {place + prefix}"] if place + prefix else []
    match = _fitting(state, expected, backbone, notes, others)
    yield match
    if len(match.tensors) == len(expected):
        return
    for source, more in ((state, others), (tensors, [])):
        for converted in _filtered(source, backbone):
            yield _fitting(converted, expected, backbone, [*notes, "names and sizes converted by timm"], more)
    yield _in_order(state, expected, notes)


def _filtered(state: dict[str, Tensor], backbone: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Yield a state as timm's filters convert it, which stand beside the class of an architecture.

    timm applies them only to weights that it loads itself. Some take the model too.
    """
    for name, convert in vars(sys.modules[type(backbone).__module__]).items():
        for arguments in ((backbone,), ()) if "filter" in name and callable(convert) else ():
            try:
                yield dict(convert(dict(state), *arguments))
            except Exception:  # a filter raises whatever it likes for weights that aren't its own
                continue


def _prefix(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> str:
    """Return what stands before most of the expected names, "" where most stand alone."""
    counts: Counter[str] = Counter({"": 0})
    for key in tensors:
        for dot in (-1, *(i for i, letter in enumerate(key) if letter == ".")):
            if key[dot + 1 :] in expected:
                counts[key[: dot + 1]] += 1
    return max(counts, key=lambda prefix: counts[prefix])


def _fitting(
    state: dict[str, Tensor], expected: dict[str, Tensor], backbone: nn.Module, notes: list[str], others: list[str]
) -> Match:
    """Return the tensors that have the expected names and shapes; a stem of grey or RGB is spread over the expected channels."""
    state, notes = dict(state), list(notes)
    stems = get_model_traits(backbone).get("first_conv") or ()
    for stem in (stems,) if isinstance(stems, str) else stems:
        weight = state.get(name := f"{stem}.weight")
        if weight is None or weight.ndim != 4 or name not in expected or weight.shape[1] not in (1, 3):
            continue
        if (channels := expected[name].shape[1]) != (known := weight.shape[1]):
            state[name] = adapt_input_conv(channels, weight, base_chans=known)
            notes.append(f"{stem} spread from {known} channel{'s' if known > 1 else ''} to {channels}")
    fits = {key: value for key, value in state.items() if key in expected and expected[key].shape == value.shape}
    return Match(fits, others + sorted(set(state) - set(fits)), notes)


def _in_order(state: dict[str, Tensor], expected: dict[str, Tensor], notes: list[str]) -> Match:
    """Return the tensors in the file's order, if kinds (weight, running_mean, ...) and shapes agree for all of them."""
    items = [(key, value) for key, value in state.items() if not key.endswith("num_batches_tracked")]
    names = [key for key in expected if not key.endswith("num_batches_tracked")]
    if len(items) < len(names) or any(
        (key.rpartition(".")[2], value.shape) != (name.rpartition(".")[2], expected[name].shape)
        for (key, value), name in zip(items, names)
    ):
        return Match({})
    taken = {name: value for (_, value), name in zip(items, names)}
    return Match(taken, [key for key, _ in items[len(names) :]], [*notes, "names differ, taken in the file's order"])


def explain_misfit(path: Path, checkpoint: Mapping[str, Any], match: Match, backbone: nn.Module) -> str:
    """Return why a checkpoint doesn't hold the weights of a backbone, with names and shapes of both; "" if it does."""
    expected = backbone.state_dict()
    missing = [key for key in expected if key not in match.tensors and not key.endswith("num_batches_tracked")]
    if not missing:
        return ""
    name, shape = missing[0], tuple(expected[missing[0]].shape)
    reason = f"{len(missing)} of its {len(expected)} backbone tensors are missing or of another shape, first {name} {shape}"
    found = {key: value for _, tensors in _named_tensors(checkpoint) for key, value in tensors.items()}
    if other := [key for key in found if key == name or key.endswith(f".{name}")]:
        return f"{reason}, in the file {other[0]} {tuple(found[other[0]].shape)}"
    reason += f"; the file has {first_few(found, 2)}"
    return reason + ("; it is one of several shards, whose .index.json loads all" if SHARD.search(path.name) else "")
