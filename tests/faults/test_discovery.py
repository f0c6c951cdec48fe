"""Bad input to discover.py: one sentence each (see test_before_training.py)."""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from scripts import discover, train_classifier, train_embedding
from tests.faults.test_before_training import ROOT, Case, is_one_sentence

pytestmark = pytest.mark.usefixtures("no_report")
RUN = "--run emb"


def no_change(_: Path) -> None:
    """Leave the folder as it is."""


def table(name: str, **columns: list[str]) -> Callable[[Path], None]:
    """Write a table of these columns."""
    return lambda root: pd.DataFrame(columns).to_csv(root / name, index=False)


def earlier_answer(root: Path) -> None:
    """Write an answer of an earlier time without its clusters."""
    (root / "full").mkdir()
    (root / "full" / "clusters.csv").write_text("image\n")


def labels(change: Callable[[pd.Series], pd.Series]) -> Callable[[Path], None]:
    """Write other.csv, the training table with other labels."""

    def apply(root: Path) -> None:
        found = pd.read_csv(root / "own" / "train.csv", dtype=str)
        found.assign(label=change(found["label"])).to_csv(root / "own" / "other.csv", index=False)

    return apply


IMAGES = [f"2_{i:03d}.png" for i in range(13)]
OTHER = f"{RUN} --data.train_csv other.csv"


def case(argv: str, what: str, says: str, change: Callable[[Path], None] = no_change) -> tuple[Case, str]:
    return Case(what, says, change, discover), argv


CASES = [
    case("--run none", "a run that isn't there", "--run none: lacks recipe.yaml"),
    case("", "no run at all", "runs: no embedding run there"),
    case("--run single", "a classifier to discover with", "--run single: a classifier, not an embedding"),
    case("--run emb --model test_resnet", "a run and a model", "--model: takes the place of --run; give one of them"),
    case("--weights a.pth", "weights without a model", "--weights: are those of --model; name the network with it"),
    case(
        "--model resnett18 --data.root own --data.image_dir images",
        "a network that timm doesn't have, to discover with",
        "timm has no such model; did you mean resnet18?",
    ),
    case(f"{RUN} --queries none", "a folder to group that isn't there", "none: No such file or directory"),
    case(
        f"{RUN} --queries empty",
        "a folder to group without images",
        "empty: holds no images (0 other files)",
        lambda root: (root / "empty").mkdir(),
    ),
    case(f"{RUN} --data.sample_submission null", "no images to group", "The recipe names no test images"),
    case(
        f"{RUN} --retrieval.part_column kind",
        "a column of parts that isn't there",
        "has no column 'kind' (retrieval.part_column) among image, label",
    ),
    case(
        f"{RUN} --retrieval.orientation_column side",
        "a column of flanks that isn't there",
        "has no column 'side' (retrieval.orientation_column) among image, label",
    ),
    case(f"{RUN} --retrieval.encounters none.csv", "encounters that aren't there", "own/none.csv: No such file or directory"),
    case(
        f"{RUN} --retrieval.encounters ../met.csv",
        "encounters without some images",
        "has no row for 44 of 44 images: '1_000.png'",
        table("met.csv", image=IMAGES[:1], met=["a"]),
    ),
    case(
        f"{RUN} --retrieval.photographs ../p.csv",
        "photographs of one column",
        "needs two columns (found: ['image'])",
        table("p.csv", image=IMAGES),
    ),
    case(
        f"{OTHER}",
        "no individual with a name",
        "1 of 1 classes are left",
        labels(lambda column: column.mask(column == column, "01")),
    ),
    case(
        f"{OTHER}",
        "one individual with a name",
        "other.csv: names 1 individual; grouping others needs at least 2",
        labels(lambda column: column.mask(column != "01", "ant")),
    ),
    case(f"{RUN} --apply none.csv", "decisions that aren't there", "none.csv: No such file or directory"),
    case(
        f"{RUN} --apply d.csv",
        "decisions without an answer",
        "d.csv: has no column 'answer'",
        table("d.csv", first=["a"], second=["b"]),
    ),
    case(
        f"{RUN} --apply d.csv",
        "a decision that is none",
        "d.csv, line 2: no answer 'maybe'; same, different and unsure are",
        table("d.csv", first=["a"], second=["b"], answer=["maybe"]),
    ),
    case(
        f"{RUN} --apply d.csv",
        "decisions on other images",
        "d.csv: 2 images are neither asked nor labelled: 'a', 'b'",
        table("d.csv", first=["a"], second=["b"], answer=["same"]),
    ),
    case(
        f"{RUN} --retrieval.local sift --retrieval.local_masks none",
        "masks that aren't there",
        "own/none: no such folder of masks; correct retrieval.local_masks",
    ),
    case(f"{RUN} --out full", "an earlier answer without clusters", "full/clusters.csv: has no column 'cluster'", earlier_answer),
]


@pytest.fixture(scope="module")
def runs(contest: Path, arguments: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a contest (own) and finished runs on it: single, a classifier, and emb, an embedding."""
    root = tmp_path_factory.mktemp("discovery")
    shutil.copytree(contest, root / "own")
    tiny = {"train_epochs": 1, "data_root": "own"}
    embedding = {"train_metric": "recall@1", "objective_name": "arcface", "folds_unknown": 0.25, "data_new_label": "01"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lib.pipelines.run_result.write_run_page", lambda *_: None)
        patch.chdir(root)
        train_classifier.main(arguments(Path("single"), **tiny))
        train_embedding.main(arguments(Path("emb"), **tiny, **embedding, model_embedding_dim=8))
    return root


@pytest.mark.parametrize(("case", "argv"), CASES, ids=[case.what for case, _ in CASES])
def test_bad_input_to_discover_is_one_sentence(case: Case, argv: str, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert callable(case.change)
    monkeypatch.chdir(runs)
    case.change(runs)
    is_one_sentence(case, shlex.split(argv))


def test_discover_ends_with_exit_code_2(tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "scripts" / "discover.py"), "--weights", "a.pth"]
    found = subprocess.run(script, capture_output=True, text=True, cwd=tmp_path)
    assert found.returncode == 2
    assert found.stderr.splitlines()[-1].startswith("error: --weights: are those of --model")
    assert "Traceback" not in found.stderr + found.stdout
