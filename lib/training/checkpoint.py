"""Resumable states on disk: written whole or not at all; a damaged one is recognised, and the newest intact one is used.

last/e0002-b000130/ holds model.safetensors, optimizer.pt (read with weights_only), state.json and manifest.json, which is written
last and holds the sizes and hashes of the others. No random state is saved: every draw is a function of (seed, epoch, row or step).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from lib.errors import FlukeError
from lib.files import explain_no_room, fsync, read_json, write_json

FORMAT = 1
KEEP = 2  # states that are kept: the newest one may turn out to be torn
STATE = {"epoch", "batch", "step", "running", "history", "best_epoch", "waited", "world"}


def save_checkpoint(
    last: Path, state: dict[str, Any], modules: dict[str, nn.Module], optimizers: dict[str, dict[str, Any]]
) -> Path:
    """Write one state into `last`, delete those older than the newest KEEP, and return its folder.

    `state` is JSON with epoch (finished epochs), batch (batches done of the next) and more; `modules` are saved as safetensors,
    `optimizers` (state dicts) by torch.save. States with a later name are damaged or foreign, or they would have been loaded: they
    are left and not counted. Raises FlukeError when the disk is full; older states stay.
    """
    target = last / f"e{state['epoch']:04d}-b{state['batch']:06d}"
    if target.exists() and _find_fault(target) is None:  # saved before an interruption right after it, and reached again
        return target
    temporary = last / f".{target.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        for name, module in modules.items():
            tensors = {key: value.detach().contiguous() for key, value in module.state_dict().items()}
            safetensors.torch.save_file(tensors, temporary / f"{name}.safetensors")
        torch.save(optimizers, temporary / "optimizer.pt")
        write_json(temporary / "state.json", state)
        manifest = {path.name: [path.stat().st_size, _hash(path)] for path in sorted(temporary.iterdir())}
        for name in manifest:
            fsync(temporary / name)
        write_json(temporary / "manifest.json", {"format": FORMAT, "files": manifest})
        fsync(temporary)
        if target.exists():  # a damaged one
            shutil.rmtree(target)
        os.replace(temporary, target)
        fsync(last)
    except Exception as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if (why := explain_no_room(error)) is not None:
            raise FlukeError(f"{target}: {why} and go on with --resume (what was saved before is intact).") from None
        if isinstance(error, OSError):
            raise FlukeError(f"{target}: can't be written ({error.strerror or error}).") from None
        raise
    states = _list_checkpoints(last)
    for old in states[states.index(target) + KEEP :]:
        shutil.rmtree(old)
    return target


def find_checkpoint(last: Path) -> tuple[Path | None, list[str]]:
    """Return the newest intact state in `last`, None without one, and a sentence on each newer one that is damaged or foreign."""
    skipped: list[str] = []
    for folder in _list_checkpoints(last):
        fault = _find_fault(folder)
        if fault is None:
            return folder, skipped
        skipped.append(f"{folder}: {fault}; taking the state before it.")
    return None, skipped


def read_state(folder: Path) -> dict[str, Any]:
    """Return the state.json of a folder that `find_checkpoint` returned."""
    return read_json(folder / "state.json")


def load_checkpoint(folder: Path, modules: dict[str, nn.Module]) -> dict[str, dict[str, Any]]:
    """Fill `modules` from a folder that `find_checkpoint` returned; return the optimizers' state dicts.

    Raises FlukeError when the tensors don't fit.
    """
    try:
        for name, module in modules.items():
            module.load_state_dict(safetensors.torch.load_file(folder / f"{name}.safetensors"))
        return torch.load(folder / "optimizer.pt", weights_only=True, map_location="cpu")
    except Exception as error:
        raise FlukeError(f"{folder}: state of another network or recipe ({' '.join(str(error).split())[:200]}).") from None


def _list_checkpoints(last: Path) -> list[Path]:
    names = ((re.fullmatch(r"e(\d+)-b(\d+)", path.name), path) for path in last.glob("e*-b*") if path.is_dir())
    found = [(int(name[1]), int(name[2]), path) for name, path in names if name]
    return [path for *_, path in sorted(found, reverse=True)]


def _find_fault(folder: Path) -> str | None:
    try:
        manifest = read_json(folder / "manifest.json")
        if manifest["format"] != FORMAT:
            return f"of format {manifest['format']}, not {FORMAT}"
        if not {"state.json", "optimizer.pt", "model.safetensors"} <= set(manifest["files"]):
            return "not a state of this program"
        for name, (size, digest) in manifest["files"].items():
            path = folder / Path(name).name
            if not path.is_file() or path.stat().st_size != size or _hash(path) != digest:
                return f"{name} is torn or was changed"
        if not set(read_json(folder / "state.json")) >= STATE:
            return "not a state of this program"
    except (FlukeError, OSError, KeyError, TypeError, ValueError, AttributeError):
        return "its manifest is missing or torn"
    return None


def _hash(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
