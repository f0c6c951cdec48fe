"""Read and write YAML so that labels stay text: 01, yes, no and dates are no numbers, booleans or dates."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from lib.errors import FlukeError


class _Loader(yaml.SafeLoader):
    """YAML in which keys stay text, and so do 01, yes, no and dates (labels), while 1e-3 is a number. Anchors are refused, because
    a small file with anchors can expand to a huge recipe."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [k.value for k, _ in node.value]
        where = f"{self.name}, line {node.start_mark.line + 1}"
        if any(not isinstance(key, str) for key in keys):
            raise FlukeError(f"{where}: a list or a mapping can't be a key; put a label with brackets in quotes.")
        if repeated := {k for k in keys if keys.count(k) > 1}:
            raise FlukeError(f"{where}: {sorted(repeated)[0]!r} is given twice.")
        return {k.value: self.construct_object(v, deep=True) for k, v in node.value}

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise FlukeError(f"{self.name}: *{self.peek_event().anchor} refers to another place; write its value out.")
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    """Quotes text that this loader, or another YAML reader, would take for a number, a date, a boolean or null."""


_PATTERNS = {
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
for _kind, (_pattern, _first) in _PATTERNS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", _pattern, list(_first))


def load_yaml(text: str, name: str = "a value") -> Any:
    """Parse YAML; `name` is what messages call the text.

    Raises yaml.YAMLError for text that is not YAML, FlukeError for a key given twice, an anchor, and too deep nesting.
    """
    loader = _Loader(text)
    loader.name = name
    try:
        return loader.get_single_data()
    except RecursionError:
        raise FlukeError(f"{name}: the YAML is nested a thousand levels deep; a recipe has sections of fields.") from None
    finally:
        loader.dispose()


def read_yaml(path: str) -> Any:
    """Return what a YAML file holds. Raises FlukeError for one that can't be read, is not YAML, or as `load_yaml` does."""
    try:
        return load_yaml(Path(path).read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise FlukeError(f"{path}: can't be read ({getattr(error, 'strerror', None) or 'not UTF-8 text'}).") from None
    except yaml.YAMLError as error:
        raise FlukeError(f"{path}: not YAML: {' '.join(str(error).split())}.") from None


def dump_yaml(tree: Any) -> str:
    """Return `tree` as YAML that `load_yaml` reads back to equal values."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def show(value: Any, length: int = 60) -> str:
    """Return `value` as one line of YAML for a message, cut off after `length` characters."""
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, allow_unicode=True, width=10**9)
    text = " ".join(text.removesuffix("...\n").split())
    return text if len(text) <= length else f"{text[:length]}..."
