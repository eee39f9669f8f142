"""Where connections come in: from the bound socket, through TLS where it is on, to the one who speaks HTTP.

The one rule: who has said nothing yet holds little, for a short time, and keeps nobody out. asyncio's own server takes
whatever comes, waits a minute for a peer's half of TLS, and writes pages where the system has nothing left to take it
with.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import Callable

GREETED = 200
"""Peers at once that are not through TLS. The oldest makes room for the newest."""
PATIENCE = 10.0
"""Seconds for a peer to get through TLS."""
RETRY = 1.0
"""Seconds until we look again after the system had nothing left for another connection."""
TOLD = 60.0
"""Seconds between two messages that say so."""
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

log = logging.getLogger(__name__)


class Door:
    """Takes connections, each to a protocol of its own, from `opened` to `closed`."""

    def __init__(
        self, bound: socket.socket, make_protocol: Callable[[], asyncio.Protocol], tls: ssl.SSLContext | None
    ) -> None:
        self._bound = bound
        self._make_protocol = make_protocol
        self._tls = tls
        # the oldest first
        self._greeted: dict[asyncio.Task[None], None] = {}
        self._taking: asyncio.Task[None] | None = None
        self._told_at: float | None = None

    def open(self) -> None:
        """Begin to take connections."""
        self._bound.settimeout(0)
        self._taking = asyncio.create_task(self._take_all())

    async def close(self) -> None:
        """Take no more, and leave those that are not through yet."""
        tasks = [each for each in (self._taking, *self._greeted) if each is not None]
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _take_all(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                taken, _ = await loop.sock_accept(self._bound)
            except OSError as error:
                # any other is of one peer, which has gone meanwhile
                is_exhausted = error.errno in _EXHAUSTED
                if is_exhausted:
                    self._tell(error)
                await asyncio.sleep(RETRY if is_exhausted else 0)
                continue
            if len(self._greeted) >= GREETED:
                self._leave(next(iter(self._greeted)))
            task = asyncio.create_task(self._greet(taken))
            self._greeted[task] = None
            task.add_done_callback(lambda done: self._greeted.pop(done, None))
            # many may wait to be taken, and those that are in have their turn between them
            await asyncio.sleep(0)

    def _leave(self, task: asyncio.Task[None]) -> None:
        del self._greeted[task]
        task.cancel()

    async def _greet(self, taken: socket.socket) -> None:
        """Get one through TLS. Who does not get through hears nothing, and nothing is written of it."""
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().connect_accepted_socket(
                self._make_protocol, taken, ssl=self._tls, ssl_handshake_timeout=PATIENCE if self._tls else None
            )

    def _tell(self, error: OSError) -> None:
        now = asyncio.get_running_loop().time()
        if self._told_at is None or now - self._told_at >= TOLD:
            self._told_at = now
            log.warning("no more connections can be taken for now: %s", error.strerror)
