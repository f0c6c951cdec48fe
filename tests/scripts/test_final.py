"""kfold.py --final: models of all rows."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from accelerate import Accelerator

from lib.errors import FlukeError
from lib.images.augmentation import ResizeToSquare
from lib.images.dataset import ImageDataset
from lib.models.weights import load_network
from lib.scores.score_file import load_scores
from lib.training.inference import InferenceOptions, predict
from scripts import bundle, kfold
from scripts import predict as predict_script


def test_final_models_learn_all_rows_for_the_folds_best_epochs_and_are_not_validated(
    arguments: Callable, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "cv"
    argv = arguments(out, folds_n=2, train_epochs=3, train_seed=5)
    result = kfold.main(argv)
    capsys.readouterr()
    folds = [fold | {"best_epoch": best} for fold, best in zip(result["folds"], (1, 3))]
    cv = json.loads((out / "cv.json").read_text()) | {"folds": folds}
    monkeypatch.setattr("lib.pipelines.final.read_json", lambda _: cv)
    kfold.main([*argv, "--resume", "--final", "--seeds", "5", "6"])
    said = capsys.readouterr().out
    final = json.loads((out / "final" / "final.json").read_text())
    assert (final["epochs"], final["rows"], final["seeds"]) == (2, 48, [5, 6])
    assert (final["score_of_folds"], final["interval_of_folds"]) == (result["pooled"], list(result["interval"]))
    assert "not validated, cite the folds" in said
    assert "validation," not in said
    each = []
    for seed in (5, 6):
        history = [json.loads(line) for line in (out / f"final/seed{seed}/metrics.jsonl").read_text().splitlines()]
        assert len(history) == final["epochs"]
        assert not any("accuracy" in entry for entry in history)
        network = load_network(out / f"final/seed{seed}/best/model.safetensors")
        scores = load_scores(out / "final" / "scores_test.npz")
        root = Path(argv[argv.index("--data.root") + 1])
        images = ImageDataset([root / "images" / name for name in scores.names], ResizeToSquare(32, "squash"))
        each.append(predict([network], images, Accelerator(cpu=True), InferenceOptions(64, 0))[0])
    assert not np.allclose(each[0], each[1], atol=1e-3)
    assert scores.logits == pytest.approx(np.mean(each, axis=0), abs=1e-5)
    given, folds = (pd.read_csv(path / "submission.csv", dtype=str) for path in (out / "final", out))
    assert given["image"].tolist() == folds["image"].tolist()
    predict_script.main(["--run", str(out / "final"), "--out", str(tmp_path / "again")])
    assert (tmp_path / "again" / "submission.csv").read_bytes() == (out / "final" / "submission.csv").read_bytes()
    assert load_scores(tmp_path / "again" / "scores_test.npz").logits == pytest.approx(scores.logits, abs=1e-6)
    with pytest.raises(FlukeError, match="models of all rows hold out no row"):
        bundle.main(["--runs", str(out / "final"), "--out", str(tmp_path / "bundle"), "--wheels"])
    before = (out / "final/seed5/best/model.safetensors").stat().st_mtime_ns
    kfold.main([*argv, "--resume", "--final", "--seeds", "5"])
    assert (out / "final/seed5/best/model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(FlukeError, match="--seeds: is for --final"):
        kfold.main([*argv, "--seeds", "1"])
