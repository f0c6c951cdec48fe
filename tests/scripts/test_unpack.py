"""scripts/unpack.py: images out of TFRecord, BSON and tables of pixels."""

import io
import json
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lib.errors import FlukeError
from lib.images.decoding import decode
from scripts import unpack


def jpeg(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8, 3)).astype(np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def varint(n: int) -> bytes:
    return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def example(values: dict[str, object]) -> bytes:
    """Return a tf.train.Example in a record; numbers packed, as TensorFlow writes them."""
    features = b""
    for name, value in values.items():
        if isinstance(value, bytes):
            feature = field(1, field(1, value))
        elif isinstance(value, float):
            feature = field(2, field(1, struct.pack("<f", value)))
        else:
            feature = field(3, field(1, varint(value % 2**64)))  # type: ignore[operator]
        features += field(1, field(1, name.encode()) + field(2, feature))
    body = field(1, features)
    return struct.pack("<Q", len(body)) + b"crc1" + body + b"crc2"


def bson(document: dict[str, object]) -> bytes:
    body = b""
    for key, value in document.items():
        name = key.encode() + b"\0"
        if isinstance(value, bytes):
            body += b"\x05" + name + struct.pack("<i", len(value)) + b"\0" + value
        elif isinstance(value, int):
            body += b"\x12" + name + struct.pack("<q", value)
        elif isinstance(value, str):
            body += b"\x02" + name + struct.pack("<i", len(value) + 1) + value.encode() + b"\0"
        else:
            inner = dict(enumerate(value)) if isinstance(value, list) else value
            body += (b"\x04" if isinstance(value, list) else b"\x03") + name + bson({str(k): v for k, v in inner.items()})  # type: ignore[attr-defined]
    return struct.pack("<i", len(body) + 5) + body + b"\0"


def table(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "table.csv", dtype=str, keep_default_na=False)


def test_tfrecords(tmp_path: Path) -> None:
    for part in range(2):
        records = [example({"id": f"a{part}{i}".encode(), "image": jpeg(i), "class": i - 1, "w": 0.5}) for i in range(2)]
        (tmp_path / f"{part}.tfrec").write_bytes(b"".join(records))
    assert unpack.main([str(tmp_path / "*.tfrec"), "--out", str(tmp_path / "out")]) == 4
    found = table(tmp_path / "out")
    assert found["image"].tolist() == ["a00.jpg", "a01.jpg", "a10.jpg", "a11.jpg"]
    assert found[["file", "class", "w"]].values.tolist() == [
        ["0", "-1", "0.5"],
        ["0", "0", "0.5"],
        ["1", "-1", "0.5"],
        ["1", "0", "0.5"],
    ]
    assert (tmp_path / "out/images/a11.jpg").read_bytes() == jpeg(1)


def test_bson_of_products_with_several_images(tmp_path: Path) -> None:
    documents = [
        {"_id": 7, "imgs": [{"picture": jpeg(1)}, {"picture": jpeg(2)}], "category": "x"},
        {"_id": 8, "imgs": [{"picture": jpeg(3)}]},
    ]
    (tmp_path / "train.bson").write_bytes(b"".join(map(bson, documents)))
    unpack.main([str(tmp_path / "train.bson"), "--out", str(tmp_path / "out")])
    found = table(tmp_path / "out")
    assert found.values.tolist() == [["7-0.jpg", "train", "7", "x"], ["7-1.jpg", "train", "7", "x"], ["8.jpg", "train", "8", ""]]
    assert (tmp_path / "out/images/7-1.jpg").read_bytes() == jpeg(2)


def test_planes_of_pixels_have_one_scale_over_all_files(tmp_path: Path) -> None:
    bands = np.random.default_rng(0).normal(-20, 5, (2, 2, 25))
    for name, pair in zip(("train", "test"), bands):
        (tmp_path / f"{name}.json").write_text(
            json.dumps([{"id": f"x{name}", "b1": pair[0].tolist(), "b2": pair[1].tolist(), "angle": 3.5}])
        )
    unpack.main([str(tmp_path / "train.json"), str(tmp_path / "test.json"), "--out", str(tmp_path / "out")])
    assert set(table(tmp_path / "out")["file"]) == {"train", "test"}
    for name, pair in zip(("train", "test"), bands):
        low, high = bands.min(axis=(0, 2)), bands.max(axis=(0, 2))
        planes = (pair - low[:, None]) / (high - low)[:, None]
        expected = 255 * np.stack([*planes, planes.mean(0)]).reshape(3, 5, 5)
        assert np.abs(decode(tmp_path / f"out/images/x{name}.npy").numpy() - expected).max() <= 0.5


def test_a_table_of_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16))
    frame = pd.DataFrame(pixels, columns=[f"pixel{i}" for i in range(16)])
    frame.insert(0, "label", ["a", "b", "a"])
    frame.to_csv(tmp_path / "train.csv", index=False)
    unpack.main([str(tmp_path / "train.csv"), "--out", str(tmp_path / "out")])
    assert table(tmp_path / "out")["label"].tolist() == ["a", "b", "a"]
    scaled = 255 * (pixels - pixels.min()) / (pixels.max() - pixels.min())
    assert np.abs(decode(tmp_path / "out/images/1.npy")[0].numpy().ravel() - scaled[1]).max() <= 0.5


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("a.tfrec", example({"image": jpeg(1)})[:-30], "damaged"),
        ("a.bson", bson({"a": jpeg(1)})[:-9], "damaged"),
        ("a.tfrec", example({"id": 3}), "holds no image"),
        ("a.zip", b"PK", "unknown kind of file"),
        ("a.csv", b"a,b\n1,2\n", "has no columns of pixels"),
    ],
)
def test_what_can_not_be_unpacked_is_one_sentence(tmp_path: Path, name: str, content: bytes, fault: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FlukeError, match=fault):
        unpack.main([str(tmp_path / name), "--out", str(tmp_path / "out")])
