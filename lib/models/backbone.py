"""The backbone: timm's model without its classifier, by a name that timm knows or a place that has its configuration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import timm
import torch
from timm.models import parse_model_name, resolve_model_input_args
from torch import nn

from lib.config.recipe import Model
from lib.errors import FlukeError, did_you_mean, one_line

STORED_CFG = ("input_size", "fixed_input_size", "mean", "std", "global_pool")
"""Entries of a configuration from hf-hub: or local-dir: that the network depends on."""


def resolve_model(m: Model, sizes: tuple[int, ...], channels: int = 3) -> Model:
    """Return the section with all arguments that its backbone is built with, for `channels`; a weights file stores it so.

    A backbone of fixed input size is built for images of `sizes` px, unless model.kwargs says img_size or dynamic_img_size. A name
    with hf-hub: or local-dir: gives way to the architecture and arguments found there, because a run loads without that place.
    Raises FlukeError for names and arguments that timm doesn't take.
    """
    m = take_channels(m, channels)
    with _faults_of(m):
        sourced = _is_sourced(m.name)
        resolved = resolve_model_input_args(m.name, **m.kwargs)
    cfg, said = resolved["pretrained_cfg"], {"img_size", "dynamic_img_size"} & m.kwargs.keys()
    if sourced:
        ours = {"num_classes", *(["global_pool"] if m.pool != "default" else [])}
        saved = {key: value for key, value in resolved.get("pretrained_model_args", {}).items() if key not in ours}
        overlay = {key: cfg[key] for key in STORED_CFG if cfg.get(key) is not None}
        m = replace(m, name=resolved["model_name"], kwargs={**saved, **m.kwargs, "pretrained_cfg_overlay": overlay})
    return m if said or not cfg.get("fixed_input_size") else _fit_to_sizes(m, sizes)


def take_channels(m: Model, channels: int) -> Model:
    """Return the section whose backbone takes images of `channels` channels. Raises FlukeError if model.kwargs says otherwise."""
    if (given := m.kwargs.get("in_chans", channels)) != channels:
        raise FlukeError(
            f"model.kwargs: in_chans {given}, but images have {channels} channels; set data.channels, and leave it out."
        )
    return m if channels == 3 else replace(m, kwargs={**m.kwargs, "in_chans": channels})


def _fit_to_sizes(m: Model, sizes: tuple[int, ...]) -> Model:
    """Return the section with the argument that fits a backbone of fixed input size to images of `sizes` px. Raises FlukeError."""
    backbone = make_backbone(m, pretrained=False).eval()
    if all(_takes(backbone, count_in_chans(m), size) for size in sizes):  # as some do, whatever their configuration says
        return m
    if len(set(sizes)) == 1:
        patch = getattr(getattr(backbone, "patch_embed", None), "patch_size", 1)
        patch = patch[0] if isinstance(patch, (tuple, list)) else patch
        if sizes[0] % patch:  # timm would leave out the last pixels
            raise FlukeError(f"model.name {m.name}: takes images of a multiple of {patch} px ({sizes[0]}); set another data.size.")
        return replace(m, kwargs={**m.kwargs, "img_size": sizes[0]})
    m = replace(m, kwargs={**m.kwargs, "dynamic_img_size": True})
    try:
        make_backbone(m, pretrained=False)
    except FlukeError:
        raise FlukeError(f"data.eval_size {sizes[-1]}: {m.name} takes images of one size; set it to null.") from None
    return m


@torch.no_grad()
def _takes(backbone: nn.Module, channels: int, size: int) -> bool:
    try:
        backbone(torch.zeros(1, channels, size, size))
    except Exception:  # whatever an architecture raises for a size that it can't take
        return False
    return True


def count_in_chans(m: Model) -> int:
    """Return the number of channels of the images that the backbone takes."""
    return int(m.kwargs.get("in_chans", 3))


def make_backbone(m: Model, pretrained: bool) -> nn.Module:
    """Return timm's model without its classifier, with features (B, F) or, for `model.pool: gem`, a feature map (B, F, H, W).

    Raises FlukeError for an unknown name (with the nearest one), refused arguments, and weights that can't be downloaded.
    """
    arguments = dict(m.kwargs) if m.pool == "default" else {"global_pool": "" if m.pool == "gem" else m.pool, **m.kwargs}
    with _faults_of(m):
        _is_sourced(m.name)
        return timm.create_model(m.name, pretrained=pretrained, num_classes=0, **arguments)


def _is_sourced(name: str) -> bool:
    """Return whether a name says where its configuration is (hf-hub: or local-dir:). Raises FlukeError for one unknown to timm."""
    sourced = parse_model_name(name)[0] is not None
    if not sourced and not timm.is_model(name):
        raise FlukeError(f"model.name {name}: timm has no such model{did_you_mean(name.split('.')[0], timm.list_models())}")
    return sourced


@contextmanager
def _faults_of(m: Model) -> Iterator[None]:
    """Turn what timm raises for a backbone into FlukeError."""
    try:
        yield
    except FlukeError:
        raise
    except OSError as error:
        reason = str(error).split("\n")[0][:200]
        if m.name.startswith("local-dir:"):
            sentence = f"can't be read ({reason}); name a folder with config.json and weights, as timm saves them."
        elif m.name.startswith("hf-hub:"):
            sentence = f"can't be downloaded ({reason}); copy the repository's files here and set model.name to local-dir:FOLDER."
        else:
            sentence = f"pretrained weights can't be downloaded ({reason}); "
            sentence += "set model.weights to a local file, or model.pretrained to false."
        raise FlukeError(f"model.name {m.name}: {sentence}") from None
    except Exception as error:  # whatever an architecture raises for arguments that it can't take
        raise FlukeError(
            f"model.name {m.name}: can't be built with kwargs {m.kwargs} and pool {m.pool} ({one_line(error)}); correct them."
        ) from None
