"""Make a Recipe, or a section of it, from values as YAML gives them, and name every value that a field doesn't allow."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from lib.config.recipe import SECTIONS, Recipe
from lib.config.schema import choices, field_schemas, in_words
from lib.config.yaml_text import show
from lib.errors import FlukeError, did_you_mean


def make_recipe(values: dict[str, dict[str, Any]], places: dict[str, str]) -> Recipe:
    """Return the recipe with `values` by section and field, and defaults for all other fields.

    `places` says by "section.field" what stands before the field's name in a message: "--" or the file. Raises FlukeError, in one
    sentence, for all values that are wrong.
    """
    sections, faults = {}, []
    for section in SECTIONS:
        sections[section], found = _make(section, values.get(section, {}))
        faults += [places.get(field, "") + sentence for field, sentence in found]
    if faults:
        raise FlukeError("; ".join(faults) + ".")
    return Recipe(**sections)


def make_section(section: str, values: dict[str, Any]) -> Any:
    """Return one section with `values` by field. Raises ValueError, in one line, for all that are wrong."""
    made, faults = _make(section, values)
    if faults:
        raise ValueError("; ".join(sentence for _, sentence in faults))
    return made


def _make(section: str, values: dict[str, Any]) -> tuple[Any, list[tuple[str, str]]]:
    """Return the section and no faults, or None and for each fault "section.field" and the sentence."""
    try:
        return SECTIONS[section](**values), []
    except ValidationError as error:
        schemas, faults = field_schemas(SECTIONS[section]), {}
        for fault in error.errors(include_url=False, include_context=False):
            name, *inner = map(str, fault["loc"])
            field = f"{section}.{name}"
            known = name in schemas
            sentence = _describe(field, schemas[name], values[name], inner) if known else f"unknown field {field}"
            faults[sentence] = field  # the parts of a union repeat a sentence
        return None, [(field, sentence) for sentence, field in faults.items()]


def _describe(name: str, schema: dict[str, Any], value: Any, inner: list[str]) -> str:
    """Return what a field expects and what was found, at the place `inner` of a list or a mapping."""
    for i, key in enumerate(inner):
        if isinstance(value, list) and schema.get("type") == "array":
            schema, value = schema["items"], value[int(key)]
        elif isinstance(value, dict) and schema.get("type") == "object":
            if inner[i + 1 :] == ["[key]"]:
                schema, value = schema["propertyNames"], key
                break
            schema, value, name = schema["additionalProperties"], value[key], f"{name}.{key}"
        else:
            break  # the name of a part of a union
    expected = in_words(schema)
    hint = did_you_mean(value, choices(schema), otherwise="") if isinstance(value, str) else ""
    if "text" in expected and isinstance(value, int | float | None):
        hint = "; text that looks like a number, true or null goes in quotes"
    return f"{name}: expected {expected} (found {show(value)}{hint})"
