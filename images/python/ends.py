"""When a sandbox is over: unused for so long, or there for so long; and what is said before and then.

The one rule: no input, no output and no clock of its own. It is told what was seen at each look and when that was, and
says what follows. Never over for being unused while a client is connected or a cell runs, and never unannounced.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

LOOK_SECONDS = 60.0  # between two looks at most; twenty for the shortest limit
WARNED_SECONDS = 600.0  # before the end; a tenth of a shorter limit

Limit = Literal["idle_timeout", "idle_timeout_of_agents", "max_lifetime"]
STATUSES: dict[Limit, int] = {"idle_timeout": 64, "idle_timeout_of_agents": 65, "max_lifetime": 66}
"""With which status the container ends; the launcher has them too."""


@dataclass(frozen=True)
class Limits:
    """Seconds; None sets none."""

    idle_timeout: float | None = None
    """How long nobody may be connected and nothing run."""
    idle_timeout_of_agents: float | None = None
    """In its place where only agents ever were."""
    max_lifetime: float | None = None


@dataclass(frozen=True)
class Seen:
    """What one look saw."""

    connected: bool = False
    """Somebody is, if only to ask whether a kernel answers."""
    used: bool = False
    """A client stays connected, or a cell runs, or something of that was so since the last look."""
    person: bool = False
    """Somebody was there who is no agent."""


@dataclass(frozen=True)
class Notice:
    """What is to be said: it is `ending` in so many `seconds`, that is off and it `stays`, or it is `over`."""

    event: Literal["ending", "stays", "over"]
    limit: Limit
    text: str
    seconds: int | None = None


def read(orders: Mapping[str, Any]) -> Limits:
    """Return the limits among orders; raises `ValueError` where one is no number of seconds."""
    found = {name: orders.get(name) for name in STATUSES}
    for name, seconds in found.items():
        if seconds is None:
            continue
        if type(seconds) not in (int, float) or not 0 < seconds < math.inf:
            raise ValueError(f"the {name} on standard input is not a number of seconds")
    return Limits(**found)


class Ends:
    """One sandbox's time. Seconds of a clock that nobody can set."""

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._began = self._looked = now
        self._unused = 0.0
        self._person = False
        self._announced: Limit | None = None
        self._is_aged = False
        set_ones = [each for each in vars(limits).values() if each is not None]
        self._step = min(LOOK_SECONDS, *(each / 20 for each in set_ones)) if set_ones else math.inf

    @property
    def next_look(self) -> float:
        """When to look again; infinite where there is no limit."""
        return self._looked + self._step

    def look(self, now: float, seen: Seen) -> Notice | None:
        """Return what is to be said, if anything is."""
        # Of a time in which nobody looked, as when all of it slept or was frozen, nobody can say that it was unused.
        passed = min(now - self._looked, 2 * self._step)
        self._looked = now
        self._unused = 0.0 if seen.used else self._unused + passed
        self._person = self._person or seen.person
        left, limit = self._nearest(now)
        if left <= 0 and self._announced == limit:
            # somebody who has just come may stay
            if seen.connected and limit != "max_lifetime":
                return self._by_age(now)
            return Notice("over", limit, f"this sandbox is over: {self._why(limit)}")
        if left <= min(WARNED_SECONDS, self._seconds(limit) / 10):
            if self._announced == limit:
                return None
            self._announced = limit
            return self._ending(limit, math.ceil(max(left, self._step)))
        if self._announced:
            limit, self._announced = self._announced, None
            return Notice("stays", limit, "this sandbox is used again, so it does not end")
        return None

    def _by_age(self, now: float) -> Notice | None:
        """Return what is to be said of its lifetime while the other end is held off."""
        seconds = self._seconds("max_lifetime")
        left = seconds - (now - self._began)
        if left > min(WARNED_SECONDS, seconds / 10):
            return None
        if not self._is_aged:
            self._is_aged = True
            return self._ending("max_lifetime", math.ceil(max(left, self._step)))
        if left > 0:
            return None
        return Notice("over", "max_lifetime", f"this sandbox is over: {self._why('max_lifetime')}")

    def _nearest(self, now: float) -> tuple[float, Limit]:
        """Return the limit that ends it first as things are, and in how many seconds."""
        limits = self._limits
        by_agents = limits.idle_timeout_of_agents is not None and not self._person
        unused: Limit = "idle_timeout_of_agents" if by_agents else "idle_timeout"
        passed: dict[Limit, float] = {unused: self._unused, "max_lifetime": now - self._began}
        return min((self._seconds(each) - since, each) for each, since in passed.items())

    def _seconds(self, limit: Limit) -> float:
        seconds = getattr(self._limits, limit)
        return math.inf if seconds is None else float(seconds)

    def _ending(self, limit: Limit, seconds: int) -> Notice:
        but = "whatever runs in it" if limit == "max_lifetime" else "unless somebody connects or runs something"
        return Notice("ending", limit, f"this sandbox ends in {seconds} s, {but}: {self._why(limit)}", seconds)

    def _why(self, limit: Limit) -> str:
        seconds = f"{self._seconds(limit):g} s"
        if limit == "max_lifetime":
            return f"it may run for {seconds} (max_lifetime)"
        only = " where only agents ever were" if limit == "idle_timeout_of_agents" else ""
        return f"it may be unused for {seconds}{only}, and nobody is connected and nothing runs (idle_timeout)"
