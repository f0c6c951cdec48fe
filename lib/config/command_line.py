"""The command line and a recipe's YAML, read to a Recipe by jsonargparse; and a Recipe written back.

Nothing here imports torch, and jsonargparse comes when a parser is made, so that `--help` and a typo are answered at once.
"""

from __future__ import annotations

import functools
import re
import sys
from argparse import ArgumentError
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml

from lib.config.constraints import check_constraints
from lib.config.recipe import SECTIONS, Recipe
from lib.errors import FlukeError, did_you_mean


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: keys stay text, and so do 01, yes, no and dates (labels); 1e-3 is a number. Without anchors, which
    could make a small file a huge recipe."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [k.value for k, _ in node.value]
        where = f"{self.name}, line {node.start_mark.line + 1}"
        if any(not isinstance(key, str) for key in keys):
            raise FlukeError(f"{where}: a list or a mapping can't be a key; put a label with brackets in quotes.")
        if twice := {k for k in keys if keys.count(k) > 1}:
            raise FlukeError(f"{where}: {sorted(twice)[0]!r} is given twice.")
        return {k.value: self.construct_object(v, deep=True) for k, v in node.value}

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise FlukeError(f"{self.name}: *{self.peek_event().anchor} refers to another place; write it out.")
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    """Quotes whatever either reader, ours or another, would take for a number, a date or yes and no."""


_OURS = {
    "int": (re.compile(r"[-+]?(0|[1-9][0-9]*)$"), "-+0123456789"),
    "float": (
        re.compile(r"([-+]?((0|[1-9][0-9]*)\.[0-9]*([eE][-+]?[0-9]+)?|(0|[1-9][0-9]*)[eE][-+]?[0-9]+|\.[0-9]+|\.inf)|\.nan)$"),
        "-+0123456789.",
    ),
    "bool": (re.compile("(true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    "null": (re.compile("(~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
}
_Loader.yaml_implicit_resolvers = {}
_Dumper.yaml_implicit_resolvers = {first: list(pairs) for first, pairs in yaml.SafeDumper.yaml_implicit_resolvers.items()}
for _kind, (_pattern, _first) in _OURS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", _pattern, list(_first))


def load_yaml(text: str, name: str = "a value") -> Any:
    """Parse YAML without executing, sharing or guessing anything; raises yaml.YAMLError or FlukeError (a key given twice,
    anchors), which call the text `name`."""
    loader = _Loader(text)
    loader.name = name
    try:
        return loader.get_single_data()
    except RecursionError:
        raise FlukeError(f"{name}: YAML nested a thousand levels deep is no recipe.") from None
    finally:
        loader.dispose()


def make_parser(doc: str, recipe: bool = True) -> Any:
    """A jsonargparse parser whose help is the script's docstring, with the recipe's fields if `recipe`; scripts add their own."""
    import jsonargparse

    _set_up()
    usage = "%(prog)s --cfg RECIPE.yaml [--section.field VALUE ...]" if recipe else None
    parser = jsonargparse.ArgumentParser(
        description=doc, usage=usage, exit_on_error=False, parser_mode="fluke" if recipe else "yaml"
    )
    if recipe:
        parser.add_argument("--cfg", action="config", help="The recipe, a YAML file; options after it on the command line win.")
        parser.add_class_arguments(Recipe)
    return parser


@functools.cache
def _set_up() -> None:
    import jsonargparse

    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    jsonargparse.set_loader("fluke", load_yaml, exceptions=(yaml.YAMLError,))
    jsonargparse.set_dumper("fluke", _dump_yaml)


def add_run_arguments(parser: Any) -> None:
    """--out and --resume, for the scripts that train."""
    parser.add_argument("--out", type=str, default=None, help="Folder of the run; default: runs/<recipe>-<time>.")
    parser.add_argument(
        "--resume", action="store_true", help="Go on with the run in --out, or else with the newest unfinished one of this recipe."
    )


def parse(parser: Any, argv: list[str] | None = None, together: bool = True) -> Any:
    """Parse `argv` (default: the command line) to a namespace whose `recipe` is a Recipe, if the parser has one.

    Unless `together`, what its fields may say together is not checked: they are changes to a recipe that is read later.
    Raises FlukeError with one sentence, naming the field and, for an unknown name, the nearest right one.
    """
    argv = sys.argv[1:] if argv is None else argv
    known = [option for action in parser._actions for option in action.option_strings]
    for token in argv:
        if re.match(r"--[A-Za-z]", token) and (name := token.split("=")[0]) not in known:
            raise FlukeError(f"Unknown option {name}{_nearest(name, known)}")
    for i, token in enumerate(argv):
        if token == "--cfg" and i + 1 < len(argv):
            read_tree(argv[i + 1])
        elif token.startswith("--cfg="):
            read_tree(token[6:])
    try:
        args = parser.parse_args(argv)
    except ArgumentError as error:
        raise FlukeError(_sentence(str(error))) from None
    if "--cfg" in known:
        args.recipe_file = str(args.cfg[-1]) if args.cfg else None
        args.recipe = Recipe(**{f.name: SECTIONS[f.name](**args.pop(f.name).as_dict()) for f in fields(Recipe)})
        if together:
            check_constraints(args.recipe)
    return args


def _nearest(name: str, names: list[str]) -> str:
    last = name.lstrip("-").split(".")[-1]
    same = [n for n in names if n.lstrip("-").split(".")[-1] == last]  # a right field in the wrong section
    return did_you_mean(name, same or names, cutoff=0 if same else 0.6, otherwise="; --help lists them all.")


def _sentence(message: str) -> str:
    """jsonargparse's message, boiled down to: the field, what is wrong, what would be right."""
    flat = " ".join(message.split())
    key, got = re.search(r'key "([^"]+)"', flat), re.search(r"(?:Got|Given) value: ?(.*?)\.?$", flat)
    if key is not None and key[1] in SECTIONS:
        return f"--{key[1]} can't be read; name its fields one by one, --{key[1]}.{fields(SECTIONS[key[1]])[0].name} VALUE."
    wanted = list(dict.fromkeys(re.findall(r"Expected an? (?:typing\.)?(<class '\w+'>|Literal\[.*?\]|\w+)", flat)))
    if key is None or got is None or not wanted:
        return flat if flat.endswith(".") else flat + "."
    value, hint, kinds = got[1], "", []
    for want in wanted:
        options = re.findall(r"'([^']*)'", want) if want.startswith("Literal") else []
        close = _nearest(value, options)
        hint = hint or (close if close.startswith("; did") else "")
        kinds.append(f"one of {', '.join(options)}" if options else _KINDS.get(want.removeprefix("<class '")[:-2], want))
    return f"--{key[1]} {value or repr(value)}: expected {' or '.join(kinds)}{hint or '.'}"


_KINDS = {"int": "a whole number", "float": "a number", "str": "text (numbers, true and null that mean text go in quotes)"}
_KINDS |= {"NoneType": "null", "bool": "true or false", "list": "a list, [a, b]", "dict": "a mapping, {name: value}"}


def read_tree(path: str) -> dict[str, Any]:
    """The sections of a recipe's file as they stand, their fields' names checked. Raises FlukeError."""
    try:
        tree = load_yaml(Path(path).read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise FlukeError(f"{path}: can't be read ({getattr(error, 'strerror', None) or 'not UTF-8 text'}).") from None
    except yaml.YAMLError as error:
        raise FlukeError(f"{path}: not YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(tree, dict):
        found = "an empty file" if tree is None else f"a {type(tree).__name__}"
        raise FlukeError(f"{path}: expected sections ({', '.join(SECTIONS)}), not {found}.")
    _check_keys(tree, Recipe, path, "")
    return tree


def _check_keys(tree: dict[str, Any], cls: Any, path: str, prefix: str) -> None:
    hints = get_type_hints(cls)
    every = [f"{s.name}.{f.name}" for s in fields(Recipe) for f in fields(SECTIONS[s.name])]
    for key, value in tree.items():
        if key not in hints:
            names = [prefix + name for name in hints] + every
            raise FlukeError(f"{path}: unknown field {prefix}{key}{_nearest(prefix + key, names)}")
        if is_dataclass(hints[key]):
            if not isinstance(value, dict):
                raise FlukeError(f"{path}: section {key} holds fields ({', '.join(get_type_hints(hints[key]))}), not {value!r}.")
            _check_keys(value, hints[key], path, f"{prefix}{key}.")
        elif type(None) in get_args(hints[key]) and isinstance(value, str) and re.match(_OURS["null"][0], value or "-"):
            raise FlukeError(f"{path}: {prefix}{key}: '{value}' can't be a name here: jsonargparse reads it as null.")


def dump(recipe: Recipe) -> str:
    """The resolved recipe as YAML that `--cfg` reads back to the same recipe."""
    return _dump_yaml(asdict(recipe))


def _dump_yaml(tree: Any) -> str:
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
