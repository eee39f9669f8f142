"""What a client is told while a cell runs: the newest line of its output, or for how long it has been silent.

The one rule: at most once a second and at least every five, however much or little the cell prints. Clients give up
on a call that is silent, and none can show a thousand lines a second.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from bridge import terminal
from bridge.messages import Message

PAUSE = 1.0
HEARTBEAT = 5.0
# Enough for a line and what redraws it; a progress bar writes itself anew some ten times a second.
KEPT = 4096
LONGEST = 200


class Progress:
    """The newest output of one cell: `see` takes its messages, `report` tells of them until it is cancelled."""

    def __init__(self) -> None:
        self._tail = ""
        self._seen = asyncio.Event()

    def see(self, message: Message) -> None:
        """Take one message of the cell."""
        text = message.content.get("text")
        if message.msg_type == "stream" and isinstance(text, str):
            self._tail = (self._tail + text[-KEPT:])[-KEPT:]
            self._seen.set()

    def newest(self) -> str:
        """Return the last line that a person would see, cut where it is long; empty where there is none."""
        lines = [line.strip() for line in terminal.shown(self._tail).splitlines() if line.strip()]
        line = lines[-1] if lines else ""
        return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"

    async def report(self, tell: Callable[[float, str], Awaitable[None]]) -> None:
        """Call `tell` with the seconds since now and a line, again and again."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        while True:
            await asyncio.sleep(PAUSE)
            try:
                async with asyncio.timeout(HEARTBEAT - PAUSE):
                    await self._seen.wait()
            except TimeoutError:
                line = ""
            else:
                line = self.newest()
            self._seen.clear()
            seconds = loop.time() - begun
            await tell(seconds, line or f"running for {seconds:.0f} s")


@contextlib.asynccontextmanager
async def reported(tell: Callable[[float, str], Awaitable[None]]) -> AsyncIterator[Progress]:
    """Report for as long as the block waits; what it yields is to be given the cell's messages."""
    progress = Progress()
    reporting = asyncio.create_task(progress.report(tell))
    try:
        yield progress
    finally:
        reporting.cancel()
