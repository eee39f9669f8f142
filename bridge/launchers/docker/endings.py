"""How it ended, in one sentence: from the engine's view of a container, and from the supervisor's own lines.

The one rule: the sentence says what is known and no more. "Out of memory" is said only where the engine counted it and
the exit status fits: the flag alone is also set when some child process was killed and the rest went on.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from bridge.launchers.docker import lasting, owner

_KILLED = 128 + signal.SIGKILL


def container_ending(inspected: Mapping[str, Any]) -> str:
    """Return how a container ended that was not `over` (`State` of GET /containers/{id}/json)."""
    state = inspected.get("State") or {}
    code = state.get("ExitCode", 0)
    if state.get("OOMKilled") and code == _KILLED:
        return f"killed: out of memory ({_size((inspected.get('HostConfig') or {}).get('Memory') or 0)})"
    if state.get("Error"):
        return f"it could not be run: {state['Error']}"
    if code == _KILLED:
        return "killed from outside (SIGKILL), as by `docker kill` or when the engine was shut down"
    if code == 0:
        return "stopped from outside (SIGTERM), as by `docker stop` or when the engine was shut down"
    if code > 128:
        return f"ended by signal {code - 128}{_signal_name(code - 128)}"
    return f"its supervisor ended with exit status {code}"


def over(inspected: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return by which setting of the policy a container ended, and that in words."""
    limits = lasting.read(((inspected.get("Config") or {}).get("Labels") or {}).get(owner.ENDS, ""))
    return lasting.over((inspected.get("State") or {}).get("ExitCode"), limits)


def last_word_on_its_end(lines: str) -> Mapping[str, Any] | None:
    """Return the last event among the supervisor's lines that says that the sandbox ends, or that it does not."""
    return next((each for each in reversed(_events(lines)) if each.get("event") in ("ending", "stays")), None)


def last_kernel_ending(lines: str, since: datetime | None = None) -> str | None:
    """Return the text of the last `ended` event among the supervisor's lines that is not older than `since`."""
    for event in reversed(_events(lines)):
        if event.get("event") == "ended" and isinstance(event.get("text"), str):
            return str(event["text"]) if since is None or _not_before(event.get("time"), since) else None
    return None


def failure(lines: str) -> str | None:
    """Return why the supervisor or the gateway gave up, where it said so."""
    for event in reversed(_events(lines)):
        if event.get("event") == "failed" and isinstance(event.get("text"), str):
            return str(event["text"])
    return None


def _events(lines: str) -> list[dict[str, Any]]:
    events = []
    for line in lines.splitlines():
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict):
            events.append(event)
    return events


def _not_before(time: object, since: datetime) -> bool:
    try:
        return datetime.fromisoformat(str(time)) >= since
    except (ValueError, TypeError):  # unreadable, or without a time zone
        return False


def _signal_name(number: int) -> str:
    try:
        return f" ({signal.Signals(number).name})"
    except ValueError:
        return ""


def _size(number: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB")):
        if number >= unit:
            return f"{number / unit:.4g} {name}"
    return f"{number} bytes"
