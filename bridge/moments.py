"""A moment, and how long ago it was, whatever the wall clock was set to since.

The one rule: a span is never the difference of two times of the wall clock. It is taken from a clock that nobody sets
and that goes on while the machine sleeps, as a sandbox's supervisor and an engine's log go on with theirs.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

# On macOS the monotonic one goes on in sleep.
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


@dataclass(frozen=True)
class Moment:
    """The one at which this is made."""

    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    """By the wall clock as it went then."""
    _seconds: float = field(default_factory=lambda: time.clock_gettime(_STEADY))

    def as_of_now(self) -> datetime:
        """Return when it was by the wall clock as it goes now."""
        return datetime.now(UTC) - self._ago()

    def now(self) -> datetime:
        """Return what the time is by the wall clock as it went then."""
        return self.at + self._ago()

    def _ago(self) -> timedelta:
        return timedelta(seconds=time.clock_gettime(_STEADY) - self._seconds)
