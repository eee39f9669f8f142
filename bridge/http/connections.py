"""One HTTP connection: uvicorn's own, with an end to everything that a peer can draw out.

The one rule: no peer keeps what is ours by being slow, and none keeps another one waiting. A request has a time for its
head and one for its body, an answer one in which some of it must be read; and where too many connections are open, one
that is not being answered makes room for the newest.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Literal, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST = 200
"""Connections at once. A client has a handful; each that sends a whole body has 4 MiB of ours meanwhile."""
HEAD = 10.0
"""Seconds from the first byte, or from the connection's start, to the end of a request's head."""
BODY = 30.0
"""Seconds for a request's body, also where it was refused already: a slow line needs ten for the largest."""
UNREAD = 60.0
"""Seconds in which nothing of an answer was read, though there was no more room for it."""
UNDERWAY = 256 * 1024
"""Bytes that the system keeps of what was sent and not read; left to itself, it takes megabytes for each connection."""
KEEP_ALIVE = 65
"""Seconds without a request; longer than clients keep a connection to use it again, so that none finds it closed."""

Part = Literal["head", "body"]


class Connection(H11Protocol):
    """A connection, made by uvicorn's server; `on_lost` is called once it is none any more."""

    def __init__(self, *arguments: Any, on_lost: Callable[[], None] = lambda: None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._on_lost = on_lost
        self._opened = self.loop.time()
        self._awaited: Part | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    @property
    def is_answered(self) -> bool:
        """A request was let in whose answer is not complete."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Take a connection; if it is one too many, end one that is idle: the oldest."""
        super().connection_made(transport)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNDERWAY)
        # several come at once, and one that was ended for an earlier of them is among the others for a moment
        open_ = [each for each in cast("set[Connection]", self.connections) if not each.transport.is_closing()]
        if len(open_) > MOST:
            min((each for each in open_ if not each.is_answered), key=lambda each: each._opened).abort()  # noqa: SLF001 - our own kind
        self._await("head")

    def abort(self) -> None:
        """Close it at once, whatever was not sent yet; a request that is under way is told that its client has left."""
        self.transport.abort()

    def handle_events(self) -> None:
        """Take what has come; called for all that comes, and when an answer is complete."""
        super().handle_events()
        if self.transport.is_closing():
            return
        peer = self.conn.their_state
        # between two requests uvicorn's own timer runs, until any byte comes
        is_quiet = self.timeout_keep_alive_task is not None and not self.conn.trailing_data[0]
        self._await("body" if peer is h11.SEND_BODY else "head" if peer is h11.IDLE and not is_quiet else None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._await(None)
        self._stop_waiting_for_reader()
        super().connection_lost(exc)
        self._on_lost()

    def pause_writing(self) -> None:
        """There is no more room for what the peer does not read."""
        super().pause_writing()
        self._wait_for_reader()

    def resume_writing(self) -> None:
        """The peer reads."""
        self._stop_waiting_for_reader()
        super().resume_writing()

    def _await(self, part: Part | None) -> None:
        if part == self._awaited:
            return
        self._awaited = part
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if part is not None:
            self._deadline = self.loop.call_later(HEAD if part == "head" else BODY, self.abort)

    def _wait_for_reader(self, before: int | None = None) -> None:
        """Abort where nothing was read for a time; a reader that is only slow goes on."""
        left = self.transport.get_write_buffer_size()
        if before is not None and left >= before:
            self.abort()
            return
        self._stop_waiting_for_reader()
        self._unread = self.loop.call_later(UNREAD, self._wait_for_reader, left)

    def _stop_waiting_for_reader(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
