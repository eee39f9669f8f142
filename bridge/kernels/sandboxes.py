"""Sandboxes as the kernels' side of the bridge needs them: within a bounded time, ready to be connected to, explained.

The one rule: the engine is asked, never remembered; and where it does not answer, host kernels do not wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from datetime import datetime

from bridge.connection import load
from bridge.errors import (
    BadConnectionFile,
    BridgeError,
    EngineUnavailable,
    KernelDied,
    KernelNotResponding,
    LaunchError,
)
from bridge.kernels.files import KernelFile
from bridge.launchers import Launcher, Sandbox
from bridge.session import Loss

# An engine answers in hundredths of a second, one under heavy load within one.
PATIENCE = 2.0
# The sockets tell of an end some milliseconds before the engine knows of it.
EXPLAIN_WAIT, EXPLAIN_STEP = 1.2, 0.1


class Sandboxes:
    """The sandboxes of this owner; `launcher` is only called where they matter."""

    def __init__(self, launcher: Callable[[], Launcher]) -> None:
        self._launcher = launcher

    async def known(self) -> tuple[list[Sandbox], LaunchError | None]:
        """Return them all, or why the engine did not tell."""
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._launcher().sandboxes(), None
        except TimeoutError:
            return [], EngineUnavailable(
                f"The container engine did not answer within {PATIENCE:g} s. See whether it does: docker version."
            )
        except LaunchError as error:
            return [], error

    async def get(self, name: str) -> Sandbox | None:
        """Return the one of that name, also one that has ended."""
        return next((each for each in await self._launcher().sandboxes() if each.name == name), None)

    async def ready(self, name: str) -> KernelFile:
        """Return its connection file, after its gateway and the file were brought back where they were lost.

        Raises `KernelDied` where it has ended, `KernelNotResponding` where it is paused.
        """
        sandbox = await self.get(name)
        if sandbox is None or sandbox.state == "ended":
            raise KernelDied(ended(name, sandbox))
        if sandbox.state == "paused":
            raise KernelNotResponding(paused(name))
        if sandbox.state == "unreachable":
            await self._launcher().revive(name)
        if sandbox.moved:
            await self._launcher().restore_connection_file(name)
        try:
            info = load(sandbox.connection_file)
        except BadConnectionFile:
            await self._launcher().restore_connection_file(name)
            info = load(sandbox.connection_file)
        return KernelFile(sandbox.connection_file.resolve(), info)

    async def last_ending(self, name: str, since: datetime | None = None) -> str | None:
        """Return how its kernel process ended last, in one sentence; None where that is not to be told."""
        try:
            return await self._launcher().last_ending(name, since)
        except BridgeError:
            return None

    async def what_became_of(self, name: str, since: datetime) -> Loss:
        """Tell why the connection to a sandbox was lost that was there `since` a time."""
        gone = f"The connection to sandbox {name} was lost, for a reason that the engine does not tell."
        with contextlib.suppress(LaunchError, TimeoutError):
            async with asyncio.timeout(EXPLAIN_WAIT):
                while True:
                    sandbox = await self.get(name)
                    if sandbox is None or sandbox.state == "ended":
                        return Loss(ended(name, sandbox), left="nothing")
                    if sandbox.state == "unreachable":  # or its kernel has just ended, and the gateway with it
                        gone = f"The gateway of sandbox {name} ended; its kernel and variables live on."
                    ending = await self.last_ending(name, since)
                    if ending:
                        return Loss(f"In sandbox {name} {ending}. Its variables are lost; it is started again.")
                    await asyncio.sleep(EXPLAIN_STEP)
        return Loss(gone, left="process")


def ended(name: str, sandbox: Sandbox | None) -> str:
    """Tell of a sandbox that has ended, or that somebody has stopped and so removed.

    `stop` removes the connection file first, then kills: until all is removed it looks killed from outside.
    """
    by = f"start_sandbox or `kernel-bridge up {name}`"
    if sandbox is not None and sandbox.composed:
        by = f"`docker compose up` in {sandbox.connection_file.parent.parent}"
    another = f"{by} starts another"
    if sandbox is None or not sandbox.connection_file.exists():
        return f"Sandbox {name} was stopped; all its variables are lost. {another}."
    set_by = "" if sandbox.over is None else f"; how long one lasts is said by {sandbox.over} in the policy"
    return f"Sandbox {name} has ended: {sandbox.ending}. All its variables are lost. {another}{set_by}."


def paused(name: str) -> str:
    """Tell of a sandbox that somebody has frozen."""
    return (
        f"Sandbox {name} is paused, so nothing in it runs or answers; its variables are there. Whoever paused it wakes "
        "it with `docker unpause`, and `docker ps` shows the container's name."
    )


def silence_under(runtime: str | None) -> str:
    """Tell what may keep a kernel silent under a runtime of the policy's; it looks like a slow start."""
    if runtime is None:
        return ""
    return (
        f" It was to run under the policy's runtime {runtime}: one with an operating system's kernel of its own must "
        "let the sandbox's Unix sockets be seen outside of it (gVisor: --host-uds=all among its runtimeArgs in the "
        "engine's daemon.json)."
    )
