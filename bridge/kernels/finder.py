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
from bridge.errors import AmbiguousKernel, BadConnectionFile, BridgeError, LaunchError, NoSuchKernel
from bridge.kernels import files
from bridge.kernels.files import KernelFile
from bridge.kernels.listing import Listing
from bridge.launchers import Launcher, Sandbox
from bridge.policy import Attach

# A listing asks every kernel at once; what does not answer by then is told as not answering.
PROBE_TIMEOUT = 1.5


@dataclass(frozen=True)
class Found:
    """One kernel: its connection file, and its name as a sandbox where it is one of ours."""

    file: KernelFile
    sandbox: str | None = None


class Finder:
    """Looks for kernels as far as the policy allows; `launcher` is only called where sandboxes matter."""

    def __init__(self, attach: Attach, launcher: Callable[[], Launcher], username: Callable[[], str]) -> None:
        self._attach = attach
        self._launcher = launcher
        self._username = username

    async def listing(self, connected: Collection[Path]) -> tuple[list[Listing], str | None]:
        """Return every kernel there is, and a sentence where the engine could not be asked for sandboxes.

        A sandbox that has ended is listed once, with how it ended, and then removed.
        """
        try:
            sandboxes, trouble = await self._launcher().sandboxes(), None
            if any(each.state == "ended" for each in sandboxes):
                await self._launcher().sweep()
        except LaunchError as error:
            sandboxes, trouble = [], str(error)
        known = {each.connection_file for each in sandboxes}
        hosts = [each for each in files.kernel_files(self._attach) if each.path not in known]
        told = await asyncio.gather(*(self._by_asking(each, connected) for each in hosts))
        return [*(_of_sandbox(each, connected) for each in sandboxes), *told], trouble

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
        hosts = [
            Found(each) for each in files.matching(which, self._attach) if not sandbox or each.path != sandbox.file.path
        ]
        candidates = [*([sandbox] if sandbox else []), *hosts]
        if len(candidates) > 1:
            raise AmbiguousKernel(_candidates(f"{which!r} fits several kernels", candidates))
        if not candidates:
            files.allowed(self._attach)
            listed, trouble = await self.listing(())
            raise files.none_matches(which, (each.name for each in listed), trouble)
        if candidates[0].sandbox is None:
            files.checked(candidates[0].file, self._attach)
        return candidates[0]

    async def file_of(self, sandbox: Sandbox) -> KernelFile:
        """Read a running sandbox's connection file; one that was lost is written again first."""
        try:
            info = load(sandbox.connection_file)
        except BadConnectionFile:
            await self._launcher().restore_connection_file(sandbox.name)
            info = load(sandbox.connection_file)
        return KernelFile(sandbox.connection_file.resolve(), info)

    async def _at(self, path: Path) -> Found:
        named = KernelFile.sandbox_name(path.name)
        sandbox = await self._sandbox(named) if named else None
        if sandbox and sandbox.file.path == path:
            return sandbox
        return Found(files.by_path(path, self._attach))

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
        try:
            sandboxes = await self._launcher().sandboxes()
        except LaunchError:
            if any(each.is_sandbox and each.name == name for each in files.kernel_files(self._attach)):
                raise
            return None
        for each in sandboxes:
            if each.name == name and each.state != "ended":
                return Found(await self.file_of(each), name)
        return None

    async def _by_asking(self, kernel_file: KernelFile, connected: Collection[Path]) -> Listing:
        state = "alive"
        try:
            files.checked(kernel_file, self._attach)
            # only control and iopub are asked: a look must not queue anything in somebody's kernel
            channels = await open_channels(kernel_file.info, username=self._username(), timeout=PROBE_TIMEOUT)
            await channels.close()
        except BridgeError as error:
            state = f"not answering: {error}"
        return Listing(
            name=kernel_file.name,
            kind="sandbox" if kernel_file.is_sandbox else "host",
            state=state,
            connection_file=str(kernel_file.path),
            connected=kernel_file.path in connected,
            notebook=kernel_file.info.jupyter_session,
        )


def _of_sandbox(sandbox: Sandbox, connected: Collection[Path]) -> Listing:
    state = {"running": "alive", "ended": f"ended: {sandbox.ending}", "unreachable": "unreachable: its gateway ended"}
    return Listing(
        name=sandbox.name,
        kind="sandbox",
        state=state[sandbox.state],
        connection_file=str(sandbox.connection_file),
        connected=sandbox.connection_file.resolve() in connected,
        image=sandbox.image,
        network=sandbox.network,
        workspace=sandbox.workspace,
    )


def _candidates(sentence: str, found: list[Found]) -> str:
    rows = (
        f"{each.file.path}{f' (notebook {each.file.info.jupyter_session})' if each.file.info.jupyter_session else ''}"
        for each in found
    )
    return f"{sentence}; name one by its path: {', '.join(rows)}."
