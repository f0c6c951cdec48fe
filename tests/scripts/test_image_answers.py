"""Names of images as answers: sets of like products among the test images, and ranked images of another folder."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lib.errors import FlukeError
from lib.pipelines.image_answers import _answers
from scripts import retrieve, train_classifier, train_embedding
from tests.conftest import paint

LEARNT, ASKED = [f"item{i}" for i in range(16)], [f"ware{i}" for i in range(6)]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Products of 16 kinds to learn, and of 6 other kinds to match, whose ids are no image names; an index in deeper folders."""
    root = tmp_path_factory.mktemp("shop")
    labels, truth = LEARNT * 6, ASKED * 3
    names, test = paint(root / "images", labels, 1), paint(root / "images", truth, 2)
    pd.DataFrame({"image": names, "label": labels}).to_csv(root / "train.csv", index=False)
    asked = pd.DataFrame({"posting_id": [f"test_{100 + i}" for i in range(len(test))], "image": test, "truth": truth})
    asked.to_csv(root / "test.csv", index=False)
    asked.assign(matches=asked.posting_id)[["posting_id", "matches"]].to_csv(root / "sample.csv", index=False)
    pd.DataFrame({"id": [name.removesuffix(".png") for name in test], "images": ""}).to_csv(root / "ranked.csv", index=False)
    for i, name in enumerate(paint(root / "index/0/a", ASKED * 2, 3)):
        path = root / f"index/0/{'ab'[i % 2]}" / f"x{name}"
        path.parent.mkdir(exist_ok=True)
        (root / "index/0/a" / name).rename(path)
    return root


@pytest.fixture(scope="module")
def run(shop: Path, arguments: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "shop"
    fields = {"data_root": shop, "data_test_csv": "test.csv", "data_sample_submission": "sample.csv", "data_new_label": "new"}
    fields |= {"objective_name": "arcface", "objective_scale": 16, "data_augment": "[]", "optim_lr": 0.01, "train_epochs": 6}
    train_embedding.main(arguments(out, **fields, folds_unknown=0.4, predict_submission="matches"))
    return out


def f1(given: list[set[str]], right: list[set[str]]) -> float:
    return float(np.mean([2 * len(a & b) / (len(a) + len(b)) for a, b in zip(given, right)]))


def test_rows_name_the_images_that_match_them(run: Path, shop: Path) -> None:
    retrieve.main(["--run", str(run)])
    asked, given = pd.read_csv(shop / "test.csv"), pd.read_csv(run / "retrieval/submission.csv")
    assert given.columns.tolist() == ["posting_id", "matches"]
    assert given.posting_id.tolist() == asked.posting_id.tolist()
    sets = [cell.split() for cell in given.matches]
    assert [names[0] for names in sets] == asked.posting_id.tolist()
    right = [set(asked.posting_id[asked.truth == kind]) for kind in asked.truth]
    assert f1(list(map(set, sets)), right) > f1([{name} for name in asked.posting_id], right)
    about = json.loads((run / "retrieval/matches.json").read_text())
    assert about["images"] >= 20
    assert about["interval"][0] <= about["f1"] <= about["interval"][1]


def test_images_of_an_index_are_ranked(run: Path, shop: Path, tmp_path: Path) -> None:
    more = ["--data.test_csv", "null", "--data.sample_submission", "ranked.csv", "--predict.index", "index"]
    retrieve.main(["--run", str(run), *more, "--predict.submission", "images", "--topk", "5", "--out", str(tmp_path / "ranked")])
    given = pd.read_csv(tmp_path / "ranked/submission.csv")
    index = {path.stem for path in (shop / "index").rglob("*.png")}
    for cell in given.images:
        names = cell.split()
        assert len(names) == len(set(names)) == 5
        assert set(names) <= index
    assert not (tmp_path / "ranked/matches.json").exists()


def test_a_classifier_refuses_names_of_images(shop: Path, arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    fields = {"data_root": shop, "data_test_csv": "test.csv", "data_sample_submission": "sample.csv", "train_epochs": 1}
    with pytest.raises(FlukeError, match="names of images are answers of retrieve.py, after train_embedding"):
        train_classifier.main(arguments(tmp_path / "run", **fields, predict_submission="matches"))


def test_images_of_one_name_are_one_answer_by_the_most_similar() -> None:
    """Each asked name has two images; own names are first, whatever their score, and -1 stands for no image."""
    scores = np.array([[0.92, 0.9, 0.7], [0.95, 0.6, -np.inf]])
    at = np.array([[1, 0, 2], [2, 1, -1]])
    assert _answers(["q", "q"], None, ["a", "b", "c"], scores, at, -np.inf) == {"q": ["c", "b", "a"]}
    assert _answers(["q", "q"], None, ["a", "b", "c"], scores, at, 0.91) == {"q": ["c", "b"]}
    assert _answers(["q", "q"], ["b", "b"], ["a", "b", "c"], scores, at, 0.9) == {"q": ["b", "c", "a"]}
