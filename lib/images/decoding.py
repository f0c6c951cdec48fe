"""Decode an image file into a torch uint8 tensor (3, height, width), RGB.

Pillow decodes, because it reads every format and mode found in contests, and because its scaled JPEG decoding is faster on
photographs than torchvision.io, which torchvision 0.29 retires (benchmarks/decoding.py prints the ratios). The tensor is a view of
Pillow's row-by-row RGB, the memory layout in which torchvision resizes uint8 fastest. Normalization is the network's part.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch

from lib.errors import FlukeError, one_line
from lib.images.opening import exif_transpose, open_image, to_rgb

LARGE = 16_000_000
"""Pixels above which an image is averaged down, where the caller will resize it, before it is copied."""


def decode(path: Path, short_side: int | None = None) -> torch.Tensor:
    """Decode an image file, upright by its EXIF orientation, to uint8 (3, height, width), RGB. Of several frames, take the first.

    Transparent pixels are composited over white, as in a browser. Grayscale of more than 8 bits is scaled to 8 by the smallest
    range of BITS that holds the file's values, because values of 8 and 12 bits are often stored in 16 or 32; floats in [0, 1] by
    255. With `short_side` (pixels), the caller resizes: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, never with a shorter
    side below `short_side`, and what still has more than LARGE pixels is averaged over squares, never to less than twice
    `short_side`. The pixels depend on the file and `short_side` alone. Raises FlukeError with the reason.
    """
    try:
        # Pillow's warnings concern odd metadata, not pixels, and would come once per file and process.
        with warnings.catch_warnings(action="ignore"), open_image(path) as source:
            if short_side is not None:
                source.draft(None, (short_side, short_side))
            source.load()
            image = to_rgb(source)
            if short_side is not None and image.width * image.height > LARGE:
                image = image.reduce(max(min(image.size) // (2 * short_side), 1))
            if (transpose := exif_transpose(source)) is not None:  # FLIP_LEFT_RIGHT is 0
                image = image.transpose(transpose)
    except FlukeError:
        raise
    except Exception as error:  # plugins raise OSError, SyntaxError, ValueError, struct.error, KeyError, ... for a damaged file
        raise FlukeError(f"{path}: can't be decoded ({one_line(error)}).") from None
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
