"""scripts/export.py: ONNX and torch.export say what the run says."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax

from lib.errors import FlukeError
from lib.scores.score_file import load_scores
from scripts import export, kfold, train_classifier

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def test_an_export_answers_as_the_run_does(
    arguments: Callable[..., list[str]], contest: Path, tmp_path: Path, no_report: None
) -> None:
    run = tmp_path / "run"
    train_classifier.main(arguments(run))
    about = export.main(["--run", str(run)])
    assert max(about["largest_difference"].values()) <= 1e-4
    scores = load_scores(run / "scores_test.npz")
    images = [Image.open(contest / "images" / name).convert("RGB") for name in scores.names]
    images = [image.resize((32, 32), Image.Resampling.BILINEAR) for image in images]
    pixels = np.stack([np.asarray(image).transpose(2, 0, 1) for image in images])
    (found,) = onnxruntime.InferenceSession(run / "export" / "model.onnx").run(None, {"image": pixels})
    assert about["classes"] == list(scores.classes)
    assert found == pytest.approx(softmax(scores.logits, axis=1), abs=2e-3)  # Pillow rounds a pixel here and there
    first = contest / "images" / scores.names[0]
    said = subprocess.run([sys.executable, run / "export" / "example.py", first], capture_output=True, text=True, check=True).stdout
    assert said.split()[1] == scores.classes[int(scores.logits[0].argmax())]


def test_a_kfold_run_is_no_network(arguments: Callable[..., list[str]], tmp_path: Path, no_report: None) -> None:
    kfold.main(arguments(tmp_path / "cv", folds_n=2, train_epochs=1))
    with pytest.raises(FlukeError, match=r"holds 2 networks; name one of them, such as .*fold0"):
        export.main(["--run", str(tmp_path / "cv")])
