"""Which kernels there are, and which one a person means.

The one rule: exactly one kernel or an error that lists the candidates. A sandbox of ours is recognised by its launcher,
never by a file's name alone, so the policy for host kernels does not stand in its way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from bridge.channels import open_channels
from bridge.connection import load
from bridge.errors import AmbiguousKernel, BridgeError, NoSuchKernel
from bridge.kernels import files
from bridge.kernels.files import KernelFile
from bridge.kernels.listing import Listing
from bridge.kernels.sandboxes import Sandboxes
from bridge.launchers import Launcher, Sandbox
from bridge.policy import Attach

# A listing asks every kernel at once; what does not answer by then is told as not answering.
PROBE_TIMEOUT = 1.5


@dataclass(frozen=True)
class Found:
    """One kernel: a host kernel's file, or one of our sandboxes, whose file may have to be written again first."""

    path: Path
    """Of the connection file, symlinks resolved."""
    file: KernelFile | None = None
    sandbox: Sandbox | None = None

    def __str__(self) -> str:
        """Describe it for the reader of an error."""
        notebook = self.file.info.jupyter_session if self.file else None
        return f"{self.path}{f' (notebook {notebook})' if notebook else ''}"


class Finder:
    """Looks for kernels as far as the policy allows; `launcher` is only called where sandboxes matter."""

    def __init__(
        self, attach: Attach, launcher: Callable[[], Launcher], sandboxes: Sandboxes, username: Callable[[], str]
    ) -> None:
        self._attach = attach
        self._launcher = launcher
        self._sandboxes = sandboxes
        self._username = username

    async def listing(self, connected: Collection[Path]) -> tuple[list[Listing], str | None]:
        """Return every kernel there is, and a sentence where the engine could not be asked for sandboxes.

        A sandbox that has ended is listed once, with how it ended, and then removed.
        """
        sandboxes, trouble = await self._sandboxes.known()
        if any(each.state == "ended" for each in sandboxes):
            await self._launcher().sweep()
        known = {each.connection_file.resolve() for each in sandboxes}
        hosts = [each for each in files.kernel_files(self._attach) if each.path not in known]
        told = await asyncio.gather(
            *(self._of_sandbox(each, connected) for each in sandboxes),
            *(self._of_host(each, connected) for each in hosts),
        )
        return list(told), str(trouble) if trouble else None

    async def find(self, which: str | None) -> Found:
        """Return the one kernel that `which` names, by any form of name; None means the only one that is alive.

        Raises `NoSuchKernel`, `AmbiguousKernel`, `BadConnectionFile`, `PolicyRefused`, or `LaunchError` where the name
        can only be a sandbox's and the engine does not answer.
        """
        if which is None:
            return await self._only_one()
        if files.is_path(which):
            return await self._at(files.real(which))
        sandbox = await self._sandbox(KernelFile.sandbox_name(which) or which)
        hosts = [Found(each.path, each) for each in files.matching(which, self._attach)]
        candidates = [sandbox, *(each for each in hosts if each.path != sandbox.path)] if sandbox else hosts
        if not candidates:
            files.allowed(self._attach)
            listed, trouble = await self.listing(())
            raise files.none_matches(which, (each.name for each in listed), trouble)
        chosen = candidates[0] if len(candidates) == 1 else await self._only_live_one(which, candidates)
        if chosen.file:
            files.checked(chosen.file, self._attach)
        return chosen

    async def _only_live_one(self, which: str, candidates: list[Found]) -> Found:
        """Of several that a name fits choose the one that answers: a server that crashed leaves its files behind."""
        alive = await asyncio.gather(*(self._answers(each) for each in candidates))
        living = [each for each, answers in zip(candidates, alive, strict=True) if answers]
        if len(living) == 1:
            return living[0]
        rows = (f"{each}{'' if each in living else ' (does not answer)'}" for each in candidates)
        raise AmbiguousKernel(f"{which!r} fits several kernels; name one by its path: {', '.join(rows)}.")

    async def _answers(self, found: Found) -> bool:
        return found.file is None or await self._silence(found.file) is None

    async def _at(self, path: Path) -> Found:
        named = KernelFile.sandbox_name(path.name)
        sandbox = await self._sandbox(named) if named else None
        if sandbox and sandbox.path == path:
            return sandbox
        return Found(path, files.by_path(path, self._attach))

    async def _only_one(self) -> Found:
        listed, trouble = await self.listing(())
        alive = [each for each in listed if each.state == "alive" or each.state.startswith("unreachable")]
        if not alive:
            raise NoSuchKernel(
                f"No kernel runs that could be meant{f' ({trouble})' if trouble else ''}. Start one with "
                "start_sandbox, or on the host with `ipython kernel` or a notebook."
            )
        if len(alive) > 1:
            rows = (f"{each.name} ({each.kind}{f', {each.notebook}' if each.notebook else ''})" for each in alive)
            raise AmbiguousKernel(f"Several kernels run; name one as connection_file: {', '.join(rows)}.")
        return await self.find(alive[0].connection_file)

    async def _sandbox(self, name: str) -> Found | None:
        """Return the sandbox of ours of that name; None where there is none, or no engine and no file of that name."""
        sandboxes, trouble = await self._sandboxes.known()
        if trouble and any(each.is_sandbox and each.name == name for each in files.kernel_files(self._attach)):
            raise trouble
        for each in sandboxes:
            if each.name == name and each.state != "ended":
                return Found(each.connection_file.resolve(), sandbox=each)
        return None

    async def _silence(self, kernel_file: KernelFile) -> str | None:
        """Return why a kernel does not answer; None where it does. Nothing is queued in anybody's kernel."""
        try:
            # only control and iopub are asked
            channels = await open_channels(kernel_file.info, username=self._username(), timeout=PROBE_TIMEOUT)
            await channels.close()
        except BridgeError as error:
            return str(error)
        return None

    async def _of_host(self, kernel_file: KernelFile, connected: Collection[Path]) -> Listing:
        try:
            silent = await self._silence(files.checked(kernel_file, self._attach))
        except BridgeError as error:
            silent = str(error)
        return Listing(
            name=kernel_file.name,
            kind="sandbox" if kernel_file.is_sandbox else "host",
            state=f"not answering: {silent}" if silent else "alive",
            connection_file=str(kernel_file.path),
            connected=kernel_file.path in connected,
            notebook=kernel_file.info.jupyter_session,
        )

    async def _of_sandbox(self, sandbox: Sandbox, connected: Collection[Path]) -> Listing:
        path = sandbox.connection_file.resolve()
        return Listing(
            name=sandbox.name,
            kind="sandbox",
            state=await self._state(sandbox),
            connection_file=str(sandbox.connection_file),
            connected=path in connected,
            image=sandbox.image,
            network=sandbox.network,
            workspace=sandbox.workspace,
        )

    async def _state(self, sandbox: Sandbox) -> str:
        if sandbox.state == "ended":
            return f"ended: {sandbox.ending}"
        if sandbox.state == "unreachable":
            return "unreachable: its gateway ended; connecting brings it back"
        if sandbox.state == "paused":
            return "paused: `docker unpause` wakes it"
        try:
            silent = await self._silence(KernelFile(sandbox.connection_file, load(sandbox.connection_file)))
        except BridgeError:
            return "alive"  # its file was lost, and is written again when somebody connects
        if silent is None:
            return "alive"
        last = await self._sandboxes.last_ending(sandbox.name)
        return f"not answering: {last or silent}"
