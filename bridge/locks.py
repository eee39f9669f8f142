"""Locks on files and directories of ours, which end with the process that has them (flock(2)).

The one rule: where a file system has no locks, that is said, and is never taken for a lock that is free.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def lock(descriptor: int) -> bool:
    """Lock what is open; False where its file system has no locks. Raises `BlockingIOError` where it is locked."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def is_locked(place: Path) -> bool | None:
    """Tell whether a process has locked it; None where there is nothing, or nothing to be told of it."""
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return False
