"""Who owns the sandbox of a name: the one IDE whose restart and end are meant for it.

The one rule: one owner at a time, by a lock that an owner shares with its guard; so whoever is next after one that was
killed waits until the guard has done its work.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from pathlib import Path

from bridge.errors import LaunchError, NameTaken
from bridge.policy.places import state_home

# A sandbox is stopped in one second or two.
PATIENCE = 20.0
ASK_AGAIN = 0.1


class Ownership:
    """The lock on one name; made by `own`."""

    def __init__(self, lock: int) -> None:
        self.lock = lock
        """A descriptor, to be inherited by the guard."""

    def release(self) -> None:
        """Leave it to the next one, as far as this process goes."""
        os.close(self.lock)


async def own(sandbox: str, directory: Path | None = None) -> Ownership:
    """Become the owner of the sandbox of this name; raises `NameTaken` or `LaunchError`."""
    directory = directory or state_home() / "kernel-bridge" / "owners"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(directory / f"{sandbox}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LaunchError(
            f"{directory} cannot be written ({error.strerror}), so it cannot be made sure that only one IDE owns "
            f"sandbox {sandbox}. Nothing was started; make the directory writable."
        ) from None
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() < deadline:
                await asyncio.sleep(ASK_AGAIN)
                continue
            os.close(lock)
            raise NameTaken(
                f"Another IDE owns sandbox {sandbox}, which ends with it. Nothing was started. Install another name, "
                "or install this one without --owner to join it."
            ) from None
        return Ownership(lock)
