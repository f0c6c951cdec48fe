"""A run whose test images are of another kind than its training images."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from scripts import kfold, train_classifier
from tests.conftest import paint


@pytest.mark.parametrize(("script", "file"), [(train_classifier, "metrics.json"), (kfold, "cv.json")])
def test_test_images_of_another_kind_are_said_and_shown(
    script: object, file: str, tmp_path: Path, arguments: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    labels = ["ant", "bee", "cat", "dog"] * 32
    root = tmp_path / "contest"
    names, tests = paint(root / "images", labels, 1), paint(root / "images", labels[:40], 2)
    for name in tests:
        path = root / "images" / name
        Image.fromarray(np.asarray(Image.open(path)) // 4).save(path)
    pd.DataFrame({"image": names, "label": labels}).to_csv(root / "train.csv", index=False)
    pd.DataFrame({"image": tests, "label": "ant"}).to_csv(root / "sample_submission.csv", index=False)
    out = tmp_path / "run"
    script.main(arguments(out, data_root=root, train_epochs=1, folds_holdout=0.4, folds_n=2))  # type: ignore[attr-defined]
    found = json.loads((out / file).read_text())["test_shift"]
    assert found["found"]
    assert found["interval"][0] > 0.9
    assert "test images can be told from the held-out ones" in capsys.readouterr().out
    page = (out / "report.html").read_text()
    assert page.count("Test images unlike the held-out ones") == 2  # in the list of contents, and above the images
