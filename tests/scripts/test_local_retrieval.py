"""retrieve.py with points that match: ranking, threshold and probabilities are of the same scores; the page draws the points."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

cv2 = pytest.importorskip("cv2", reason="the extra matching isn't installed")

import timm  # noqa: E402
import torch  # noqa: E402

from lib.errors import FlukeError  # noqa: E402
from lib.retrieval.gallery import open_gallery  # noqa: E402
from scripts import retrieve  # noqa: E402
from tests.matching.spots import paint_spots  # noqa: E402

KNOWN, PHOTOGRAPHS = 6, 4


@pytest.fixture(scope="module")
def spots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight animals, two of which the gallery lacks, and a network of random weights."""
    root = tmp_path_factory.mktemp("spots")
    paths, labels = paint_spots(root / "images", KNOWN + 2, PHOTOGRAPHS)
    number = np.arange(len(paths)) % PHOTOGRAPHS
    known = np.arange(len(paths)) // PHOTOGRAPHS < KNOWN
    table = pd.DataFrame({"image": [path.name for path in paths], "label": labels})
    table[known & (number < 3)].to_csv(root / "train.csv", index=False)
    table[number == 3].to_csv(root / "asked.csv", index=False)
    torch.manual_seed(0)
    torch.save(timm.create_model("resnet10t").state_dict(), root / "weights.pth")
    return root


def options(root: Path, out: Path, local: str) -> list[str]:
    given = ["--model", "resnet10t", "--weights", str(root / "weights.pth"), "--data.root", str(root), "--out", str(out)]
    given += ["--data.image_dir", "images", "--data.size", "32", "--data.workers", "0", "--retrieval.local", local]
    return [*given, "--retrieval.local_candidates", "20", "--retrieval.local_keypoints", "160"]


def test_spots_are_recognized_by_the_gallery_alone(
    spots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = shutil.copytree(spots, tmp_path / "root")
    retrieve.main(options(root, tmp_path / "fused", "sift"))
    assert "local scores weigh" in capsys.readouterr().out
    gallery = tmp_path / "fused" / "gallery"
    kept = open_gallery(gallery)
    assert kept.about["open_set"]["fusion"]["ratio"] > 0
    assert kept.about["validation"]["auroc"] > 0.9
    # the gallery's images are gone: its folder holds their keypoints
    queries = shutil.copytree(root / "images", tmp_path / "queries", ignore=shutil.ignore_patterns("*_[012].png"))
    shutil.rmtree(root)
    retrieve.main(["--gallery", str(gallery), "--queries", str(queries)])
    ranks = pd.read_parquet(gallery / "answers" / "ranks.parquet")
    names = ranks[ranks["name"] != "new"].groupby("query")["name"].first()
    known = [name for name in names.index if int(name[:3]) < KNOWN]
    assert np.mean([names[name] == f"s{name[:3]}" for name in known]) >= 0.9
    alone = kept.search(kept.embeddings(kept.rows.ids), 2, kept.model)[1][:, 1]  # the nearest other image by the network
    assert (kept.rows.labels[kept.rows.positions(alone)] == kept.rows.labels).mean() < 0.6
    first = ranks[ranks["rank"] == 1].set_index("query")
    truth = [f"s{int(name[:3]):03}" if int(name[:3]) < KNOWN else "new" for name in first.index]
    assert (first["name"] == truth).mean() >= 0.8  # the threshold is one of fused scores
    right = first["name"] == truth
    assert first["probability"][right].mean() > 0.5
    page = (gallery / "answers" / "retrieval.html").read_text()
    assert "Points that match:" in page
    assert page.count("<line ") > 50
    said = json.loads((gallery / "answers" / "threshold.json").read_text())
    assert said["fusion"] == kept.about["open_set"]["fusion"]


def test_a_gallery_without_local_scores_says_what_to_do(spots: Path, tmp_path: Path) -> None:
    assert retrieve.main(options(spots, tmp_path / "plain", "none")) == {}
    there = ["--gallery", str(tmp_path / "plain" / "gallery"), "--queries", str(spots / "images" / "000_3.png")]
    with pytest.raises(FlukeError, match="was built without local scores; build it again with --retrieval.local sift"):
        retrieve.main([*there, "--retrieval.local", "sift"])


def test_without_opencv_a_sentence_comes(spots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(FlukeError, match=r"retrieval.local sift: needs OpenCV; pip install -e '.\[matching\]'"):
        retrieve.main(options(spots, tmp_path / "out", "sift"))
