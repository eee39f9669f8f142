"""A file's way into a sandbox and out of it, by looks into its kernel.

The one rule: all of it or nothing. A file is written into a draft beside it, which takes its name after the last piece
and is removed where it ends otherwise; where bridge or kernel was killed, a put into the same directory removes it, an
hour after. A file that changes while it is read is not taken for either of its contents. No name from the sandbox is
ever opened on this side.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import struct
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import anyio

from bridge.errors import BridgeError, KernelError, UsageError
from bridge.looking.files import (
    PIECE,
    Piece,
    discard_expression,
    piece_expression,
    printable,
    read_piece,
    read_written,
    write_expression,
)
from bridge.pictures import measure

Look = Callable[[str], Awaitable[str]]
# A look's own time; a dead kernel must not hold up whoever pressed Ctrl-C.
DISCARDING = 5.0
PICTURE = 16 << 20
"""Bytes: only whole a picture can be made smaller; a larger one is as good as unseen."""


@dataclass(frozen=True)
class Put:
    """A file that was written into a sandbox."""

    path: str
    """In the sandbox, whole, for a person to read."""
    size: int
    sha256: str
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Page:
    """Some of a file, or a picture as a whole."""

    kernel: str
    path: str
    piece: Piece
    notices: tuple[str, ...] = ()


async def put(look: Look, path: str, source: AsyncIterator[bytes], *, replace: bool, to_replace: str) -> Put:
    """Write a file; `to_replace` says how one that exists is replaced.

    Raises `UsageError` where the sandbox does not take it, and what `look` raises.
    """
    draft, start, digest, place = f".kernel-bridge-{uuid.uuid4().hex}.part", 0, hashlib.sha256(), ""
    is_last = False
    try:
        async for data, is_last in _cut(source):
            expression = write_expression(path, draft, data, start=start, last=is_last, replace=replace)
            place = read_written(await look(expression), data, to_replace=to_replace)
            digest.update(data)
            start += len(data)
    except BaseException as error:
        # the piece that was on its way is written first: looks come in turn
        with anyio.CancelScope(shield=True), contextlib.suppress(BridgeError, TimeoutError):
            async with asyncio.timeout(DISCARDING):
                await look(discard_expression(path, draft))
        if not isinstance(error, KernelError):
            raise
        became = "Whether it was written is not known." if is_last else "It was not written."
        raise type(error)(f"{printable(path)}: {error} {became}") from None
    return Put(place, start, digest.hexdigest())


async def _cut(source: AsyncIterator[bytes]) -> AsyncIterator[tuple[bytes, bool]]:
    """Cut what comes into pieces, each with whether it is the last one, of which there is one in any case."""
    held = bytearray()
    async for each in source:
        held += each
        while len(held) > PIECE:
            yield bytes(held[:PIECE]), False
            del held[:PIECE]
    yield bytes(held), True


async def page(look: Look, path: str, *, start: int, size: int) -> Piece:
    """Return at most `size` bytes of a file from `start` on, or a picture as a whole; raises as `pieces`."""
    first = await _piece(look, path, start, min(size, PIECE))
    if start or not len(first.data) < first.size <= PICTURE or not _is_picture(first.data):
        return first
    data = [each.data async for each in pieces(look, path, seen=first)]
    return Piece(b"".join(data), 0, first.size, first.version)


def _is_picture(data: bytes) -> bool:
    try:
        measure(data)
    except (ValueError, struct.error, IndexError):
        return False
    return True


async def pieces(look: Look, path: str, *, seen: Piece | None = None) -> AsyncIterator[Piece]:
    """Return a whole file, piece by piece, together never more than the size first told; of an empty one, one empty
    piece. What was `seen` of it before is what was first told.

    Raises `UsageError` where it cannot be read or is changed meanwhile, and what `look` raises.
    """
    each = await _piece(look, path, 0, PIECE)
    first = seen or each
    while True:
        due = min(PIECE, first.size - each.start)
        is_same = (each.size, each.version) == (first.size, first.version)
        if not each.version or not is_same or len(each.data) != due:
            raise UsageError(
                f"{printable(path)} was changed while it was read, so it was not taken; try again, or have the kernel "
                "copy it first."
            )
        yield each
        if each.start + due >= first.size:
            return
        each = await _piece(look, path, each.start + due, PIECE)


async def _piece(look: Look, path: str, start: int, size: int) -> Piece:
    return read_piece(await look(piece_expression(path, start=start, size=size)), start=start, size=size)
