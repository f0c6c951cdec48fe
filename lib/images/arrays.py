"""Open images that are stored as arrays: NumPy's .npy files, and DICOM through pydicom (extra `dicom`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from lib.errors import FlukeError, one_line

ARRAY_SUFFIXES = (".npy", ".dcm", ".dicom")
"""Suffixes, in lower case, of the files that `open_array` opens."""


def open_array(path: Path) -> Image.Image:
    """Return an array file as a Pillow image: 8 bits per channel, or grey values of more bits. Raises FlukeError."""
    try:
        if path.suffix.lower() == ".npy":
            return _to_image(np.load(path, allow_pickle=False))
        return _open_dicom(path)
    except FlukeError:
        raise
    except Exception as error:  # NumPy and pydicom raise ValueError, EOFError, AttributeError, struct.error, ... for damaged files
        raise FlukeError(f"{path}: can't be read ({one_line(error)}).") from None


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
    if values.dtype.kind == "f" and 0 <= values.min() <= values.max() <= 1:
        values = np.rint(values * 255).astype(np.uint8)
    if values.dtype == np.uint16:
        values = np.rint(values / 257).astype(np.uint8)
    if values.dtype != np.uint8:
        raise ValueError(f"{values.dtype} from {values.min():g} to {values.max():g} has no known range; save it with 8 or 16 bits")
    return Image.fromarray(np.ascontiguousarray(values))


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
