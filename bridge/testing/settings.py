"""What a sandbox for tests is started with: from pytest's configuration and the markers to a request.

The one rule: a value that cannot be used is refused with the name of the setting, in the words that it was written in;
what is allowed is the policy's to say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bridge.errors import UsageError
from bridge.kernels.lifecycle import START_TIMEOUT
from bridge.policy import SandboxRequest, parse_duration, parse_size
from bridge.policy.places import expanded
from bridge.testing.plugin import MARKER, PREFIX, SETTINGS


@dataclass(frozen=True)
class Settings:
    """All that is settled before a start."""

    request: SandboxRequest
    """Its name is still empty."""
    policy: Path | None
    engine: str | None
    start_timeout: float
    """Seconds."""


def read(config: pytest.Config, marks: Sequence[pytest.Mark] = ()) -> Settings:
    """Return the settings, of which the closest marker's come first; raises `UsageError`."""
    root = config.rootpath
    found: dict[str, Any] = {}
    for name in SETTINGS:
        written = config.getini(PREFIX + name)
        if written:
            found[name] = _parsed(name, written, root, PREFIX + name)
    for mark in reversed(marks):
        if mark.args:
            raise UsageError(f"@pytest.mark.{MARKER}({mark.args[0]!r}): write NAME=VALUE. Nothing was started.")
        for name, written in mark.kwargs.items():
            found[name] = _parsed(name, written, root, f"@pytest.mark.{MARKER}({name}=...)")
    policy, engine = found.pop("policy", None), found.pop("engine", None)
    timeout = found.pop("start_timeout", START_TIMEOUT)
    return Settings(SandboxRequest("", **found), policy, engine, timeout)


def _parsed(name: str, written: object, root: Path, where: str) -> object:
    if name not in _PARSERS:
        raise UsageError(f"{where}: there is no such setting; there are {', '.join(SETTINGS)}. Nothing was started.")
    try:
        return _PARSERS[name](written, root)
    except ValueError as error:
        raise UsageError(f"{where}: {error}. Nothing was started.") from None


def _text(written: object, _: Path) -> str:
    if not isinstance(written, str) or not written:
        raise ValueError(f"{written!r} is no text; write one")
    return written


def _path(written: object, root: Path) -> Path:
    if not isinstance(written, str | Path) or not str(written):
        raise ValueError(f"{written!r} is no path; write one")
    return root / expanded(written)


def _one_of(*allowed: str) -> Callable[[object, Path], str]:
    def parse(written: object, _: Path) -> str:
        if written not in allowed:
            raise ValueError(f"{written!r} is none; write {' or '.join(allowed)}")
        return str(written)

    return parse


def _memory(written: object, root: Path) -> int:
    return parse_size(_text(written, root))


def _number(written: object, _: Path) -> float:
    try:
        number = math.nan if isinstance(written, bool) else float(written)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(f"{written!r} is no number above 0; write one, like 2 or 0.5")
    return number


def _seconds(written: object, root: Path) -> float:
    """Read `90s`, or a number of seconds where it is one in the code of a test."""
    seconds = parse_duration(written) if isinstance(written, str) else _number(written, root)
    if not seconds:
        raise ValueError(f"{written!r} is no time to start in; write more")
    return seconds


_PARSERS: Mapping[str, Callable[[object, Path], object]] = {
    "image": _text,
    "policy": _path,
    "workspace": _path,
    "workspace_mode": _one_of("ro", "rw"),
    "network": _one_of("isolated", "none", "open"),
    "memory": _memory,
    "cpus": _number,
    "engine": _text,
    "start_timeout": _seconds,
}
