"""retrieve.py and catalogue.py on a gallery whose vectors are in Milvus Lite answer as on FAISS."""

import json
from pathlib import Path

import pandas as pd
import pytest
import timm
import torch

from lib.errors import FlukeError
from scripts import catalogue, retrieve
from tests.conftest import paint

LABELS = [*"abcdefgh" * 4]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("milvus")
    names = paint(root / "images", LABELS, 1)
    site = ["A" if label in "abcd" else "B" for label in LABELS]
    pd.DataFrame({"image": names, "label": LABELS, "site": site}).to_csv(root / "train.csv", index=False)
    paint(root / "asked", [*"abcdefghxyz"], 2)
    torch.manual_seed(0)
    torch.save(timm.create_model("resnet10t").state_dict(), root / "weights.pth")
    return root


def test_milvus_answers_as_faiss_does(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("pymilvus", reason="the extra milvus isn't installed")
    for store in ("null", str(tmp_path / "vectors.db")):
        out = tmp_path / ("milvus" if store != "null" else "faiss")
        given = ["--model", "resnet10t", "--weights", str(root / "weights.pth"), "--data.root", str(root), "--out", str(out)]
        given += ["--data.image_dir", "images", "--data.size", "32", "--data.workers", "0", "--retrieval.store", store]
        retrieve.main([*given, "--queries", str(root / "asked")])
        gallery = ["--gallery", str(out / "gallery")]
        catalogue.main([*gallery, "--rename", "b", "beta"])
        retrieve.main([*gallery, "--remove", "a"])
        retrieve.main([*gallery, "--queries", str(root / "asked"), "--where", "site == 'A'"])
    for ranks in ("ranks.parquet", "gallery/answers/ranks.parquet"):
        one, other = (pd.read_parquet(tmp_path / name / ranks) for name in ("faiss", "milvus"))
        pd.testing.assert_frame_equal(one, other, check_exact=False, atol=1e-5)
    assert set(one["name"]) == {"beta", "c", "d", "new"}
    assert not list((tmp_path / "milvus" / "gallery").glob("index-*.faiss"))


def test_a_gallery_of_an_earlier_version_keeps_its_open_set_model(root: Path, tmp_path: Path) -> None:
    """Its settings lack fields that came later."""
    out = tmp_path / "old"
    given = ["--model", "resnet10t", "--weights", str(root / "weights.pth"), "--data.root", str(root), "--out", str(out)]
    retrieve.main([*given, "--data.image_dir", "images", "--data.size", "32", "--data.workers", "0"])
    path = out / "gallery" / "gallery.json"
    about = json.loads(path.read_text())
    del about["about"]["settings"]["store"]
    about["about"]["open_set"]["threshold"] = 0.123
    path.write_text(json.dumps(about))
    (out / "gallery" / "held_out-1.npz").unlink()
    asked = ["--gallery", str(out / "gallery"), "--queries", str(root / "asked")]
    retrieve.main(asked)
    assert json.loads((out / "gallery" / "answers" / "threshold.json").read_text())["threshold"] == 0.123
    with pytest.raises(FlukeError, match="its open-set model was fitted for other settings"):
        retrieve.main([*asked, "--retrieval.far", "0.2"])
