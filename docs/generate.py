"""Write docs/recipe.md from the fields of the recipe, and docs/scripts/ from the scripts' own help.

python docs/generate.py            # --check only says which files are out of date, with exit code 1
"""

from __future__ import annotations

import argparse
import importlib
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

from lib.config import command_line  # noqa: E402
from lib.config.metric_traits import list_metrics  # noqa: E402
from lib.config.recipe import SECTIONS, Recipe  # noqa: E402
from lib.config.schema import field_schemas, in_words  # noqa: E402
from lib.config.yaml_text import show  # noqa: E402

NOTE = "<!-- Written by docs/generate.py; change the source, not this file. -->\n"


class Parsed(Exception):
    """Carries a script's parser out of its main."""

    def __init__(self, parser: command_line.Parser):
        self.parser = parser


def cell(text: object) -> str:
    """Return text as a Markdown table's cell."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def recipe_reference() -> str:
    """Return docs/recipe.md."""
    lines = [NOTE, "# The recipe, field by field", ""]
    lines += ["A recipe is a YAML file with these sections. `--section.field VALUE` sets a field on the command line,"]
    lines += ["`--section.field+ VALUE` appends to a list. [contests.md](contests.md) says which fields your contest needs.", ""]
    defaults = asdict(Recipe())
    for section, kind in SECTIONS.items():
        lines += [f"## {section}", "", str(kind.__doc__), "", "| field | value | default | meaning |", "|---|---|---|---|"]
        for name, schema in field_schemas(kind).items():
            allowed, default = cell(in_words(schema)), cell(show(defaults[section][name]))
            lines.append(f"| `{section}.{name}` | {allowed} | `{default}` | {cell(schema['description'])} |")
        lines.append("")
    lines += ["## Metrics", "", "For `train.metric` and `ensemble.py --metric`:", "", "```", list_metrics().rstrip(), "```", ""]
    return "\n".join(lines)


def script_parser(name: str) -> command_line.Parser:
    """Return the parser that a script makes."""

    def stop(parser: command_line.Parser, *_: Any, **__: Any) -> None:
        raise Parsed(parser)

    with mock.patch.object(command_line, "parse", stop):
        try:
            importlib.import_module(f"scripts.{name}").main([])
        except Parsed as parsed:
            return parsed.parser
    raise AssertionError(f"scripts/{name}.py parses nothing")


def script_page(name: str) -> str:
    """Return docs/scripts/NAME.md: the script's docstring and its own options."""
    parser = script_parser(name)
    lines = [NOTE, f"# {name}.py", ""]
    for paragraph in str(parser.description).strip().split("\n\n"):
        if paragraph.startswith("    "):
            lines += ["```", *(line.removeprefix("    ") for line in paragraph.splitlines()), "```", ""]
        else:
            lines += [paragraph.replace("<", "&lt;"), ""]
    lines += ["| option | meaning |", "|---|---|"]
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or any("." in option for option in action.option_strings) or action.dest == "help":
            continue
        named = " ".join(action.option_strings) or action.dest.upper()
        meaning = str(action.help).replace("{}.{}".format(*sys.version_info), "3.x").replace("%%", "%")
        if str(action.metavar or "").startswith("{"):
            meaning += f" One of {str(action.metavar).strip('{}').replace(',', ', ')}."
        lines.append(f"| `{named}`{' (required)' if action.required else ''} | {cell(meaning)} |")
    fields = ["", "It takes [all fields of the recipe](../recipe.md) too."] if parser.recipe else []
    return "\n".join([*lines, *fields, ""])


def documents() -> dict[Path, str]:
    """Return the text of every generated file."""
    names = sorted(path.stem for path in (DOCS.parent / "scripts").glob("*.py"))
    return {DOCS / "recipe.md": recipe_reference(), **{DOCS / "scripts" / f"{name}.md": script_page(name) for name in names}}


def outdated() -> list[Path]:
    """Return the files that would change, and those of scripts that are gone."""
    found = documents()
    stale = [path for path in (DOCS / "scripts").glob("*.md") if path not in found]
    return stale + [path for path, text in found.items() if not path.exists() or path.read_text(encoding="utf-8") != text]


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        if wrong := outdated():
            sys.exit("out of date, run python docs/generate.py: " + ", ".join(path.name for path in wrong))
    else:
        (DOCS / "scripts").mkdir(exist_ok=True)
        for path, text in documents().items():
            path.write_text(text, encoding="utf-8")
