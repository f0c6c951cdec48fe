"""Training an embedding: who is held out, what a batch holds, mirrored individuals, strangers as negatives, centres, resume."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file
from scipy.stats import binomtest

from lib.config import command_line
from lib.config.recipe import Folds, Model, Recipe
from lib.errors import FlukeError
from lib.images.augmentation import ResizeToSquare, make_eval_transform
from lib.images.dataset import ImageDataset
from lib.images.samplers import ClassGroupOrder
from lib.models.embedding_losses import make_embedding_loss
from lib.models.network import Network, NetworkSpec
from lib.pipelines.embed import load_class_centres
from lib.pipelines.run_tables import make_dataset
from lib.retrieval.class_centres import make_class_centres
from lib.run_folder import RunFolder
from lib.scores import score_file
from lib.tables.splits import split_identities
from lib.tables.table import Table
from lib.tables.target import IDENTITY, ONE_LABEL
from lib.training import checkpoint, loop
from lib.training.inference import InferenceOptions, predict
from lib.training.tasks import EmbeddingTask, class_centres
from scripts import train_embedding


def made(labels: list[str], groups: list[str] | None = None, folder: Path = Path()) -> Table:
    names = [f"{i}.png" for i in range(len(labels))]
    classes = tuple(sorted(set(labels)))
    rows = np.arange(len(labels))
    in_groups = None if groups is None else np.array(groups)
    return Table(rows, names, [folder / name for name in names], [(label,) for label in labels], classes, in_groups, ONE_LABEL)


def recipe(**fields: object) -> Recipe:
    argv = [text for name, value in fields.items() for text in (f"--{name.replace('_', '.', 1)}", str(value))]
    return command_line.parse(command_line.make_parser(""), argv).recipe


# --- who is held out --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("keep_new", [False, True])
def test_strangers_and_sightings_are_never_on_both_sides(seed: int, keep_new: bool) -> None:
    rng = np.random.default_rng(seed)
    labels = [str(name) for name in rng.choice([*"abcdefghij", "new"], 90)]
    # a sighting may hold two animals, one of them a stranger
    groups = [f"{label}{rng.integers(4)}" if rng.random() < 0.8 else f"mixed{rng.integers(6)}" for label in labels]
    table = made(labels, groups)
    training, asked = split_identities(table, Folds(unknown=0.3, holdout=0.2, seed=seed), "new", keep_new)
    assert not set(training) & set(asked)
    assert sorted([*training, *asked]) == list(range(90))
    assert not set(table.groups[training]) & set(table.groups[asked])
    people = set(labels) - {"new"}
    on = {
        label: {"train" if i in set(training) else "asked" for i in range(90) if labels[i] == label} for label in {*people, "new"}
    }
    strangers = {label for label in people if on[label] == {"asked"}}
    assert len(strangers) >= 3  # 30% of ten, and whoever shares all sightings with them
    assert ("train" in on["new"]) == keep_new
    known = [i for i in asked if labels[i] in people - strangers]
    assert known, "somebody known is asked about, too"


# --- batches ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("singles", ["once", "repeat", "drop"])
@pytest.mark.parametrize("seed", range(5))
def test_class_batches(singles: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets = np.repeat(np.arange(30), rng.choice([1, 1, 2, 3, 5, 9], 30))
    targets = rng.permutation(np.concatenate([targets, [-1] * 7]))
    images = Counter(targets.tolist())
    order, again = (ClassGroupOrder(targets, 4, 16, singles, seed) for _ in range(2))
    for epoch in range(4):
        rows = order(epoch)
        np.testing.assert_array_equal(rows, again(epoch))  # on every rank, whatever was asked before
        np.testing.assert_array_equal(rows, order(epoch))
        assert len(rows) == order.n
        assert len(rows) % 16 == 0
        wanted = {label for label in images if label >= 0 and (images[label] > 1 or singles != "drop")}
        assert {targets[row] for row in rows if targets[row] >= 0} == wanted
        for batch in rows.reshape(-1, 16):
            for row, times in Counter(batch.tolist()).items():
                single = images[targets[row]] == 1 and targets[row] >= 0
                if not (singles == "repeat" and single):
                    # an epoch's first groups fill its last batch up: only there may one come twice
                    assert times == 1 or batch is rows.reshape(-1, 16)[-1] or len(rows) == 16
    assert not np.array_equal(order(0), order(1))


def test_batches_hold_k_images_of_a_class() -> None:
    targets = np.repeat(np.arange(12), 8)
    rows = ClassGroupOrder(targets, 4, 16, "once", 3)(0)
    for batch in rows.reshape(-1, 16):
        assert set(Counter(targets[batch].tolist()).values()) <= {4, 8}
    assert sorted(rows) == list(range(96))  # every image once


def test_no_class_with_two_images_is_said() -> None:
    with pytest.raises(FlukeError, match=r"train\.singles"):
        ClassGroupOrder(np.arange(5), 4, 8, "drop", 0)


# --- mirrored individuals, strangers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("also", ["{}", "{supcon: 0.5}"])
def test_loss_over_pairs_says_when_batches_hold_none(also: str) -> None:
    pairs, singles = made([c for c in "abcdefghijkl" for _ in range(2)]), made(list("abcdefghijkl"))
    settings = {"objective_name": "triplet", "objective_also": also, "train_batch_size": 6}
    note = EmbeddingTask(recipe(**settings), pairs, pairs).note_on_order()
    assert note is not None
    assert "of the images share a batch of 6 with another one of theirs; train.sampler pk" in note
    for silent in ({"train_sampler": "pk", "train_images_per_class": 2}, {"train_batch_size": 24}, {"objective_name": "arcface"}):
        if also == "{}" or "objective_name" not in silent:
            assert EmbeddingTask(recipe(**{**settings, **silent}), pairs, pairs).note_on_order() is None
    for sampler in ("shuffle", "pk"):
        with pytest.raises(FlukeError, match=r"objective triplet: .* none has two training images; use a loss with class centres"):
            EmbeddingTask(recipe(**settings, train_sampler=sampler), singles, singles).note_on_order()
    repeated = {"train_sampler": "pk", "train_singles": "repeat"}
    assert EmbeddingTask(recipe(**settings, **repeated), singles, singles).note_on_order() is None


def test_mirrored_individuals_are_others_unflipped_at_retrieval(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (6, 32, 32, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    r = recipe(data_mirror_identities=True, data_augment="[]", data_new_label="new", data_size=32, objective_name="arcface")
    table = made(["a", "a", "b", "b", "c", "new"], folder=tmp_path)
    task = EmbeddingTask(r, table, table.take([2]))
    assert task.classes == ("a", "b", "c")
    assert task.targets.tolist() == [0, 0, 1, 1, 2, -1, 3, 3, 4, 4, 5, -1]
    images = make_dataset(r, table, make_eval_transform(r.data), task.targets)
    assert len(images) == 12
    for i in range(6):
        upright, flipped = images[0, i, 0], images[0, i + 6, 0]
        torch.testing.assert_close(flipped[0], upright[0].flip(-1), rtol=0, atol=0)
        assert (upright[1], flipped[1]) == (task.targets[i], task.targets[i + 6])
    assert task.val.names == ["0.png", "1.png", "2.png", "3.png", "4.png", "2.png"]  # named ones, then who is asked about
    shown = make_dataset(r, task.val, make_eval_transform(r.data))
    assert len(shown) == 6
    objective = task.make_loss(8)
    assert objective.centres().shape == (6, 8)
    found = class_centres(objective, r, task.classes)
    assert found is not None
    assert found.classes == task.classes
    np.testing.assert_array_equal(found.vectors, objective.centres()[:3].numpy())


def test_mirror_sets_both_flanks_side_by_side(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    spec = NetworkSpec(Model(name="test_resnet", embedding_dim=4), ("a", "b"), IDENTITY, 32, "squash")
    network, accelerator = Network(spec).eval(), Accelerator(cpu=True)
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    upright, mirrored = ResizeToSquare(32, "squash"), lambda x: ResizeToSquare(32, "squash")(x).flip(-1)
    alone = [
        predict([network], ImageDataset(paths, which), accelerator, InferenceOptions(2, 0))[0] for which in (upright, mirrored)
    ]
    beside = predict([network], ImageDataset(paths, upright), accelerator, InferenceOptions(2, 0, ("mirror",)))[0]
    assert beside.shape == (3, 8)
    cosines = [half @ half.T for half in alone]
    np.testing.assert_allclose(beside @ beside.T, np.mean(cosines, axis=0), atol=1e-5)


def test_centres_for_both_flanks_score_the_mean_of_each_flanks_best() -> None:
    rng = np.random.default_rng(0)
    weights, queries = rng.normal(size=(2 * 3 * 2, 5)), rng.normal(size=(7, 2, 5))  # 3 individuals, 2 sub-centres, then mirrored
    unit, looks = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (weights, queries))
    found = make_class_centres(weights, ("a", "b", "c"), mirrored=True, mirror_tta=True)
    centres = found.vectors / np.linalg.norm(found.vectors, axis=1, keepdims=True)
    got = (looks.reshape(7, 10) / np.sqrt(2) @ centres.T).reshape(7, 3, -1).max(axis=2)
    for q in range(7):
        for c in range(3):
            flanks = [max(looks[q, flank] @ unit[6 * flank + 2 * c + j] for j in range(2)) for flank in range(2)]
            assert got[q, c] == pytest.approx(np.mean(flanks))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"predict_tta": "[mirror]"}, "mirror needs data.mirror_identities"),
        (
            {"predict_tta": "[hflip]", "data_mirror_identities": True, "data_augment": "[]"},
            "excludes hflip and hvflip in predict.tta; use mirror",
        ),
    ],
)
def test_flips_that_contradict_the_recipe_are_refused(fields: dict, words: str) -> None:
    with pytest.raises(FlukeError, match=words):
        recipe(**fields)


def test_rows_of_the_new_label_push_others_away_and_attract_nobody() -> None:
    torch.manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(8, 6), dim=1)
    targets = np.array([0, 0, 1, 1, -1, -1, -1, -1])
    for name in ("triplet", "multi_similarity", "contrastive", "supcon"):
        objective = make_embedding_loss(recipe(objective_name=name).objective, targets, 2, 6)
        alone = torch.from_numpy(np.array([0, 0, 1, 1, 2, 3, 4, 5]))  # the same, as individuals of one image each
        torch.testing.assert_close(objective(x, torch.from_numpy(targets)), objective(x, alone))
    arcface = make_embedding_loss(recipe(objective_name="arcface").objective, targets, 2, 6)
    torch.testing.assert_close(arcface(x, torch.from_numpy(targets)), arcface(x[:4], torch.from_numpy(targets[:4])))
    assert arcface(x[4:], torch.from_numpy(targets[4:])).item() == 0


def test_intervals_of_queries_draw_individuals_whole() -> None:
    """Ten individuals with four alike queries each, half of them found: 40 rows know no more than ten."""
    rng = np.random.default_rng(0)
    own = np.eye(20, dtype=np.float32)
    of_query = np.repeat(np.arange(10), 4)
    asked = own[np.where(of_query % 2, of_query, of_query + 10)] + 0.01 * rng.normal(size=(40, 20)).astype(np.float32)
    training = made([f"{i:02}" for i in range(20)], [f"before{i}" for i in range(20)])
    labels = [f"{i:02}" for i in of_query]
    for sightings in ([f"sighting{i}" for i in of_query], [str(row) for row in range(40)]):
        task = EmbeddingTask(recipe(train_metric="recall@1"), training, made(labels, sightings))
        evaluation = task.evaluate(np.concatenate([own, asked]), task.make_loss(20))
        assert evaluation.metrics["recall@1"] == 0.5
        low, high = evaluation.interval()
        exact = binomtest(5, 10).proportion_ci(method="exact")
        assert high - low == pytest.approx(exact.high - exact.low, rel=0.15)


def test_one_individual_is_refused() -> None:
    with pytest.raises(FlukeError, match="an embedding needs at least two"):
        EmbeddingTask(recipe(data_new_label="new"), made(["a", "a", "new"]), made(["a"]))


# --- runs -------------------------------------------------------------------------------------------------------------------------

RUN: dict[str, object] = {
    "train_epochs": 2,
    "train_batch_size": 8,
    "train_sampler": "pk",
    "train_images_per_class": 2,
    "train_ema": 0.9,
    "train_save_minutes": 1e-9,
    "data_new_label": "bee",
    "data_new_rows": "negatives",
    "data_mirror_identities": True,
    "data_augment": "[{RandomResizedCrop: {size: 32}}]",
    "model_embedding_dim": 8,
    "model_dropout": 0.2,
    "objective_name": "arcface",
    "objective_also": "{triplet: 0.5}",
    "folds_unknown": 0.3,
}
FINAL = ("best/model.safetensors", "metrics.json", "scores_val.npz", "scores_test.npz")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, arguments: Callable[..., list[str]]) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "KEEP", 99)
        train_embedding.main(arguments(out, **RUN))
    return out


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.mark.parametrize("nth", [3, 8])
def test_cut_in_mid_epoch_and_resumed_is_identical(
    nth: int, whole: Path, arguments: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv, calls, real = arguments(tmp_path / "run", **RUN), [0], loop.schedule_factor

    def dying(*args: object) -> float:
        calls[0] += 1
        if calls[0] == nth:
            raise Killed
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "schedule_factor", dying)
        with pytest.raises(Killed):
            train_embedding.main(argv)
    train_embedding.main([*argv, "--resume"])
    for name in FINAL:
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes(), name


def test_centres_are_trained_saved_and_read_back(whole: Path, arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    r = command_line.parse(command_line.make_parser(""), ["--cfg", str(whole / "recipe.yaml")]).recipe
    found = load_class_centres(RunFolder(whole), r)
    states = [load_file(path / "ema.safetensors") for path in sorted((whole / "last").iterdir())]
    weights = [state["objective.parts.arcface.loss.W"] for state in states]
    assert not torch.equal(weights[0], weights[-1])  # optimised, and averaged with the rest
    best = load_file(whole / "best" / "model.safetensors")["objective.parts.arcface.loss.W"]
    assert found is not None
    assert best.shape == (8, 2 * len(found.classes))
    assert "bee" not in found.classes
    np.testing.assert_array_equal(found.vectors, best.T[: len(found.classes)].numpy())


def test_a_new_label_that_no_image_has_is_noted(arguments: Callable[..., list[str]], tmp_path: Path, capsys) -> None:
    train_embedding.main(arguments(tmp_path / "run", **(RUN | {"data_new_label": "bees", "train_epochs": 1})))
    assert "note: no training image has the label 'bees' (data.new_label); did you mean bee?" in capsys.readouterr().out


def test_every_row_is_shown_once(whole: Path) -> None:
    val = score_file.load_scores(whole / "scores_val.npz")
    labels = [label for (label,) in val.labels or []]
    queries = val.source["queries"]
    assert 0 < queries < len(labels)
    assert "bee" not in labels[:-queries]
    np.testing.assert_allclose(np.linalg.norm(val.logits, axis=1), 1, atol=1e-5)


def test_embeddings_get_no_temperature(arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    fields = {"objective_name": "arcface", "model_embedding_dim": 2, "data_sample_submission": "null", "train_epochs": 1}
    result = train_embedding.main(arguments(tmp_path / "run", **fields))  # with fewer dimensions than classes
    assert not (tmp_path / "run" / "calibration.json").exists()
    assert "ece" not in result
