"""Images of four grey files, from training with a cache to predictions; what can't take them says so."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lib.errors import FlukeError
from lib.models.weights import load_network
from lib.scores.score_file import load_scores
from scripts import export, predict, train_classifier


@pytest.fixture
def cells(contest: Path, tmp_path: Path) -> Path:
    """The tiny contest with each image as grey files, the fourth of which holds noise."""
    root = tmp_path / "contest"
    shutil.copytree(contest, root)
    for path in (root / "images").iterdir():
        pixels = np.array(Image.open(path))
        noise = np.random.default_rng(len(path.name)).integers(0, 256, pixels.shape[:2]).astype(np.uint8)
        for plane, colour in zip((*np.moveaxis(pixels, -1, 0), noise), "rgby"):
            Image.fromarray(plane).save(path.with_name(f"{path.stem}_{colour}.png"))
        path.unlink()
    for name in ("train.csv", "sample_submission.csv"):
        table = pd.read_csv(root / name, dtype=str)
        table.assign(image=table.image.str.removesuffix(".png")).to_csv(root / name, index=False)
    return root


def test_four_files_of_an_image_are_trained_on_and_predicted(cells: Path, arguments: Callable, tmp_path: Path) -> None:
    run, patterns = tmp_path / "run", str([f"{{name}}_{colour}.png" for colour in "rgby"])
    fields = {"data_root": cells, "data_channels": patterns, "data_cache_dir": tmp_path / "cache", "data_duplicates": "near"}
    train_classifier.main(arguments(run, train_epochs=1, **fields))
    network = load_network(run / "best/model.safetensors")
    assert network.channels == network.backbone.conv1[0].weight.shape[1] == 4
    assert len(pd.read_csv(run / "submission.csv")) == 13
    assert "data:image/jpeg" in (run / "report.html").read_text()
    predict.main(["--run", str(run), "--out", str(tmp_path / "again")])
    before, after = (load_scores(folder / "scores_test.npz") for folder in (run, tmp_path / "again"))
    assert after.logits == pytest.approx(before.logits, abs=1e-4)
    with pytest.raises(FlukeError, match="is a folder, but an image has 4 files"):
        predict.main(["--run", str(run), "--table", str(cells / "images"), "--out", str(tmp_path / "folder")])
    pytest.importorskip("onnx")
    with pytest.raises(FlukeError, match="takes images of 4 channels .* only networks of RGB are exported"):
        export.main(["--run", str(run), "--out", str(tmp_path / "exported")])
