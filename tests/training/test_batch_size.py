"""`train.batch_size: auto`."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lib.config import command_line
from lib.config.recipe import Recipe
from lib.errors import FlukeError
from lib.training.batch_size import largest_that_fits, list_batch_sizes
from lib.training.run import Run
from scripts import kfold, train_classifier

pytestmark = pytest.mark.usefixtures("no_report")


@pytest.mark.parametrize(
    ("per_step", "num_processes", "expected"),
    [(32, 1, [2, 4, 8, 16, 32]), (96, 1, [2, 4, 8, 16, 32]), (64, 4, [8, 16, 32, 64]), (32, 3, [])],
)
def test_sizes_divide_the_images_of_a_step(per_step: int, num_processes: int, expected: list[int]) -> None:
    assert list_batch_sizes(per_step, num_processes) == expected


def test_the_largest_that_fits() -> None:
    tried = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= 10

    assert largest_that_fits([2, 4, 8, 16, 32], fits) == 8
    assert tried == [2, 4, 8, 16]  # what is larger than a batch that didn't fit isn't tried
    assert largest_that_fits([16, 32], fits) is None


def written(folder: Path) -> tuple[int, int]:
    train = command_line.read_tree(str(folder / "recipe.yaml"))["train"]
    return train["batch_size"], train["accumulate"]


def test_a_cpu_takes_32_and_the_recipe_says_so(
    arguments: Callable, tmp_path: Path, capsys: pytest.CaptureFixture, killed_in_second_epoch: Callable
) -> None:
    argv = arguments(tmp_path / "run", train_batch_size="auto", train_accumulate=2)
    with killed_in_second_epoch():
        train_classifier.main(argv)
    assert "train.batch_size auto: 32, train.accumulate 2 (no GPU): 64 images per optimizer step" in capsys.readouterr().out
    assert written(tmp_path / "run") == (32, 2)
    with pytest.raises(FlukeError, match=r"train.batch_size \(now 'auto', was 32\)"):  # other images per step
        train_classifier.main([*argv, "--train.accumulate", "1", "--resume"])
    train_classifier.main([*argv, "--resume"])
    assert written(tmp_path / "run") == (32, 2)


def test_what_a_gpu_chose_stays_on_resume(
    arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_in_second_epoch: Callable
) -> None:
    def choose(recipe: Recipe, *_: object) -> Recipe:
        return choices.pop()(recipe)

    def small(recipe: Recipe) -> Recipe:
        return replace(recipe, train=replace(recipe.train, batch_size=8, accumulate=4))

    def asked(recipe: Recipe) -> Recipe:
        assert (recipe.train.batch_size, recipe.train.accumulate) == (8, 4)
        return recipe

    choices = [asked, small]
    monkeypatch.setattr("lib.pipelines.train.choose_batch_size", choose)
    argv = arguments(tmp_path / "run", train_batch_size="auto")
    with killed_in_second_epoch():
        train_classifier.main(argv)
    train_classifier.main([*argv, "--resume"])
    assert choices == []
    assert written(tmp_path / "run") == (8, 4)


def test_all_folds_have_the_same_batches(arguments: Callable, tmp_path: Path) -> None:
    kfold.main(arguments(tmp_path / "run", train_batch_size="auto", folds_n=2, train_epochs=1))
    assert {written(tmp_path / "run" / name) for name in (".", "fold0", "fold1")} == {(32, 1)}


@pytest.mark.parametrize("kind", ["classifier", "embedding"])
def test_a_network_of_all_folds_is_made_to_try(
    kind: str, arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def choose(recipe: Recipe, run: Run, make: Callable) -> Recipe:
        if recipe.train.batch_size == "auto":
            made.append(make(recipe))
            recipe = replace(recipe, train=replace(recipe.train, batch_size=8))
        return recipe

    monkeypatch.setattr("lib.pipelines.train.choose_batch_size", choose)
    fields = {"train_batch_size": "auto", "folds_n": 2, "train_epochs": 1}
    if kind == "embedding":
        fields |= {"objective_name": "arcface", "model_embedding_dim": 8, "data_sample_submission": "null"}
    kfold.main([*arguments(tmp_path / "run", **fields), "--kind", kind])
    ((network, targets),) = made
    assert network.objective is not None
    assert len(targets) == 48
