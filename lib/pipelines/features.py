"""Features of a frozen backbone for the images of a table, computed once: kept by what they depend on, part by part."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lib.config.recipe import Recipe
from lib.files import atomic_write
from lib.images.augmentation import make_eval_transform
from lib.models.network import Network
from lib.pipelines.gallery_files import content_hashes
from lib.pipelines.run_tables import make_dataset
from lib.tables.table import Table
from lib.training.distributed import broadcast_from_main, run_on_main
from lib.training.inference import InferenceOptions, predict
from lib.training.run import Run

PART = 1024
"""Images of a part, which is kept when it is done."""


class Features(nn.Module):
    """A network that returns the input of its head."""

    def __init__(self, network: Network):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"output": self.network.features(images)}


def store_folder(recipe: Recipe) -> Path:
    """Return where features are kept: beside the packed cache, else in the user's folder for caches."""
    if recipe.data.cache_dir is not None:
        return Path(recipe.data.cache_dir) / "features"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fluke" / "features"


def backbone_mark(network: Network) -> str:
    """Return a hash of a backbone's weights and buffers."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(network.backbone.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def network_mark(network: Network, recipe: Recipe) -> str:
    """Return a hash of all that features depend on besides the images: weights, size, fit, flips, cached pixels, precision."""
    digest, d = hashlib.blake2b(backbone_mark(network).encode(), digest_size=16), recipe.data
    settings = (recipe.model.pool, d.eval_size or d.size, d.fit, sorted(set(recipe.predict.tta)), d.cache_dir and d.cache_size)
    digest.update(repr((settings, d.cache_dir is None, recipe.train.precision)).encode())
    return digest.hexdigest()


def compute_features(
    network: Network, recipe: Recipe, table: Table, run: Run, title: str, log: Callable[[str], None] = lambda text: None
) -> np.ndarray:
    """Return the features (n, D) float32 of a table's images, the same on every process.

    Parts that were computed before, by any run, are read; a pass that is killed goes on behind its last part. Raises Interrupted
    when a signal came.
    """
    accelerator, mark, folder = run.accelerator, network_mark(network, recipe), store_folder(recipe)
    network.to(accelerator.device).to(memory_format=torch.channels_last)
    options = InferenceOptions.from_recipe(recipe, accelerator.num_processes)
    parts, kept = [], 0
    for start in range(0, len(table), PART):
        part = table.take(np.arange(start, min(start + PART, len(table))))
        images = [content or str(path) for content, path in zip(content_hashes(part.paths).tolist(), part.paths)]
        images += [] if part.boxes is None else [repr(part.boxes)]
        path = folder / f"{hashlib.blake2b(repr((mark, images)).encode(), digest_size=16).hexdigest()}.npy"

        def load(path: Path = path) -> np.ndarray | None:
            with contextlib.suppress(OSError, ValueError):
                return np.load(path, allow_pickle=False)
            return None

        found = broadcast_from_main(accelerator, load)
        if found is not None and len(found) == len(part):
            kept += len(part)
        else:
            images_of = make_dataset(recipe, part, make_eval_transform(recipe.data), cached=table)
            number = f" {start // PART + 1}/{-(-len(table) // PART)}" if len(table) > PART else ""
            (found,) = predict([Features(network)], images_of, accelerator, options, run.stop.check, f"{title}{number}")
            run_on_main(accelerator, partial(_keep, path, found))
        parts.append(found)
    if kept:
        log(f"{title}: {kept:,} of {len(table):,} images computed before, in {folder}")
    return np.concatenate(parts)


def _keep(path: Path, features: np.ndarray) -> None:
    """Save a part; on a full or read-only disk it is computed again the next time."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary, temporary.open("wb") as handle:
            np.save(handle, features)
