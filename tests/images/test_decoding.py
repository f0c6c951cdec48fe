"""Decoding of image files with known pixels."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lib.errors import FlukeError
from lib.images import opening
from lib.images.decoding import decode
from lib.images.opening import MAX_PIXELS
from tests.images.made_files import noise, pixels, save, smooth, write_bad_files


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp", ".ppm"])
def test_rgb_pixels_are_read_as_written(tmp_path: Path, suffix: str) -> None:
    array = noise(5, 7)
    path = save(tmp_path / f"a{suffix}", array, **({"lossless": True} if suffix == ".webp" else {}))
    np.testing.assert_array_equal(pixels(decode(path)), array)


@pytest.mark.parametrize("kind", ["png", "jpg", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, kind: str) -> None:
    upright = smooth(48, 80)
    stored = {  # how a camera in that orientation stores the scene (EXIF specification)
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"a.{kind}", np.ascontiguousarray(stored), exif=exif, **({"quality": 100} if kind == "jpg" else {}))
    read = pixels(decode(path)).astype(int)
    assert read.shape == upright.shape
    assert np.abs(read - upright).max() <= (6 if kind == "jpg" else 0)


def test_grayscale_of_every_depth(tmp_path: Path) -> None:
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    rgb = np.repeat(gray[..., None], 3, axis=2)
    np.testing.assert_array_equal(pixels(decode(save(tmp_path / "8.png", gray))), rgb)
    for name in ("16.png", "16.tif"):  # Pillow's convert("RGB") would give 255 nearly everywhere
        np.testing.assert_array_equal(pixels(decode(save(tmp_path / name, gray.astype(np.uint16) * 257))), rgb)
    (tmp_path / "16.pgm").write_bytes(b"P5 16 16 65535\n" + (gray.astype(">u2") * 257).tobytes())
    np.testing.assert_array_equal(pixels(decode(tmp_path / "16.pgm")), rgb)
    bits = np.indices((9, 9)).sum(axis=0) % 2 == 0
    np.testing.assert_array_equal(pixels(decode(save(tmp_path / "1.png", bits)))[..., 0], bits * 255)


def test_sixteen_bit_values_are_rounded(tmp_path: Path) -> None:
    deep = np.array([[0, 128, 129, 32768, 65406, 65535]], dtype=np.uint16)
    np.testing.assert_array_equal(pixels(decode(save(tmp_path / "a.png", deep)))[0, :, 0], np.rint(deep[0] / 257))


def test_transparent_pixels_are_composited_over_white(tmp_path: Path) -> None:
    rgba = np.zeros((1, 3, 4), dtype=np.uint8)
    rgba[0, :, 3] = [0, 51, 255]  # black: transparent, one fifth, opaque
    for name in ("a.png", "a.tif"):
        np.testing.assert_array_equal(pixels(decode(save(tmp_path / name, rgba)))[0, :, 0], [255, 204, 0])
    la = np.ascontiguousarray(rgba[..., 2:])
    np.testing.assert_array_equal(pixels(decode(save(tmp_path / "la.png", la)))[0, :, 0], [255, 204, 0])


def test_palettes_with_and_without_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 200, 100, 0, 1, 2, 3])
    image.putdata([0, 1, 2])
    image.save(tmp_path / "p.png")
    np.testing.assert_array_equal(pixels(decode(tmp_path / "p.png"))[0], [[10, 20, 30], [200, 100, 0], [1, 2, 3]])
    image.save(tmp_path / "one.png", transparency=1)
    image.save(tmp_path / "one.gif", transparency=1)
    image.save(tmp_path / "each.png", transparency=bytes([255, 0, 255]))  # Pillow warns about such a palette
    for name in ("one.png", "one.gif", "each.png"):
        np.testing.assert_array_equal(pixels(decode(tmp_path / name))[0], [[10, 20, 30], [255, 255, 255], [1, 2, 3]])


def test_cmyk_jpeg(tmp_path: Path) -> None:
    cmyk = Image.new("CMYK", (32, 32), (0, 255, 255, 0))  # no cyan, all magenta and yellow: red
    cmyk.save(tmp_path / "a.jpg", quality=100)
    assert np.abs(pixels(decode(tmp_path / "a.jpg")).astype(int) - [255, 0, 0]).max() <= 4
    assert np.abs(pixels(decode(tmp_path / "a.jpg", short_side=8)).astype(int) - [255, 0, 0]).max() <= 4


@pytest.mark.parametrize("exif", [None, 6])
def test_scaled_decoding_keeps_at_least_the_short_side(tmp_path: Path, exif: int | None) -> None:
    options = {"exif": Image.Exif()} if exif else {}
    if exif:
        options["exif"][0x0112] = exif
    path = save(tmp_path / "a.jpg", smooth(203, 317), quality=95, **options)
    full = decode(path)
    for short_side in (1, 25, 26, 27, 51, 52, 102, 103, 203, 300):
        image = decode(path, short_side)
        shorter = min(image.shape[1:])
        assert shorter >= min(short_side, 203)
        assert shorter < max(2 * short_side + 1, 203 / 8 + 1) or shorter == 203
        expected = torch.nn.functional.interpolate(full[None].float(), image.shape[1:], mode="area")[0]
        assert (expected - image.float()).abs().max() < 12, "not the same image at a smaller size"
        assert torch.equal(image, decode(path, short_side))


@pytest.mark.filterwarnings("ignore:.*TorchVision:DeprecationWarning")
def test_unscaled_jpegs_have_the_pixels_of_torchvision(shared: Path) -> None:
    from torchvision.io import ImageReadMode, decode_image

    for path in sorted((shared / "data/fashion/images").glob("*.jpg"))[:20]:
        assert torch.equal(decode(path), decode_image(str(path), ImageReadMode.RGB))


# --- unreadable and forged files --------------------------------------------------------------------------------------------------


def test_bad_files_are_refused_in_one_line_that_names_the_file(tmp_path: Path) -> None:
    for name, words in write_bad_files(tmp_path).items():
        with pytest.raises(FlukeError) as error:
            decode(tmp_path / name)
        assert words in str(error.value)
        assert str(error.value).startswith(f"{tmp_path / name}: ")
        assert "\n" not in str(error.value)


def test_limit_on_pixels_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_PIXELS == 100_000_000
    monkeypatch.setattr(opening, "MAX_PIXELS", 63 * 64)
    decode(save(tmp_path / "a.png", smooth(63, 63)))
    with pytest.raises(FlukeError, match="64 x 63 pixels"):
        decode(save(tmp_path / "b.png", smooth(63, 64)))


def test_image_with_broken_exif_is_readable(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", smooth(16, 16), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12")
    assert decode(path).shape == (3, 16, 16)


@pytest.mark.parametrize(("dtype", "suffix", "top"), [
    (np.uint16, "png", 255), (np.uint16, "png", 4095), (np.uint16, "tif", 65535), (np.int32, "tif", 255), (np.int32, "tif", 65535),
])  # fmt: skip
def test_values_in_more_bits_than_they_need(dtype: type, suffix: str, top: int, tmp_path: Path) -> None:
    """12-bit cameras and 8-bit values in 32-bit files must not become black."""
    share = np.linspace(0, 1, 64).reshape(8, 8)
    read = pixels(decode(save(tmp_path / f"a.{suffix}", np.rint(share * top).astype(dtype))))[..., 0]
    assert np.abs(read - share * 255).max() <= 1
    assert (read.min(), read.max()) == (0, 255)


def test_floats_between_0_and_1(tmp_path: Path) -> None:
    share = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    assert np.abs(pixels(decode(save(tmp_path / "a.tif", share)))[..., 0] - share * 255).max() <= 0.5
    with pytest.raises(FlukeError, match=r"pixels from -1 to 1 have no known range"):
        decode(save(tmp_path / "b.tif", 2 * share - 1))


@pytest.mark.parametrize("bits", [8, 16])
def test_tiff_whose_zero_is_white(bits: int, tmp_path: Path) -> None:
    values = np.tile(np.arange(0, 256, 8), (8, 1))
    stored = (values * (1 if bits == 8 else 257)).astype(f"<u{bits // 8}")
    info = {256: 32, 257: 8, 258: bits, 259: 1, 262: 0, 273: 8 + 2 + 12 * 9 + 4, 277: 1, 278: 8, 279: stored.nbytes}
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in info.items())
    (tmp_path / "a.tif").write_bytes(b"II*\0" + struct.pack("<IH", 8, len(info)) + entries + bytes(4) + stored.tobytes())
    np.testing.assert_array_equal(pixels(decode(tmp_path / "a.tif"))[..., 0], 255 - values)


def test_pillows_own_limit_is_left_alone() -> None:
    assert Image.MAX_IMAGE_PIXELS == 1024**3 // 4 // 3  # Pillow's documented default


def test_large_images_are_averaged_where_the_caller_resizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    monkeypatch.setattr("lib.images.decoding.LARGE", 90 * 120 - 1)
    averaged = pixels.reshape(30, 3, 40, 3, 3).mean(axis=(1, 3))
    assert decode(tmp_path / "a.png", 15).permute(1, 2, 0).numpy() == pytest.approx(averaged, abs=1)  # 30 px: twice 15
    assert decode(tmp_path / "a.png", 40).shape == decode(tmp_path / "a.png").shape == (3, 90, 120)
