"""A small process beside the owner of a sandbox: it stops the sandbox where the owner was killed.

The one rule: it acts when its standard input ends without a word, and never before. The end comes however the owner
goes, also by a signal that it never sees; a host kernel ends with its parent too.
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
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=[] if lock is None else [lock],
        )

    def release(self) -> None:
        """End it; the sandbox is left alone."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.communicate(b"released", END)


def main(sandbox: str, engine: str, policy: str | None = None) -> None:
    """Wait for a word or the end of the owner; stop the sandbox where there was no word."""
    if not sys.stdin.buffer.read():
        asyncio.run(_stop(sandbox, engine or None, policy))


async def _stop(sandbox: str, engine: str | None, policy: str | None) -> None:
    from bridge.launchers.docker import DockerLauncher  # noqa: PLC0415 - only where it is needed: this process is small

    launcher = DockerLauncher(engine)
    with contextlib.suppress(BridgeError):  # it carries its labels: `ls` shows it, and `gc --all` ends it
        await (_audited(launcher, policy) if policy else launcher).stop(sandbox)
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
