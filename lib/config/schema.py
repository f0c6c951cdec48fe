"""The JSON schema of a recipe, from which editors check and complete YAML, and its types in words.

python -m lib.config.schema    # writes recipes/schema.json, which the first line of every recipe names
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from lib.config.recipe import Recipe
from lib.files import write_text

PATH = Path(__file__).parents[2] / "recipes" / "schema.json"


@functools.cache
def recipe_schema() -> dict[str, Any]:
    """Return the JSON schema of a whole recipe, with a section's fields in $defs under the name of its class."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | TypeAdapter(Recipe).json_schema()


def field_schemas(section: type) -> dict[str, dict[str, Any]]:
    """Return the JSON schemas of a section's fields by their names."""
    fields: dict[str, dict[str, Any]] = recipe_schema()["$defs"][section.__name__]["properties"]
    return fields


def choices(schema: dict[str, Any]) -> list[str]:
    """Return the names that a value of this schema may have, [] for a free value."""
    own = schema.get("enum", [schema["const"]] if "const" in schema else [])
    return [*own, *(name for part in schema.get("anyOf", ()) for name in choices(part))]


def in_words(schema: dict[str, Any]) -> str:
    """Return what a JSON schema allows, as part of a sentence: "a whole number >= 8 or null"."""
    if "anyOf" in schema:
        return " or ".join(map(in_words, schema["anyOf"]))
    if names := choices(schema):
        return ", ".join(names[:-1]) + (" or " if len(names) > 1 else "") + names[-1]
    kind, least = schema.get("type"), "non-empty " if schema.get("minItems") or schema.get("minLength") else ""
    if kind == "array":
        return f"a {least}list [a, b]" + (f" of {in_words(schema['items'])}" if choices(schema["items"]) else "")
    if kind == "object":
        inner = schema.get("additionalProperties")
        nested = isinstance(inner, dict) and inner.get("type") == "object"
        return "a mapping {name: {name: value}}" if nested else "a mapping {name: value}"
    words = {"integer": "a whole number", "string": f"{least}text", "boolean": "true or false", "null": "null"}
    text = "a whole number" if "multipleOf" in schema else words.get(str(kind), "a number")
    bounds = ((">=", "minimum"), (">", "exclusiveMinimum"), ("<=", "maximum"), ("<", "exclusiveMaximum"))
    limits = " and ".join(f"{sign} {schema[key]}" for sign, key in bounds if key in schema)
    return f"{text} {limits}" if limits else text


if __name__ == "__main__":
    write_text(PATH, json.dumps(recipe_schema(), indent=1, ensure_ascii=False) + "\n")
    print(PATH)
