"""Fields of a recipe: their ranges and types, fields that were removed or added, and the registry of losses."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from lib.config import command_line
from lib.config.recipe import ADDED, RETIRED, SECTIONS, Objective, Recipe, Train
from lib.config.schema import choices, field_schemas
from lib.config.traits import LOSSES
from lib.errors import FlukeError


def read(*argv: str) -> Recipe:
    return command_line.parse(command_line.make_parser("a script"), list(argv), check=False).recipe


BAD_VALUES = """
data.size 7, data.eval_size 7, data.workers -1, data.cache_size 7, data.take {a: 0}, data.min_images -1
model.dropout 1, model.dropout -0.1, model.hidden [0], model.embedding_dim 0
objective.label_smoothing 1, objective.gamma -1, objective.mixup -1, objective.cutmix -1, objective.mix_prob 1.1
objective.margin_power -1, objective.sub_centers 0, objective.scale 0, objective.also {tripplet: 1}, objective.name tripplet
optim.lr 0, optim.head_lr 0, optim.weight_decay -1, optim.momentum -1, optim.layer_decay 0, optim.layer_decay 1.1, optim.min_lr 1.1
optim.factor 0, optim.factor 1, optim.warmup_epochs -1, optim.freeze_epochs -1, optim.step_epochs 0, optim.step_epochs []
optim.step_epochs [0], optim.clip_norm 0, optim.plateau_patience -1
train.epochs -1, train.batch_size 0, train.accumulate 0, train.patience 0, train.ema 0, train.ema 1, train.limit_rows 1
train.max_minutes 0, train.save_minutes 0, train.images_per_class 0, train.sampler_factors {a: 0}, train.seed -1
folds.holdout 0, folds.holdout 1.5, folds.holdout -1, folds.n 1, folds.unknown 1, folds.seed -1, folds.seed 4294967296
predict.batch_size 0, predict.topk 0
retrieval.neighbours 0, retrieval.n 0, retrieval.search {nprobe: 0}, retrieval.temperature 0, retrieval.centre_weight 1.1
retrieval.expand -1, retrieval.threshold high, retrieval.new_share 0, retrieval.new_share 1, retrieval.far 0, retrieval.far 1
train.epochs '3', train.epochs 3.0, train.epochs true, train.epochs null, optim.lr '1', optim.lr true
train.compile 1, train.compile yes
"""


@pytest.mark.parametrize("assignment", BAD_VALUES.strip().replace("\n", ", ").split(", "))
def test_value_out_of_range_or_of_another_type_is_refused(assignment: str) -> None:
    field, value = assignment.split(" ", 1)
    with pytest.raises(FlukeError, match=rf"^--{field}[.\w]*: expected .* \(found .*\)\.$"):
        read(f"--{field}", value)


NUMBERS = [f"{s}.{f}" for s, kind in SECTIONS.items() for f, schema in field_schemas(kind).items() if "number" in str(schema)]


@pytest.mark.parametrize("field", NUMBERS)
@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan"])
def test_no_number_is_infinite_or_nan(field: str, value: str) -> None:
    section, name = field.split(".")
    default = getattr(getattr(Recipe(), section), name)
    with pytest.raises(FlukeError, match=rf"^--{field}[.\w]*: expected .* \(found .*{value}"):
        read(f"--{field}={{triplet: {value}}}" if isinstance(default, dict) else f"--{field}={value}")


def test_whole_numbers_are_numbers() -> None:
    more = ("--optim.step_epochs", "[15, 30]", "--objective.also", "{triplet: 1}")
    recipe = read("--optim.lr", "1", "--folds.holdout", "1000", *more)
    found = (recipe.optim.lr, recipe.folds.holdout, recipe.optim.step_epochs[0], recipe.objective.also["triplet"])
    assert found == (1, 1000, 15, 1)
    assert {type(value) for value in found} == {float}


def test_sections_made_in_code_are_checked_too() -> None:
    assert replace(Train(), epochs=3).epochs == 3
    for wrong in ({"epochs": -1}, {"epochs": "3"}, {"epoch": 3}):
        with pytest.raises(ValidationError):
            Train(**wrong)
    with pytest.raises(ValidationError):
        replace(Train(), epochs=-1)


def test_names_of_losses_are_those_of_the_registry() -> None:
    schemas = field_schemas(Objective)
    assert choices(schemas["name"]) == choices(schemas["also"]["propertyNames"]) == list(LOSSES)
    for name, traits in LOSSES.items():
        assert read("--objective.name", name).objective.name == name
        assert set(traits.targets) <= {"one_label", "ordinal", "several_labels", "regression", "identity"}
        assert "identity" in traits.targets or not (traits.compares_pairs or traits.has_centres)


# --- older recipes ----------------------------------------------------------------------------------------------------------------


def write(folder: Path, name: str, value: Any) -> str:
    section, field = name.split(".")
    path = folder / "recipe.yaml"
    path.write_text(command_line.dump_yaml(asdict(Recipe()) | {section: {field: value}}))
    return str(path)


@pytest.mark.parametrize("name", RETIRED)
def test_retired_field_at_the_value_without_effect_loads(name: str, tmp_path: Path) -> None:
    assert all(name.partition(".")[2] not in field_schemas(kind) for kind in SECTIONS.values())
    path = write(tmp_path, name, RETIRED[name])
    assert read("--cfg", path) == Recipe()
    assert name.partition(".")[2] not in command_line.read_tree(path)[name.partition(".")[0]]


@pytest.mark.parametrize("name", RETIRED)
def test_retired_field_at_another_value_is_refused_by_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(FlukeError, match=rf"recipe.yaml: {name} was removed, .*\(found 7\); delete the field\.$"):
        read("--cfg", write(tmp_path, name, 7))


def test_added_field_has_the_value_of_older_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    from lib.pipelines.runs import recipe_differences

    older, now = asdict(Recipe()), asdict(Recipe())
    del older["train"]["singles"], older["optim"]["momentum"]
    assert recipe_differences(older, now) == []
    monkeypatch.setitem(ADDED, "train.singles", "drop")
    assert recipe_differences(older, now) == []  # the default gives way to what the run had
    now["train"]["singles"] = "repeat"
    assert recipe_differences(older, now) == ["train.singles (now 'repeat', was 'drop')"]
    now["train"]["singles"] = "drop"
    assert recipe_differences(older, now) == []
