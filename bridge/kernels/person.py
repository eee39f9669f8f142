"""What a person at the shell may do to a kernel and an agent may not: it is their kernel, whoever's cell runs in it.

The one rule: it also works on a kernel that answers nothing. Where its channels are dead, a sandbox's supervisor is
asked past them; a host kernel is then out of reach, and the error says so.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from bridge.errors import KernelError, KernelNotResponding, LaunchError, NoSuchKernel, NotOurs
from bridge.kernels.listing import Status
from bridge.kernels.registry import Kernels
from bridge.launchers import Sandbox


@dataclass(frozen=True)
class Described:
    """All that can be told of one kernel; `status` is missing where a sandbox cannot be connected to."""

    name: str
    status: Status | None
    sandbox: Sandbox | None
    last_ending: str | None = None
    """How the sandbox's kernel process ended last, in one sentence, where one has."""
    trouble: str | None = None
    """Why it cannot be connected to."""


async def describe(kernels: Kernels, which: str) -> Described:
    """Tell all about one kernel, also of a sandbox that has ended or does not answer. Raises as `Kernels.connect`."""
    sandbox = await _sandbox(kernels, which)
    if sandbox and sandbox.state == "ended":
        return Described(sandbox.name, None, sandbox, trouble=f"It has ended: {sandbox.ending}.")
    last = None
    if sandbox:
        with contextlib.suppress(LaunchError, NoSuchKernel):
            last = await kernels.launcher.last_ending(sandbox.name)
    try:
        status, _ = await kernels.connect(which)
    except KernelError as error:
        if sandbox is None:
            raise
        return Described(sandbox.name, None, sandbox, last, str(error))
    return Described(status.name, await kernels.settled(status.name), sandbox, last)


async def interrupt(kernels: Kernels, which: str) -> str:
    """Interrupt whatever runs in a kernel and tell what came of it, in one sentence.

    Raises `KernelError` where what runs did not end, and as `Kernels.connect`.
    """
    sandbox = await _sandbox(kernels, which)
    try:
        status, _ = await kernels.connect(which)
    except KernelNotResponding as error:
        if sandbox is None or sandbox.state == "ended":
            raise
        await kernels.launcher.interrupt_kernel(sandbox.name)
        raise KernelNotResponding(
            f"{error} The interrupt signal was sent to it past its channels; if it still hangs, "
            f"`kernel-bridge restart {sandbox.name}` ends what runs, and the variables with it."
        ) from None
    before = await kernels.settled(status.name)
    if before.state == "idle":
        return f"Nothing runs in {status.name}, so nothing was interrupted."
    what = "; ".join(before.running) or "what began before this look"
    if await kernels.interrupt_anyones(status.name):
        return f"Interrupted in {status.name}: {what}. Its variables are there."
    how = f"kernel-bridge restart {status.name}" if sandbox else "restart it where it was started"
    raise KernelError(
        f"The interrupt was sent, but {status.name} is still busy with {what}: native code sees an interrupt only when "
        f"it returns to Python. To end it and lose the variables: {how}."
    )


async def restart(kernels: Kernels, which: str) -> str:
    """Start a sandbox's kernel anew, also one that hangs, and tell so. Raises `NotOurs` for a host kernel."""
    sandbox = await _sandbox(kernels, which)
    if sandbox is None:
        status, _ = await kernels.connect(which)
        raise NotOurs(
            f"{status.name} runs on the host and was not started by the bridge; restart it where it was started."
        )
    await kernels.restart_sandbox(sandbox.name)
    return f"The kernel of {sandbox.name} was restarted under the same connection file; all its variables are gone."


async def _sandbox(kernels: Kernels, which: str) -> Sandbox | None:
    """Return the sandbox that is meant, ended ones included; None where it is a host kernel or there is no engine."""
    try:
        sandboxes = await kernels.launcher.sandboxes()
    except LaunchError:
        return None
    return next(
        (each for each in sandboxes if which in (each.name, each.connection_file.name, str(each.connection_file))), None
    )
