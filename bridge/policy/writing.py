"""A policy as text again: what `policy show` prints and what a person can copy, edit and check.

The one rule: what is written reads back as the same policy. So sizes and durations carry their unit, and every setting
stands there, also one that has the built-in value.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bridge.policy.model import Policy, PolicyFile
from bridge.policy.text import is_plain
from bridge.policy.units import Bounded


def written_out(policy: Policy) -> str:
    """Return the policy as YAML, every setting with its value, in the schema's order."""
    values = _values(policy, PolicyFile)
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)


@dataclass(frozen=True)
class Setting:
    """One setting of the schema, as a reference shows it."""

    name: str
    """Dotted; `[]` stands for every item of a list."""
    meaning: str
    built_in: str
    """As it would be written; empty where it must be."""
    allowed: str
    """What may be written, in words."""


def settings(schema: type[BaseModel] = PolicyFile, prefix: str = "") -> list[Setting]:
    """Return every setting of the schema, in its order."""
    rows: list[Setting] = []
    for name, field in schema.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            rows += settings(inner, f"{prefix}{name}.")
            continue
        default = "" if field.is_required() else _flow(_value(field.get_default(), field))
        rows.append(Setting(f"{prefix}{name}", field.title or "", default, field.description or ""))
        items = [each for each in getattr(inner, "__args__", ()) if isinstance(each, type)]
        for item in items:
            if issubclass(item, BaseModel):
                rows += settings(item, f"{prefix}{name}[].")
    return rows


def _flow(value: Any) -> str:
    return (
        yaml.dump(value, Dumper=_Dumper, default_flow_style=True, sort_keys=False, width=1000)
        .removesuffix("...\n")
        .strip()
    )


class _Dumper(yaml.SafeDumper):
    """Quotes what our strict reader would not take for text."""

    def represent_text(self, text: str) -> yaml.Node:
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if is_plain(text) else '"')


_Dumper.add_representer(str, _Dumper.represent_text)


def _values(model: BaseModel, schema: type[BaseModel]) -> dict[str, Any]:
    return {name: _value(getattr(model, name), field) for name, field in schema.model_fields.items()}


def _value(value: Any, field: FieldInfo) -> Any:
    if isinstance(value, BaseModel):
        return _values(value, type(value))
    if isinstance(value, tuple):
        return [_value(each, field) for each in value]
    if isinstance(value, Path):
        return str(value)
    bounds = next((each for each in _metadata(field) if isinstance(each, Bounded)), None)
    if bounds is None or not isinstance(value, int | float) or isinstance(value, bool):
        return value  # a default stands in the schema as a person would write it
    shown = bounds.show(value)
    if shown[-1].isalpha():  # a unit
        return shown
    return int(value) if value == int(value) else value  # what has no unit is a number in the text too


def _metadata(field: FieldInfo) -> list[Any]:
    """Return what annotates the field, or the one alternative to null that carries an annotation."""
    alternatives = getattr(field.annotation, "__args__", ())
    return [*field.metadata, *(each for one in alternatives for each in getattr(one, "__metadata__", ()))]
