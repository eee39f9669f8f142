"""The relay's sockets: those that its IDE connects to, and those that connect to the kernel.

The one rule: on the kernel's side shell, control and stdin have one identity, and the IDE's identities travel inside;
so the kernel's replies and questions find their way back without a table.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
import uuid
from pathlib import Path

import zmq

from bridge.connection import ConnectionInfo
from bridge.errors import KernelNotResponding, UsageError
from bridge.ide.publisher import Publisher
from bridge.ide.pump import EVENTS, POLLIN, POLLOUT, Socket
from bridge.ide.wire import Signer, Speaker
from bridge.messages import Channel

# What was said last must reach the other side before the relay ends.
LINGER_MS = 1000
# A kernel that was just seen to answer subscribes us in milliseconds.
ATTACH_TIMEOUT, ASK_AGAIN, LOOK = 4.0, 0.1, 0.002
# Whoever has no key may send a heartbeat: a few bytes.
LARGEST_BEAT = 1024

Context = zmq.Context[zmq.Socket[bytes]]


class IdeSide:
    """The ports that the IDE chose."""

    def __init__(self, context: Context, info: ConnectionInfo, publisher: Publisher) -> None:
        self._context, self._info, self.publisher = context, info, publisher
        self.sockets: dict[Channel, Socket] = {}
        self.everything: list[Socket] = []
        """All the sockets."""
        self._paths: list[Path] = []

    async def open(self) -> None:
        """Listen on all of them; raises `UsageError` where that cannot be."""
        info = self._info
        if not info.is_loopback():
            raise UsageError(
                f"The IDE asks for a kernel on {info.ip}, where other machines could reach it; a shared kernel is "
                "offered on loopback only. Have the IDE use 127.0.0.1."
            )
        if info.transport == "ipc":
            self._must_be_free()
        try:
            self.sockets = {
                "shell": self._router(info.shell_port),
                "control": self._router(info.control_port),
                "stdin": self._router(info.stdin_port),
            }
            self.heartbeat = self._router(info.hb_port, largest=LARGEST_BEAT)
            await self.publisher.listen(info)
            self._listens(info.iopub_port)
        except (OSError, zmq.ZMQError) as error:
            raise UsageError(
                f"The IDE's ports cannot be listened on: {os.strerror(error.errno or 0)}. Start the kernel again, so "
                "that it chooses others."
            ) from None
        self.departures = self.sockets["shell"].get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self.everything.append(self.departures)

    def _must_be_free(self) -> None:
        """Raise where somebody listens: to bind a Unix socket takes its place without a word, a kernel's too."""
        info = self._info
        for port in (info.shell_port, info.control_port, info.stdin_port, info.hb_port, info.iopub_port):
            with socket.socket(socket.AF_UNIX) as other, contextlib.suppress(OSError):
                other.connect(info.url(port).removeprefix("ipc://"))
                raise UsageError(
                    f"Another kernel listens on the sockets {info.ip}-… that the IDE has chosen. Start the kernel "
                    "again, so that it chooses others."
                )

    def close(self) -> None:
        """Close the sockets; what was sent is still delivered, as far as the IDE reads it within a second."""
        for each in self.everything:
            each.close(linger=LINGER_MS)
        for path in self._paths:
            with contextlib.suppress(OSError):
                path.unlink()

    def _router(self, port: int, largest: int = -1) -> Socket:
        socket = self._context.socket(zmq.ROUTER)
        self.everything.append(socket)
        socket.setsockopt(zmq.ROUTER_HANDOVER, 1)  # a client that comes back has the identity that it had
        socket.setsockopt(zmq.MAXMSGSIZE, largest)
        if largest < 0:
            socket.setsockopt(zmq.SNDHWM, 0)  # only what was asked for
            # an answer that cannot be delivered is an error, for one of them would have the kernel wait for ever
            socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.IPV6, 1)
        # ZMQ binds to an address, not to a name
        socket.bind(self._info.url(port).replace("//localhost:", "//127.0.0.1:"))
        self._listens(port)
        return socket

    def _listens(self, port: int) -> None:
        if self._info.transport == "ipc":
            self._paths.append(Path(self._info.url(port).removeprefix("ipc://")))


class KernelSide:
    """Connections to the kernel, all of them or none; made anew whenever one was lost."""

    def __init__(self, context: Context, info: ConnectionInfo, identity: bytes, speaker: Speaker) -> None:
        self._context, self._info, self._identity, self._speaker = context, info, identity, speaker
        self.monitors: list[Socket] = []
        """They tell when a connection was lost."""
        self.sockets: dict[Channel, Socket] = {
            "shell": self._socket(zmq.DEALER),
            "control": self._socket(zmq.DEALER),
            "stdin": self._socket(zmq.DEALER),
        }
        self.iopub = self._socket(zmq.SUB)
        self.heartbeat = self._socket(zmq.DEALER)
        self.heartbeat.setsockopt(zmq.SNDHWM, 100)

    async def attach(self) -> list[list[bytes]]:
        """Connect, and return once what the kernel publishes arrives; returns what did so already.

        Raises `KernelNotResponding` where it does not within seconds.
        """
        deadline = time.monotonic() + ATTACH_TIMEOUT
        nonce = b"relay." + uuid.uuid4().hex.encode()
        for topic in (b"", nonce):
            self.iopub.setsockopt(zmq.SUBSCRIBE, topic)
        info = self._info
        ports = (info.shell_port, info.control_port, info.stdin_port, info.iopub_port, info.hb_port)
        for each, port in zip((*self.sockets.values(), self.iopub, self.heartbeat), ports, strict=True):
            each.connect(info.url(port))
        for each in self.sockets.values():
            if not await _state(each, POLLOUT, deadline):
                raise _silent()
        ours, early = self._speaker.session.encode(), list[list[bytes]]()
        ask_at = 0.0
        while True:
            # a kernel that knows no welcomes (ipykernel before 7.2) publishes that it is busy with this
            if time.monotonic() > ask_at:
                asks = self._speaker.says("kernel_info_request", {})
                self.sockets["control"].send_multipart(Signer(info).sealed(asks))
                ask_at = time.monotonic() + ASK_AGAIN
            await _state(self.iopub, POLLIN, min(deadline, ask_at))
            while int(self.iopub.get(EVENTS)) & POLLIN:
                frames = self.iopub.recv_multipart()
                if frames[0] == nonce or any(ours in each for each in frames):
                    return early
                early.append(frames)
            if time.monotonic() > deadline:
                raise _silent()

    def close(self, *, flush: bool = False) -> None:
        """Close the connections; `flush`: what was sent still goes out. Closing again changes nothing."""
        for each in (*self.sockets.values(), self.iopub, self.heartbeat):
            if not each.closed:
                each.disable_monitor()
                each.close(linger=LINGER_MS if flush else 0)
        for each in self.monitors:
            each.close(linger=0)

    @property
    def everything(self) -> list[Socket]:
        """All the sockets."""
        return [*self.sockets.values(), self.iopub, self.heartbeat, *self.monitors]

    def _socket(self, kind: int) -> Socket:
        socket = self._context.socket(kind)
        if kind == zmq.DEALER:
            socket.identity = self._identity
            # else what the IDE asks of a kernel that is gone would run in whatever comes next to these ports
            socket.setsockopt(zmq.IMMEDIATE, 1)
        # one of them lost is all of them lost, and a kernel that comes back is looked at before anything goes to it
        socket.setsockopt(zmq.RECONNECT_IVL, -1)
        socket.setsockopt(zmq.IPV6, 1)
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.setsockopt(zmq.RCVHWM, 0)
        self.monitors.append(socket.get_monitor_socket(zmq.EVENT_DISCONNECTED))
        return socket


def _silent() -> KernelNotResponding:
    return KernelNotResponding("The kernel answers, but not on all of its channels.")


async def _state(socket: Socket, event: int, deadline: float) -> bool:
    """Wait until a socket can be read or written; False where it cannot be until then."""
    while not int(socket.get(EVENTS)) & event:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(LOOK)
    return True
