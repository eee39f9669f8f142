"""The channels of one kernel: ZMQ sockets, signatures, a pump for each. The only importer of jupyter_client and zmq.

The one rule: a socket is read by its own permanent task and by nothing else, so that a cancelled call never cuts a
receive, and no output is lost because nobody was reading (`RCVHWM=0`: the default drops messages of a slow reader, the
idle among them). What comes faster than it can be handled waits in a `Backlog`, which is bounded and counts what it
drops. Attaching never asks the shell channel, which is silent for as long as a cell runs: it asks control, and waits
for the welcome to a subscription that is unique (JEP 65), or for our own request's status on older kernels.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hmac
import json
import logging
import os
import re
import stat
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio
from jupyter_client.adapter import adapt
from jupyter_client.session import DELIM, Session
from zmq.utils.monitor import recv_monitor_message

from bridge.authors import OURS
from bridge.backlog import Backlog, Frames, Gap, Head, request
from bridge.connection import ConnectionInfo
from bridge.errors import KernelNotResponding
from bridge.messages import Channel, Message, mapping

log = logging.getLogger(__name__)

Handler = Callable[[Message], None]
OnDisconnect = Callable[[str | None], None]
# Sending only copies into ZMQ's queue; where even that blocks, the kernel is gone.
SEND_TIMEOUT = 2.0
# Between two requests while a kernel starts; ZMQ itself reconnects underneath.
ASK_AGAIN = 0.25
# ZMQ does not give way to others as long as it has a message: a flood on one channel would hold up everything else. So
# many messages, or so many bytes, are handled in a row; and so many are taken from ZMQ meanwhile, which takes far less.
FAIR, FAIR_SIZE = 20, 2**20
TAKEN = 50 * FAIR
# Reconnecting is ZMQ's own work, in its own thread.
RECONNECT_MS, RECONNECT_MAX_MS = 20, 500
# In a header; quotes inside of a text are escaped there.
_MSG_TYPE = re.compile(rb'"msg_type": ?"(\w+)"')
# Bytes of a header; what code makes up may be a thousand times as long.
USUAL = 4096
_PARTS = ("header", "parent_header", "metadata", "content")


class Channels:
    """The open channels of one kernel process; made by `open_channels`."""

    def __init__(self, info: ConnectionInfo, username: str, identity: bytes | None = None) -> None:
        self.info = info
        self.kernel = ""
        """The kernel's own session id: another value means another process behind the same ports."""
        self.kernel_info: Mapping[str, Any] = {}
        self._session = Session(
            key=info.key.encode(),
            signature_scheme=info.signature_scheme,
            username=username,
            session=f"{OURS}{uuid.uuid4().hex}",
            check_pid=False,
        )
        self.identity = identity or self._session.bsession
        """By which the kernel finds the way back to whoever has sent a request."""
        # one context, so one I/O thread, for all the kernels of this process
        self._context = zmq.asyncio.Context.instance()
        self._sockets: dict[Channel, zmq.asyncio.Socket] = {
            "shell": self._connect(zmq.DEALER, info.shell_port),
            "control": self._connect(zmq.DEALER, info.control_port, connect=False),
            "stdin": self._connect(zmq.DEALER, info.stdin_port),
            "iopub": self._connect(zmq.SUB, info.iopub_port, connect=False),
        }
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False
        self.refused_signature = False
        """A message came that our key does not fit."""

    @property
    def session(self) -> str:
        """The id of our side: `header.session` of all that we send."""
        return str(self._session.session)

    async def send(self, channel: Channel, msg_type: str, content: Mapping[str, Any]) -> str:
        """Send a request and return its message id; raises `KernelNotResponding` where it cannot even be queued."""
        message = self._session.msg(msg_type, dict(content))
        await self._send(channel, message)
        return str(message["header"]["msg_id"])

    def new_message(
        self, msg_type: str, content: Mapping[str, Any], parent: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Make a message whose id is known before it is sent by `send_message`; an answer has a `parent` header."""
        return dict(self._session.msg(msg_type, dict(content), parent=dict(parent) if parent else None))

    async def send_message(self, channel: Channel, message: dict[str, Any]) -> None:
        """Send a message made by `new_message`."""
        await self._send(channel, message)

    def start(self, handler: Handler, on_disconnect: OnDisconnect) -> None:
        """Deliver every message from now on; `on_disconnect` is called when the control connection drops.

        It is told why where that is known: a task of ours has failed, so that nothing comes any more.
        """
        self._handler = handler
        self._on_disconnect = on_disconnect

    def ignore_output(self) -> None:
        """Have the kernel send no more of its output here: for whoever only asks, and watches whether it is there."""
        self._sockets["iopub"].setsockopt(zmq.UNSUBSCRIBE, b"")

    async def close(self) -> None:
        """Close the sockets; nothing is sent to the kernel. Closing again changes nothing."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        try:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        finally:  # a call that was cancelled closes too, and may not wait any more
            self._close_sockets()

    def _close_sockets(self) -> None:
        if self._sockets["control"].closed:
            return
        self._sockets["control"].disable_monitor()
        self._monitor.close(linger=0)
        for socket in self._sockets.values():
            socket.close(linger=0)

    # -- opening

    async def attach(self, timeout: float) -> None:
        """Connect and wait until the kernel answered and its output is subscribed to; see `open_channels`."""
        self._welcome, self._answer = asyncio.Event(), asyncio.Event()
        self._handler, self._on_disconnect = self._first_words, lambda _: None
        nonce = b"attach." + uuid.uuid4().hex.encode()
        self._monitor = self._sockets["control"].get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        )
        self._tasks = [asyncio.create_task(self._pump(channel, nonce)) for channel in self._sockets]
        self._tasks.append(asyncio.create_task(self._watch(self._monitor)))
        for task in self._tasks:
            task.add_done_callback(self._ended)
        iopub = self._sockets["iopub"]
        iopub.setsockopt(zmq.SUBSCRIBE, b"")
        iopub.setsockopt(zmq.SUBSCRIBE, nonce)
        iopub.connect(self.info.url(self.info.iopub_port))
        self._sockets["control"].connect(self.info.url(self.info.control_port))
        try:
            async with asyncio.timeout(timeout):
                while not (self._answer.is_set() and self._welcome.is_set()):
                    with contextlib.suppress(KernelNotResponding):  # not connected yet
                        await self.send("control", "kernel_info_request", {})
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(ASK_AGAIN):
                            await self._answer.wait()
                            await self._welcome.wait()
                    if self.refused_signature:
                        raise self._wrong_key()
        except TimeoutError:
            raise await self._why_silent(timeout) from None
        with contextlib.suppress(zmq.ZMQError):
            iopub.setsockopt(zmq.UNSUBSCRIBE, nonce)

    def _first_words(self, message: Message) -> None:
        if message.parent_session != self.session:
            return
        if message.channel == "control" and message.msg_type == "kernel_info_reply":
            self.kernel, self.kernel_info = message.kernel, message.content
            self._answer.set()
        elif message.channel == "iopub":
            self._welcome.set()

    def _wrong_key(self) -> KernelNotResponding:
        return KernelNotResponding(
            f"A kernel runs at {self._where()}, but the key in the connection file is not its key; "
            "the file is of another kernel, an earlier one mostly. Name the file of the running one."
        )

    async def _why_silent(self, timeout: float) -> KernelNotResponding:
        where, waited = self._where(), f"within {timeout:g} s"
        if self._welcome.is_set() and not self._answer.is_set() and await self._heart_beats():
            return KernelNotResponding(
                f"The kernel at {where} is alive but did not accept our signed request {waited}: the key in the "
                "connection file is wrong, or native code holds it up."
            )
        if self._answer.is_set():
            return KernelNotResponding(f"The kernel at {where} answers, but its output channel is silent {waited}.")
        if await self._heart_beats():
            return KernelNotResponding(
                f"Something at {where} answers the heartbeat but no request {waited}: "
                "a wrong key, or a kernel that hangs."
            )
        return KernelNotResponding(
            f"Nothing at {where} answered as a kernel {waited}; it has ended, or is another program."
        )

    async def _heart_beats(self) -> bool:
        socket = self._connect(zmq.REQ, self.info.hb_port)
        try:
            async with asyncio.timeout(0.5):
                await socket.send(b"ping")
                return bool(await socket.recv() == b"ping")
        except (TimeoutError, zmq.ZMQError):
            return False
        finally:
            socket.close(linger=0)

    def _where(self) -> str:
        if self.info.transport == "ipc":
            return self.info.ip
        return f"{self.info.ip}:{self.info.shell_port}"

    # -- sockets

    def _connect(self, kind: int, port: int, *, connect: bool = True) -> zmq.asyncio.Socket:
        socket = self._context.socket(kind)
        socket.linger = 0
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.setsockopt(zmq.SNDTIMEO, int(SEND_TIMEOUT * 1000))
        socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
        socket.setsockopt(zmq.IPV6, 1)
        if kind == zmq.DEALER:
            # shell and stdin must have the same identity: the kernel addresses input requests by it
            socket.identity = self.identity
            # Only to a kernel that is there: without it a request would wait inside ZMQ for whatever kernel comes next
            # to these ports, and run in that one.
            socket.setsockopt(zmq.IMMEDIATE, 1)
        if connect:
            socket.connect(self.info.url(port))
        return socket

    async def _send(self, channel: Channel, message: dict[str, Any]) -> None:
        frames = self._session.serialize(message)
        try:
            await self._sockets[channel].send_multipart(frames)
        except zmq.ZMQError as error:
            raise KernelNotResponding(
                f"The kernel at {self._where()} takes no requests: {error.strerror}. Nothing was executed."
            ) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._closed or (task is not None and task.cancelling()):
                raise
            # pyzmq cancels whoever waits for a socket that is closed
            raise KernelNotResponding(
                f"The connection to the kernel at {self._where()} is lost. Nothing was executed."
            ) from None

    async def _pump(self, channel: Channel, nonce: bytes) -> None:
        socket, backlog = self._sockets[channel], Backlog(_head)
        # the same socket without the future that is made of each message, which takes longer than all else here
        at_once: zmq.Socket[bytes] = zmq.Socket.shadow(socket)
        while True:
            with contextlib.suppress(zmq.Again):
                for _ in range(TAKEN):
                    backlog.add(at_once.recv_multipart(zmq.NOBLOCK))
            if not backlog.size:
                backlog.add(await socket.recv_multipart())
            before = backlog.size
            for _ in range(FAIR):
                waiting = backlog.take()
                if waiting is None:
                    break
                message = _of(waiting) if isinstance(waiting, Gap) else self._parse(channel, waiting)
                is_nonce = channel == "iopub" and not isinstance(waiting, Gap) and waiting[0] == nonce
                del waiting  # may be a hundred megabytes, which must not be there twice
                if is_nonce and not self.refused_signature:
                    self._welcome.set()
                elif message is not None:
                    try:
                        self._handler(message)
                    except Exception:
                        # code in the kernel can sign anything; what it made of one message must not end the channel
                        log.exception("a message of type %r was dropped", message.msg_type)
                del message
                if before - backlog.size > FAIR_SIZE:
                    break
            await asyncio.sleep(0)

    async def _watch(self, monitor: zmq.asyncio.Socket) -> None:
        """Tell when the control connection drops. A gateway whose kernel still starts hangs up before any handshake."""
        connected = False
        while True:
            event = (await recv_monitor_message(monitor))["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                connected = True
            elif connected:
                connected = False
                self._on_disconnect(None)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A pump has ended, and unless it was closed whoever waits for what it would have read would wait for ever."""
        if self._closed:
            return
        log.error("a pump of %s failed", self._where(), exc_info=None if task.cancelled() else task.exception())
        self._on_disconnect(
            "kernel-bridge itself failed in reading what the kernel sends, which is a bug, so this connection was "
            "given up; the kernel was left alone, and what runs in it goes on."
        )

    def _parse(self, channel: Channel, frames: list[bytes]) -> Message | None:
        """Verify and parse one message; None for what is not one (a garbled or foreign-signed frame is dropped).

        As `Session.deserialize`, which takes four times as long: dates stay text, and nothing is remembered. Whoever
        falls behind a kernel that floods keeps in memory what was not read yet.
        """
        try:
            signature, *parts = frames[frames.index(DELIM) + 1 :][:5]
            if not signature or len(parts) != len(_PARTS):
                return None
            if not hmac.compare_digest(self._session.sign(parts), signature):
                self.refused_signature = True
                return None
            header, parent, metadata, content = map(_json, parts)
            if not str(header.get("version")).startswith("5."):
                old = dict(zip(_PARTS, (header, parent, metadata, content), strict=True))
                adapted = adapt(old | {"msg_type": header["msg_type"]})
                header, parent, metadata, content = (adapted[name] for name in _PARTS)
            if not all(isinstance(each, dict) for each in (header, parent, metadata, content)):
                return None
            return Message(
                channel=channel,
                msg_type=str(header["msg_type"]),
                kernel=str(header.get("session", "")),
                content=content,
                metadata=metadata,
                header=header,
                **_parent(parent),
            )
        except Exception:  # noqa: BLE001 - no frames, JSON nested without end, an old protocol's odd message
            return None


def _json(part: bytes) -> Any:
    return json.loads(part.decode("utf-8", "replace"))


def _parent(header: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a message tells of the request that it answers."""
    return {
        "parent_id": str(header.get("msg_id", "")),
        "parent_type": str(header.get("msg_type", "")),
        "parent_session": str(header.get("session", "")),
        "parent_username": str(header.get("username", "")),
        "in_subshell": bool(header.get("subshell_id")),
    }


def _head(frames: Frames) -> Head | None:
    """Return what decides whether a message may be dropped; its signature is not looked at, for it is not obeyed."""
    try:
        _, header, parent, _, *contents = frames[frames.index(DELIM) + 1 :]
        found = _MSG_TYPE.search(header)
        read = _request if len(parent) <= USUAL else _request.__wrapped__
        return Head(found[1].decode(), read(parent), sum(map(len, contents))) if found else None
    except Exception:  # noqa: BLE001 - as `Channels._parse`
        return None


@functools.lru_cache(maxsize=16)
def _request(parent: bytes) -> dict[str, str]:
    """Return what is needed of a parent's header; a flood's messages have all the same."""
    return request(mapping(_json(parent)))


def _of(gap: Gap) -> Message:
    """Return the message that stands for a gap in the kernel's output."""
    return Message("iopub", "", "", {}, {}, **_parent(gap.parent), missed=gap.missed)


async def open_channels(
    info: ConnectionInfo, *, username: str, timeout: float, starting: bool = False, identity: bytes | None = None
) -> Channels:
    """Connect to a kernel and prove that it answers to our key, within `timeout` seconds; takes milliseconds normally.

    `identity` is that of channels that are closed by now, to be sent the replies that they were to get.
    `starting`: the kernel was only just launched, so an address where nobody listens yet is no reason to give up.
    Raises `KernelNotResponding` with one sentence that tells the cases apart: nothing listens, not a kernel, a wrong
    key, a kernel that hangs.
    """
    if not starting:
        await _listens(info)
    channels = Channels(info, username, identity)
    try:
        await channels.attach(timeout)
    except BaseException:
        await channels.close()
        raise
    return channels


async def _listens(info: ConnectionInfo) -> None:
    """Find a dead port at once, instead of waiting for an answer that cannot come."""
    for port in (info.control_port, info.shell_port):
        where = f"{info.ip}-{port}" if info.transport == "ipc" else f"{info.ip}:{port}"
        try:
            async with asyncio.timeout(2.0), _connection(info, port):
                pass
        except (OSError, TimeoutError):
            raise KernelNotResponding(
                f"Nothing listens on {where}: the kernel of this connection file has ended."
            ) from None


@contextlib.asynccontextmanager
async def _connection(info: ConnectionInfo, port: int) -> AsyncIterator[None]:
    if info.transport == "ipc":
        path = Path(f"{info.ip}-{port}")
        if not stat.S_ISSOCK(os.stat(path).st_mode):  # noqa: PTH116 - raises OSError as connecting would
            raise ConnectionRefusedError
        _, writer = await asyncio.open_unix_connection(path)
    else:
        _, writer = await asyncio.open_connection(info.ip, port)
    try:
        yield
    finally:
        writer.close()
