"""What is seen of a connected kernel without anybody noticing: its names and objects, its files, the others' work.

The one rule: each look is in the audit, and what must be said first about the kernel is not lost with what was seen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, TypeVar

from bridge.audit import Audit
from bridge.errors import KernelError, NotOurs, UsageError
from bridge.journal import Journal
from bridge.kernels import transfers, watching
from bridge.kernels.activity import Activity
from bridge.kernels.connected import Connected, ConnectedKernels
from bridge.kernels.opening import Opening
from bridge.looking import (
    Inspection,
    Raised,
    Variables,
    error_expression,
    object_expression,
    read_error,
    read_object,
    read_variables,
    variables_expression,
)
from bridge.looking.files import Piece
from bridge.looking.names import NameChanges, changes, names_expression, read_names

Looked = TypeVar("Looked", Variables, Inspection, Raised)


class Looks:
    """The methods of `Kernels` of the same names, where they are described."""

    def __init__(self, connected: ConnectedKernels, opening: Opening, audit: Audit, journal: Journal) -> None:
        self._connected = connected
        self._opening = opening
        self._audit = audit
        self._journal = journal

    # -- names and objects

    async def variables(self, name: str | None, *, limit: int, start: int) -> Variables:
        """Look at the variables."""
        connected = await self._opening.live(name)
        expression = variables_expression(limit=limit, start=start)
        return await _look(connected, expression, read_variables, at="variables")

    async def inspection(self, of: str, name: str | None, *, start: int) -> Inspection:
        """Look at one object."""
        expression = object_expression(of, start=start)
        connected = await self._opening.live(name)
        return await _look(connected, expression, read_object, at="object", **self._audit.code(of))

    async def last_error(self, name: str | None, *, frame: int | None) -> Raised:
        """Look at the last exception."""
        connected = await self._opening.live(name)
        return await _look(connected, error_expression(frame=frame), read_error, at="error")

    # -- files

    async def put_file(
        self, path: str, source: AsyncIterator[bytes], name: str | None, *, replace: bool, to_replace: str
    ) -> transfers.Put:
        """Write a file in a sandbox."""
        connected = self._sandboxed(name)
        with connected.act("put_file", path=path) as action:
            put = await transfers.put(self._look_of(connected), path, source, replace=replace, to_replace=to_replace)
            action.tell(bytes=put.size, sha256=put.sha256)
        return dataclasses.replace(put, notices=connected.take_notices())

    async def page_of_file(self, path: str, name: str | None, *, start: int, size: int) -> transfers.Page:
        """Return some of a file in a sandbox."""
        connected = self._sandboxed(name)
        with connected.act("get_file", path=path) as action:
            piece = await transfers.page(self._look_of(connected), path, start=start, size=size)
            action.tell(bytes=len(piece.data), start=piece.start)
        return transfers.Page(connected.name, path, piece, connected.take_notices())

    async def pieces_of_file(self, path: str, name: str | None) -> AsyncGenerator[Piece]:
        """Return a whole file in a sandbox, piece by piece."""
        named = {"name": name} if name else self._connected.only()
        with self._audit.action("get_file", kernel=named, path=path) as action:
            connected = self._sandboxed(name)
            action.tell(kernel=connected.about(), bytes=0)
            async for piece in transfers.pieces(self._look_of(connected), path):
                action.tell(bytes=piece.start + len(piece.data))
                yield piece

    def _sandboxed(self, name: str | None) -> Connected:
        connected = self._connected.one(name)
        if not connected.supervised:
            raise NotOurs(
                f"{connected.name} is no sandbox but a kernel on the host, and its files are the host's own: read and "
                "write them there, or in the kernel by execute_code."
            )
        return connected

    def _look_of(self, connected: Connected) -> transfers.Look:
        """Return what looks into a kernel, whichever process it is by then: a sandbox's files outlive it."""

        async def look(expression: str) -> str:
            return await (await self._opening.live(connected.name)).session.look(expression)

        return look

    # -- the others' work

    async def activity(self, name: str | None, *, since: str | None, size: int, look: bool) -> Activity:
        """Return what the others did and do, in `size` bytes."""
        connected = self._connected.one(name)
        with connected.act("look", at="activity"):
            return await self._activity(connected, since, size, look=look)

    async def _activity(self, connected: Connected, since: str | None, size: int, *, look: bool) -> Activity:
        notes, names = [], None
        try:
            connected = await self._opening.live(connected.name)
            if look:
                names, sentence = await _names(connected)
                notes.extend([sentence] if sentence else [])
        except KernelError as error:
            notes.append(str(error))
        connected.session.write_what_others_printed()
        if self._journal.problem:
            notes.append(f"Not all that was run could be kept, so cells may be missing here: {self._journal.problem}.")
        watched = watching.Watched(connected.status(), connected.processes, connected.opened.at, names, tuple(notes))
        return watching.activity(self._journal, watched, since=since, size=size)


async def _look(connected: Connected, expression: str, read: Callable[[str], Looked], **told: Any) -> Looked:
    """Return what a look tells, behind what the next result will say first: the kernel may be a new one."""
    with connected.act("look", **told):
        answer = await connected.session.look(expression)
        try:
            seen: Looked = read(answer)
        except UsageError as error:
            raise UsageError(" ".join((*connected.notices, str(error)))) from None
    return dataclasses.replace(seen, notes=(*connected.notices, *seen.notes))


async def _names(connected: Connected) -> tuple[NameChanges | None, str | None]:
    before = connected.names
    connected.names = now = read_names(await connected.session.look(names_expression()))
    if before is None:
        return None, "This was the first look at the names in this process; the next call tells what changed."
    return changes(before, now), None
