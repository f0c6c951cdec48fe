"""Samples and tables with a row per image and label, from the first recipe to the submission."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from lib.config import command_line
from lib.config.recipe import Data, Folds
from lib.errors import FlukeError
from lib.scores.score_file import load_scores
from lib.tables.loading import load_train
from scripts import prepare, train_classifier
from tests.conftest import paint

pytestmark = pytest.mark.usefixtures("no_report")
KINDS = ["epidural", "subdural", "any"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """24 training and 6 test images called ID_<number>.png."""
    for folder, n, seed in (("train", 24, 1), ("test", 6, 2)):
        for name in paint(tmp_path / "contest" / folder, ["ant", "bee", "cat"] * (n // 3), seed):
            path = tmp_path / "contest" / folder / name
            path.rename(path.with_name(f"ID_{name}"))
    return tmp_path / "contest"


def names_of(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.iterdir())


def trained(root: Path, arguments: Callable[..., list[str]], **fields: object) -> Path:
    """Train by the recipe that prepare.py writes; return the run."""
    recipe, run = root.parent / "recipe.yaml", root.parent / "run"
    if not recipe.exists():
        prepare.main([str(root), "--out", str(recipe)])
    own = arguments(run, train_epochs=1, folds_holdout=6)
    kept = [i for i in range(0, len(own), 2) if own[i] not in ("--data.root", "--data.image_dir", "--data.sample_submission")]
    more = [part for name, value in fields.items() for part in (f"--{name.replace('_', '.', 1)}", str(value))]
    train_classifier.main(["--cfg", str(recipe), *(part for i in kept for part in own[i : i + 2]), *more])
    return run


def test_a_row_per_image_and_label(root: Path, arguments: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    truth = pd.DataFrame(rng.integers(0, 2, (24, 3)), index=names_of(root / "train"), columns=KINDS)
    rows = [(f"{name}_{kind}", truth.loc[name, kind]) for name in truth.index for kind in KINDS]
    table = pd.DataFrame([*rows, rows[0]], columns=["ID", "Label"])  # as published, some rows come twice
    table.to_csv(root / "train.csv", index=False)
    asked = [f"{name}_{kind}" for kind in KINDS for name in names_of(root / "test")]
    pd.DataFrame({"ID": asked, "Label": 0.5}).to_csv(root / "sample_submission.csv", index=False)
    run = trained(root, arguments)
    assert "its 18 rows are an image and a label each (data.row_pattern): 'epidural', 'subdural', 'any'" in capsys.readouterr().out
    found = load_train(command_line.parse(command_line.make_parser(""), ["--cfg", str(run / "recipe.yaml")]).recipe.data, Folds())
    assert [set(labels) for labels in found.labels or []] == [{k for k in KINDS if truth.loc[name, k]} for name in found.names]
    given, scores = pd.read_csv(run / "submission.csv"), load_scores(run / "scores_test.npz")
    assert given.ID.tolist() == asked
    temperature = json.loads((run / "calibration.json").read_text())["temperature"]
    p = pd.DataFrame(expit(scores.logits / np.float32(temperature)), [Path(n).stem for n in scores.names], list(scores.classes))
    np.testing.assert_allclose(given.Label, [p.loc[name.rpartition("_")[0], name.rpartition("_")[2]] for name in asked], rtol=1e-5)


def test_numbers_of_a_long_table_with_other_columns(root: Path, arguments: Callable[..., list[str]]) -> None:
    names, kinds = {side: names_of(root / side) for side in ("train", "test")}, ["Clover_g", "Dead_g"]
    rows = [
        (f"{name}__{kind}", f"train/{name}.png", f"site{i // 4}", kind, 10.5 * i + k)
        for i, name in enumerate(names["train"])
        for k, kind in enumerate(kinds)
    ]
    pd.DataFrame(rows, columns=["sample_id", "image_path", "site", "target_name", "target"]).to_csv(root / "train.csv", index=False)
    asked = [(f"{name}__{kind}", f"test/{name}.png", kind) for name in names["test"] for kind in kinds]
    pd.DataFrame(asked, columns=["sample_id", "image_path", "target_name"]).to_csv(root / "test.csv", index=False)
    pd.DataFrame({"sample_id": [a for a, *_ in asked], "target": 0.0}).to_csv(root / "sample_submission.csv", index=False)
    run = trained(root, arguments)
    recipe = command_line.parse(command_line.make_parser(""), ["--cfg", str(run / "recipe.yaml")]).recipe
    assert (recipe.data.task, recipe.data.number_columns, recipe.folds.group_column) == ("number", kinds, "site")
    given, scores = pd.read_csv(run / "submission.csv"), load_scores(run / "scores_test.npz")
    of_name = dict(zip(scores.names, scores.logits))
    np.testing.assert_allclose(given.target, [value for name in names["test"] for value in of_name[name]], rtol=1e-5)
    rows[1] = (*rows[0][:-1], 99.0)
    pd.DataFrame(rows, columns=["sample_id", "image_path", "site", "target_name", "target"]).to_csv(root / "train.csv", index=False)
    with pytest.raises(FlukeError, match=r"train.csv: 1 rows repeat an image and a label with another target: line 3 \('ID_"):
        load_train(recipe.data, recipe.folds)


def test_several_targets_are_runs_that_fill_one_submission(
    root: Path, arguments: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"image_id": names_of(root / "train"), "root": rng.permutation([3, 7, 11] * 8)})
    table["vowel"] = rng.permutation([0, 1, 2] * 8)
    table.to_csv(root / "train.csv", index=False)
    asked = [f"{name}_{target}" for name in names_of(root / "test") for target in ("vowel", "root")]
    pd.DataFrame({"row_id": asked, "target": 0}).to_csv(root / "sample_submission.csv", index=False)
    pd.DataFrame({"row_id": asked, "image_id": [name[:-6] for name in asked]}).to_csv(root / "test.csv", index=False)
    run = trained(root, arguments, data_label_column="root")
    said = capsys.readouterr().out
    assert "several targets, each a run of its own: data.label_column" in said
    assert "rows of 'vowel' stay as they are: name a file that has them as data.sample_submission" in said
    first = pd.read_csv(run / "submission.csv")
    shutil.copy(run / "submission.csv", root.parent / "first.csv")
    shutil.rmtree(run)
    run = trained(root, arguments, data_label_column="vowel", data_sample_submission=root.parent / "first.csv")
    both = pd.read_csv(run / "submission.csv")
    is_root = both.row_id.str.endswith("root")
    assert both.row_id.tolist() == asked
    assert both.target[is_root].tolist() == first.target[is_root].tolist()
    assert (first.target[~is_root] == 0).all()
    assert set(first.target[is_root]) <= {3, 7, 11}
    scores = load_scores(run / "scores_test.npz")
    vowel_of = {Path(name).stem: int(scores.classes[k]) for name, k in zip(scores.names, scores.logits.argmax(axis=1))}
    assert both.target[~is_root].tolist() == [vowel_of[name.rpartition("_")[0]] for name in both.row_id[~is_root]]


def test_patterns_that_do_not_fit(root: Path) -> None:
    pd.DataFrame({"ID": [f"{name}_any" for name in names_of(root / "train")], "Label": 1}).to_csv(root / "train.csv", index=False)
    data = Data(root=str(root), image_column="ID", label_column="Label", label_columns=["any", "one"], image_dir="train")
    for pattern, said in [
        ("^(.+)_any$", "has 1 groups; it needs one of the image and one of the label"),
        ("(", "not a regular expression"),
        ("^(ID_1_00.)_(any)$", r"train.csv: 14 of 24 rows aren't called after an image and a label: 'ID_1_010_any'"),
    ]:
        with pytest.raises(FlukeError, match=said):
            load_train(replace(data, row_pattern=pattern), Folds())
