"""The strict YAML reader: text in, plain values and the line of each out. The only importer of `yaml`.

The one rule: what two YAML readers could read differently, or what a person cannot see, is refused and never guessed.
So there are no anchors, aliases, merge keys, tags, directives or duplicate keys, no octal or sexagesimal numbers, no
`yes` or `no`, no control or format characters. Every problem is collected, because a policy is easier to repair with
the whole list; only where the structure itself cannot be followed does reading stop.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from bridge.policy.characters import invisible

MAX_BYTES = 64 * 1024
"""A policy of a hundred images is 10 KiB; past this someone passes us something else, and reading takes seconds."""
MAX_DEPTH = 12
"""The schema is five deep; nesting without a limit ends in the interpreter's recursion limit."""
MAX_DIGITS = 18
"""Every number of the schema has far fewer; longer ones lose digits as a float or overflow in the engine."""

Path = tuple[str | int, ...]

_INTEGER = re.compile(r"0|-?[1-9][0-9]*")
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)\.[0-9]+")
_WORDS: Mapping[str, bool | None] = {"true": True, "false": False, "null": None}
# What YAML 1.1 or 1.2 readers take for a number, a truth value, nothing, a date or a merge, and we do not.
_AMBIGUOUS = re.compile(
    r"""y|yes|n|no|on|off|true|false|null|~|=|<<
      | [-+]?(?: \d[\d_]*(?::\d+)+(?:\.[\d_]*)?             # 1:30 is ninety in YAML 1.1
               | 0[box][\da-f_]+
               | (?:\.[\d_]+ | \d[\d_]*(?:\.[\d_]*)?)(?:e[-+]?\d+)?
               | \.(?:inf|nan))
      | \d{4}-\d\d?-\d\d?(?:[t ].*)?""",
    re.ASCII | re.IGNORECASE | re.VERBOSE,
)
_SYNTAX = (  # PyYAML's words → ours
    ("mapping values are not allowed", "there is a colon where none can stand; put text that holds ': ' in quotes"),
    ("expected '<document start>'", "the indentation does not fit the lines above; align it with its neighbours"),
    ("expected <block end>", "the indentation does not fit the lines above; align it with its neighbours"),
    ("could not find expected ':'", "a key without a colon; write 'key: value'"),
    ("expected ',' or", "a '[' or '{' is not closed, or a comma is missing; close it"),
    ("expected the node content", "a value is missing, or a '[' or '{' is not closed; write the value or close it"),
    ("found unexpected end of stream", "a quote is not closed; close it"),
    ("cannot start any token", "this line starts with a character that YAML keeps for itself; put the text in quotes"),
)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a policy's text; `where` is the dotted name of the setting, or empty."""

    line: int
    where: str
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.where}: {self.text}" if self.where else f"line {self.line}: {self.text}"


@dataclass(frozen=True)
class Document:
    """What was read: dictionaries, tuples, text, numbers, true, false, null."""

    value: Any
    lines: Mapping[Path, int]
    """The line of each key and list item."""
    problems: tuple[Problem, ...]
    broken: frozenset[Path]
    """Where a problem was reported already, so that the schema has nothing to add there."""
    broken_lines: frozenset[int]
    complete: bool
    """False where reading had to stop: what is missing then says nothing about the file."""

    def line(self, path: Path) -> int:
        """The line of a setting; of what holds it, where the setting itself is not written."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def name(path: Path) -> str:
    """`("sandbox", "images", 0, "tags")` → `sandbox.images[0].tags`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part[:60]}" for part in path).removeprefix(".")


def is_plain(text: str) -> bool:
    """Whether these words, written without quotes, are read as this very text."""
    ambiguous = text in _WORDS or _AMBIGUOUS.fullmatch(text) or _INTEGER.fullmatch(text) or _DECIMAL.fullmatch(text)
    return bool(text) and not ambiguous


def decode(data: bytes) -> str | Problem:
    """The bytes of a file as text, or the reason why they are none."""
    if len(data) > MAX_BYTES:
        return Problem(1, "", f"the file is larger than {MAX_BYTES // 1024} KiB; a policy is at most that")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return Problem(line, "", "this line is not UTF-8; save the file as UTF-8")


def read(text: str) -> Document:
    """Read one document; never raises, whatever the text is."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        problem = Problem(1, "", f"the text is larger than {MAX_BYTES // 1024} KiB; a policy is at most that")
        return Document(None, {}, (problem,), frozenset(), frozenset(), complete=False)
    text, unseen = _without_invisible(text.replace("\r\n", "\n"))
    reader = _Reader(text)
    value, complete = reader.document(forgive_syntax=bool(unseen))
    bad_lines = frozenset(problem.line for problem in unseen)
    # what else goes wrong on a line with such a character is most likely its consequence
    problems = unseen + [problem for problem in reader.problems if problem.line not in bad_lines]
    return Document(value, reader.lines, tuple(problems), frozenset(reader.broken), bad_lines, complete)


def _without_invisible(text: str) -> tuple[str, list[Problem]]:
    """The text with blanks in place of such characters (and without those of no width), and a problem a line."""
    found: dict[int, Problem] = {}
    cleaned = list(text)
    line, counted = 1, 0
    for position, description in invisible(text):
        if text[position] == "\n":
            continue
        line += text.count("\n", counted, position)
        counted = position
        character = text[position]
        cleaned[position] = "" if unicodedata.category(character) == "Cf" else " "
        if character == "\t":
            what = "a tab; write spaces"
        elif character == "\ufeff" and position == 0:
            what = "a byte order mark stands before the text; save the file as UTF-8 without it"
        else:
            what = f"the character {description}, which cannot be seen; remove it"
        found.setdefault(line, Problem(line, "", what))
    return "".join(cleaned), list(found.values())


class _Stop(Exception):
    """Reading cannot go on; the reason is among the problems already."""


class _Refused(Exception):
    """A scalar that is not taken; the text says why."""


class _Reader:
    """Composes values from PyYAML's events: they come one by one, so depth is checked before anything is built."""

    def __init__(self, text: str) -> None:
        self._events: Iterator[Any] = yaml.parse(text, Loader=yaml.SafeLoader)
        self._line = 1
        self.problems: list[Problem] = []
        self.lines: dict[Path, int] = {}
        self.broken: set[Path] = set()

    def document(self, *, forgive_syntax: bool) -> tuple[Any, bool]:
        """The value of the only document, and whether it could be followed to its end."""
        try:
            return self._only_document(), True
        except _Stop:
            pass
        # ValueError: PyYAML lets chr() fail on an escape past the last code point
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            mark = getattr(error, "problem_mark", None)
            line = mark.line + 1 if mark is not None else self._line
            if not forgive_syntax:
                self._problem(line, (), f"{_syntax(error)} (nothing below was checked)")
        return None, False

    def _only_document(self) -> Any:
        self._next()  # the start of the stream
        start = self._next()
        if isinstance(start, yaml.StreamEndEvent):
            self._problem(1, (), "the file is empty; a policy starts with 'version: 1'")
            raise _Stop
        if start.version or start.tags:
            self._problem(self._line, (), "a '%' directive; remove it")
        value = self._value(self._next(), (), 1)
        self._next()  # the end of the document
        if not isinstance(self._next(), yaml.StreamEndEvent):
            self._problem(self._line, (), "a second document begins; a policy is one document, so remove what follows")
        return value

    def _next(self) -> Any:
        event = next(self._events)
        self._line = event.start_mark.line + 1
        return event

    def _problem(self, line: int, path: Path, text: str) -> None:
        self.problems.append(Problem(line, name(path), text))
        if path:
            self.broken.add(path)

    def _value(self, event: Any, path: Path, depth: int) -> Any:
        line = self._line
        if depth > MAX_DEPTH:
            self._problem(line, (), f"nested more than {MAX_DEPTH} deep; nothing here needs that")
            raise _Stop
        if isinstance(event, yaml.AliasEvent):
            self._problem(line, path, f"the alias *{event.anchor}; write the value itself")
            return None
        if event.anchor is not None:
            self._problem(line, path, f"the anchor &{event.anchor}; remove it, and write values where they are meant")
        if event.tag is not None:
            self._problem(line, path, "a tag ('!…'); remove it")
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(path, depth)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(path, depth)
        try:
            return _scalar(event)
        except _Refused as reason:
            self._problem(line, path, str(reason))
            return None

    def _sequence(self, path: Path, depth: int) -> tuple[Any, ...]:
        items: list[Any] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            item_path = (*path, len(items))
            self.lines[item_path] = self._line
            items.append(self._value(event, item_path, depth + 1))
        return tuple(items)

    def _mapping(self, path: Path, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            line = self._line
            key = self._key(event, path, depth)
            value_path = (*path, key)
            if key in values:
                first = self.lines[value_path]
                self._problem(line, value_path, f"this key stands twice, first in line {first}; remove one")
                value_path = (*path, f"{key} (again)")
            self.lines[value_path] = line
            value = self._value(self._next(), value_path, depth + 1)
            if key != _UNREADABLE:
                values.setdefault(key, value)
        return values

    def _key(self, event: Any, path: Path, depth: int) -> str:
        line = self._line
        if not isinstance(event, yaml.ScalarEvent):
            if not isinstance(event, yaml.AliasEvent):
                self._value(event, (*path, _UNREADABLE), depth + 1)
            self._problem(line, path, "a key that is not plain text; write a name")
            return _UNREADABLE
        if event.anchor is not None or event.tag is not None:
            self._problem(line, path, "an anchor or tag on a key; remove it")
        if event.style is None and event.value == "<<":
            self._problem(line, path, "the merge key '<<'; write the values themselves")
            return _UNREADABLE
        text = str(event.value)
        plain_other = event.style is None and (text in _WORDS or _number(text) is not None or not text)
        if plain_other or next(invisible(text), None):
            self._problem(line, path, f"the key {text!r} is not plain text; write a name")
            return _UNREADABLE
        return text


_UNREADABLE = "?"


def _scalar(event: Any) -> Any:
    text = str(event.value)
    found = next(invisible(text), None)
    if found:
        raise _Refused(f"text with the character {found[1]}, which cannot be seen; remove it")
    if event.style is not None:
        return text
    if not text:
        raise _Refused("nothing is written here; write a value, or leave the whole line out")
    if text in _WORDS:
        return _WORDS[text]
    number = _number(text)
    if number is not None:
        return number
    if _AMBIGUOUS.fullmatch(text):
        raise _Refused(
            f"{text[:40]} is read differently by different YAML readers; "
            "write true, false or null, a number like 12 or 0.5, or put text in quotes"
        )
    return text


def _number(text: str) -> int | float | None:
    whole = _INTEGER.fullmatch(text)
    if not whole and not _DECIMAL.fullmatch(text):
        return None
    if len(text) > MAX_DIGITS:
        raise _Refused(f"a number of more than {MAX_DIGITS} characters; write a smaller one, or put text in quotes")
    return int(text) if whole else float(text)


def _syntax(error: Exception) -> str:
    said = str(getattr(error, "problem", None) or "an escape in quotes is no character; write the character itself")
    for theirs, ours in _SYNTAX:
        if theirs in said:
            return f"this is not YAML: {ours}"
    return f"this is not YAML: {said}"
