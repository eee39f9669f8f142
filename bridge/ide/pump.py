"""ZMQ sockets in an asyncio loop, with no task and no future for each message: a relay must cost next to nothing.

The one rule: ZMQ tells of new messages once, on a descriptor whose signal any call on the socket may swallow (`ZMQ_FD`
in ZMQ's manual). So all sending goes through here too, and a socket that was used is looked at before the loop waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial

import zmq

Handler = Callable[[list[bytes]], None]
Socket = zmq.Socket[bytes]
# Messages of one socket, and bytes, before the others have their turn: a flood of output must not hold up an interrupt,
# nor those who read it.
BATCH, BATCH_SIZE = 50, 2**22
# As plain numbers: pyzmq's own are enumerations, whose arithmetic is a good part of what a message costs.
EVENTS, POLLIN, POLLOUT, NOBLOCK = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.POLLOUT), int(zmq.NOBLOCK)


class Pump:
    """Gives each message to its socket's handler, in order, in the running loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._handlers: dict[Socket, Handler] = {}
        self._used: set[Socket] = set()

    def add(self, socket: Socket, handler: Handler) -> None:
        """Read a socket from now on."""
        self._handlers[socket] = handler
        self._loop.add_reader(socket.FD, partial(self._drain, socket))
        self._look_at(socket)

    def remove(self, socket: Socket) -> None:
        """Read it no more; it may be closed then."""
        if self._handlers.pop(socket, None):
            self._loop.remove_reader(socket.FD)

    def send(self, socket: Socket, frames: list[bytes]) -> bool:
        """Send a message; False where it cannot be: nobody is connected, or their queue is full."""
        self._look_at(socket)
        try:
            socket.send_multipart(frames, NOBLOCK)
        except zmq.ZMQError:
            return False
        return True

    def has_more(self, sockets: Iterable[Socket]) -> bool:
        """Tell whether messages wait on any of these sockets."""
        waiting = [each for each in sockets if int(each.get(EVENTS)) & POLLIN]
        for each in waiting:
            self._look_at(each)
        return bool(waiting)

    def _look_at(self, socket: Socket) -> None:
        if not self._used:
            self._loop.call_soon(self._look)
        self._used.add(socket)

    def _look(self) -> None:
        used, self._used = self._used, set()
        for each in used:
            self._drain(each)

    def _drain(self, socket: Socket) -> None:
        size = 0
        for _ in range(BATCH):
            handler = self._handlers.get(socket)
            if handler is None:
                return
            try:
                frames = socket.recv_multipart(NOBLOCK)
            except zmq.Again:
                return
            try:
                handler(frames)
            except BaseException:
                self._look_at(socket)  # an error of ours costs one message, not all that come
                raise
            size += sum(map(len, frames))
            if size > BATCH_SIZE:
                break
        self._look_at(socket)
