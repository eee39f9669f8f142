"""What `doctor` looks at: each check tells what it found and, of each fault, what to type.

The one rule: a check looks and changes nothing; it runs beside the others and has a bounded time, so none hides or
delays another. `fail` is what keeps sandboxes from starting, `warn` is everything else that is not as it should be.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bridge.errors import BridgeError
from bridge.policy import format_size

AGAIN = "kernel-bridge doctor    (again; then look at what is named)"

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. No secret is ever part of it."""

    check: str
    level: Level
    found: str
    cure: str | None = None
    """What to type; None only where nothing is wrong."""


@dataclass(frozen=True)
class Check:
    """One look; it yields its findings as it has them."""

    name: str
    look: Callable[[], Iterable[Finding]]
    late: Level = "warn"
    """What it means when it does not end in time."""


def run(checks: Sequence[Check], *, patience: float) -> list[Finding]:
    """Run the checks beside each other and return what they found within `patience` seconds, in their order.

    A check that does not end by then, or fails itself, is a finding too, after what it had found before.
    """
    found: list[list[Finding]] = [[] for _ in checks]

    def look(check: Check, into: list[Finding]) -> None:
        try:
            for each in check.look():
                into.append(each)  # noqa: PERF402 - one by one: what was found before a fault is told
        except Exception as error:  # noqa: BLE001 - a fault in one check must not hide the others
            told = str(error) if isinstance(error, BridgeError) else _unexpected(error)
            into.append(Finding(check.name, "warn", f"This could not be looked at: {told}", AGAIN))

    # daemons: one that hangs, with all the threads that it has started, ends with the process
    looking = [threading.Thread(target=look, args=pair, daemon=True) for pair in zip(checks, found, strict=True)]
    end = time.monotonic() + patience
    for each in looking:
        each.start()
    for each in looking:
        each.join(max(0.0, end - time.monotonic()))
    return [
        finding
        for check, thread, findings in zip(checks, looking, found, strict=True)
        for finding in (*findings.copy(), *([_late(check, patience)] if thread.is_alive() else []))
    ]


def size(free: int) -> str:
    """Return a number of bytes as a person reads it, rounded down."""
    unit = 2**30 if free >= 2**30 else 2**20
    return format_size(free // unit * unit)


def _late(check: Check, patience: float) -> Finding:
    text = f"This did not end within {patience:g} s, so what it would have told is missing."
    return Finding(check.name, check.late, text, AGAIN)


def _unexpected(error: Exception) -> str:
    # another exception's text may hold anything, so only the operating system's own words are shown
    words = error.strerror if isinstance(error, OSError) else None
    where = f" ({Path(str(error.filename))})" if isinstance(error, OSError) and error.filename else ""
    return f"{type(error).__name__}{f': {words}' if words else ''}{where}."
