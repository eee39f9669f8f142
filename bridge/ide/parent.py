"""The life of the program that started this one: an IDE that is killed must not leave its relay behind.

The one rule: an event where the system has one: a descriptor that becomes readable when that process ends (Linux since
5.3); elsewhere a look each second.
"""

from __future__ import annotations

import os

LOOK = 1.0


class Parent:
    """The parent process, as it was when this was made."""

    def __init__(self) -> None:
        self.pid = os.getppid()
        self.descriptor = _descriptor(self.pid)
        """Readable once the parent has ended; None where the system has no such thing, or it has ended already."""

    def has_ended(self) -> bool:
        """Tell whether it has ended: an orphan is given another parent."""
        return os.getppid() != self.pid


def _descriptor(pid: int) -> int | None:
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None
