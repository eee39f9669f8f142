"""Which kernels there are, and which one a person means.

The one rule: exactly one kernel or an error that lists the candidates. A sandbox of ours is recognised by its launcher,
never by a file's name alone, so the policy for host kernels does not stand in its way. Two addresses behind which the
same kernel process answers, by its own session id, are one kernel: an IDE that joined it has an address of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from bridge.channels import open_channels
from bridge.connection import ConnectionInfo, load
from bridge.errors import AmbiguousKernel, BridgeError, KernelDied, LaunchError, NoSuchKernel
from bridge.kernels import files, servers, vscode
from bridge.kernels.files import KernelFile
from bridge.kernels.listing import Listing
from bridge.kernels.sandboxes import Sandboxes
from bridge.launchers import COMPOSE_DIRECTORY, Launcher, Sandbox
from bridge.policy import Attach

# A listing asks every kernel at once; what does not answer by then is told as not answering.
PROBE_TIMEOUT = 1.5
# The kernelspecs of `ide install` begin with it.
OUR_KERNELSPECS = "kernel-bridge"
_MOVED = "the engine had changed its ports, so its connection file was written again"


@dataclass(frozen=True)
class Found:
    """One kernel: a host kernel's file, or one of our sandboxes, whose file may have to be written again first."""

    path: Path
    """Of the connection file, symlinks resolved."""
    file: KernelFile | None = None
    sandbox: Sandbox | None = None

    def __str__(self) -> str:
        """Describe it for the reader of an error."""
        used_by = _listed(self.file.notebooks) if self.file else None
        return f"{self.path}{f' (notebook {used_by})' if used_by else ''}"


@dataclass(frozen=True)
class _Row:
    found: Found
    listing: Listing
    kernel: str
    """The session id of the process that answers there; empty where none does."""


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
        found = await self._with_notebooks(list(files.kernel_files(self._attach)))
        rows, trouble = await self._rows(found, connected)
        if trouble is None and any(map(_is_over, rows)):
            await self._launcher().sweep(leftovers=False)
        first: dict[str, _Row] = {}
        for row in rows:
            one = first.setdefault(row.kernel or str(row.found.path), row)
            if one is not row:
                first[row.kernel] = _Row(one.found, _together(one.listing, row.listing), row.kernel)
        return [each.listing for each in first.values()], str(trouble) if trouble else None

    async def _rows(
        self, found: Iterable[KernelFile], connected: Collection[Path]
    ) -> tuple[list[_Row], LaunchError | None]:
        """Return each address of each kernel, its own before those that only lead to it."""
        sandboxes, trouble = await self._sandboxes.known()
        known = {each.connection_file.resolve() for each in sandboxes}
        hosts = [each for each in found if each.path not in known]
        rows = await asyncio.gather(
            *(self._of_sandbox(each, connected) for each in sandboxes),
            *(self._of_host(each, connected, trouble) for each in sorted(hosts, key=_may_lead_elsewhere)),
        )
        return rows, trouble

    async def _with_notebooks(self, found: list[KernelFile]) -> list[KernelFile]:
        """Ask the IDEs which notebooks use each kernel now; what none of them tells stays as its file has it."""
        told = await servers.notebooks(files.directories(self._attach)) if found else {}
        asked = [each for each in found if vscode.is_vscodes(each.path)]
        answers = await asyncio.gather(*(self._notebook_in_vscode(each) for each in asked))
        told |= {each.kernel_id: (answer,) for each, answer in zip(asked, answers, strict=True) if answer}
        return [replace(each, told=told.get(each.kernel_id)) for each in found]

    async def _notebook_in_vscode(self, file: KernelFile) -> str | None:
        try:
            info = files.checked(file, self._attach).info
        except BridgeError:
            return None
        return await vscode.notebook(info, username=self._username(), timeout=PROBE_TIMEOUT)

    async def find(self, which: str | None) -> Found:
        """Return the one kernel that `which` names, by any form of name; None means the only one that is alive.

        Raises `NoSuchKernel`, `AmbiguousKernel`, `BadConnectionFile`, `PolicyRefused`, or `LaunchError` where the name
        can only be a sandbox's and the engine does not answer.
        """
        if which is None:
            return await self._only_one()
        if files.is_path(which):
            return await self._itself(await self._at(files.real(which)))
        sandboxes = await self._named(KernelFile.sandbox_name(which) or which)
        known = list(files.kernel_files(self._attach))
        if which.endswith(".ipynb") or not (sandboxes or any(each.answers_to(which) for each in known)):
            known = await self._with_notebooks(known)
        hosts = [Found(each.path, each) for each in known if each.answers_to(which)]
        known_paths = {each.path for each in sandboxes}
        candidates = [*sandboxes, *(each for each in hosts if each.path not in known_paths)]
        if not candidates:
            files.allowed(self._attach)
            listed, trouble = await self.listing(())
            raise files.none_matches(which, (each.name for each in listed), trouble)
        chosen = candidates[0] if len(candidates) == 1 else await self._only_live_one(which, candidates)
        if chosen.file:
            files.checked(chosen.file, self._attach)
        return await self._itself(chosen)

    async def _itself(self, found: Found) -> Found:
        """Return the kernel behind an IDE's own address, which may be a relay's, and so would end with the IDE."""
        if found.file is None or not _may_lead_elsewhere(found.file):
            return found
        kernel, silent = await self._answer(files.checked(found.file, self._attach).info)
        if silent:
            return found
        rows, _ = await self._rows(files.kernel_files(self._attach), ())
        behind = next((each.found for each in rows if each.kernel == kernel), found)
        if behind.file:
            files.checked(behind.file, self._attach)
        return behind

    async def _only_live_one(self, which: str, candidates: list[Found]) -> Found:
        """Of several that a name fits choose the one that answers: a server that crashed leaves its files behind."""
        alive = await asyncio.gather(*(self._answers(each) for each in candidates))
        living = [each for each, answers in zip(candidates, alive, strict=True) if answers]
        if len(living) == 1:
            return living[0]
        rows = (f"{each}{'' if each in living else ' (does not answer)'}" for each in candidates)
        raise AmbiguousKernel(f"{which!r} fits several kernels; name one by its path: {', '.join(rows)}.")

    async def _answers(self, found: Found) -> bool:
        if found.sandbox:
            return found.sandbox.state != "ended"
        assert found.file  # noqa: S101 - it is one or the other
        return (await self._answer(found.file.info))[1] is None

    async def _at(self, path: Path) -> Found:
        named = KernelFile.sandbox_name(path.name)
        is_composed = named is not None and path.parent.name == COMPOSE_DIRECTORY
        sandboxes = await self._named(named, surely=is_composed) if named else []
        if sandbox := next((each for each in sandboxes if each.path == path), None):
            return sandbox
        if is_composed:
            raise composed_ended(path)
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

    async def _named(self, name: str, *, surely: bool = False) -> list[Found]:
        """Return the sandboxes of that name, of which only docker compose can make a second one.

        One that has ended is among them where none runs, so that whoever connects to it is told how. Raises where the
        engine does not tell of one that is `surely` there, or whose file is; and for one of compose's that has ended.
        """
        sandboxes, trouble = await self._sandboxes.known()
        if trouble and (
            surely or any(each.is_sandbox and each.name == name for each in files.kernel_files(self._attach))
        ):
            raise trouble
        those = [each for each in sandboxes if each.name == name]
        running = [each for each in those if each.state != "ended"]
        if not running and (over := next((each for each in those if each.composed), None)):
            raise composed_ended(over.connection_file)
        return [Found(each.connection_file.resolve(), sandbox=each) for each in running or those]

    async def _answer(self, info: ConnectionInfo) -> tuple[str, str | None]:
        """Return the id of the kernel that answers, or why none does. Nothing is queued in anybody's kernel."""
        try:
            # only control and iopub are asked
            channels = await open_channels(info, username=self._username(), timeout=PROBE_TIMEOUT)
            await channels.close()
        except BridgeError as error:
            return "", str(error)
        return channels.kernel, None

    async def _of_host(self, kernel_file: KernelFile, connected: Collection[Path], trouble: LaunchError | None) -> _Row:
        try:
            kernel, silent = await self._answer(files.checked(kernel_file, self._attach).info)
        except BridgeError as error:
            kernel, silent = "", str(error)
        if silent and trouble and kernel_file.is_sandbox:
            # an engine may let its containers live on while it does not run itself, with their ports closed
            silent = "whether it has ended is known to its engine alone, which does not answer either"
        elif silent and kernel_file.is_sandbox:
            silent = (
                f"{silent} No sandbox of this engine has this file. If it is of none, `kernel-bridge gc` removes it."
            )
        listing = Listing(
            name=kernel_file.name,
            kind="sandbox" if kernel_file.is_sandbox or kernel_file.info.supervised else "host",
            state=f"not answering: {silent}" if silent else "alive",
            connection_file=str(kernel_file.path),
            connected=kernel_file.path in connected,
            notebook=_listed(kernel_file.notebooks),
        )
        return _Row(Found(kernel_file.path, kernel_file), listing, kernel)

    async def _of_sandbox(self, sandbox: Sandbox, connected: Collection[Path]) -> _Row:
        path = sandbox.connection_file.resolve()
        kernel, state = await self._state(sandbox)
        listing = Listing(
            name=sandbox.name,
            kind="sandbox",
            state=state,
            connection_file=str(sandbox.connection_file),
            connected=path in connected,
            image=sandbox.image,
            network=sandbox.network,
            workspace=sandbox.workspace,
            ends=sandbox.end.near(datetime.now(UTC)) if sandbox.end else None,
            remark=_MOVED if sandbox.moved and kernel else None,
        )
        return _Row(Found(path, sandbox=sandbox), listing, kernel)

    async def _state(self, sandbox: Sandbox) -> tuple[str, str]:
        if sandbox.state == "ended":
            return "", f"ended: {sandbox.ending}"
        if sandbox.state == "unreachable":
            back = "`docker compose up` brings" if sandbox.composed else "connecting brings"
            return "", f"unreachable: its gateway ended; {back} it back"
        if sandbox.state == "paused":
            return "", "paused: `docker unpause` wakes it"
        return await self._answer_of(sandbox)

    async def _answer_of(self, sandbox: Sandbox) -> tuple[str, str]:
        try:
            if sandbox.moved:
                await self._launcher().restore_connection_file(sandbox.name)
            kernel, silent = await self._answer(load(sandbox.connection_file))
        except LaunchError as error:
            return "", f"not answering: {error}"
        except BridgeError:
            return "", "alive"  # its file was lost, and is written again when somebody connects
        if silent is None:
            return kernel, "alive"
        last = await self._sandboxes.last_ending(sandbox.name)
        return "", f"not answering: {last or silent}"


def composed_ended(file: Path) -> KernelDied:
    """Return the error for a docker compose project's kernel that does not run."""
    return KernelDied(
        f"The kernel of {file} does not run. docker compose started it: `docker compose up` in {file.parent.parent} "
        "starts another, with the same connection file."
    )


def _is_over(row: _Row) -> bool:
    return row.found.sandbox is not None and row.found.sandbox.state == "ended"


def _may_lead_elsewhere(file: KernelFile) -> bool:
    """Tell whether an IDE may have written a file for a way to a kernel that has a file of its own.

    A Jupyter server writes the kernelspec's name into it; VS Code the program's arguments, among other things.
    """
    return file.info.kernel_name.startswith(OUR_KERNELSPECS) or vscode.is_vscodes(file.path)


def _together(one: Listing, other: Listing) -> Listing:
    """Return the row of a kernel that has a second address, where it may be known by its notebook."""
    used_by = dict.fromkeys(each.notebook for each in (one, other) if each.notebook)
    return replace(one, connected=one.connected or other.connected, notebook=", ".join(used_by) or None)


def _listed(notebooks: Collection[str]) -> str | None:
    return ", ".join(notebooks) or None
