"""Whether an IDE has had the same kernel before: to it, a restart is a relay that ends and another that begins.

The one rule: a record is locked for as long as its relay lives, so a relay that was killed leaves one that says so; a
relay that the IDE shut down for good leaves none.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from pathlib import Path
from typing import Any

from bridge.policy.places import state_home


class Visit:
    """The record of one relay; made once the kernel was joined. Where the directory cannot be written there is none."""

    def __init__(self, kernel: str, parent: int, directory: Path | None = None) -> None:
        directory = directory or state_home() / "kernel-bridge" / "relays"
        about = {"kernel": kernel, "parent": parent, "parent_start": _start(parent)}
        self.is_return = False
        """The same IDE process has had a relay to this kernel that ended otherwise than by a shutdown."""
        self._path = directory / f"{os.getpid()}.json"
        with contextlib.suppress(OSError):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for each in directory.glob("*.json"):
                left = _left_behind(each)
                if left == about:
                    self.is_return = True
                if left and (left == about or _start(left["parent"]) != left["parent_start"]):
                    each.unlink(missing_ok=True)
            # stays open, and so locked, until the process ends
            handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            fcntl.flock(handle, fcntl.LOCK_EX)  # whoever looks at it just now is done in no time
            os.write(handle, json.dumps(about).encode())

    def forget(self) -> None:
        """Leave no record: the IDE has shut the kernel down for good, as it believes, or the kernel is gone."""
        self._path.unlink(missing_ok=True)


def _left_behind(path: Path) -> dict[str, Any]:
    """Read the record of a relay that has ended; empty for one that lives."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            about = json.load(file)
            return {each: about[each] for each in ("kernel", "parent", "parent_start")}
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def _start(process: int) -> str:
    """When a process started, so that its number, used again, is not taken for it; empty where that is not told."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
