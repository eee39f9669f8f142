"""Reading and writing where the other end may let one wait: pipes, terminals.

The one rule: it never blocks, so that Ctrl-C and everything else that is awaited meanwhile go on.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

PIECE = 1 << 16
# As much as goes into a pipe that takes anything, and so does not block (POSIX: PIPE_BUF).
ATOMIC = 4096


async def read(descriptor: int, size: int = PIECE) -> bytes:
    """Return what comes next, at its end nothing; raises `OSError`."""
    loop = asyncio.get_running_loop()
    await _ready(descriptor, loop.add_reader, loop.remove_reader)
    return os.read(descriptor, size)


async def write(descriptor: int, data: bytes) -> None:
    """Write all of it; raises `OSError`, `BrokenPipeError` where nobody reads any more."""
    loop, view = asyncio.get_running_loop(), memoryview(data)
    while view:
        waited = await _ready(descriptor, loop.add_writer, loop.remove_writer)
        view = view[os.write(descriptor, view[:ATOMIC] if waited else view) :]


async def _ready(descriptor: int, add: Callable[..., None], remove: Callable[[int], bool]) -> bool:
    """Wait until it neither blocks nor is a file, which never does; True where it was to be waited for."""
    ready = asyncio.Event()
    try:
        add(descriptor, ready.set)
    except OSError:
        return False  # a file, or closed
    try:
        await ready.wait()
    finally:
        remove(descriptor)
    return True
