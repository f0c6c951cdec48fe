"""Every recipe is right, and those of the five reports run end to end on a tiny contest in their contest's own format."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
from PIL import Image
from timm.optim import list_optimizers

from lib.config import command_line
from lib.config.recipe import Folds, Recipe
from lib.errors import FlukeError
from lib.images import augmentation
from lib.metrics import registry
from lib.models.embedding_losses import EMBEDDING_LOSSES
from lib.models.losses import CLASSIFICATION_LOSSES
from lib.tables.loading import load_train
from lib.tables.target import IDENTITY, ONE_LABEL, SEVERAL_LABELS
from scripts import kfold, train_classifier, train_embedding

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
REPORTS = ("labels79", "fashion", "lesions", "whale_softmax_small", "whale_softmax", "leaves")
EMBEDDINGS = ("whale", "whale_strong", "digits_identity")


def read(name: str, *more: str) -> Recipe:
    return command_line.parse(
        command_line.make_parser("", recipe=True), ["--cfg", str(ROOT / "recipes" / f"{name}.yaml"), *more]
    ).recipe


# --- as text ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [path.stem for path in RECIPES])
def test_recipe_is_valid(name: str) -> None:
    recipe = read(name)
    assert recipe.model.name in timm.list_models() + timm.list_models(pretrained=True)
    assert recipe.optim.name in list_optimizers()
    augmentation.make_train_transform(recipe.data)
    if name in EMBEDDINGS:
        target = IDENTITY
    else:
        target = SEVERAL_LABELS if recipe.data.label_separator else ONE_LABEL
    fitting = EMBEDDING_LOSSES if target is IDENTITY else CLASSIFICATION_LOSSES[target.name]
    assert {recipe.objective.name, *recipe.objective.also} <= set(fitting)
    if recipe.train.metric != "auto":
        registry.resolve_metric(recipe.train.metric, target)


def test_every_report_has_its_recipe_and_a_stronger_one() -> None:
    assert set(REPORTS) | {"whale"} <= {path.stem for path in RECIPES}
    assert {f"{name}_strong" for name in ("labels79", "fashion", "lesions", "whale", "leaves")} <= {path.stem for path in RECIPES}
    for path in RECIPES:
        assert path.read_text().startswith("# "), path
        assert "scripts/train_" in path.read_text() or "scripts/kfold" in path.read_text() or "make demo" in path.read_text(), path


# --- end to end -------------------------------------------------------------------------------------------------------------------


def paint(folder: Path, names: list[str], labels: list[str]) -> None:
    """A 24 px picture a name, its colour that of its label."""
    for i, (name, label) in enumerate(zip(names, labels)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        hue = np.random.default_rng(sum(map(ord, label))).integers(40, 216, 3)
        pixels = np.clip(hue + np.random.default_rng(i).normal(0, 50, (24, 24, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name)


def flat(
    root: Path, train_names: list[str], labels: list[str], test_names: list[str], columns: tuple[str, str], answer: str
) -> None:
    """train.csv and sample_submission.csv."""
    pd.DataFrame({columns[0]: train_names, columns[1]: labels}).to_csv(root / "train.csv", index=False)
    pd.DataFrame({columns[0]: test_names, columns[1]: answer}).to_csv(root / "sample_submission.csv", index=False)


def make_labels79(root: Path) -> None:
    codes = [f"{i:02d}{letter}" for i in range(1, 21) for letter in "ABCD"][:79]
    labels = [" ".join(codes[(i * 3 + k * 17) % 79] for k in range(1 + i % 4)) for i in range(80)]
    train, test = [f"{i}.jpg" for i in range(80)], [f"t{i}.jpg" for i in range(7)]
    paint(root / "images", train + test, labels + ["?"] * 7)
    flat(root, train, labels, test, ("image", "labels"), "01A")
    scores = pd.DataFrame(0.5, index=range(7), columns=sorted({code for text in labels for code in text.split()}))
    scores.insert(0, "image", test)
    scores.to_csv(root / "sample_submission.csv", index=False)


def make_fashion(root: Path) -> None:
    labels = [f"Kind {i % 20}" for i in range(40)] + ["Kind 0"] * 8  # imbalanced
    train, test = [f"images/{i}.jpg" for i in range(48)], [f"images/t{i}.jpg" for i in range(5)]
    paint(root, train + test, labels + ["?"] * 5)
    flat(root, train, labels, test, ("image", "label"), "Kind 3")
    pd.DataFrame({"image": test}).to_csv(root / "test.csv", index=False)


def make_fashion_flat(root: Path) -> None:
    """Image names relative to image_dir, as recipes/fashion.yaml has them."""
    make_fashion(root)
    for name in ("train", "test", "sample_submission"):
        table = pd.read_csv(root / f"{name}.csv")
        table["image"] = table["image"].str.removeprefix("images/")
        table.to_csv(root / f"{name}.csv", index=False)


def make_lesions(root: Path) -> None:
    kinds = {"nevus": 10, "basal cell carcinoma": 10, "melanoma": 12, "actinic keratosis": 4, "pigmented benign keratosis": 12}
    for kind, n in kinds.items():
        paint(root / "train" / kind, [f"{kind[:3]}{i}.jpg" for i in range(n)], [kind] * n)
    test = [f"ISIC_{i}.jpg" for i in range(6)]
    paint(root / "test", test, ["?"] * 6)
    pd.DataFrame({"name": test, "label": "nevus"}).to_csv(root / "sample_submission.csv", index=False)


def make_whales(root: Path) -> None:
    sizes = {"w_a": 18, "w_b": 17, "w_c": 15, **{f"w_{i}": 1 + i % 3 for i in range(12)}, "new_whale": 25}
    labels = [name for name, n in sizes.items() for _ in range(n)]
    train = [f"{i:08x}.jpg" for i in range(len(labels))]
    train[labels.index("w_a") + 2] = "496b52ff.jpg"
    test = [f"f{i:07x}.jpg" for i in range(6)]
    paint(root / "train", train, labels)
    paint(root / "test", test, ["?"] * 6)
    order = np.random.default_rng(0).permutation(len(labels))
    flat(root, [train[i] for i in order], [labels[i] for i in order], test, ("Image", "Id"), "new_whale w_a w_b w_c w_1")


# The recipe's 180 px of 224 are more than the whole of a small picture.
CROPPED = ("--data.augment", "[{RandomRotation: {degrees: 180}}, {CenterCrop: {size: 26}}]")
MAKERS: dict[str, Callable[[Path], None]] = {
    "labels79": make_labels79,
    "fashion": make_fashion_flat,
    "lesions": make_lesions,
    "whale": make_whales,
    "leaves": make_fashion,
}


def small(name: str, root: Path, out: Path, *more: str) -> list[str]:
    """The recipe as it is, but for the network, the sizes and the length of the job."""
    fields = {"data.root": root, "data.size": 32, "data.eval_size": 32, "data.workers": 0, "data.check": "header"}
    fields |= {"model.name": "test_resnet", "model.pretrained": "false", "model.kwargs": "{}", "train.epochs": 1}
    fields |= {"train.batch_size": 8, "train.log_with": "[]"}
    found = ["--cfg", str(ROOT / "recipes" / f"{name}.yaml"), "--out", str(out)]
    for field, value in fields.items():
        found += [f"--{field}", str(value)]
    return [*found, *more]


@pytest.fixture
def contest(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # recipes name caches and earlier runs relative to where one is
    root = tmp_path / "contest"
    root.mkdir()
    MAKERS[request.param](root)
    return root


@pytest.mark.parametrize(
    ("contest", "name", "more"),
    [
        ("labels79", "labels79", ("--folds.holdout", "20")),
        ("lesions", "lesions", (*("--train.epochs", "2", "--optim.freeze_epochs", "1"), *CROPPED)),
        pytest.param("labels79", "labels79_strong", ("--folds.holdout", "20"), marks=pytest.mark.slow),
        pytest.param("fashion", "fashion_strong", (), marks=pytest.mark.slow),
        pytest.param("lesions", "lesions_strong", (), marks=pytest.mark.slow),
        pytest.param("leaves", "leaves_strong", (), marks=pytest.mark.slow),
    ],
    indirect=["contest"],
)
def test_recipe_runs_to_a_submission(contest: Path, name: str, more: tuple[str, ...], tmp_path: Path) -> None:
    found = train_classifier.main(small(name, contest, tmp_path / "run", *more))
    assert found["metric"] == read(name).train.metric
    sample, written = pd.read_csv(contest / "sample_submission.csv"), pd.read_csv(tmp_path / "run" / "submission.csv")
    assert list(written.columns) == list(sample.columns)
    assert list(written.iloc[:, 0]) == list(sample.iloc[:, 0])
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize(("contest", "name"), [("fashion", "fashion"), ("leaves", "leaves")], indirect=["contest"])
def test_recipe_of_folds_runs_to_a_submission(contest: Path, name: str, tmp_path: Path) -> None:
    kfold.main(small(name, contest, tmp_path / "run", "--folds.n", "2"))
    assert len(pd.read_csv(tmp_path / "run" / "submission.csv")) == 5
    assert (tmp_path / "run" / "cv.json").exists()


@pytest.mark.parametrize("contest", ["whale"], indirect=True)
def test_whales_small_problem_first_then_all_names(contest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = load_train(read("whale_softmax_small", "--data.root", str(contest)).data, Folds())
    assert table.counts() == {"w_a": 17, "w_b": 17, "new_whale": 18}  # over 15 images; the ship is gone; 18 of new_whale
    first = pd.read_csv(contest / "train.csv").query("Id == 'new_whale'")["Image"][:18]
    assert set(first) == {name for name, (label,) in zip(table.names, table.labels) if label == "new_whale"}
    thaw = ("--train.epochs", "2", "--optim.freeze_epochs", "1")
    train_classifier.main(small("whale_softmax_small", contest, tmp_path / "runs" / "whale_softmax_small", *thaw))
    capsys.readouterr()
    train_classifier.main(small("whale_softmax", contest, tmp_path / "runs" / "all"))
    assert "new head; left out 1: head (of other classes)" in capsys.readouterr().out
    written = pd.read_csv(tmp_path / "runs" / "all" / "submission.csv")
    assert [len(set(ids.split())) for ids in written["Id"]] == [5] * 6


@pytest.mark.parametrize("name", ["whale", pytest.param("whale_strong", marks=pytest.mark.slow)])
@pytest.mark.parametrize("contest", ["whale"], indirect=True)
def test_whales_as_individuals(contest: Path, name: str, tmp_path: Path) -> None:
    found = train_embedding.main(small(name, contest, tmp_path / "run", "--model.embedding_dim", "16"))
    assert found["metric"] == "map@5"
    assert 0 <= found["map@5"] <= 1


@pytest.mark.parametrize("contest", ["leaves"], indirect=True)
def test_second_model_for_the_classes_that_the_first_confuses(contest: Path, tmp_path: Path) -> None:
    only = ("--data.only_classes", "[Kind 3, Kind 0, Kind 7]")
    table = load_train(read("leaves", "--data.root", str(contest), *only).data, Folds())
    assert table.classes == ("Kind 0", "Kind 3", "Kind 7")
    assert table.counts() == {"Kind 0": 10, "Kind 3": 2, "Kind 7": 2}
    with pytest.raises(FlukeError, match=r"data.only_classes: .*train.csv has no class 'Kind 33'; did you mean Kind 3"):
        load_train(read("leaves", "--data.root", str(contest), "--data.only_classes", "[Kind 3, Kind 33]").data, Folds())
    with pytest.raises(FlukeError, match=r"data.only_classes, min_images and take are for one label per image"):
        read("labels79", *only)


# --- the real contests ------------------------------------------------------------------------------------------------------------

REAL = {  # recipe: where ../shared/data keeps a contest of its kind
    "labels79": {
        "root": ".",
        "train_csv": "fashion79/train.csv",
        "sample_submission": "fashion79/sample_submission.csv",
        "image_dir": "fashion",
    },
    "fashion": {
        "root": ".",
        "train_csv": "fashion20/train.csv",
        "test_csv": "fashion20/test.csv",
        "sample_submission": "fashion20/sample_submission.csv",
        "image_dir": "fashion",
    },
    "lesions": {"root": "lesion5"},
    "whale_softmax_small": {"root": "nyala", "drop_images": "[]", "take": "{new_nyala: 18}"},
    "whale": {"root": "nyala", "drop_images": "[]", "new_label": "new_nyala"},
    "leaves": {"root": "grocery81"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(REAL))
def test_dry_run_on_a_real_contest(name: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fields = dict(REAL[name])
    argv = small(name, shared / "data" / fields.pop("root"), tmp_path / "run", "--train.limit_rows", "40", "--folds.holdout", "0.2")
    for field, value in fields.items():
        argv += [f"--data.{field}", value]
    script = train_embedding if name == "whale" else train_classifier
    more = {"whale": ["--model.embedding_dim", "16"], "whale_softmax_small": ["--data.min_images", "8"], "lesions": CROPPED}.get(
        name, []
    )
    assert script.main([*argv, *more])["rows"] <= 40
