"""Numbers with a unit and with bounds: sizes (`512MiB`), durations (`45s`), counts and fractions.

The one rule: in a policy's text a size or a duration carries its unit, because `memory: 512` means bytes to one reader
and megabytes to another. Values made by our own code are plain bytes and seconds. Every refusal says what is allowed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, ValidationInfo
from pydantic_core import PydanticCustomError, core_schema

KiB = 1024
MiB = 1024 * KiB
GiB = 1024 * MiB
TiB = 1024 * GiB

FROM_TEXT, OF_SYSTEM = "from text", "of the system"
"""Pydantic's validation context while a policy's text is read."""

_SIZES = {"B": 1, "KiB": KiB, "MiB": MiB, "GiB": GiB, "TiB": TiB}
_DURATIONS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_WITH_UNIT = re.compile(r"(0|[1-9][0-9]{0,14})([A-Za-z]+)")


def parse_size(text: str) -> int:
    """`512MiB` → bytes. ValueError, with a sentence, for anything but a whole number with B, KiB, MiB, GiB or TiB."""
    match = _WITH_UNIT.fullmatch(text)
    if not match or match[2] not in _SIZES:
        raise ValueError(f"{text[:40]!r} is not a size; write a whole number with B, KiB, MiB, GiB or TiB, like 512MiB")
    return int(match[1]) * _SIZES[match[2]]


def parse_duration(text: str) -> float:
    """`45s` → seconds. ValueError, with a sentence, for anything but a whole number with s, m, h or d."""
    match = _WITH_UNIT.fullmatch(text)
    if not match or match[2] not in _DURATIONS:
        raise ValueError(
            f"{text[:40]!r} is not a duration; write a whole number with s, m, h or d (seconds to days), like 45s"
        )
    return float(int(match[1]) * _DURATIONS[match[2]])


def format_size(size: int) -> str:
    """Bytes → the shortest text that `parse_size` reads back exactly."""
    unit = max((unit for unit in _SIZES if size % _SIZES[unit] == 0), key=lambda unit: _SIZES[unit]) if size else "B"
    return f"{size // _SIZES[unit]}{unit}"


def format_duration(seconds: float) -> str:
    """Seconds → text; what `parse_duration` reads back where the seconds are whole."""
    if not seconds or seconds % 1:
        return f"{seconds:g}s"
    unit = max((unit for unit in _DURATIONS if seconds % _DURATIONS[unit] == 0), key=lambda unit: _DURATIONS[unit])
    return f"{seconds / _DURATIONS[unit]:.0f}{unit}"


def problem(text: str, *, about_section: bool = False) -> PydanticCustomError:
    """A validation error that carries our own sentence; `about_section` blames what holds the field."""
    return PydanticCustomError("policy", "{text}", {"text": text, "about_section": about_section})


@dataclass(frozen=True)
class Bounded:
    """A number from `low` to `high`, as an annotation of a pydantic field."""

    low: float
    high: float
    kind: str
    example: str
    read: Callable[[object, bool], float]
    """Value, whether it comes from a policy's text → number; ValueError or TypeError for any other kind of value."""
    show: Callable[[float], str]

    @property
    def allowed(self) -> str:
        """What may be written, in words."""
        return f"{self.kind} from {self.show(self.low)} to {self.show(self.high)}{self.example}"

    def check(self, value: object, info: ValidationInfo) -> float:
        """The number, or a validation error that says what may be written."""
        try:
            number = self.read(value, FROM_TEXT in (info.context or ()))
        except (ValueError, TypeError, OverflowError):
            raise problem(f"{shown(value)} cannot be used here; write {self.allowed}") from None
        if not self.low <= number <= self.high:
            side = "small" if number < self.low else "large"
            raise problem(f"{self.show(number)} is too {side}; write {self.allowed}")
        return number

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.with_info_plain_validator_function(self.check)


def size(low: int, high: int) -> Bounded:
    """Bytes."""
    return Bounded(low, high, "a size", ", like 512MiB", _read_size, lambda value: format_size(int(value)))


def duration(low: float, high: float) -> Bounded:
    """Seconds."""
    return Bounded(low, high, "a duration", ", like 45s, 10m or 1h", _read_duration, format_duration)


def count(low: int, high: int) -> Bounded:
    """A whole number."""
    return Bounded(low, high, "a whole number", "", lambda value, _: _whole(value), str)


def fraction(low: float, high: float) -> Bounded:
    """A number with or without decimals."""
    return Bounded(low, high, "a number", ", like 2 or 0.5", lambda value, _: _finite(value), _exactly)


def _exactly(value: float) -> str:
    """`2` or `0.5`, but never a bound in place of what is just beyond it."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def written(text: str) -> Any:
    """A default in a policy's own words: the field reads it like any other text, so it has its type in the end."""
    return text


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError
    return value


def _finite(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    if not math.isfinite(value):  # every comparison with .nan is false, so bounds alone would let it pass
        raise ValueError
    return float(value)


def _read_size(value: object, from_text: bool) -> int:  # noqa: FBT001 - of a fixed shape
    if isinstance(value, str):
        return parse_size(value)
    if from_text:
        raise TypeError
    return _whole(value)


def _read_duration(value: object, from_text: bool) -> float:  # noqa: FBT001 - of a fixed shape
    if isinstance(value, str):
        return parse_duration(value)
    if from_text:
        raise TypeError
    return _finite(value)


def shown(value: object) -> str:
    """A value as a policy's author wrote it, short enough for a sentence."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        # repr: a line break in a value must not look like another line of the report
        return f'the text "{repr(value[:60])[1:-1]}{"…" if len(value) > 60 else ""}"'
    if isinstance(value, dict):
        return "a mapping (keys and values)"
    if isinstance(value, tuple | list):
        return "a list"
    return f"a {type(value).__name__}"
