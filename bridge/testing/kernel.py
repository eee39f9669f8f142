"""A sandbox that belongs to a test, or to some of them: started, used from ordinary code, ended.

The one rule: it never outlives its scope. Closing ends it; where that is not reached it is closed at the end of the
process, and where the process is killed, by a guard that was there before the sandbox was.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import secrets
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from bridge.audit import Who
from bridge.errors import (
    BridgeError,
    KernelDied,
    KernelError,
    LaunchError,
    NoAnswer,
    NoSuchKernel,
    NotOurs,
    StartTimeout,
    UsageError,
)
from bridge.ide.background import background
from bridge.ide.guard import Guard
from bridge.kernels.listing import Outcome
from bridge.kernels.registry import Kernels
from bridge.launchers.docker import DockerLauncher
from bridge.policy import Policy, find
from bridge.testing.cells import Cell, CellTimeoutError, dedented, made, timed_out, told
from bridge.testing.plugin import PREFIX
from bridge.testing.settings import Settings

T = TypeVar("T")

NO_INPUT = (
    "The cell asks for input ({prompt!r}), which nobody gives in a test, so it was interrupted. Have the code take the "
    "value in another way, or set it in a cell before."
)
STUCK = (
    "an interrupt did not end it: native code holds it up, or the code goes on all the same. Until it ends, nothing "
    "else runs in this kernel; restart() starts the kernel anew"
)
QUEUED = "it waits behind the cell of another client; it is interrupted as soon as it begins"


class _Owned:
    """The sandbox, as the background's loop has it."""

    def __init__(self, settings: Settings) -> None:
        self.name = f"pytest-{secrets.token_hex(4)}"
        self.policy = find(settings.policy)
        self._settings = settings
        self._kernels = Kernels(
            _without_journal(self.policy),
            lambda: DockerLauncher(settings.engine),
            username="pytest",
            who=Who("pytest"),
            start_timeout=settings.start_timeout,
        )
        self._guard: Guard | None = None
        self._closing = asyncio.Lock()
        self._closed = False

    async def start(self) -> Path:
        """Start it and return its connection file; raises `BridgeError`, and nothing is left then."""
        background().kept.add(self)
        # before the start: who is killed meanwhile leaves nothing either
        self._guard = Guard(self.name, self._settings.engine, policy=self.policy)
        try:
            request = dataclasses.replace(self._settings.request, name=self.name)
            sandbox, _ = await self._kernels.start_sandbox(request)
        except BaseException:
            await self._leave()
            raise
        return sandbox.connection_file

    async def close(self) -> None:
        """Stop it, once; raises `LaunchError` where that failed: then the end of the process tries it again."""
        async with self._closing:
            if self._closed:
                return
            with contextlib.suppress(NoSuchKernel):  # somebody else has stopped it
                await self._kernels.stop_sandbox(self.name)
            await self._leave()

    async def _leave(self) -> None:
        self._closed = True
        background().kept.discard(self)
        await self._kernels.close()
        if self._guard:
            self._guard.release()

    def kernels(self) -> Kernels:
        """Return what acts on it; raises `UsageError` once it is closed."""
        if self._closed:
            raise UsageError(f"Sandbox {self.name} has ended with the test that it was started for. Nothing was done.")
        return self._kernels

    async def run(self, code: str, timeout: float | None) -> Cell:
        kernels = self.kernels()
        patience = self.policy.calls.timeout if timeout is None else timeout
        if not patience > 0:
            raise UsageError(f"timeout={timeout!r} is no time to wait for a cell; write seconds. Nothing was executed.")
        outcome = await kernels.execute(code, name=self.name, timeout=patience, ask=_refuse)
        if outcome.result is not None and outcome.result.status in ("running", "queued"):
            late, how = await self._take_back(outcome)
            raise timed_out(made(code, late), f"The cell did not end within {patience:g} s, and {how}.")
        cell = made(code, outcome)
        if outcome.result is not None and outcome.result.status in ("lost", "aborted"):
            died = outcome.result.status == "lost"
            what = "The kernel ended while the cell ran." if died else "The cell was not run."
            raise (KernelDied if died else KernelError)(told(what, cell))
        return cell

    async def _take_back(self, late: Outcome) -> tuple[Outcome, str]:
        assert late.result is not None  # noqa: S101 - it is late
        number = late.result.execution
        try:
            ended = await self.kernels().interrupt(self.name)
        except NotOurs:  # it has just ended
            ended = await self.kernels().read(number, name=self.name)
        outcome = dataclasses.replace(ended, notices=(*late.notices, *ended.notices))
        status = outcome.result.status if outcome.result else "lost"
        return outcome, {"queued": QUEUED, "running": STUCK}.get(status, "was interrupted")

    async def interrupt(self) -> None:
        await self.kernels().interrupt(self.name)

    async def restart(self) -> None:
        await self.kernels().restart(self.name)


class SandboxKernel:
    """An IPython kernel in a sandbox of its own, for ordinary code: each call waits until it is done.

    Made by `start`. Usable from any thread, also where an event loop runs.
    """

    def __init__(self, owned: _Owned, connection_file: Path) -> None:
        self._owned = owned
        self.name = owned.name
        """The sandbox's, as in `kernel-bridge logs NAME`."""
        self.connection_file = connection_file
        """For a client of one's own: `jupyter console --existing FILE`."""

    def __repr__(self) -> str:
        return f"<SandboxKernel {self.name}>"

    def run(self, code: str, *, timeout: float | None = None, check: bool = True) -> Cell:
        """Run a cell and return what it printed and showed; indented code is moved to the margin.

        Raises `CellExecutionError` for code that raises, unless `check` is false: then it is the cell's `error`.
        `CellTimeoutError` where the cell has not ended after `timeout` seconds (the policy's `calls.timeout` where none
        are given); it is interrupted then. `KernelDied`, with why, where the kernel ended meanwhile; the next call
        finds a new one, whose variables are gone. Another `KernelError` where the cell could not be run.
        """
        __tracebackhide__ = True
        cell = _do(self._owned.run(dedented(code), timeout))
        if check and cell.error:
            raise cell.error
        return cell

    def interrupt(self) -> None:
        """Interrupt the cell that another thread runs; raises `NotOurs` where there is none."""
        __tracebackhide__ = True
        _do(self._owned.interrupt())

    def restart(self) -> None:
        """Start the kernel anew: its variables are gone, the sandbox and its files stay."""
        __tracebackhide__ = True
        _do(self._owned.restart())

    def close(self) -> None:
        """End the sandbox; the fixture does. Raises `LaunchError` where that failed."""
        try:
            _do(self._owned.close())
        except LaunchError as error:
            raise LaunchError(
                f"Sandbox {self.name} could not be stopped: {error} It is tried again when pytest ends; by hand: "
                f"kernel-bridge stop {self.name}"
            ) from None


def start(settings: Settings) -> SandboxKernel:
    """Start a sandbox and return its kernel, which has answered; raises `BridgeError`, and nothing is left then."""
    owned = _Owned(settings)
    try:
        return SandboxKernel(owned, _do(owned.start()))
    except StartTimeout as error:
        raise StartTimeout(f"{error} {PREFIX}start_timeout gives it more time.") from None


def _do(work: Coroutine[Any, Any, T]) -> T:
    """Do it in the background, with no line of ours in a test's traceback."""
    __tracebackhide__ = True
    try:
        return background().wait(work)
    except (BridgeError, CellTimeoutError) as error:
        raise error.with_traceback(None) from None


async def _refuse(_: str, prompt: str) -> str:
    raise NoAnswer(NO_INPUT.format(prompt=prompt))


def _without_journal(policy: Policy) -> Policy:
    """Return the policy without output kept on disk: what tests print is nothing that the person would export."""
    return policy.model_copy(update={"calls": policy.calls.model_copy(update={"kept_output": None})})
