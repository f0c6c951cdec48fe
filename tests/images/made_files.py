"""Image files made for tests, with known pixels or known faults."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image


def pixels(image: torch.Tensor) -> np.ndarray:
    """Return a decoded image as uint8 (height, width, 3), the layout in which it was written."""
    assert image.dtype == torch.uint8
    return image.permute(1, 2, 0).numpy()


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return random pixels, uint8 (height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    """Return an image that JPEG preserves: gradients that differ in each corner and channel."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return np.stack([255 * y, 255 * x, 127 * (x + y)], axis=-1).astype(np.uint8)


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    """Write pixels as an image file; return its path."""
    Image.fromarray(array).save(path, **options)
    return path


def write_png(path: Path, *chunks: tuple[bytes, bytes]) -> None:
    """Write a PNG chunk by chunk, for headers that Pillow doesn't write."""
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def write_bad_files(folder: Path) -> dict[str, str]:
    """Write unreadable and forged files into `folder`; return {file name: words that the message must contain}."""
    save(folder / "good.jpg", noise(64, 64))
    complete = (folder / "good.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(complete[: len(complete) // 2])
    save(folder / "good.png", noise(64, 64))
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:3000])
    flipped = bytearray((folder / "good.png").read_bytes())
    flipped[2000] ^= 255
    (folder / "flipped.png").write_bytes(flipped)
    (folder / "svg.jpg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (folder / "page.png").write_text("<!DOCTYPE html><p>404")
    (folder / "eps.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    header = (b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    write_png(folder / "bomb.png", header, (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    (folder / "bomb.bmp").write_bytes(
        b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 12_000, 12_000, 1, 24, 0, 0, 0, 0, 0, 0)
    )
    save(folder / "float.tif", np.full((4, 4), -0.5, dtype=np.float32))
    save(folder / "deep.tif", np.full((4, 4), 70_000, dtype=np.int32))
    return {
        "cut.jpg": "truncated",
        "cut.png": "truncated",
        "flipped.png": "can't be decoded",
        "svg.jpg": "<svg",
        "page.png": "is a web page",
        "eps.jpg": "%!PS-Adobe",
        "empty.jpg": "empty",
        "folder.jpg": "not a regular file",
        "pipe.jpg": "not a regular file",
        "none.jpg": "no such file",
        f"{'long' * 100}.jpg": "no such file",
        "bomb.png": "too large (50000 x 50000 pixels)",
        "bomb.bmp": "12000 x 12000 pixels",
        "float.tif": "pixels from -0.5 to -0.5 have no known range",
        "deep.tif": "pixels from 70000 to 70000 have no known range",
    }
