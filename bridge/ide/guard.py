"""A small process beside the owner of a sandbox: it stops the sandbox where the owner was killed.

The one rule: it acts when its standard input ends without the word, and never before. The end comes however the owner
goes, also by a signal that it never sees; a host kernel ends with its parent too. It stops the container that it was
told of, and leaves another alone that has the name by then; while there is none to be told of, what has the name.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bridge.errors import BridgeError

if TYPE_CHECKING:
    from bridge.launchers import Launcher
    from bridge.policy import Policy

# It has nothing to do when it is released.
END = 5.0
_RELEASED = b"released"


class Guard:
    """The process, seen from the owner."""

    def __init__(self, sandbox: str, engine: str | None, lock: int | None = None, policy: Policy | None = None) -> None:
        """Start it; it keeps the owner's lock, a descriptor, for as long as it lives.

        A sandbox under a name that nobody else would use needs none. Where the policy has an audit, its act is in it.
        """
        audited = [policy.origin] if policy and policy.audit.file else []
        # a session of its own: the terminal's Ctrl-C is not for it. -P: what is in the directory is not imported.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, sandbox, engine or "", *audited],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=[] if lock is None else [lock],
        )

    def has(self, container: str | None) -> None:
        """Tell it which container the sandbox is, by the engine's id; None where one is about to be started."""
        assert self._process.stdin is not None  # noqa: S101 - it was asked for
        with contextlib.suppress(BrokenPipeError):  # somebody has ended it
            self._process.stdin.write(f"{container or ''}\n".encode())

    def release(self) -> None:
        """End it; the sandbox is left alone."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.communicate(_RELEASED, END)


def main(sandbox: str, engine: str, policy: str | None = None) -> None:
    """Wait for the word or the end of the owner; stop the sandbox where there was no word."""
    *containers, word = sys.stdin.buffer.read().split(b"\n")
    if word != _RELEASED:
        last = containers[-1].decode() if containers else ""
        asyncio.run(_stop(sandbox, last or None, engine or None, policy))


async def _stop(sandbox: str, container: str | None, engine: str | None, policy: str | None) -> None:
    from bridge.launchers.docker import DockerLauncher  # noqa: PLC0415 - only where it is needed: this process is small

    launcher = DockerLauncher(engine)
    with contextlib.suppress(BridgeError):  # it carries its labels: `ls` shows it, and `gc --all` ends it
        await (_audited(launcher, policy) if policy else launcher).stop(sandbox, only=container)
    launcher.close()


def _audited(launcher: Launcher, policy: str) -> Launcher:
    from bridge.audit import Audit, Who  # noqa: PLC0415 - as above
    from bridge.kernels.recorded import recorded  # noqa: PLC0415 - as above
    from bridge.policy import find  # noqa: PLC0415 - as above

    try:
        return recorded(launcher, Audit(find(Path(policy)), Who("guard")))
    except BridgeError:  # the file was changed since: ending must not wait for its correction
        return launcher


if __name__ == "__main__":
    main(*sys.argv[1:])
