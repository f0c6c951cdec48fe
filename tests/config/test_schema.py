"""The JSON schema: up to date, named by every recipe, and in agreement with what the command line accepts."""

import json
import re
from pathlib import Path

import jsonschema
import pytest

from lib.config import schema
from lib.config.recipe import SECTIONS
from lib.config.yaml_text import load_yaml

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml")) + sorted((ROOT / "benchmarks").rglob("*.yaml"))
WRITTEN = json.loads(schema.PATH.read_text(encoding="utf-8"))


def test_written_schema_is_up_to_date() -> None:
    assert schema.recipe_schema() == WRITTEN, "run: python -m lib.config.schema"
    jsonschema.Draft202012Validator.check_schema(WRITTEN)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_names_the_schema_and_fits_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert named is not None
    assert (path.parent / named[1]).resolve() == schema.PATH.resolve()
    jsonschema.validate(load_yaml(text), WRITTEN)


@pytest.mark.parametrize(
    "tree",
    [
        {"trian": {}},
        {"train": {"epoch": 3}},
        {"train": {"epochs": -1}},
        {"train": {"sampler": "random"}},
        {"folds": {"holdout": 1.5}},
        {"objective": {"also": {"tripplet": 1}}},
        {"data": {"augment": "RandomRotation"}},
    ],
    ids=str,
)
def test_wrong_recipe_does_not_fit_the_schema(tree: dict) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tree, WRITTEN)


def test_fields_are_described() -> None:
    for kind in SECTIONS.values():
        for name, field in schema.field_schemas(kind).items():
            assert len(field["description"]) > 10, name


@pytest.mark.parametrize(
    ("of", "words"),
    [
        ({"type": "integer", "minimum": 8}, "a whole number >= 8"),
        ({"anyOf": [{"type": "number", "exclusiveMinimum": 0, "maximum": 1}, {"type": "null"}]}, "a number > 0 and <= 1 or null"),
        ({"type": "number", "minimum": 1, "multipleOf": 1}, "a whole number >= 1"),
        ({"anyOf": [{"type": "number"}, {"const": "auto", "type": "string"}]}, "a number or auto"),
        ({"enum": ["a", "b", "c"], "type": "string"}, "a, b or c"),
        ({"type": "array", "items": {"enum": ["a", "b"]}}, "a list [a, b] of a or b"),
        ({"type": "object", "additionalProperties": {"type": "object"}}, "a mapping {name: {name: value}}"),
        ({"type": "string", "minLength": 1}, "non-empty text"),
    ],
)
def test_in_words(of: dict, words: str) -> None:
    assert schema.in_words(of) == words
