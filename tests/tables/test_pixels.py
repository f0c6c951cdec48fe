"""Pixels in the cells of tables: a column per pixel, lists as text, JSON lists as channels."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lib.config.recipe import Data, Folds
from lib.errors import FlukeError
from lib.images.checking import describe_sizes, find_unreadable
from lib.images.decoding import decode
from lib.images.duplicates import find_identical
from lib.reports.thumbnails import thumbnail
from lib.tables.loading import load_test, load_train
from lib.tables.table import Table

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def load(root: Path, **fields: object) -> tuple[Table, Table | None]:
    data = Data(root=str(root), **fields)  # type: ignore[arg-type]
    train = load_train(data, Folds())
    return train, load_test(data, train.classes, train.target)


def test_a_column_per_pixel_and_rows_without_names(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (6, 16))
    columns = [f"pixel{i}" for i in range(16)]
    pd.DataFrame(pixels[:4], columns=columns).assign(label=[3, 4, 3, 4]).to_csv(tmp_path / "train.csv", index=False)
    pd.DataFrame(pixels[[4, 0]], columns=columns).to_csv(tmp_path / "test.csv", index=False)
    (tmp_path / "sample.csv").write_text("ImageId,Label\n1,0\n2,0\n")
    train, test = load(tmp_path, pixel_columns=["pixel*"], test_csv="test.csv", sample_submission="sample.csv")
    assert test is not None
    assert (train.names, train.labels, test.names) == (["1", "2", "3", "4"], [("3",), ("4",), ("3",), ("4",)], ["1", "2"])
    for path, row in zip(train.paths + test.paths, (0, 1, 2, 3, 4, 0)):
        np.testing.assert_array_equal(decode(path), np.repeat(pixels[row].reshape(1, 4, 4), 3, axis=0))
    assert find_unreadable(train.paths, 0, "decode") == find_unreadable(train.paths, 0, "header") == {}
    assert find_identical(train.paths + test.paths) == [[0, 5]]
    assert describe_sizes(train.paths).startswith("short side 4 px")
    assert thumbnail(train.paths[0], 4).startswith("data:image/jpeg")
    chosen, _ = load(tmp_path, pixel_columns=["pixel*"], drop_images=["1"])
    np.testing.assert_array_equal(decode(chosen.paths[2])[0], pixels[3].reshape(4, 4))
    with pytest.raises(FlukeError, match="16 pixels are no picture of 3 x 5"):
        load(tmp_path, pixel_columns=["pixel*"], pixel_shape=[3, 5])
    with pytest.raises(FlukeError, match=r"no column 'px\*' \(data.pixel_columns\)"):
        load(tmp_path, pixel_columns=["px*"])


def test_lists_as_text_in_one_table_with_a_split_column(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (4, 24))
    cells = [" ".join(map(str, row)) for row in pixels]
    table = pd.DataFrame({"emotion": [0, 1, 0, 1], "pixels": cells, "Usage": ["Training"] * 3 + ["Test"]})
    table.to_csv(tmp_path / "train.csv", index=False)
    fields = {"label_column": "emotion", "pixel_columns": ["pixels"], "pixel_shape": [4, 6]}
    fields |= {"train_where": {"Usage": "Training"}, "test_where": {"Usage": "Test"}}
    train, test = load(tmp_path, **fields)
    assert test is not None
    assert (train.names, test.names) == (["1", "2", "3"], ["4"])
    np.testing.assert_array_equal(decode(test.paths[0])[1], pixels[3].reshape(4, 6))
    table.loc[1, "pixels"] = "1 2 x"
    table.to_csv(tmp_path / "train.csv", index=False)
    with pytest.raises(FlukeError, match=r"1 cells of pixels don't hold 24 numbers as the first does: line 3"):
        load(tmp_path, **fields)


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_json_lists_are_channels_scaled_by_the_training_table(tmp_path: Path, kind: str) -> None:
    bands = RNG.uniform(-40, 10, (5, 2, 16))
    rows = [{"id": f"r{i}", "band_1": b[0].tolist(), "band_2": b[1].tolist(), "ice": i % 2} for i, b in enumerate(bands)]
    for name, part in (("train", rows[:4]), ("test", [{k: v for k, v in rows[4].items() if k != "ice"}])):
        text = json.dumps(part) if kind == "json" else "\n".join(map(json.dumps, part))
        (tmp_path / f"{name}.{kind}").write_text(text)
    fields = {"train_csv": f"train.{kind}", "test_csv": f"test.{kind}", "image_column": "id", "label_column": "ice"}
    train, test = load(tmp_path, **fields, pixel_columns=["band_1", "band_2"], channels=2)
    assert test is not None
    low, high = (getattr(bands[:4], side)(axis=(0, 2))[:, None] for side in ("min", "max"))
    for path, row in zip(train.paths + test.paths, bands):
        expected = np.clip(255 * (row - low) / (high - low), 0, 255).reshape(2, 4, 4)
        assert np.abs(decode(path).numpy() - expected).max() <= 0.51
    assert (train.names, test.names) == (["r0", "r1", "r2", "r3"], ["r4"])
    with pytest.raises(FlukeError, match="images of 2 channels; set data.channels: 2"):
        decode(load(tmp_path, **fields, pixel_columns=["band_1", "band_2"])[0].paths[0])
