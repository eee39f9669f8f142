"""A sandbox from its start to its stop, and its kernel started anew between them.

The one rule: a start that fails at any step, or is cancelled, leaves nothing behind; what is ended is told to be so
only once it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable

import anyio

from bridge.connection import load
from bridge.errors import KernelError, KernelNotResponding, LaunchError, NameTaken, NotOurs, StartTimeout
from bridge.kernels import files
from bridge.kernels.connected import Connected, ConnectedKernels, free_name
from bridge.kernels.files import KernelFile
from bridge.kernels.listing import Status
from bridge.kernels.opening import RESTART_TIMEOUT, Opening
from bridge.kernels.sandboxes import Sandboxes, silence_under
from bridge.launchers import Launcher, Sandbox
from bridge.policy import Policy, SandboxRequest, decide

# A cold sandbox on a loaded laptop takes a few seconds.
START_TIMEOUT = 60.0
# Two callers without a name of their own may choose the same one at the same time.
NAME_TRIES = 5
# A kernel that is told to end does so at once, unless native code holds it up.
END_TIMEOUT = 10.0


class Lifecycle:
    """Starts, restarts and stops sandboxes; one whose kernel has not answered within `start_timeout` is removed."""

    def __init__(
        self,
        policy: Policy,
        connected: ConnectedKernels,
        sandboxes: Sandboxes,
        opening: Opening,
        *,
        launcher: Callable[[], Launcher],
        start_timeout: float,
    ) -> None:
        self._policy = policy
        self._connected = connected
        self._sandboxes = sandboxes
        self._opening = opening
        self._launcher = launcher
        self._start_timeout = start_timeout

    async def start(self, request: SandboxRequest) -> tuple[Sandbox, Status]:
        """See `Kernels.start_sandbox`."""
        # a refusal needs no engine, and none is looked for in vain
        decide(self._policy, request if request.name else dataclasses.replace(request, name="sandbox"))
        if request.name:
            return await self._start(request)
        refused = set[str]()
        while True:
            name = await self._free_name(refused)
            try:
                return await self._start(dataclasses.replace(request, name=name))
            except NameTaken:
                refused.add(name)  # somebody is just starting it, so that no listing has it yet
                if len(refused) == NAME_TRIES:
                    raise

    async def _free_name(self, refused: set[str]) -> str:
        taken = {each.name for each in await self._launcher().sandboxes() if each.state != "ended"}
        return free_name("sandbox", taken | refused | set(self._connected))

    async def _start(self, request: SandboxRequest) -> tuple[Sandbox, Status]:
        spec, launcher = decide(self._policy, request), self._launcher()
        await launcher.sweep()
        sandbox = await launcher.start(spec)
        try:
            connected = await self._first_answer(sandbox)
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                why = await self._sandboxes.last_ending(sandbox.name)
                for each in self._connected.of_sandbox(sandbox.name):
                    await self._opening.forget(each)
                with contextlib.suppress(LaunchError):
                    await launcher.stop(sandbox.name, only=sandbox.container)  # the name may be another's by now
            if isinstance(error, KernelNotResponding):
                raise StartTimeout(
                    f"The kernel of sandbox {sandbox.name} did not answer within {self._start_timeout:g} s"
                    f"{f' ({why})' if why else ''}; the sandbox was removed.{silence_under(spec.runtime)}"
                ) from None
            raise
        connected.end = sandbox.lifetime
        return sandbox, connected.status()

    async def _first_answer(self, sandbox: Sandbox) -> Connected:
        """Connect to a kernel that still starts; raises `LaunchError` as soon as its container has ended."""
        file = KernelFile(sandbox.connection_file.resolve(), load(sandbox.connection_file))
        opening = asyncio.create_task(self._opening.open(file, sandbox.name, self._start_timeout, starting=True))
        ending = asyncio.create_task(self._launcher().until_ended(sandbox.name))
        try:
            await asyncio.wait({opening, ending}, return_when=asyncio.FIRST_COMPLETED)
            if opening.done() or ending.exception():
                return await opening
            found = await self._sandboxes.get(sandbox.name)
            how = found.ending if found and found.container == sandbox.container else "it was removed"
            raise LaunchError(f"Sandbox {sandbox.name} ended while its kernel was starting ({how}); it was removed.")
        finally:
            for task in (opening, ending):
                task.cancel()
            await asyncio.gather(opening, ending, return_exceptions=True)

    async def restart(self, connected: Connected) -> None:
        """End a kernel that is started again, and connect to its successor; raises `NotOurs` for a host kernel."""
        if not connected.supervised:
            raise NotOurs(
                f"{connected.name} runs on the host and was not started by the bridge; restart it where it was started."
            )
        if connected.sandbox:
            # also where it does not answer, and so cannot be connected to
            await self._launcher().restart_kernel(connected.sandbox)
            if not await connected.session.until_lost(END_TIMEOUT):
                raise KernelError(f"The kernel of {connected.name} did not end; stop the sandbox and start another.")
        else:
            with connected.act("restart"):
                await connected.session.end_kernel()
                if not await connected.session.until_lost(END_TIMEOUT):
                    raise KernelError(
                        f"{connected.name} was asked to end and did not yet: native code holds it up. As soon as that "
                        "returns it ends, with all its variables. The user can end it at once: kernel-bridge restart, "
                        "or docker compose restart kernel."
                    )
        await self._opening.live(connected.name)

    async def restart_silent(self, sandbox: str) -> None:
        """Start the kernel of a sandbox anew that is not connected, as it does not answer, and connect to it."""
        await self._launcher().restart_kernel(sandbox)
        # what answers from now on is its successor
        await self._opening.open(await self._sandboxes.ready(sandbox), sandbox, RESTART_TIMEOUT, starting=True)

    async def stop(self, name: str) -> None:
        """End a sandbox of this owner and remove all that belongs to it; raises `NoSuchKernel`, `NotOurs`."""
        connected = self._connected.get(name)
        if connected and connected.sandbox is None:
            raise NotOurs(
                f"{name} is a kernel on the host, which the bridge did not start; disconnect from it instead."
            )
        sandbox = connected.sandbox if connected and connected.sandbox else name
        if (there := await self._sandboxes.get(sandbox)) and there.composed:
            await self._launcher().stop(sandbox)  # which says whose it is, before anybody is disconnected
        for each in self._connected.of_sandbox(sandbox):
            await self._opening.forget(each)
        if not await self._launcher().stop(sandbox):
            error = files.none_matches(name, [each.name for each in await self._launcher().sandboxes()])
            error.recorded = True  # that it was not there
            raise error
