"""docs/results.md lists each key of metrics.json, cv.json, ensemble.json, final.json and metrics.jsonl, for all targets."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lib.config.metric_traits import METRICS, find_traits
from lib.metrics.registry import CORRECTED
from scripts import ensemble, kfold, probe, train_classifier, train_embedding

DOCUMENT = (Path(__file__).parents[2] / "docs" / "results.md").read_text(encoding="utf-8")
Arguments = Callable[..., list[str]]


def listed(file: str) -> set[str]:
    """Names in backticks in the tables of a file's section; those that other sections explain are named there again."""
    section = re.search(rf"## {re.escape(file)}\n(.*?)(?=\n## |\Z)", DOCUMENT, re.DOTALL)
    assert section is not None, file
    return set(re.findall(r"`([^`]+)`", section[1]))


def keys_of(value: Any, within: tuple[str, ...] = ("fitted", "heads")) -> set[str]:
    """Keys at any depth; not those that are names of classes or heads."""
    if isinstance(value, list):
        return set().union(*map(keys_of, value))
    if not isinstance(value, dict):
        return set()
    return set(value).union(*(keys_of(each) for key, each in value.items() if key not in within))


def assert_listed(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines() if path.suffix == ".jsonl" else [path.read_text(encoding="utf-8")]
    also = {"cv.json": ["metrics.json"], "metrics.jsonl": ["metrics.json"], "ensemble.json": ["cv.json", "metrics.json"]}
    names = set().union(*map(listed, [path.name, *also.get(path.name, [])]))
    for key in set().union(*(keys_of(json.loads(line)) for line in lines)):
        base = key.removesuffix(CORRECTED)
        known = find_traits(base) is not None if base == key else "NAME_corrected" in names
        assert key in names or known, f"docs/results.md, {path.name}: {key} is missing"


@pytest.mark.parametrize(
    "fields",
    [
        {"data_label_separator": " ", "objective_name": "bce", "predict_submission": "labels", "train_metric": "f2_macro"},
        {"data_task": "ordinal", "data_train_csv": "numbers.csv"},
        {"data_task": "number", "data_train_csv": "numbers.csv", "objective_name": "mse"},
        {"embedding": True, "data_new_label": "bee", "objective_name": "arcface"},
    ],
    ids=["several labels", "ordered classes", "numbers", "individuals"],
)
def test_keys_of_a_run_are_listed(
    fields: dict[str, Any], arguments: Arguments, contest: Path, tmp_path: Path, no_report: None
) -> None:
    fields = dict(fields)
    if "data_train_csv" in fields:
        table = pd.read_csv(contest / "train.csv", dtype=str)
        table["label"] = table["label"].map({"01": "0", "ant": "1", "bee": "2", "cat": "3"})
        fields["data_train_csv"] = tmp_path / "numbers.csv"
        table.to_csv(fields["data_train_csv"], index=False)
    rng = np.random.default_rng(0)
    (tmp_path / "test").mkdir()
    for i in range(26):  # enough for test_shift, as are the rows held out
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(tmp_path / "test" / f"{i}.png")
    fields |= {"data_test_dir": tmp_path / "test", "data_trusted_roots": f"[{tmp_path}]"}
    script = train_embedding if fields.pop("embedding", False) else train_classifier
    fields["folds_holdout"] = 12 if script is train_embedding else 26
    script.main(arguments(tmp_path / "run", train_epochs=1, data_sample_submission="null", **fields))
    assert ("test_shift" in json.loads((tmp_path / "run" / "metrics.json").read_text())) == (script is train_classifier)
    assert_listed(tmp_path / "run" / "metrics.json")
    assert_listed(tmp_path / "run" / "metrics.jsonl")


def test_keys_of_folds_ensembles_and_probes_are_listed(
    arguments: Arguments, tmp_path: Path, no_report: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.pipelines.folds_result.write_folds_page", lambda *_: None)
    monkeypatch.setattr("lib.pipelines.ensemble.write_ensemble_page", lambda *_: None)
    common = {"folds_n": 2, "train_epochs": 1}
    kfold.main([*arguments(tmp_path / "cv", **common), "--final"])
    for file in ("cv.json", "final/final.json", "fold0/metrics.json"):
        assert_listed(tmp_path / "cv" / file)
    ensemble.main(["--runs", str(tmp_path / "cv"), str(tmp_path / "cv"), "--method", "weighted", "--out", str(tmp_path / "both")])
    assert_listed(tmp_path / "both" / "ensemble.json")
    probe.main(["--models", "test_resnet", *arguments(tmp_path / "probe", **common)])
    assert_listed(next((tmp_path / "probe").rglob("cv.json")))


def test_ranges_that_differ_are_listed() -> None:
    head = DOCUMENT.partition("## ")[0]
    unusual = {name for name, traits in METRICS.items() if traits.range != (0.0, 1.0) or not traits.higher_is_better}
    assert unusual == set(re.findall(r"`([^`]+)`", head.partition("|---|")[2]))
