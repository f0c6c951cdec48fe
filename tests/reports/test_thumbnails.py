"""Thumbnails are small, upright data URIs, and undecodable files become a placeholder."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib.reports import thumbnails
from lib.reports.thumbnails import thumbnail


def decode(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB")


def test_thumbnails_are_small_and_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (1200, 600), "red")
    image.paste("blue", (600, 0, 1200, 600))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated right: the left side is displayed on top
    image.save(tmp_path / "a.jpg", exif=exif)
    small = decode(thumbnail(tmp_path / "a.jpg", 112))
    assert small.size == (56, 112)
    assert small.getpixel((28, 10))[0] > 200
    assert small.getpixel((28, 100))[2] > 200


def test_thumbnails_keep_16_bit_grey(tmp_path: Path) -> None:
    Image.fromarray(np.full((50, 50), 32768, np.uint16)).save(tmp_path / "grey.png")
    assert decode(thumbnail(tmp_path / "grey.png", 112)).getpixel((20, 20)) == pytest.approx((127, 127, 127), abs=3)


def test_undecodable_files_become_a_placeholder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (300, 300)).save(tmp_path / "whole.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "whole.png").read_bytes()[:200])
    (tmp_path / "svg.jpg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    (tmp_path / "script.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    (tmp_path / "empty.jpg").touch()
    for name in ("missing.jpg", "torn.png", "svg.jpg", "script.eps", "empty.jpg", "."):
        assert thumbnail(tmp_path / name, 64).startswith("data:image/svg+xml"), name
    monkeypatch.setattr(thumbnails, "MAX_PIXELS", 80_000)  # as a 50-megapixel PNG would be
    assert thumbnail(tmp_path / "whole.png", 64).startswith("data:image/svg+xml")


def test_thumbnails_start_no_external_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "script.eps")
    started = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *args, **kwargs: started.append(args))
    thumbnail(tmp_path / "script.eps", 64)
    assert not started
