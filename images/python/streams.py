"""Two ends of a connection, joined: bytes go both ways, unread, at the pace of whoever is slower.

The one rule: everything is bounded. One chunk is held of a connection each way, so many connections are open at once,
and whoever comes then is turned away and not kept waiting. `gateway.py`, `proxy.py` and `forwarder.py` stand on it.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import stat
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

CHUNK = 1 << 16  # all that is held of a connection, each way: a reader that is slow slows its writer down
BACKLOG = 64
LINGER_SECONDS, LINGER_BYTES = 1.0, 1 << 18
REASONS = {400: "Bad Request", 403: "Forbidden", 405: "Method Not Allowed", 408: "Request Timeout"} | {
    431: "Request Header Fields Too Large",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}

Handler = Callable[[socket.socket], Awaitable[None]]


def say(event: str, **fields: object) -> None:
    """Write one JSON line to standard output."""
    line = json.dumps({"event": event, **fields, "time": datetime.now(UTC).isoformat(timespec="milliseconds")}) + "\n"
    try:
        os.write(1, line.encode())
    except OSError:
        return  # a log that is lost ends nothing


class Bounded:
    """So many lines of one kind a second, and how many were left out: code in a kernel makes them as it likes."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._began = clock()
        self._lines = 0

    def say(self, event: str, **fields: object) -> None:
        """Write a line, if there is room; `left_out` in the next one says how many there was none for."""
        if (now := self._clock()) - self._began >= 1:
            left_out = self._lines - self._most
            fields |= {"left_out": left_out} if left_out > 0 else {}
            self._began, self._lines = now, 0
        self._lines += 1
        if self._lines <= self._most:
            say(event, **fields)


def connect(path: Path) -> socket.socket | None:
    """Connect to a Unix socket; None where it is not there, not a socket, or nobody listens."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return None
        end = socket.socket(socket.AF_UNIX)
    except OSError:
        return None
    try:
        end.settimeout(0)  # then a listener whose queue is full says so at once
        end.connect(str(path))
    except OSError:
        end.close()
        return None
    return end


def listen(place: int | Path) -> socket.socket:
    """Open one listener, on a port of this container or as a Unix socket; raises `OSError`."""
    if isinstance(place, int):
        listener = socket.create_server(("0.0.0.0", place), backlog=BACKLOG)  # noqa: S104
    else:
        place.unlink(missing_ok=True)  # of a process before this one
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(place))
        listener.listen(BACKLOG)
    listener.settimeout(0)
    return listener


async def pump(source: socket.socket, sink: socket.socket) -> None:
    """Copy bytes until the source ends, then end the sink's reading side; the other direction may go on."""
    loop = asyncio.get_running_loop()
    while chunk := await loop.sock_recv(source, CHUNK):
        await loop.sock_sendall(sink, chunk)
    sink.shutdown(socket.SHUT_WR)


async def join(one: socket.socket, other: socket.socket) -> None:
    """Pump both ways until both have ended, or one has broken off."""
    for end in (one, other):
        if end.family != socket.AF_UNIX:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        async with asyncio.TaskGroup() as pumps:
            pumps.create_task(pump(one, other))
            pumps.create_task(pump(other, one))
    except* OSError:
        pass  # whoever holds the two closes both


def reply(status: int, text: str) -> bytes:
    """Write a whole answer that is no tunnel."""
    body = (text + "\n").encode("utf-8", "replace")
    head = [
        f"HTTP/1.1 {status} {REASONS[status]}",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        *(["Allow: CONNECT"] if status == 405 else []),
        "Connection: close",
        "\r\n",
    ]
    return "\r\n".join(head).encode("ascii") + body


async def answer(client: socket.socket, data: bytes) -> None:
    """Send a last answer, and take in what is still on its way: closed at once, the answer could be lost."""
    loop = asyncio.get_running_loop()
    taken = 0
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            await loop.sock_sendall(client, data)
            client.shutdown(socket.SHUT_WR)
            while taken < LINGER_BYTES and (chunk := await loop.sock_recv(client, CHUNK)):
                taken += len(chunk)
    except OSError:
        return


class Connections:
    """Those that are open at the same time, over all listeners that share them."""

    def __init__(self, most: int, *, full: bytes = b"") -> None:
        """`full` is said to whoever comes when there are so many."""
        self._most = most
        self._full = full
        self._open: set[asyncio.Task[None]] = set()
        self._leaving: set[asyncio.Task[None]] = set()

    async def accept(
        self, listener: socket.socket, handle: Handler, *, known: Callable[[Any], bool] = lambda _: True
    ) -> None:
        """Have each connection of a `known` address handled, and closed then; runs until it is cancelled.

        Raises `OSError` where somebody who has the listener too has shut it down.
        """
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, address = await loop.sock_accept(listener)
            except OSError as error:
                if error.errno == errno.EINVAL:  # it does not listen any more, and never will again
                    raise
                # the peer is gone already, or no descriptor is free
                await asyncio.sleep(0.05)
                continue
            if not known(address):
                client.close()
            elif len(self._open) < self._most:
                self._start(self._open, client, handle)
            elif self._full and len(self._leaving) < self._most:
                self._start(self._leaving, client, lambda each: answer(each, self._full))
            else:
                client.close()

    def _start(self, among: set[asyncio.Task[None]], client: socket.socket, handle: Handler) -> None:
        task = asyncio.create_task(self._one(client, handle))
        among.add(task)
        task.add_done_callback(among.discard)

    @staticmethod
    async def _one(client: socket.socket, handle: Handler) -> None:
        with client:
            await handle(client)
