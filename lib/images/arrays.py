"""Open images that are stored as arrays: NumPy's .npy files, and DICOM through pydicom (extra `dicom`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from lib.errors import FlukeError, one_line

ARRAY_SUFFIXES = (".npy", ".dcm", ".dicom")
"""Suffixes, in lower case, of the files that `open_array` opens."""


def open_array(path: Path) -> Image.Image:
    """Return an array file as a Pillow image: 8 bits per channel, or grey values of more bits. Raises FlukeError.

    Of an array that is read with another number of channels than 3 (ImagePath), the first three are shown.
    """
    channels = getattr(path, "channels", 3)
    with _faults_of(path):
        if path.suffix.lower() != ".npy":
            return _open_dicom(path)
        values = np.load(path, allow_pickle=False)
        if channels == 3 or values.ndim == 2:
            return _to_image(values)
        planes = _to_8_bits(_channels_first(values, channels))
        return _to_image(planes[[0, min(1, channels - 1), min(2, channels - 1)]])


def load_planes(path: Path, channels: int) -> np.ndarray:
    """Return a .npy file of `channels` channels, first or last, as uint8 (channels, H, W). Raises FlukeError."""
    with _faults_of(path):
        return _to_8_bits(_channels_first(np.load(path, allow_pickle=False), channels))


@contextmanager
def _faults_of(path: Path) -> Iterator[None]:
    try:
        yield
    except FlukeError:
        raise
    except Exception as error:  # NumPy and pydicom raise ValueError, EOFError, AttributeError, struct.error, ... for damaged files
        raise FlukeError(f"{path}: can't be read ({one_line(error)}).") from None


def _channels_first(values: np.ndarray, channels: int) -> np.ndarray:
    """Return an array (C, H, W), (H, W, C) or, of one channel, (H, W) as (C, H, W). Raises ValueError for another one."""
    if values.ndim == 2 and channels == 1:
        return values[None]
    if values.ndim == 3 and values.shape[0] == channels:
        return values
    if values.ndim == 3 and values.shape[2] == channels:
        return np.moveaxis(values, -1, 0)
    raise ValueError(f"an array {values.shape} has no axis of {channels} channels (data.channels)")


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    """Return an array as uint8: booleans, floats in [0, 1] and 16 bits scaled. Raises ValueError for values of unknown range."""
    if values.dtype == bool:
        values = values.astype(np.uint8) * 255
    if values.dtype.kind == "f" and 0 <= values.min() <= values.max() <= 1:
        values = np.rint(values * 255).astype(np.uint8)
    if values.dtype == np.uint16:
        values = np.rint(values / 257).astype(np.uint8)
    if values.dtype != np.uint8:
        raise ValueError(f"{values.dtype} from {values.min():g} to {values.max():g} has no known range; save it with 8 or 16 bits")
    return np.ascontiguousarray(values)


def _to_image(values: np.ndarray) -> Image.Image:
    """Return an array (H, W), (H, W, 1 or 3) or (1 or 3, H, W) as an image. Raises ValueError for another one."""
    shape = values.shape
    if values.ndim == 3 and shape[0] in (1, 3) and shape[2] not in (1, 3):
        values = np.moveaxis(values, 0, -1)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.dtype == bool:
        values = values.astype(np.uint8) * 255
    if values.ndim == 2:
        if values.dtype == np.uint8:
            return Image.fromarray(values)
        return Image.fromarray(values.astype(np.float32 if values.dtype.kind == "f" else np.int32))
    if values.ndim != 3 or values.shape[2] != 3:
        raise ValueError(f"an array {shape} is no image with one or three channels")
    return Image.fromarray(_to_8_bits(values))


def _open_dicom(path: Path) -> Image.Image:
    """Return the first frame as an image of 8 bits, by the file's first window or, without one, its range of values.

    MONOCHROME1, whose zero is white, is inverted. Modality and window are applied as pydicom.pixels does.
    """
    try:
        import pydicom
        from pydicom.pixels import apply_modality_lut, apply_voi_lut
    except ImportError:
        raise FlukeError(f'{path}: DICOM needs pydicom; install it with pip install -e ".[dicom]".') from None
    data = pydicom.dcmread(path, force=True)
    values = data.pixel_array
    if getattr(data, "SamplesPerPixel", 1) == 3:
        return Image.fromarray(values[0] if values.ndim == 4 else values)
    frame = values[0] if values.ndim == 3 else values
    shown = apply_voi_lut(apply_modality_lut(frame, data), data, index=0).astype(np.float64)
    low, high = shown.min(), shown.max()
    scaled = np.zeros(shown.shape) if high == low else (shown - low) / (high - low)
    if getattr(data, "PhotometricInterpretation", "") == "MONOCHROME1":
        scaled = 1 - scaled
    return Image.fromarray(np.rint(scaled * 255).astype(np.uint8))
