"""Copies of one photograph: resized, recompressed, mirrored or lightly cropped, which must not be on both sides of a split.

Perceptual hashes call hundreds of product photos on white equal that are not, and miss crops. Here the hash, an image of 8 x 8
pixels, only names candidates. A candidate is registered: shifted and scaled until it matches the other image (Lucas and Kanade
1981, with the gradients of the fixed image as in Baker and Matthews 2004). Two files are copies if what then remains differs less
than resampling explains, which is strongest at edges. Two photographs of one object differ by more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import faiss
import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torchvision.transforms.v2 import functional as vision

from lib.errors import FlukeError
from lib.images.decoding import decode

SIDE = 32
"""Side of a thumbnail in pixels."""
NEIGHBOURS = 5
"""Candidates of each image, and as many of its mirror image."""
STAGES = ((SIDE // 2, 0.7, 0.7), (SIDE, 1.0, 0.7), (2 * SIDE, 1.5, 0.38))
"""Sides at which candidates are compared, the standard deviation of the blur there in pixels, and the difference above which they
are not copies. Measured on copies planted in product photos (benchmarks/near_duplicates.py)."""
NOISE = 0.018
"""Standard deviation of a pixel by compression, of a range of 1."""
EDGE = 0.3
"""Pixels by which resampling may move an edge."""
STEPS = 8
"""Steps of the registration."""
MAX_STEP = 0.05
"""Largest change of shift or scale in a step, of half a side."""
BATCH = 1000
EXACT = 100_000
"""Images up to which neighbours are searched exactly."""


def make_thumbnail(image: torch.Tensor, side: int = SIDE) -> torch.Tensor:
    """Return an image, uint8 (C, height, width), as a square (3, side, side); of other channels than RGB, the first three."""
    if len(image) != 3:
        image = image[[min(i, len(image) - 1) for i in range(3)]]
    return vision.resize(image, [side, side], antialias=True)


def find_copies(
    paths: Sequence[Path], thumbnails: torch.Tensor, identical: list[list[int]], stop: Callable[[], None] = lambda: None
) -> list[list[int]]:
    """Return the sets of positions in `paths`, ascending, whose images are copies of one photograph.

    `thumbnails`, uint8 (n, 3, SIDE, SIDE), are those of the files. The few candidates that they leave are read again. `identical`
    are the sets known before, of files with the same bytes. `stop` is called once per batch and may raise.
    """
    pairs = _candidates(thumbnails)
    for side, blur, limit in STAGES:
        kept = [np.zeros((0, 3), np.int64)]
        for batch in np.array_split(pairs, range(0, len(pairs), BATCH))[1:]:
            stop()
            rows, where = np.unique(batch[:, :2], return_inverse=True)
            images = _resized(thumbnails[rows], side) if side <= SIDE else _read(paths, rows, side)
            where = where.reshape(-1, 2)
            kept.append(batch[_difference(images[where[:, 0]], images[where[:, 1]], batch[:, 2] == 1, blur) < limit])
        pairs = np.concatenate(kept)
    known = [(same[0], other, 0) for same in identical for other in same[1:]]
    pairs = np.concatenate([pairs, np.array(known, np.int64).reshape(-1, 3)])
    links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(paths),) * 2)
    component = connected_components(links, directed=False)[1]
    rows = np.unique(pairs[:, :2])
    return sorted(rows[component[rows] == one].tolist() for one in np.unique(component[rows]))


def _candidates(thumbnails: torch.Tensor) -> np.ndarray:
    """Return pairs of nearest neighbours, (pairs, 3) int64: the two positions, and 1 where the second one is mirrored."""
    hashes = torch.cat([_resized(part, 8) for part in thumbnails.split(10_000)])
    upright, mirrored = (part.flatten(1).numpy() for part in (hashes, hashes.flip(3)))
    if len(upright) < 2:
        return np.zeros((0, 3), np.int64)
    cells = int(4 * len(upright) ** 0.5)
    index = faiss.index_factory(upright.shape[1], "Flat" if len(upright) <= EXACT else f"IVF{cells},Flat")
    if not index.is_trained:
        index.train(upright[:: len(upright) // (50 * cells) or 1])
        faiss.ParameterSpace().set_index_parameter(index, "nprobe", 16)
    index.add(upright)
    found = []
    for is_mirrored, queries in enumerate((upright, mirrored)):
        first = np.repeat(np.arange(len(queries)), NEIGHBOURS + 1)
        second = index.search(queries, NEIGHBOURS + 1)[1].reshape(-1)
        pairs = np.stack([np.minimum(first, second), np.maximum(first, second), np.full(len(first), is_mirrored)], axis=1)
        found.append(pairs[(first != second) & (second >= 0)])
    return np.unique(np.concatenate(found), axis=0)


def _resized(images: torch.Tensor, side: int) -> torch.Tensor:
    """Return uint8 images (n, 3, H, W), their sides a multiple of `side`, as float32 (n, 3, side, side) in 0 ... 1."""
    return F.avg_pool2d(images.float() / 255, images.shape[-1] // side)


def _read(paths: Sequence[Path], rows: np.ndarray, side: int) -> torch.Tensor:
    """Return the images of these rows, float32 (n, 3, side, side) in 0 ... 1; one that can't be read is NaN, and no copy."""
    images = torch.full((len(rows), 3, side, side), torch.nan)
    for image, row in zip(images, rows.tolist()):
        try:
            image[:] = make_thumbnail(decode(paths[row], side), side) / 255
        except FlukeError:
            continue
    return images


def _difference(first: torch.Tensor, second: torch.Tensor, mirrored: np.ndarray, blur: float) -> np.ndarray:
    """Return how far pairs of images (n, 3, S, S) are from copies, (n,) float32; 1: as far as resampling brings them.

    The one with the larger field of view is not known, so each is registered to the other.
    """
    second = torch.where(torch.from_numpy(mirrored)[:, None, None, None], second.flip(3), second)
    a, b = (vision.gaussian_blur(images, 2 * [2 * round(3 * blur) + 1], 2 * [blur]) for images in (first, second))
    return torch.minimum(_remaining(_register(a, b), b), _remaining(_register(b, a), a)).numpy()


def _register(moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
    """Return `moving` (n, 3, S, S), shifted and scaled along both axes to match `fixed` in brightness."""
    position = (torch.arange(fixed.shape[-1]) + 0.5) / fixed.shape[-1] * 2 - 1  # as affine_grid has it
    grey = fixed.mean(1)
    across, down = (gradient * fixed.shape[-1] / 2 for gradient in _gradients(grey))
    jacobian = torch.stack([across * position, down * position[:, None], across, down], -1).flatten(1, 2)  # (n, S * S, 4)
    hessian = (jacobian.mT @ jacobian).nan_to_num()  # of an unreadable image: any, its difference stays NaN
    damping = 1e-3 * torch.diag_embed(torch.diagonal(hessian, dim1=1, dim2=2)) + 1e-6 * torch.eye(4)
    inverse = torch.linalg.inv(hessian + damping)
    parameters = torch.tensor([1.0, 1.0, 0.0, 0.0]).repeat(len(fixed), 1)
    for _ in range(STEPS):
        remainder = (grey - _warp(moving.mean(1, keepdim=True), parameters)[:, 0]).flatten(1)[:, None]
        parameters += (remainder @ jacobian @ inverse)[:, 0].clamp(-MAX_STEP, MAX_STEP)
    return _warp(moving, parameters)


def _warp(images: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
    """Return images (n, C, S, S) sampled at scaled and shifted places; `parameters` (n, 4): scales and shifts, x first."""
    zero = torch.zeros(len(images))
    x, y, right, down = parameters.T
    matrix = torch.stack([torch.stack([x, zero, right], 1), torch.stack([zero, y, down], 1)], 1)
    grid = F.affine_grid(matrix, [len(images), 1, *images.shape[2:]], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _remaining(registered: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
    """Return what differs between registered images (n, 3, S, S), (n,), in units of what noise and resampling explain."""
    across, down = _gradients((registered + fixed) / 2)
    edges = F.max_pool2d(across.square() + down.square(), 3, stride=1, padding=1)
    margin = fixed.shape[-1] // 16  # a crop has no pixels beyond its border
    inner = slice(margin, -margin)
    scaled = (registered - fixed).square() / (NOISE**2 + EDGE**2 * edges)
    return scaled[:, :, inner, inner].mean((1, 2, 3)).sqrt()


def _gradients(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the differences per pixel along x and along y of images (..., S, S), 0 at the border."""
    across, down = torch.zeros_like(images), torch.zeros_like(images)
    across[..., 1:-1] = (images[..., 2:] - images[..., :-2]) / 2
    down[..., 1:-1, :] = (images[..., 2:, :] - images[..., :-2, :]) / 2
    return across, down
