"""A recipe in the making, with comments."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Draft:
    """A recipe in the making: fields by section, each with the comment beside it; hints are comments on a line of their own."""

    fields: dict[str, dict[str, tuple[Any, str]]] = field(default_factory=dict)
    hints: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def set(self, name: str, value: Any, why: str = "") -> None:
        section, key = name.split(".")
        self.fields.setdefault(section, {})[key] = (value, why)

    def hint(self, section: str, line: str) -> None:
        self.hints.setdefault(section, []).append(line)

    def text(self, schema: str) -> str:
        """Return the recipe as YAML; `schema` is the path of the JSON schema by which editors check it, relative to the recipe."""
        lines = [f"# yaml-language-server: $schema={schema}", *(f"# {note}" for note in self.notes)]
        for section in ("data", "model", "objective", "train", "folds", "predict", "retrieval"):
            entries = self.fields.get(section, {})
            if not entries and section not in self.hints:
                continue
            lines.append(f"{section}:" if entries else f"# {section}:")
            for key, (value, why) in entries.items():
                lines.append(f"  {key}: {json.dumps(value, ensure_ascii=False)}" + (f"  # {why}" if why else ""))
            lines += [f"  # {hint}" for hint in self.hints.get(section, [])]
        return "\n".join(lines) + "\n"
