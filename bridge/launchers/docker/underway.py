"""Starts that are under way, told from those that were cut short: by a lock that ends with its process.

The one rule: no clock is asked where a lock is to be seen. A start has a file beside its connection file, from before
its claim until it is a sandbox, and holds the file's lock. A container whose start has left its file behind, unlocked,
is nobody's any more.
"""

from __future__ import annotations

import os
from pathlib import Path

from bridge.locks import lock
from bridge.replacing import put

SUFFIX = ".starting"
YOUNG = 120.0
"""Seconds: where a start's lock is not to be seen, what it made may still be used by it for so long."""


class Mark:
    """The locked file of one start; raises `OSError` where it cannot be made."""

    def __init__(self, connection_file: Path, start: str) -> None:
        self._path = path(connection_file, start)
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # locked before it has its name, so that nobody ever sees it unlocked
        self._handle, locked = put(self._path)
        if not locked:
            self._path.unlink()  # without locks here its age tells

    def remove(self) -> None:
        """Say that the start is no longer under way and that nothing of it is left half made; raises `OSError`."""
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of it; where it was not removed, the start was cut short."""
        os.close(self._handle)


def path(connection_file: Path, start: str) -> Path:
    """Return where the file of a start is."""
    return connection_file.with_name(f".{connection_file.stem}.{start}{SUFFIX}")


def hold(place: Path) -> int | None:
    """Lock a file or directory until the returned descriptor is closed; None where the file system has no locks.

    Raises `BlockingIOError` where somebody else has locked it.
    """
    # on NFS only what is open for writing can be locked so (flock(2)), which a directory never is
    kind = os.O_RDONLY if place.is_dir() else os.O_RDWR
    handle = os.open(place, kind | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        is_ours = lock(handle)
    except BlockingIOError:
        os.close(handle)
        raise
    if not is_ours:
        os.close(handle)
        return None
    return handle
