"""Search spaces for tune.py."""

from pathlib import Path

import pytest

from lib.config.recipe import Optim, Recipe
from lib.config.space import Choices, Range, change_recipe, contains, read_space
from lib.errors import FlukeError

GOOD = """
optim.lr: {low: 1.0e-5, high: 1.0e-2, log: true}
train.batch_size: {low: 8, high: 64, step: 8}
model.dropout: {low: 0, high: 0.5}
model.name: [resnet18, resnet34]
data.augment: [[], [RandomHorizontalFlip]]
objective.scale: [null, 16.0]
"""


def write(folder: Path, text: str) -> str:
    (folder / "space.yaml").write_text(text)
    return str(folder / "space.yaml")


def test_a_space_holds_choices_and_ranges(tmp_path: Path) -> None:
    space = read_space(write(tmp_path, GOOD), Recipe())
    assert space["optim.lr"] == Range(1e-5, 1e-2, log=True)
    assert space["train.batch_size"] == Range(8, 64, step=8, whole=True)
    assert not space["model.dropout"].whole  # the field's values are no whole numbers, though the bound is written as one
    assert space["data.augment"] == Choices(([], ["RandomHorizontalFlip"]))
    inside = {"optim.lr": 1e-3, "train.batch_size": 24, "model.dropout": 0, "model.name": "resnet34", "objective.scale": None}
    outside = {"optim.lr": 0.02, "train.batch_size": 20, "model.dropout": True, "model.name": "resnet50", "objective.scale": 1}
    assert all(contains(space[field], value) for field, value in inside.items())
    assert not any(contains(space[field], value) for field, value in outside.items())


def test_values_are_put_into_a_recipe() -> None:
    recipe = Recipe(optim=Optim(lr=0.5))
    changed = change_recipe(recipe, {"train.batch_size": 7, "data.augment": []})
    assert (changed.optim.lr, changed.train.batch_size, changed.data.augment, recipe.train.batch_size) == (0.5, 7, [], 32)
    with pytest.raises(FlukeError, match="train.batch_size: expected a whole number"):
        change_recipe(recipe, {"train.batch_size": 0.5})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected fields with their domains"),
        ("- optim.lr", "expected fields with their domains"),
        ("a: [", "not YAML"),
        ("optim.lrr: [1, 2]", "unknown field optim.lrr; did you mean optim.lr?"),
        ("optim.lr: 3", r"optim.lr: expected choices \[a, b\] or a range {low: a, high: b} \(found 3\)"),
        ("optim.lr: [0.1]", "optim.lr: expected two or more different choices"),
        ("optim.lr: [0.1, 0.1]", "optim.lr: expected two or more different choices"),
        ("optim.lr: [0.1, fast]", r"optim.lr: expected a number > 0 \(found fast\)"),
        ("optim.lr: {low: 0.1, height: 1}", r"a range has low, high, log and step \(found height\)"),
        ("optim.lr: {low: 0.1}", r"optim.lr: high has to be a number \(found null\)"),
        ("optim.lr: {low: 0.1, high: 0.1}", r"optim.lr: the range is empty \(low 0.1, high 0.1\)"),
        ("optim.lr: {low: 0, high: 0.1}", r"optim.lr: expected a number > 0 \(found 0\)"),
        ("optim.lr: {low: 0.1, high: 1, log: maybe}", r"optim.lr: log has to be true or false \(found maybe\)"),
        ("model.dropout: {low: 0, high: 0.1, log: true}", "a logarithmic range has a low above 0 and no step"),
        ("train.batch_size: {low: 8, high: 64.5}", r"train.batch_size: expected a whole number >= 1 or auto \(found 64.5\)"),
        ("train.batch_size: {low: 8, high: 64, step: 0.5}", r"step has to be above 0, and whole \(found 0.5\)"),
        ("model.name: {low: 1, high: 2}", "model.name isn't a number, so that it needs choices"),
        ("folds.seed: [1, 2]", "folds.seed can't be tuned, because scores of trials"),
        ("data.min_images: [1, 2]", "data.min_images can't be tuned"),
        ("train.metric: [accuracy, loss]", "train.metric can't be tuned"),
        ("optim.lrr: [1, 2]\nfolds.n: [2, 3]", "unknown field optim.lrr.*; folds.n can't be tuned"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(FlukeError, match=says) as caught:
        read_space(write(tmp_path, text), Recipe())
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FlukeError, match="none.yaml: can't be read"):
        read_space(str(tmp_path / "none.yaml"), Recipe())
