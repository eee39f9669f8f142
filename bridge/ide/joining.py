"""Which kernel an IDE's relay or provisioner is for: found, started where it is owned, found again after it was lost.

The one rule: only an IDE that owns its sandbox restarts or ends it; any other one comes and goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from bridge.audit import Audit
from bridge.channels import open_channels
from bridge.connection import ConnectionInfo
from bridge.errors import BridgeError, KernelDied, KernelError, LaunchError, NameTaken, NoSuchKernel, NotOurs
from bridge.ide.guard import Guard
from bridge.ide.owning import Ownership, own
from bridge.kernels.registry import Kernels
from bridge.moments import Moment
from bridge.policy import SandboxRequest
from bridge.policy.decision import NAME

# A kernel that runs answers in milliseconds, also while a cell runs.
ANSWER_TIMEOUT = 4.0
# Whoever restarts a host kernel does so at once, which takes two seconds or three; a dead one is to be told soon.
HOST_PATIENCE = 5.0
# A supervisor starts a kernel again in one or two; on a loaded machine, or one that keeps falling, it takes longer.
SANDBOX_PATIENCE = 20.0
ASK_AGAIN = 0.1


@dataclass(frozen=True)
class Joined:
    """A kernel that has just answered."""

    info: ConnectionInfo
    process: str
    """The kernel's own session id: another one is another process, with none of the variables."""
    since: Moment
    reason: str = ""
    """Why it had to be found again, in one sentence; empty at first."""


class Joining:
    """Finds one kernel; with `owner` and no `which` it is a sandbox of this IDE's own, under a name made up for it.

    `request` is what an owned sandbox is started with where it is missing; without it none is started.
    """

    def __init__(
        self,
        make_kernels: Callable[[], Kernels],
        which: str | None,
        *,
        owner: bool,
        request: SandboxRequest | None,
        engine: str | None,
    ) -> None:
        self._make_kernels, self._which, self.owner, self._request = make_kernels, which, owner, request
        self._engine = engine
        self._ownership: Ownership | None = None
        self._guard: Guard | None = None
        self.name = which or ""
        """What the kernel is called; a sandbox without a name gets one when it is started."""
        self.audit: Audit | None = None
        """What the kernels tell of what is done with them, once they were opened."""
        self.sandbox: str | None = None
        """Its name as a sandbox; None before it was found, and for a host kernel."""

    async def join(self) -> Joined:
        """Find the kernel, or start it; raises `BridgeError`, of which `NameTaken` means that another IDE owns it."""
        async with self.kernels() as kernels:
            if self.owner:
                await self._own(kernels)
            return await self._look(kernels)

    async def rejoin(self, before: Joined) -> Joined:
        """Find the kernel after the connection to it was lost; raises `KernelDied`, with why, where it is gone."""
        deadline = time.monotonic() + (SANDBOX_PATIENCE if self.sandbox else HOST_PATIENCE)
        async with self.kernels() as kernels:
            while True:
                try:
                    found = await self._look(kernels)
                except KernelDied:
                    raise
                except BridgeError as error:
                    if time.monotonic() > deadline or (self.sandbox and isinstance(error, NoSuchKernel)):
                        raise KernelDied(await self._lost(kernels, before.since, error)) from None
                    await asyncio.sleep(ASK_AGAIN)
                else:
                    return dataclasses.replace(found, reason=await self._why(kernels, before, found))

    async def restarted(self, before: Joined) -> Joined:
        """Find an owned sandbox's next process, which is started where the one before has not ended.

        A sandbox that is gone is started anew; a kernel that is not owned is only found again. Raises `BridgeError`.
        """
        try:
            found = await self.rejoin(before)
        except KernelDied:
            if not self.owner:
                raise
            return await self.join()
        if self.owner and self.sandbox and found.process == before.process:
            async with self.kernels() as kernels:
                await kernels.restart_sandbox(self.sandbox)
            found = await self.rejoin(before)
        return found

    @property
    def about(self) -> dict[str, str]:
        """Return how the audit names the kernel."""
        return {"name": self.sandbox or self.name, "kind": "sandbox" if self.sandbox else "host"}

    @property
    def restart_advice(self) -> str:
        """Say how the kernel is restarted for real, in a sentence."""
        if self.sandbox:
            return f"To restart it for real, for everybody: kernel-bridge restart {self.sandbox}"
        return "To restart it for real, restart it where it was started."

    @property
    def stays(self) -> str:
        """Say that `exit` has not ended the kernel, and what does, in a sentence or two."""
        if self.owner:
            return f"{self.name} was not ended; shut it down in this program, and it is."
        return f"{self.name} is a shared kernel: it was not ended. {self.restart_advice}"

    @property
    def was_not_restarted(self) -> str:
        """Say what came of an IDE's restart of a kernel that it does not own."""
        return (
            f"{self.name} is a shared kernel: a restart from here left it as it is, with all its variables. "
            f"{self.restart_advice}"
        )

    async def leave(self, *, restart: bool = False) -> None:
        """Do to an owned sandbox what its IDE asked for; every other kernel is left as it is.

        A sandbox without a name of its own is not found by the IDE's next relay, so a restart of it is an end too.
        Raises `BridgeError` where that failed: then the sandbox is still owned, and its guard still there.
        """
        if self.owner and self.sandbox:
            async with self.kernels() as kernels:
                if restart and self._which:
                    await kernels.restart_sandbox(self.sandbox)
                else:
                    with contextlib.suppress(NoSuchKernel):  # somebody else has stopped it
                        await kernels.stop_sandbox(self.sandbox)
        self.let_go()

    def let_go(self) -> None:
        """Leave an owned sandbox to whoever owns it next, however this process ends."""
        if self._guard:
            self._guard.release()
        if self._ownership:
            self._ownership.release()
        self._guard = self._ownership = None

    @asynccontextmanager
    async def kernels(self) -> AsyncIterator[Kernels]:
        """Open the kernels for a while."""
        kernels = self._make_kernels()
        self.audit = kernels.audit
        try:
            yield kernels
        finally:
            await kernels.close()

    async def _own(self, kernels: Kernels) -> None:
        """Become the owner before anything is done to a sandbox that may be another's."""
        self.name = self.name or f"ide-{secrets.token_hex(3)}"
        if not NAME.fullmatch(self.name):
            raise self._no_sandbox()
        if self._ownership is None:
            self._ownership = await own(self.name)
        if self._guard is None:  # before the start: who is killed meanwhile leaves nothing either
            self._guard = Guard(self.name, self._engine, self._ownership.lock, policy=kernels.policy)
        else:
            self._guard.has(None)
        await self._start(kernels)

    async def _start(self, kernels: Kernels) -> None:
        """Start the sandbox where it does not run; one of that name that is just being stopped is waited for."""
        deadline = time.monotonic() + SANDBOX_PATIENCE
        while True:
            try:
                found = (await kernels.find(self.name)).sandbox
                if found is None or found.composed:
                    raise self._no_sandbox()
                await kernels.address(self.name)  # which brings back what is lost of it
            except (NoSuchKernel, KernelDied):
                if self._request is None:
                    raise
            else:
                self.sandbox = found.name
                return
            try:
                sandbox, _ = await kernels.start_sandbox(dataclasses.replace(self._request, name=self.name))
            except NameTaken:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(ASK_AGAIN)
            else:
                self.sandbox = sandbox.name
                return

    def _no_sandbox(self) -> NotOurs:
        return NotOurs(
            f"{self.name} is not a sandbox of the bridge's own: a kernel on the host, or one of docker compose, can be "
            "owned by no IDE but the one that started it. Install it without --owner."
        )

    async def _look(self, kernels: Kernels) -> Joined:
        file, sandbox = await kernels.address(self.sandbox or self._which or "")
        if self.sandbox not in (None, sandbox):  # its name fits a kernel on the host by now
            raise NoSuchKernel(f"Sandbox {self.sandbox} is not there any more.")
        self.name, self.sandbox = file.name, sandbox
        if self._guard and sandbox:
            there = (await kernels.find(sandbox)).sandbox
            if there and there.container:
                self._guard.has(there.container)
        since = Moment()
        channels = await open_channels(file.info, username=kernels.username, timeout=ANSWER_TIMEOUT)
        await channels.close()
        return Joined(file.info, channels.kernel, since)

    async def _why(self, kernels: Kernels, before: Joined, found: Joined) -> str:
        if found.process == before.process:
            return f"The connection to {self.name} was lost and is there again; output of that time may be missing."
        if self.sandbox:
            return await kernels.what_became_of(self.sandbox, before.since.as_of_now())
        return f"The kernel of {self.name} was started anew. Its variables are lost."

    async def _lost(self, kernels: Kernels, since: Moment, error: BridgeError) -> str:
        if self.sandbox and isinstance(error, NoSuchKernel):
            return await kernels.what_became_of(self.sandbox, since.as_of_now())
        if isinstance(error, LaunchError):
            return f"The connection to sandbox {self.name} was lost, and its engine does not answer: {error}"
        if isinstance(error, KernelError):
            return f"The kernel of {self.name} has ended; its variables are lost. ({error})"
        return f"The kernel of {self.name} has ended; its variables are lost."
