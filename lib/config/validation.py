"""Make a Recipe from values as YAML gives them, and name every value that a field doesn't allow."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from lib.config.recipe import SECTIONS, Recipe
from lib.config.schema import choices, field_schemas, in_words
from lib.config.yaml_text import show
from lib.errors import FlukeError, did_you_mean


def make_recipe(values: dict[str, dict[str, Any]], places: dict[str, str]) -> Recipe:
    """Return the recipe with `values` by section and field, whose names are checked already, and defaults for all others.

    `places` says by "section.field" what stands before a field's name in a message: "--" or the file. Raises FlukeError, in one
    sentence, for all values that are wrong.
    """
    sections, faults = {}, []
    for section, kind in SECTIONS.items():
        given = values.get(section, {})
        try:
            sections[section] = kind(**given)
        except ValidationError as error:
            for fault in error.errors(include_url=False, include_context=False):
                name, *inner = fault["loc"]
                sentence = _describe(f"{section}.{name}", field_schemas(kind)[str(name)], given[str(name)], inner)
                faults.append(places.get(f"{section}.{name}", "") + sentence)
    if faults:
        raise FlukeError("; ".join(dict.fromkeys(faults)) + ".")  # the parts of a union repeat a fault
    return Recipe(**sections)


def _describe(name: str, schema: dict[str, Any], value: Any, inner: list[int | str]) -> str:
    """Return what a field expects and what was found, at the place `inner` of a list or a mapping."""
    for i, key in enumerate(inner):
        if isinstance(value, list) and schema.get("type") == "array":
            schema, value = schema["items"], value[int(key)]
        elif isinstance(value, dict) and schema.get("type") == "object":
            if inner[i + 1 :] == ["[key]"]:
                schema, value = schema["propertyNames"], key
                break
            schema, value, name = schema["additionalProperties"], value[str(key)], f"{name}.{key}"
        else:
            break  # the name of a part of a union
    expected = in_words(schema)
    hint = did_you_mean(value, choices(schema), otherwise="") if isinstance(value, str) else ""
    if "text" in expected and isinstance(value, int | float | None):
        hint = "; text that looks like a number, true or null goes in quotes"
    return f"{name}: expected {expected} (found {show(value)}{hint})"
