"""The command line: recipe files and an option per field, read to a Recipe; and a Recipe written back.

Nothing here imports torch, numpy or pandas, so that `--help` and a typo are answered within half a second.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from lib.config.constraints import check_constraints
from lib.config.metric_traits import list_metrics
from lib.config.recipe import RETIRED, SECTIONS, Recipe
from lib.config.schema import field_schemas, in_words
from lib.config.validation import make_recipe
from lib.config.yaml_text import dump_yaml, load_yaml, read_yaml, show
from lib.errors import FlukeError, did_you_mean

Tree = dict[str, dict[str, Any]]  # values by section and field


class Parser(argparse.ArgumentParser):
    """argparse's parser that raises FlukeError with one sentence and knows the names of its options."""

    def __init__(self, doc: str, recipe: bool):
        self.names: list[str] = []
        self.recipe = recipe
        usage = "%(prog)s --cfg RECIPE.yaml [--section.field VALUE ...]" if recipe else None
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(description=doc, usage=usage, formatter_class=layout, allow_abbrev=False)

    def add_argument(self, *names: Any, **options: Any) -> Any:
        """Add an option as argparse does, to a `group` if given. A value that is none of `choices` is answered with the nearest
        one."""
        self.names += names
        group = options.pop("group", None)
        if choices := options.pop("choices", ()):
            options |= {"type": partial(_choose, choices), "metavar": f"{{{','.join(choices)}}}"}
        return group.add_argument(*names, **options) if group else super().add_argument(*names, **options)

    def error(self, message: str) -> Any:
        """Raise argparse's message as a FlukeError."""
        raise FlukeError(message.removeprefix("argument ") + ".")


def _choose(names: Sequence[str], text: str) -> str:
    if text not in names:
        hint = did_you_mean(text, names, otherwise="")
        raise argparse.ArgumentTypeError(f"expected {', '.join(names)} (found {show(text)}{hint})")
    return text


def make_parser(doc: str, recipe: bool = True) -> Parser:
    """Return a parser whose help begins with `doc`, with --cfg and the recipe's fields if `recipe`; scripts add their own
    options with argparse's `add_argument`."""
    parser = Parser(doc, recipe)
    what = "Make the last line of stdout one line of JSON for programs: metrics, files, next command (docs/programs.md)."
    parser.add_argument("--json", action="store_true", help=what)
    if not recipe:
        return parser
    parser.epilog = f"metrics, for train.metric:\n{list_metrics()}"
    add = partial(parser.add_argument, dest="changes", action="append")
    what = "Recipe, a YAML file; what comes later on the command line wins. --section.field+ VALUE appends to a list."
    add("--cfg", metavar="RECIPE.yaml", type=lambda path: (path, read_tree(path)), help=what)
    defaults = asdict(Recipe())
    for section, kind in SECTIONS.items():
        group = parser.add_argument_group(section, kind.__doc__)
        for name, schema in field_schemas(kind).items():
            default, option = defaults[section][name], f"--{section}.{name}"
            words = " ".join(f"{schema['description']} ({in_words(schema)}; default: {show(default)})".split())
            read = partial(_read_field, section, name, schema)
            add(option, group=group, metavar="VALUE", type=read, help=words.replace("%", "%%"))
            if isinstance(default, list):
                read = partial(_read_field, section, f"{name}+", schema)
                add(f"{option}+", group=group, type=read, help=argparse.SUPPRESS)
    return parser


def _read_field(section: str, name: str, schema: dict[str, Any], text: str) -> tuple[str, Tree]:
    """Return the change that `--section.name TEXT` makes: text as it stands for a field of text, else read as YAML."""
    kinds = {part.get("type") for part in schema.get("anyOf", [schema])}
    if "string" not in kinds or kinds & {"number", "integer"}:
        return "", {section: {name: _read_yaml(text, f"--{section}.{name}")}}
    null = "null" in kinds and text in ("null", "Null", "NULL", "~")
    return "", {section: {name: None if null else text}}


def _read_yaml(text: str, option: str) -> Any:
    try:
        return load_yaml(text, option)
    except yaml.YAMLError:
        return text  # the message about this value says what is expected


def add_run_arguments(parser: Parser) -> None:
    """Add --out, --resume and --estimate, for the scripts that train."""
    parser.add_argument("--out", help="Folder of the run; default: runs/<recipe>-<time>.")
    what = "Continue the run in --out, or else the newest unfinished run of this recipe."
    parser.add_argument("--resume", action="store_true", help=what)
    what = "Train some batches without keeping anything, say how long the whole job takes, its memory and disk, and stop."
    parser.add_argument("--estimate", action="store_true", help=what)


def parse(parser: Parser, argv: list[str] | None = None, check: bool = True) -> Any:
    """Parse `argv` (default: the command line) to a namespace, with a Recipe as `recipe` if the parser has its fields.

    With `check`, constraints between fields are checked too; without, the fields may be changes to a recipe that is read later.
    Raises FlukeError with one sentence that names all wrong fields or, for an unknown option, the nearest right one.
    """
    argv = sys.argv[1:] if argv is None else argv
    for token in argv:
        if re.match(r"--[A-Za-z]", token) and (name := token.split("=")[0]) not in parser.names:
            nearest = _nearest(name, [n for n in parser.names if not n.endswith("+")])
            raise FlukeError(f"Unknown option {name}" + (f"; {nearest}" if nearest else "; --help lists them all."))
    args = parser.parse_args(argv)
    if parser.recipe:
        changes = args.changes or []
        args.recipe_file = next((file for file, _ in reversed(changes) if file), None)
        args.recipe = make_recipe(*_merge(changes))
        if check:
            check_constraints(args.recipe)
    if getattr(args, "estimate", False) and (args.resume or args.out):
        raise FlukeError(
            "--estimate: writes no run; leave out --out and --resume. The bar and log of a run say the time that is left."
        )
    return args


def _merge(changes: list[tuple[str, Tree]]) -> tuple[Tree, dict[str, str]]:
    """Return the values after all changes, of which a later one wins, and what stands before each field's name in a message."""
    values: Tree = {section: {} for section in SECTIONS}
    places = {}
    for file, tree in changes:
        for section, given in tree.items():
            for key, value in given.items():
                name = key.removesuffix("+")
                if key != name:
                    value = _as_list(values[section].get(name, getattr(SECTIONS[section](), name))) + _as_list(value)
                values[section][name] = value
                places[f"{section}.{name}"] = f"{file}: " if file else "--"
    return values, places


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _nearest(name: str, names: list[str]) -> str:
    """Return "did you mean X?", or "" where no name resembles `name`."""
    last = name.lstrip("-").split(".")[-1]
    same = [n for n in names if n.lstrip("-").split(".")[-1] == last]  # a right field in the wrong section
    return did_you_mean(name, same or names, cutoff=0 if same else 0.6, otherwise="").removeprefix("; ")


def read_tree(path: str) -> Tree:
    """Return the sections of a recipe's file without retired fields, values as they stand. Raises FlukeError for a file that can't
    be read and for all names that are no fields."""
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        found = "an empty file" if tree is None else f"a {type(tree).__name__}"
        raise FlukeError(f"{path}: expected sections ({', '.join(SECTIONS)}), not {found}.")
    if faults := list(_find_unknown(tree)):
        raise FlukeError(f"{path}: {'; '.join(faults)}.")
    return {s: {name: value for name, value in given.items() if f"{s}.{name}" not in RETIRED} for s, given in tree.items()}


def _find_unknown(tree: dict[str, Any]) -> Iterator[str]:
    every = {section: list(field_schemas(kind)) for section, kind in SECTIONS.items()}
    for section, given in tree.items():
        if section not in SECTIONS:
            yield _unknown(section, list(SECTIONS))
        elif not isinstance(given, dict):
            yield f"section {section} holds fields ({', '.join(every[section])}), not {show(given)}"
        else:
            for key, value in given.items():
                name = f"{section}.{key}"
                if name in RETIRED and value != RETIRED[name]:
                    accepted = show(RETIRED[name])
                    yield f"{name} was removed, and only {accepted} is still accepted (found {show(value)}); delete the field"
                elif name not in RETIRED and key not in every[section]:
                    yield _unknown(name, [f"{s}.{n}" for s in (section, *every) for n in every[s]])


def _unknown(name: str, names: list[str]) -> str:
    nearest = _nearest(name, names)
    return f"unknown field {name}" + (f" ({nearest})" if nearest else "; --help lists them all")


def load_recipe(path: Path) -> Recipe | None:
    """Return the recipe of a run's recipe.yaml, None where there is no such file. Raises FlukeError."""
    return parse(make_parser(""), ["--cfg", str(path)]).recipe if path.exists() else None


def dump(recipe: Recipe) -> str:
    """Return the resolved recipe as YAML that `--cfg` reads back to the same recipe."""
    return dump_yaml(asdict(recipe))
