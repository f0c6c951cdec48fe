"""Decoding, transforms and the packed cache, on files made here with known pixels."""

import multiprocessing
import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from lib.config.recipe import Data
from lib.errors import FlukeError
from lib.images import augmentation, cache, decoding
from lib.images.augmentation import decode_side, make_eval_transform, make_train_transform
from lib.images.cache import open_cache
from lib.images.decoding import MAX_PIXELS, decode, find_unreadable


def pixels(picture: torch.Tensor) -> np.ndarray:
    """uint8 (height, width, 3), to be compared with what was written."""
    assert picture.dtype == torch.uint8
    return picture.permute(1, 2, 0).numpy()


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    """A picture that JPEG keeps: gradients, different in each corner and channel."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return np.stack([255 * y, 255 * x, 127 * (x + y)], axis=-1).astype(np.uint8)


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def png(path: Path, *chunks: tuple[bytes, bytes]) -> Path:
    """A PNG written by hand, for what Pillow doesn't write."""
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


# --- decoding ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp", ".ppm"])
def test_rgb_is_read_as_it_was_written(tmp_path: Path, suffix: str) -> None:
    array = noise(5, 7)
    path = save(tmp_path / f"a{suffix}", array, **({"lossless": True} if suffix == ".webp" else {}))
    np.testing.assert_array_equal(pixels(decode(path)), array)


@pytest.mark.parametrize("kind", ["png", "jpg", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(tmp_path: Path, orientation: int, kind: str) -> None:
    upright = smooth(48, 80)
    stored = {  # how a camera that held the scene so would have stored it, from the EXIF specification
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


def test_greyscale_of_every_depth(tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    rgb = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(pixels(decode(save(tmp_path / "8.png", grey))), rgb)
    for name in ("16.png", "16.tif"):  # Pillow's convert("RGB") would give 255 nearly everywhere
        np.testing.assert_array_equal(pixels(decode(save(tmp_path / name, grey.astype(np.uint16) * 257))), rgb)
    (tmp_path / "16.pgm").write_bytes(b"P5 16 16 65535\n" + (grey.astype(">u2") * 257).tobytes())
    np.testing.assert_array_equal(pixels(decode(tmp_path / "16.pgm")), rgb)
    bits = np.indices((9, 9)).sum(axis=0) % 2 == 0
    np.testing.assert_array_equal(pixels(decode(save(tmp_path / "1.png", bits)))[..., 0], bits * 255)


def test_sixteen_bit_values_are_rounded(tmp_path: Path) -> None:
    deep = np.array([[0, 128, 129, 32768, 65406, 65535]], dtype=np.uint16)
    np.testing.assert_array_equal(pixels(decode(save(tmp_path / "a.png", deep)))[0, :, 0], np.rint(deep[0] / 257))


def test_transparency_lies_over_white(tmp_path: Path) -> None:
    rgba = np.zeros((1, 3, 4), dtype=np.uint8)
    rgba[0, :, 3] = [0, 51, 255]  # black: invisible, a fifth, opaque
    for name in ("a.png", "a.tif"):
        np.testing.assert_array_equal(pixels(decode(save(tmp_path / name, rgba)))[0, :, 0], [255, 204, 0])
    la = np.ascontiguousarray(rgba[..., 2:])
    np.testing.assert_array_equal(pixels(decode(save(tmp_path / "la.png", la)))[0, :, 0], [255, 204, 0])


def test_palettes_with_and_without_transparency(tmp_path: Path) -> None:
    picture = Image.new("P", (3, 1))
    picture.putpalette([10, 20, 30, 200, 100, 0, 1, 2, 3])
    picture.putdata([0, 1, 2])
    picture.save(tmp_path / "p.png")
    np.testing.assert_array_equal(pixels(decode(tmp_path / "p.png"))[0], [[10, 20, 30], [200, 100, 0], [1, 2, 3]])
    picture.save(tmp_path / "one.png", transparency=1)
    picture.save(tmp_path / "one.gif", transparency=1)
    picture.save(tmp_path / "each.png", transparency=bytes([255, 0, 255]))  # Pillow warns of such a palette
    for name in ("one.png", "one.gif", "each.png"):
        np.testing.assert_array_equal(pixels(decode(tmp_path / name))[0], [[10, 20, 30], [255, 255, 255], [1, 2, 3]])


def test_cmyk_jpeg(tmp_path: Path) -> None:
    cmyk = Image.new("CMYK", (32, 32), (0, 255, 255, 0))  # no cyan, all magenta and yellow: red
    cmyk.save(tmp_path / "a.jpg", quality=100)
    assert np.abs(pixels(decode(tmp_path / "a.jpg")).astype(int) - [255, 0, 0]).max() <= 4
    assert np.abs(pixels(decode(tmp_path / "a.jpg", short_side=8)).astype(int) - [255, 0, 0]).max() <= 4


@pytest.mark.parametrize("exif", [None, 6])
def test_scaled_decoding_never_falls_below_the_short_side(tmp_path: Path, exif: int | None) -> None:
    options = {"exif": Image.Exif()} if exif else {}
    if exif:
        options["exif"][0x0112] = exif
    path = save(tmp_path / "a.jpg", smooth(203, 317), quality=95, **options)
    full = decode(path)
    for short_side in (1, 25, 26, 27, 51, 52, 102, 103, 203, 300):
        picture = decode(path, short_side)
        assert min(picture.shape[1:]) >= min(short_side, 203)
        assert min(picture.shape[1:]) < max(2 * short_side + 1, 203 / 8 + 1) or min(picture.shape[1:]) == 203
        same = torch.nn.functional.interpolate(full[None].float(), picture.shape[1:], mode="area")[0]
        assert (same - picture.float()).abs().max() < 12, "the same picture, smaller"
        assert torch.equal(picture, decode(path, short_side))


@pytest.mark.filterwarnings("ignore:.*TorchVision:DeprecationWarning")
def test_unscaled_jpegs_have_the_pixels_of_another_decoder(shared: Path) -> None:
    from torchvision.io import ImageReadMode, decode_image

    for path in sorted((shared / "data/fashion/images").glob("*.jpg"))[:20]:
        assert torch.equal(decode(path), decode_image(str(path), ImageReadMode.RGB))


# --- files that lie ---------------------------------------------------------------------------------------------------------------


def hostile(folder: Path) -> dict[str, str]:
    """File name -> what the sentence must say; the files are made in `folder`."""
    save(folder / "good.jpg", noise(64, 64))
    whole = (folder / "good.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    save(folder / "good.png", noise(64, 64))
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:3000])
    broken = bytearray((folder / "good.png").read_bytes())
    broken[2000] ^= 255
    (folder / "flipped.png").write_bytes(broken)
    (folder / "svg.jpg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (folder / "page.png").write_text("<!DOCTYPE html><p>404")
    (folder / "eps.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    head = (b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    png(folder / "bomb.png", head, (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    (folder / "bomb.bmp").write_bytes(
        b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 12_000, 12_000, 1, 24, 0, 0, 0, 0, 0, 0)
    )
    save(folder / "float.tif", np.zeros((4, 4), dtype=np.float32))
    save(folder / "deep.tif", np.full((4, 4), 70_000, dtype=np.int32))
    return {
        "cut.jpg": "truncated",
        "cut.png": "truncated",
        "flipped.png": "can't be decoded",
        "svg.jpg": "<svg",
        "page.png": "<!DOCTYPE",
        "eps.jpg": "%!PS-Adobe",
        "empty.jpg": "empty",
        "folder.jpg": "not a regular file",
        "pipe.jpg": "not a regular file",
        "none.jpg": "no such file",
        f"{'long' * 100}.jpg": "no such file",
        "bomb.png": "50000 x 50000 pixels",
        "bomb.bmp": "12000 x 12000 pixels",
        "float.tif": "floating-point",
        "deep.tif": "32-bit",
    }


def test_files_that_lie_are_refused_with_a_sentence(tmp_path: Path) -> None:
    for name, words in hostile(tmp_path).items():
        with pytest.raises(FlukeError) as error:
            decode(tmp_path / name)
        assert words in str(error.value)
        assert str(error.value).startswith(f"{tmp_path / name}: ")
        assert "\n" not in str(error.value)


def test_the_limit_on_pixels_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_PIXELS == 100_000_000
    monkeypatch.setattr(decoding, "MAX_PIXELS", 63 * 64)
    decode(save(tmp_path / "a.png", smooth(63, 63)))
    with pytest.raises(FlukeError, match="64 x 63 pixels"):
        decode(save(tmp_path / "b.png", smooth(63, 64)))


def test_broken_exif_leaves_the_picture_readable(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", smooth(16, 16), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12")
    assert decode(path).shape == (3, 16, 16)


@pytest.mark.parametrize("workers", [0, 2])
def test_every_unreadable_file_is_found_at_its_position(tmp_path: Path, workers: int) -> None:
    expected = hostile(tmp_path)
    good = [tmp_path / "good.jpg", tmp_path / "good.png"] * 25  # more than a batch, so that several workers have a share
    paths = [p for i, name in enumerate(expected) for p in (*good[: 3 + i], tmp_path / name)]
    state = torch.get_rng_state()
    found = find_unreadable(paths, workers, "decode")
    assert torch.equal(torch.get_rng_state(), state)
    assert list(found) == [i for i, path in enumerate(paths) if path.name in expected]
    for i, reason in found.items():
        assert expected[paths[i].name] in reason
        assert str(tmp_path) not in reason
    by_header = find_unreadable(paths, workers, "header")
    assert {paths[i].name for i in found.keys() - by_header.keys()} == {
        "cut.jpg",
        "cut.png",
        "flipped.png",
        "float.tif",
        "deep.tif",
    }


# --- transforms -------------------------------------------------------------------------------------------------------------------

LISTS: list[list[object]] = [
    ["AutoAugment"],
    [{"AutoAugment": {"policy": "cifar10", "interpolation": "bilinear"}}],
    [{"RandAugment": {"num_ops": 3, "magnitude": 9}}],
    ["TrivialAugmentWide"],
    [{"AugMix": {"severity": 2}}],
    [{"RandomErasing": {"p": 1.0, "scale": [0.02, 0.2], "value": [124, 116, 104]}}],
    [{"GaussianBlur": {"kernel_size": 5, "sigma": [0.1, 2.0]}}],
    ["GaussianNoise"],
    [{"RandomRotation": {"degrees": [-180, 180], "interpolation": "bilinear"}}, {"CenterCrop": {"size": 24}}],
    [{"RandomRotation": {"degrees": 45, "expand": True, "fill": 128}}],
    [{"ColorJitter": {"brightness": 0.4, "hue": [-0.1, 0.1]}}],
    [{"RandomPerspective": {"p": 1.0}}],
    [{"RandomAffine": {"degrees": 10, "translate": [0.1, 0.1], "scale": [0.8, 1.2], "shear": 5}}],
    [{"ElasticTransform": {"alpha": 20.0}}],
    ["RandomPhotometricDistort"],
    [{"RandomResizedCrop": {"scale": [0.3, 1.0], "interpolation": "bicubic"}}, "RandomHorizontalFlip"],
    [{"Resize": {"size": 40}}, "RandomCrop"],
    [{"RandomCrop": {"padding": 4}}, "RandomVerticalFlip"],
    ["RandomZoomOut"],
    [{"RandomApply": {"p": 0.5, "transforms": [{"GaussianBlur": {"kernel_size": 5}}, "RandomInvert"]}}],
    [{"RandomChoice": {"transforms": [{"RandomSolarize": {"threshold": 128}}, "RandomEqualize", "Identity"], "p": [1, 2, 1]}}],
    [{"RandomOrder": {"transforms": [{"RandomPosterize": {"bits": 3}}, "RandomAutocontrast"]}}],
    [],
]


@pytest.mark.parametrize("augment", LISTS, ids=str)
def test_augmentation_is_uint8_of_the_size_and_a_function_of_torch_seed(augment: list) -> None:
    data = Data(size=32, augment=augment)
    state = torch.get_rng_state()
    transform = make_train_transform(data)
    assert torch.equal(torch.get_rng_state(), state), "trying the transforms moved the job's random numbers"
    picture = torch.from_numpy(smooth(50, 70)).permute(2, 0, 1)
    before = picture.clone()

    def draws(one_transform: augmentation.Transform) -> list[torch.Tensor]:
        results = []
        for seed in range(6):
            np.random.seed(np.random.randint(1000))  # a transform that draws from NumPy's generator shows
            torch.manual_seed(seed)
            results.append(one_transform(picture))
        return results

    first, again = draws(transform), draws(pickle.loads(pickle.dumps(transform)))
    for a, b in zip(first, again):
        assert a.dtype == torch.uint8
        assert a.shape == (3, 32, 32)
        assert torch.equal(a, b)
    assert (len({a.numpy().tobytes() for a in first}) > 1) == bool(augment), "six seeds, more than one picture"
    assert torch.equal(picture, before), "the decoded picture was changed in place"


@pytest.mark.parametrize(
    ("augment", "sentence"),
    [
        (["RandomRotatoin"], r"RandomRotatoin is no transform .*did you mean RandomRotation\?"),
        ([{"RandomRotation": {"degree": 3}}], r"has no argument degree but .*interpolation, expand.*; did you mean degrees\?"),
        (["RandomRotation"], "RandomRotation can't be used with {}: .*'degrees'; it has the arguments degrees"),
        ([{"RandomRotation": {"degrees": 3, "interpolation": "bilinaer"}}], "interpolation is one of nearest.* not 'bilinaer'"),
        ([{"RandomResizedCrop": {"scale": [1.0, 0.8]}}], r"RandomResizedCrop can't be used with .*\(min, max\)"),
        ([{"RandomPosterize": {"bits": 12, "p": 0.001}}], "RandomPosterize can't be used .*bits"),
        ([{"RandomApply": {"p": 0.001, "transforms": [{"ColorJitter": {"hue": 3}}]}}], "ColorJitter can't be used"),
        ([{"RandomChoice": {"transforms": ["Identity", {"RandomCrop": {"size": 999}}]}}], "RandomCrop can't be used"),
        ([{"RandomApply": {"transforms": "ColorJitter"}}], "transforms is a list"),
        (["Normalize"], "Normalize: .*the model normalises"),
        (["ToTensor"], "ToTensor: .*the model normalises"),
        (["MixUp"], "objective.mixup"),
        (["Grayscale"], r"Grayscale leaves torch.uint8 \(1, 32, 32\)"),
        (["FiveCrop"], "FiveCrop leaves tuple"),
        ([{"RandomErasing": {"value": "random"}}], "0 to 255"),
        ([{"Lambda": {"lambd": "print"}}], "Lambda can't be used"),
        (["torch"], "torch is no transform"),
        (["functional"], "functional is no transform"),
        (["__builtins__"], "is no transform"),
        ([{"A": {}, "B": {}}], "neither a transform's name nor"),
    ],
)
def test_a_wrong_augmentation_is_one_sentence(augment: list, sentence: str) -> None:
    with pytest.raises(FlukeError, match=sentence) as error:
        make_train_transform(Data(size=32, augment=augment))
    assert str(error.value).startswith("data.augment: ")
    assert "\n" not in str(error.value)


def test_validation_is_never_augmented() -> None:
    data = Data(size=32, eval_size=40, augment=[{"RandomInvert": {"p": 1.0}}])
    train, evaluate = make_train_transform(data), make_eval_transform(data)
    picture = torch.full((3, 50, 60), 30, dtype=torch.uint8)
    assert train(picture).unique().tolist() == [225]
    assert evaluate(picture).unique().tolist() == [30]
    assert evaluate(picture).shape == (3, 40, 40)
    assert make_eval_transform(data, 48)(picture).shape == (3, 48, 48)


def test_fit_squashes_crops_or_pads() -> None:
    thirds = torch.zeros((3, 20, 60), dtype=torch.uint8)  # red, green, blue from left to right
    for channel in range(3):
        thirds[channel, :, 20 * channel : 20 * channel + 20] = 200
    squash, crop, pad = (make_eval_transform(Data(size=30, fit=fit))(thirds) for fit in ("squash", "crop", "pad"))
    assert squash[:, 15, [3, 15, 26]].T.tolist() == [[200, 0, 0], [0, 200, 0], [0, 0, 200]]
    assert crop.permute(1, 2, 0).reshape(-1, 3).unique(dim=0).tolist() == [[0, 200, 0]]
    assert pad[:, :10].unique().tolist() == pad[:, 20:].unique().tolist() == [128]
    assert pad[:, 15, [3, 15, 26]].T.tolist() == [[200, 0, 0], [0, 200, 0], [0, 0, 200]]
    standing = make_eval_transform(Data(size=30, fit="pad"))(thirds.mT)
    assert standing[:, :, :10].unique().tolist() == [128]


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
def test_a_line_of_pixels_does_not_fill_the_memory(fit: str) -> None:
    line = torch.zeros((3, 1, 1_000_000), dtype=torch.uint8)
    assert make_eval_transform(Data(size=32, fit=fit))(line).shape == (3, 32, 32)


def test_decode_side_follows_the_first_step() -> None:
    def side(*augment: object) -> int | None:
        return decode_side(make_train_transform(Data(size=100, augment=list(augment))))

    assert decode_side(make_eval_transform(Data(size=100, eval_size=200))) == 230
    assert side("RandomHorizontalFlip", {"CenterCrop": {"size": 90}}) == 115
    assert side({"RandomResizedCrop": {"scale": [0.64, 1.0]}}) == 125
    assert side("RandomHorizontalFlip", "RandomResizedCrop") == 200, "the smallest crops alone may be enlarged"
    assert side({"Resize": {"size": 140}}, "RandomCrop") == 161
    assert side({"CenterCrop": {"size": 150}}, "Resize") is None, "150 pixels of the full picture"


# --- the packed cache -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def photographs(tmp_path: Path) -> list[Path]:
    sizes = [(60, 90), (90, 60), (40, 40), (20, 30), (61, 200), (33, 47)] * 4
    folder = tmp_path / "photographs"
    folder.mkdir()
    return [save(folder / f"{i:02}.{'jpg' if i % 2 else 'png'}", smooth(h, w)) for i, (h, w) in enumerate(sizes)]


@pytest.mark.parametrize("workers", [0, 2])
def test_cached_pictures_are_the_decoded_ones_scaled_down(tmp_path: Path, photographs: list[Path], workers: int) -> None:
    packed = open_cache(tmp_path / "cache", photographs, 32, workers)
    assert len(packed) == len(photographs)
    for i, path in enumerate(photographs):
        full, small = decode(path), packed.get(i)
        scale = min(1, 32 / min(full.shape[1:]))
        assert small.dtype == torch.uint8
        assert small.shape == (3, *(round(side * scale) for side in full.shape[1:]))
        assert small.stride(0) == 1, "the layout of decode, so that resizing rounds alike"
        reference = torch.nn.functional.interpolate(full[None].float(), small.shape[1:], mode="bilinear", antialias=True)[0]
        assert (small.float() - reference).abs().max() <= (6 if scale < 1 else 0)
    packed.get(0).zero_()
    assert packed.get(0).any(), "a picture is a copy"


def test_a_cache_is_read_from_workers_and_after_pickling(tmp_path: Path, photographs: list[Path]) -> None:
    packed = open_cache(tmp_path / "cache", photographs, 32, 0)
    assert len(pickle.dumps(packed)) < 1000
    order = torch.randperm(len(photographs), generator=torch.Generator().manual_seed(0)).tolist()
    loader = DataLoader(order, batch_size=4, num_workers=2, collate_fn=Lookup(pickle.loads(pickle.dumps(packed))))
    read = [picture for batch in loader for picture in batch]
    for i, picture in zip(order, read, strict=True):
        assert torch.equal(picture, packed.get(i))


class Lookup:
    def __init__(self, packed: cache.ImageCache) -> None:
        self.packed = packed

    def __call__(self, positions: list[int]) -> list[torch.Tensor]:
        return [self.packed.get(i) for i in positions]


def builds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one whenever a cache is built."""
    counted: list[int] = []
    build = cache._build
    monkeypatch.setattr(cache, "_build", lambda *args: (counted.append(1), build(*args)))
    return counted


def test_a_cache_is_built_once_and_again_when_something_changed(
    tmp_path: Path, photographs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    built = builds(monkeypatch)

    def fetch(paths: list[Path] = photographs, size: int = 32) -> cache.ImageCache:
        return open_cache(tmp_path / "cache", paths, size, 0)

    fetch(), fetch()
    assert len(built) == 1
    fetch(size=24), fetch(photographs[:5]), fetch(), fetch(size=24)
    assert len(built) == 3, "other sizes and tables live beside it"
    save(photographs[2], 255 - smooth(40, 40))
    assert fetch().get(2)[:, 0, 0].min() > 250
    assert len(built) == 4
    os.utime(photographs[3], ns=(1, 1))
    fetch()
    monkeypatch.setattr(cache, "VERSION", "another Pillow")
    fetch()
    assert len(built) == 6


def damage(path: Path, how: str) -> None:
    index = path.with_suffix(".npz")
    if how == "cut":
        os.truncate(path, path.stat().st_size - 1)
    elif how == "grown":
        path.write_bytes(path.read_bytes() + b"x")
    elif how == "foreign":
        path.write_bytes(b"x" * path.stat().st_size)
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "gone":
        path.unlink()
    elif how == "index cut":
        os.truncate(index, 40)
    elif how == "index text":
        index.write_text("<html>")
    elif how == "index gone":
        index.unlink()
    elif how == "index pickle":
        with np.load(index) as old:
            key = old["key"]
        np.savez(index, key=key, sizes=np.array([Boom()], dtype=object))


class Boom:
    def __reduce__(self) -> tuple:
        return exec, ("raise SystemExit('a pickle was executed')",)


@pytest.mark.parametrize(
    "how", ["cut", "grown", "foreign", "empty", "gone", "index cut", "index text", "index gone", "index pickle"]
)
def test_a_damaged_cache_is_recognised_and_built_again(
    tmp_path: Path, photographs: list[Path], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_cache(tmp_path, photographs, 32, 0)
    whole = [first.get(i) for i in range(len(first))]
    damage(first.path, how)
    built = builds(monkeypatch)
    again = open_cache(tmp_path, photographs, 32, 0)
    assert len(built) == 1
    assert all(torch.equal(again.get(i), picture) for i, picture in enumerate(whole))
    assert sorted(p.name for p in first.path.parent.iterdir()) == ["pictures.bin", "pictures.lock", "pictures.npz"]


def test_a_build_that_failed_leaves_nothing_behind(tmp_path: Path, photographs: list[Path]) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_text("no picture")
    with pytest.raises(FlukeError, match=r"2 of 26 images can't be cached: .*bad\.jpg: not an image.* .*gone\.jpg: no such file"):
        open_cache(tmp_path / "cache", [*photographs, bad, tmp_path / "gone.jpg"], 32, 2)
    assert [p.name for p in (tmp_path / "cache").rglob("*") if p.is_file()] == ["pictures.lock"]


def test_a_disk_that_is_too_small_is_said_before(tmp_path: Path, photographs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("usage", (), {"free": 50_000}))
    with pytest.raises(FlukeError, match="MB free"):
        open_cache(tmp_path / "cache", photographs, 32, 0)


def test_a_cache_folder_that_is_a_file(tmp_path: Path, photographs: list[Path]) -> None:
    with pytest.raises(FlukeError, match=r"data\.cache_dir .*can't be written"):
        open_cache(photographs[0], photographs, 32, 0)


def race(folder: Path, paths: list[Path], log: Path) -> None:
    build = cache._build

    def counted(*args: object) -> None:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        build(*args)

    cache._build = counted
    packed = open_cache(folder, paths, 32, 0)
    expected = [int(decode(path, 32).shape[1] >= 1) for path in paths]
    read = [int(packed.get(i).any()) for i in range(len(packed))]
    with log.open("a") as file:
        file.write("good\n" if read == expected else "bad\n")


def test_processes_that_ask_at_once_build_one_cache(tmp_path: Path, photographs: list[Path]) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=race, args=(tmp_path / "c", photographs * 5, tmp_path / "log")) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    lines = (tmp_path / "log").read_text().split()
    assert lines.count("good") == 3
    assert len(lines) == 4, "one of them built it"


def test_sizes_are_told_from_headers(tmp_path: Path) -> None:
    for name, size in (("a.png", (40, 30)), ("b.png", (30, 50)), ("c.png", (35, 35))):
        Image.new("RGB", size).save(tmp_path / name)
    (tmp_path / "d.png").write_text("not an image")
    told = decoding.describe_sizes([tmp_path / f"{name}.png" for name in "abcd"])
    assert told == "short side 30 to 35 px, long side 35 to 50 px (of 3 images looked at)"
