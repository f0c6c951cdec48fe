"""scripts/export.py: ONNX and torch.export say what the run says."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import expit, softmax

from lib.errors import FlukeError
from lib.pipelines.export import Answer, refuse_differences
from lib.scores.score_file import load_scores
from lib.tables.target import IDENTITY, ONE_LABEL, REGRESSION, SEVERAL_LABELS, Target
from scripts import export, kfold, train_classifier
from tests.models.made_networks import make_network, random_images

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def test_an_export_answers_as_the_run_does(
    arguments: Callable[..., list[str]], contest: Path, tmp_path: Path, no_report: None
) -> None:
    run = tmp_path / "run"
    train_classifier.main(arguments(run, data_fit="crop"))
    about = export.main(["--run", str(run)])
    assert (about["fit"], about["size"]) == ("crop", 32)
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


@pytest.mark.parametrize(("target", "answer"), [
    (ONE_LABEL, lambda x: softmax(x, axis=1)), (SEVERAL_LABELS, expit), (REGRESSION, lambda x: x), (IDENTITY, lambda x: x),
], ids=lambda value: getattr(value, "name", ""))  # fmt: skip
def test_what_is_exported_answers_in_the_units_of_its_target(target: Target, answer: Callable[[np.ndarray], np.ndarray]) -> None:
    network = make_network(target=target).eval()
    with torch.inference_mode():
        outputs = network(random_images())["output"].numpy()
        np.testing.assert_allclose(Answer(network)(random_images()).numpy(), answer(outputs), rtol=1e-5)


def test_an_export_that_answers_otherwise_is_refused(tmp_path: Path) -> None:
    refuse_differences(tmp_path, {"model.onnx": 9e-5, "model.pt2": 0.0})
    for value in (1.1e-4, float("nan")):
        with pytest.raises(FlukeError, match=r"the outputs of model.pt2 by .* differ from the run's"):
            refuse_differences(tmp_path, {"model.onnx": 1e-6, "model.pt2": value})


def test_a_kfold_run_is_no_network(arguments: Callable[..., list[str]], tmp_path: Path, no_report: None) -> None:
    kfold.main(arguments(tmp_path / "cv", folds_n=2, train_epochs=1))
    with pytest.raises(FlukeError, match=r"holds 2 networks; name one of them, such as .*fold0"):
        export.main(["--run", str(tmp_path / "cv")])
