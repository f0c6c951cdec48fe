"""Keypoints of an image: SIFT (Lowe 2004), whose descriptors are compared as RootSIFT (Arandjelovic and Zisserman 2012)."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
from PIL import Image

from lib.errors import FlukeError
from lib.files import atomic_write
from lib.images.decoding import decode
from lib.tables.image_path import box_of, cut_path


def load_opencv() -> ModuleType:
    """Return OpenCV. Raises FlukeError where the extra isn't installed."""
    try:
        import cv2
    except ImportError:
        raise FlukeError("retrieval.local sift: needs OpenCV; pip install -e '.[matching]'.") from None
    cv2.setNumThreads(1)  # images are spread over threads here
    return cv2


@dataclass(frozen=True)
class Keypoints:
    """n keypoints of an image."""

    points: np.ndarray
    """(n, 2) float32: x and y in pixels of the scaled image."""
    descriptors: np.ndarray
    """(n, 128) uint8, SIFT's."""
    size: tuple[int, int]
    """Width and height of the scaled image."""

    @property
    def root(self) -> np.ndarray:
        """The descriptors as RootSIFT, (n, 128) float32: square roots of shares, so that a product is Hellinger's kernel."""
        values = self.descriptors.astype(np.float32)
        return np.sqrt(values / np.maximum(values.sum(axis=1, keepdims=True), 1))


class KeptImage(NamedTuple):
    """An image whose keypoints are kept on disk."""

    path: Path
    """With its box, outside of which no keypoints are."""
    content: str
    """A hash of the file, "" where it can't be read."""
    folder: Path
    """Where its keypoints are kept, one file per image."""


@dataclass(frozen=True)
class KeypointOptions:
    """How keypoints are found."""

    side: int
    """Longer side in pixels to which a larger image is scaled down."""
    count: int
    """Keypoints kept, the strongest."""
    masks: Path | None = None
    """Folder of masks, PNG files under the image's name: keypoints where a mask is 0 are left out, the picture is untouched."""


def find_keypoints(path: Path, options: KeypointOptions) -> Keypoints:
    """Return the strongest keypoints of an image file. Raises FlukeError for an unreadable image, and without OpenCV."""
    cv2 = load_opencv()
    image = _open(path, options.side)
    scale = min(1.0, options.side / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    grey = np.asarray(image.convert("L").resize(size, Image.Resampling.LANCZOS))
    mask = None if options.masks is None else _read_mask(cut_path(options.masks / f"{path.stem}.png", box_of(path)), size)
    found, descriptors = cv2.SIFT_create(contrastThreshold=0.02).detectAndCompute(grey, mask)
    if descriptors is None:
        return Keypoints(np.empty((0, 2), np.float32), np.empty((0, 128), np.uint8), size)
    order = np.argsort([-point.response for point in found], kind="stable")[: options.count]
    points = np.array([found[i].pt for i in order], np.float32)
    return Keypoints(points, descriptors[order].astype(np.uint8), size)


def _open(path: Path, side: int) -> Image.Image:
    return Image.fromarray(decode(path, side, box_of(path)).permute(1, 2, 0).numpy())


def _read_mask(path: Path, size: tuple[int, int]) -> np.ndarray | None:
    """Return a mask (h, w) uint8 of 0 and 255; None where the image has none."""
    if not path.exists():
        return None
    return np.where(np.asarray(_open(path, max(size)).convert("L").resize(size, Image.Resampling.NEAREST)) > 0, 255, 0).astype(
        np.uint8
    )


def load_keypoints(image: KeptImage, options: KeypointOptions) -> Keypoints:
    """Return the keypoints of an image, from its folder where they were found before."""
    path, content, folder = image
    masks = options.masks and str(options.masks.absolute())
    about = repr((content or str(path.absolute()), box_of(path), options.side, options.count, masks))
    kept = folder / f"{hashlib.blake2b(about.encode(), digest_size=16).hexdigest()}.npz"
    with contextlib.suppress(OSError, ValueError, KeyError), np.load(kept, allow_pickle=False) as file:
        width, height = file["size"].tolist()
        return Keypoints(file["points"], file["descriptors"], (width, height))
    found = find_keypoints(path, options)
    with contextlib.suppress(OSError):  # a full or read-only disk: they are found again the next time
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(kept) as temporary, open(temporary, "wb") as handle:
            np.savez(handle, points=found.points, descriptors=found.descriptors, size=found.size)
    return found
