"""A configuration's text: a value put into JSON or TOML, and every other byte left as it was.

The one rule: text is inserted, never written anew. So the order, the spacing, numbers that Python would round and
characters that it would write otherwise stay as the person or the client wrote them.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_SPACE = re.compile(r"[ \t\r\n\ufeff]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_DECODER = json.JSONDecoder()
_UNIT = "  "
"""The indentation where the text shows none of its own."""


def read_json(text: str) -> dict[str, Any]:
    """Return the object in a text; an empty text is an empty object. ValueError, with a phrase, for anything else."""
    plain = text.removeprefix("\ufeff")
    try:
        value = json.loads(plain) if plain.strip() else {}
    except json.JSONDecodeError as error:
        raise ValueError(f"is not valid JSON (line {error.lineno}, column {error.colno}: {error.msg})") from None
    except RecursionError:
        raise ValueError("is nested too deeply to be a configuration") from None
    if not isinstance(value, dict):
        raise ValueError("is JSON but not an object")  # noqa: TRY004 - the text is wrong, not a type of ours
    return value


def put_json(text: str, keys: Sequence[str], value: Any) -> str:
    """Return the text with `value` under the path of `keys`; what is there already is replaced.

    The text is one that `read_json` reads, and what stands on the way is an object. Members are added at the end.
    """
    if not text.removeprefix("\ufeff").strip():
        return f"{text}{json.dumps(_nested(keys, value), indent=_UNIT, ensure_ascii=False)}\n"
    found = _object(text, _skip(text, 0))
    for depth, key in enumerate(keys):
        span = found.members.get(key)
        if span is None:
            return found.with_member(text, key, _nested(keys[depth + 1 :], value))
        if depth == len(keys) - 1:
            return f"{text[: span[0]]}{found.written(value)}{text[span[1] :]}"
        found = _object(text, span[0])
    raise ValueError("a value needs a place")


def read_toml(text: str) -> dict[str, Any]:
    """Return the tables in a text. ValueError, with a phrase, where it is not TOML."""
    try:
        return tomllib.loads(text.removeprefix("\ufeff"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"is not valid TOML ({error})") from None


def add_toml(text: str, table: str, name: str, entry: Mapping[str, Any]) -> str:
    """Return the text with a new table `[TABLE.NAME]` at its end.

    ValueError, with a phrase, where the text is written so that nothing can be added there (an inline table).
    """
    newline = "\r\n" if "\r\n" in text else "\n"
    gap = "" if not text.strip() else newline if text.endswith("\n") else newline * 2
    made = f"{text}{gap}{toml(table, name, entry).replace(chr(10), newline)}"
    before = read_toml(text)
    try:
        after = read_toml(made)
    except ValueError:
        raise ValueError(f"has `{table}` written in a way that nothing can be added to") from None
    if after != {**before, table: {**before.get(table, {}), name: dict(entry)}}:
        raise ValueError(f"has `{table}` written in a way that nothing can be added to")
    return made


def toml(table: str, name: str, entry: Mapping[str, Any]) -> str:
    """Return `[TABLE.NAME]` as TOML; the entry holds strings, lists of strings, and one level of tables of strings."""
    head = f"{table}.{_toml_key(name)}"
    plain = [f"{_toml_key(key)} = {_toml_value(each)}" for key, each in entry.items() if not isinstance(each, Mapping)]
    lines = [f"[{head}]", *plain]
    for key, each in entry.items():
        if isinstance(each, Mapping):
            inner = (f"{_toml_key(variable)} = {_toml_value(text)}" for variable, text in each.items())
            lines += ["", f"[{head}.{_toml_key(key)}]", *inner]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class _Object:
    """Where a JSON object and its members' values stand in a text, and how its lines are laid out."""

    start: int
    end: int
    members: Mapping[str, tuple[int, int]]
    newline: str
    """The line break and the indentation before each member; empty where the object stands on one line."""
    unit: str
    """The indentation of one level."""

    def with_member(self, text: str, key: str, value: Any) -> str:
        """Return the text with another member at the object's end."""
        member = f"{json.dumps(key, ensure_ascii=False)}: {self.written(value)}"
        if not self.members:
            closing = self.newline.removesuffix(self.unit)
            return f"{text[: self.start]}{{{self.newline}{member}{closing}}}{text[self.end :]}"
        last = max(end for _, end in self.members.values())
        return f"{text[:last]},{self.newline or ' '}{member}{text[last:]}"

    def written(self, value: Any) -> str:
        """Return a value as one of this object's members: on lines like theirs, or on one line like theirs."""
        # a line break within a string is written `\n`, so every real one is the layout's
        lines = json.dumps(value, indent=self.unit if self.newline else None, ensure_ascii=False)
        return lines.replace("\n", self.newline)


def _object(text: str, start: int) -> _Object:
    """Read where the members of the object at `start` stand; of members of one name the last counts, as in JSON."""
    members: dict[str, tuple[int, int]] = {}
    first = at = _skip(text, start + 1)
    while text[at] != "}":
        if text[at] == ",":
            at = _skip(text, at + 1)
        key, at = _DECODER.raw_decode(text, at)
        begin = _skip(text, _skip(text, at) + 1)
        _, end = _DECODER.raw_decode(text, begin)
        members[key] = (begin, end)
        at = _skip(text, end)
    newline = "\r\n" if "\r\n" in text else "\n"
    outer = _indentation(text, start)
    if not members:
        return _Object(start, at + 1, members, f"{newline}{outer}{_UNIT}", _UNIT)
    inner = _indentation(text, first)
    on_lines = "\n" in text[start:first]
    return _Object(start, at + 1, members, newline + inner if on_lines else "", inner.removeprefix(outer) or _UNIT)


def _indentation(text: str, at: int) -> str:
    """Return the white space with which the line begins that holds this place."""
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return line[: len(line) - len(line.lstrip(" \t"))]


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _nested(keys: Sequence[str], value: Any) -> Any:
    for key in reversed(keys):
        value = {key: value}
    return value


def _toml_key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _toml_value(key)


def _toml_value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_toml_value(each) for each in value)}]"
    # a JSON string is a TOML one too, but for one control character that JSON leaves as it is
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
