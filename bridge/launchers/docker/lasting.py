"""How long a sandbox lasts: what its supervisor is told of it, what a label keeps, and what a person reads.

The one rule: the supervisor decides when it is over (`images/python/ends.py`), on a clock that nobody sets and that
goes on in sleep; here that is only told. A time is an estimate, and said so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from bridge.launchers import End
from bridge.policy import SandboxSpec, format_duration

Limits = Mapping[str, float]
"""Seconds, by the supervisor's own names; what is not there sets no limit."""

IDLE, IDLE_OF_AGENTS, LIFETIME = "idle_timeout", "idle_timeout_of_agents", "max_lifetime"
STATUSES = {64: IDLE, 65: IDLE_OF_AGENTS, 66: LIFETIME}
"""With which status a container ends that is over."""
ANNOUNCED = 600.0
"""Seconds before its end at which the supervisor says so; a tenth of a shorter limit."""
LOOKED = 60.0
"""Seconds between two looks of the supervisor at most."""
_LONGEST = 1e9
"""Seconds; with more there may be no date."""


def limits(spec: SandboxSpec) -> Limits:
    """Return what a spec says of it."""
    found = {
        IDLE: spec.idle_timeout,
        IDLE_OF_AGENTS: spec.idle_timeout_of_agents,
        LIFETIME: spec.max_lifetime,
    }
    return {name: seconds for name, seconds in found.items() if seconds is not None}


def written(limits: Limits) -> str:
    """Write them down for a label; empty where there is none."""
    return json.dumps(limits, separators=(",", ":")) if limits else ""


def read(label: str) -> Limits:
    """Read such a label; one that is none of ours sets no limit, for whoever may ask the engine can make any."""
    try:
        found = json.loads(label)
    except (ValueError, RecursionError):
        return {}
    whole = isinstance(found, dict) and all(
        type(each) in (int, float) and 0 < each <= _LONGEST for each in found.values()
    )
    return found if whole else {}


def told(limits: Limits) -> tuple[str, ...]:
    """Return by what it ends by itself, each as a phrase."""
    phrases = []
    if IDLE in limits:
        only = limits.get(IDLE_OF_AGENTS, limits[IDLE])
        agents = f"; after {format_duration(only)} while only agents ever were" if only < limits[IDLE] else ""
        span = format_duration(limits[IDLE])
        phrases.append(f"after {span} with nobody connected and nothing running{agents} (idle_timeout)")
    if LIFETIME in limits:
        phrases.append(f"after {format_duration(limits[LIFETIME])}, whatever runs (max_lifetime)")
    return tuple(phrases)


def over(status: object, limits: Limits) -> tuple[str, str] | None:
    """Return by which setting of the policy a container ended, and that in words; None where it ended otherwise."""
    limit = STATUSES.get(status) if isinstance(status, int) else None
    if limit is None:
        return None
    seconds = limits.get(limit)
    span = "too long" if seconds is None else format_duration(seconds)
    if limit == LIFETIME:
        return LIFETIME, f"it had run for {span} (max_lifetime)"
    only = ", and only agents ever were there" if limit == IDLE_OF_AGENTS else ""
    return IDLE, f"nobody was connected and nothing ran for {span}{only} (idle_timeout)"


def by_age(limits: Limits, started_at: str) -> End | None:
    """Return when its lifetime is over, by the wall clock as it went since its start."""
    if LIFETIME not in limits:
        return None
    seconds = limits[LIFETIME]
    at = datetime.fromisoformat(started_at) + timedelta(seconds=seconds)
    why = f"it will have run for {format_duration(seconds)} (max_lifetime)"
    return End(at, timedelta(seconds=_ahead(seconds)), why)


def asked_since(limits: Limits, started_at: str, now: datetime) -> datetime | None:
    """Return from when on the supervisor may have said that it ends, as unused; None where it cannot have."""
    idle = [limits[each] for each in (IDLE, IDLE_OF_AGENTS) if each in limits]
    slack = timedelta(seconds=2 * LOOKED)
    earliest = timedelta(seconds=min(idle) - _ahead(min(idle))) if idle else timedelta.max
    if not idle or now - datetime.fromisoformat(started_at) < earliest - slack:
        return None
    return now - timedelta(seconds=max(map(_ahead, idle))) - slack


def by_word(limits: Limits, event: Mapping[str, Any] | None) -> End | None:
    """Return when it is over as unused, by the supervisor's last word on that."""
    if event is None or event.get("event") != "ending" or event.get("limit") == LIFETIME:
        return None
    try:
        at = datetime.fromisoformat(event["time"]) + timedelta(seconds=float(event["seconds"]))
        seconds = limits[event["limit"]]
    except (KeyError, TypeError, ValueError):
        return None
    only = " where only agents ever were" if event["limit"] == IDLE_OF_AGENTS else ""
    why = f"nobody is connected and nothing runs (idle_timeout {format_duration(seconds)}{only})"
    return End(at.astimezone(UTC), timedelta(seconds=_ahead(seconds)), why)


def _ahead(seconds: float) -> float:
    return min(ANNOUNCED, seconds / 10)
